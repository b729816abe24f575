// Package bootdisk writes media that UEFI machines boot without a network: a
// raw disk image for disks and USB sticks, and an ISO 9660 image for optical
// and virtual drives. Both hold one program for UEFI, in the place where the
// firmware looks for it on removable media (UEFI 2.10, section 3.5.1.1), and
// one root file system.
//
// A disk has a GPT with an EFI system partition (FAT32) and a root partition,
// their types by the Discoverable Partitions Specification. An ISO has the EFI
// system partition as its El Torito image and the root as a file. The same
// content gives the same bytes.
//
// Left out: boot loaders for BIOS machines, disks with sectors of 4096 bytes, files over 4 GiB in
// an ISO. The package does not know ingot.
package bootdisk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/diskfs/go-diskfs/partition/gpt"
)

// Media describes the content of a medium.
type Media struct {
	Machine Machine
	Program string // path of the program for UEFI
	Root    string // path of the root file system
	Label   string // volume label of an ISO: at most 32 of A-Z, 0-9 and _
	// UUIDs of a disk's table and its two partitions.
	Disk, System, Partition string
}

// Machine is the architecture that a medium boots.
type Machine int

// The architectures that have a name on removable media.
const (
	X64 Machine = iota
	ARM64
)

// fallback is the path where firmware looks (UEFI 2.10, table 3-2).
var fallback = map[Machine]string{X64: "BOOTX64.EFI", ARM64: "BOOTAA64.EFI"}

// rootType are the types of root partitions (Discoverable Partitions Specification).
var rootType = map[Machine]gpt.Type{X64: gpt.LinuxRootX86_64, ARM64: gpt.LinuxRootArm64}

// Attributes of partitions, by the same specification: systemd must neither mount them
// automatically nor write to them.
const (
	readOnly = 1 << 60
	noAuto   = 1 << 63
)

const (
	mib    = 1 << 20
	sector = 512
	// rootFile is the name of the root in an ISO; Linux shows it in lower case.
	rootFile = "ROOT.SQF"
	bootFile = "EFI.IMG"
)

// ErrTooBig: the root does not fit into the format.
var ErrTooBig = errors.New("the root is too big for an ISO, whose files have at most 4 GiB")

// WriteDisk writes a disk image to path. progress may be nil.
func WriteDisk(ctx context.Context, path string, m Media, progress func(done, total int64)) error {
	root, size, err := open(m.Root)
	if err != nil {
		return fmt.Errorf("writing a disk: %w", err)
	}
	defer root.Close()
	system, err := systemSize(m.Program)
	if err != nil {
		return fmt.Errorf("writing a disk: %w", err)
	}
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing a disk: %w", err)
	}
	defer out.Close()
	at := mib + system
	total := at + up(size, mib) + mib // the last MiB is reserved for the backup table
	if err := out.Truncate(total); err != nil {
		return fmt.Errorf("writing a disk: %w", err)
	}
	if err := writeSystem(out, mib, system, m); err != nil {
		return err
	}
	w := &writer{ctx: ctx, w: io.NewOffsetWriter(out, at), total: size, report: progress}
	if _, err := io.Copy(w, root); err != nil {
		return fmt.Errorf("writing a disk's root: %w", err)
	}
	table := &gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true,
		GUID: m.Disk, Partitions: []*gpt.Partition{
			{Index: 1, Start: mib / sector, End: uint64(at/sector - 1), Type: gpt.EFISystemPartition, Name: "EFI system",
				GUID: m.System, Attributes: noAuto},
			{Index: 2, Start: uint64(at / sector), End: uint64((total-mib)/sector - 1), Type: rootType[m.Machine], Name: "root",
				GUID: m.Partition, Attributes: noAuto | readOnly},
		}}
	if err := table.Write(out, total); err != nil {
		return fmt.Errorf("writing a disk's partition table: %w", err)
	}
	return out.Sync()
}

// open opens a file and returns its size.
func open(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

func up(n, to int64) int64 { return (n + to - 1) / to * to }

// systemSize returns the size of the EFI system partition in bytes. FAT32 has at least 65525
// clusters (Microsoft, "FAT: General Overview of On-Disk Format").
func systemSize(program string) (int64, error) {
	st, err := os.Stat(program)
	if err != nil {
		return 0, err
	}
	const least = 36 * mib
	return max(least, up(st.Size()+st.Size()/50+2*mib, mib)), nil
}

// writeSystem makes the EFI system partition in out at start.
func writeSystem(out *os.File, start, size int64, m Media) error {
	fs, err := fat32.Create(file.New(out, false), size, start, sector, "ESP", true)
	if err != nil {
		return fmt.Errorf("making the EFI system partition: %w", err)
	}
	for _, dir := range []string{"/EFI", "/EFI/BOOT"} {
		if err := fs.Mkdir(dir); err != nil {
			return fmt.Errorf("making the EFI system partition: %w", err)
		}
	}
	program, _, err := open(m.Program)
	if err != nil {
		return fmt.Errorf("making the EFI system partition: %w", err)
	}
	defer program.Close()
	f, err := fs.OpenFile("/EFI/BOOT/"+fallback[m.Machine], os.O_CREATE|os.O_RDWR)
	if err != nil {
		return fmt.Errorf("making the EFI system partition: %w", err)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{program}, make([]byte, 4*mib)); err != nil {
		return fmt.Errorf("writing the program for UEFI: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing the program for UEFI: %w", err)
	}
	return (&fatVolume{f: out, start: start}).tidy()
}

// WriteISO writes an ISO image to path. The folder scratch must be empty and have room for all of
// it. progress may be nil.
func WriteISO(ctx context.Context, path, scratch string, m Media, progress func(done, total int64)) error {
	root, size, err := open(m.Root)
	if err != nil {
		return fmt.Errorf("writing an ISO: %w", err)
	}
	defer root.Close()
	if size > math.MaxUint32 {
		return ErrTooBig
	}
	if err := fillWorkspace(ctx, scratch, root, m, size, progress); err != nil {
		return fmt.Errorf("writing an ISO: %w", err)
	}
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("writing an ISO: %w", err)
	}
	defer out.Close()
	fs, err := iso9660.Create(file.New(out, false), 0, 0, isoBlock, scratch)
	if err != nil {
		return fmt.Errorf("writing an ISO: %w", err)
	}
	err = fs.Finalize(iso9660.FinalizeOptions{VolumeIdentifier: m.Label, ElTorito: &iso9660.ElTorito{HideBootCatalog: true,
		Entries: []*iso9660.ElToritoEntry{{Platform: iso9660.EFI,
			Emulation: iso9660.NoEmulation, BootFile: "/" + bootFile}}}})
	if err != nil {
		return fmt.Errorf("writing an ISO: %w", err)
	}
	if err := eraseTimes(out); err != nil {
		return fmt.Errorf("writing an ISO: %w", err)
	}
	return out.Sync()
}

// fillWorkspace puts the files of an ISO into a folder.
func fillWorkspace(ctx context.Context, dir string, root io.Reader, m Media, size int64,
	progress func(done, total int64)) error {
	system, err := systemSize(m.Program)
	if err != nil {
		return err
	}
	esp, err := os.Create(filepath.Join(dir, bootFile))
	if err != nil {
		return err
	}
	defer esp.Close()
	if err := esp.Truncate(system); err != nil {
		return err
	}
	if err := writeSystem(esp, 0, system, m); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, rootFile))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(&writer{ctx: ctx, w: f, total: size, report: progress}, root); err != nil {
		return err
	}
	return f.Close()
}

const isoBlock = 2048

// eraseTimes replaces the times in an ISO's primary volume descriptor and in
// its root folder, which are those of the writing, by fixed ones (ECMA-119,
// sections 8.4.26 to 8.4.29, 9.1.5).
func eraseTimes(f *os.File) error {
	b := make([]byte, isoBlock)
	const descriptor = 16 * isoBlock
	if _, err := f.ReadAt(b, descriptor); err != nil {
		return err
	}
	for _, at := range []int{813, 830, 847, 864} { // creation, modification, expiration, effective
		copy(b[at:], bytes.Repeat([]byte{'0'}, 16)) // "not specified"
		b[at+16] = 0
	}
	folder, size := int64(binary.LittleEndian.Uint32(b[156+2:])), int64(binary.LittleEndian.Uint32(b[156+10:]))
	copy(b[156+18:156+25], isoTime)
	if _, err := f.WriteAt(b, descriptor); err != nil {
		return err
	}
	b = make([]byte, up(size, isoBlock))
	if _, err := f.ReadAt(b, folder*isoBlock); err != nil {
		return err
	}
	for at := 0; at < len(b); {
		length := int(b[at])
		if length == 0 { // the rest of a block is empty
			at = int(up(int64(at)+1, isoBlock))
			continue
		}
		copy(b[at+18:at+25], isoTime)
		at += length
	}
	_, err := f.WriteAt(b, folder*isoBlock)
	return err
}

// isoTime is 1980-01-01, the first day of FAT.
var isoTime = []byte{80, 1, 1, 0, 0, 0, 0}

// writer counts bytes, and stops when ctx ends.
type writer struct {
	ctx         context.Context // of one copy
	w           io.Writer
	done, total int64
	reported    int64 // done, when report was last called
	report      func(done, total int64)
}

func (w *writer) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.w.Write(p)
	w.done += int64(n)
	if w.report != nil && (w.done == w.total || w.done-w.reported >= mib) {
		w.reported = w.done
		w.report(w.done, w.total)
	}
	return n, err
}
