// Package export writes an image to a medium that boots UEFI machines without a server and without
// a network: a raw disk or an ISO. It leaves out BIOS, and OCI archives (package image).
package export

import (
	"bytes"
	"context"
	"debug/pe"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ingot"
	"ingot/builder/bootdisk"
	"ingot/builder/initramfs"
	"ingot/builder/secureboot"
	"ingot/builder/uki"
	"ingot/builder/uuid"
	"ingot/image"
	"ingot/internal/scratch"
)

// Errors that callers may test for with errors.Is.
var (
	// ErrNoLocalBoot: the image lacks what a boot without a server needs.
	ErrNoLocalBoot = errors.New("the image has no UKI or no dm-verity tree, so it cannot boot without a server")
	// ErrNotFile: the medium would be written over a device or a folder.
	ErrNotFile = errors.New("an export is written to a file; copy that to a disk with: dd if=FILE of=DISK " +
		"bs=4M conv=fsync")
)

// Medium is a kind of medium.
type Medium string

// The media.
const (
	RawDisk Medium = "raw" // of a disk or USB stick
	ISO     Medium = "iso"
)

// Options say how Write works.
type Options struct {
	Medium Medium
	// Sign signs the UKI for Secure Boot; zero: it is not signed. A signature contains its time, so
	// two signed media differ.
	Sign     secureboot.KeyPair
	Progress func(done, total int64) // bytes of the root; nil is quiet
}

// Write writes a medium that boots an image on UEFI machines without a server and without a
// network. Its UKI carries the image's manifest and, on its command line, the root hash and the
// place of the root; the kernel's dm-verity refuses any other root. The same image gives the same
// bytes.
func Write(ctx context.Context, s *image.Store, im image.Image, path string, o Options) error {
	if err := write(ctx, s, im, path, o); err != nil {
		return fmt.Errorf("exporting %s: %w", im.Name, err)
	}
	return nil
}

func write(ctx context.Context, s *image.Store, im image.Image, path string, o Options) error {
	m := &im.Manifest
	if m.UKI == nil || m.Verity == nil {
		return ErrNoLocalBoot
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%w: %s", ErrNotFile, path)
	}
	work, err := scratch.In(filepath.Dir(path), ".ingot-export-")
	if err != nil {
		return err
	}
	defer work.Remove()
	media := mediaOf(m)
	media.Root = s.Blob(m.Root.Digest)
	where := ingot.LocalPartition + strings.ToLower(media.Partition)
	if o.Medium == ISO {
		where = ingot.LocalISO + media.Label
	}
	media.Program = filepath.Join(work.Path, "uki.efi")
	if err := localUKI(s, im, where, media.Program); err != nil {
		return err
	}
	if o.Sign.Key != "" {
		signed := media.Program + ".signed"
		if err := o.Sign.SignFile(ctx, media.Program, signed); err != nil {
			return fmt.Errorf("signing for Secure Boot: %w", err)
		}
		media.Program = signed
	}
	fresh := filepath.Join(work.Path, "medium")
	if o.Medium == ISO {
		dir := filepath.Join(work.Path, "iso")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		err = bootdisk.WriteISO(ctx, fresh, dir, media, o.Progress)
	} else {
		err = bootdisk.WriteDisk(ctx, fresh, media, o.Progress)
	}
	if err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// mediaOf returns the identifiers on the medium. The root partition's UUID is the beginning of the
// root hash, as in the Discoverable Partitions Specification; the others are derived from the root
// hash.
func mediaOf(m *ingot.ImageManifest) bootdisk.Media {
	derived := func(what string) string {
		return uuid.From(ingot.DigestOf([]byte(what + m.Verity.RootHash))).String()
	}
	h := m.Verity.RootHash
	media := bootdisk.Media{
		Partition: h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32],
		Disk:      derived("ingot: disk with "), System: derived("ingot: EFI system partition with "),
		Label: "INGOT_" + strings.ToUpper(h[:16]),
	}
	if m.Arch == ingot.ARM64 {
		media.Machine = bootdisk.ARM64
	}
	return media
}

// localUKI writes the image's UKI with an additional kernel argument, the place of the root, and
// with the image's manifest in a second archive of its initramfs.
func localUKI(s *image.Store, im image.Image, where, path string) error {
	b, err := os.ReadFile(s.Blob(im.Manifest.UKI.Digest))
	if err != nil {
		return err
	}
	if ingot.DigestOf(b) != im.Manifest.UKI.Digest {
		return fmt.Errorf("%w: its UKI does not have its digest", image.ErrDamaged)
	}
	stub, sections, err := splitUKI(b)
	if err != nil {
		return err
	}
	local, err := json.Marshal(ingot.Local{Image: im.Digest, Manifest: im.Manifest})
	if err != nil {
		return err
	}
	for i, section := range sections {
		switch section.Name {
		case ".cmdline":
			text, err := io.ReadAll(section.Content)
			if err != nil {
				return err
			}
			sections[i] = sectionOf(section.Name, append(bytes.TrimRight(text, "\x00"), " "+ingot.ArgLocal+"="+where...))
		case ".initrd":
			if sections[i], err = moreInitramfs(section, map[string][]byte{ingot.LocalFile: local}, &im.Manifest); err != nil {
				return err
			}
		}
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := uki.Write(out, stub, sections); err != nil {
		return err
	}
	return out.Close()
}

func sectionOf(name string, content []byte) uki.Section {
	return uki.Section{Name: name, Size: int64(len(content)), Content: bytes.NewReader(content)}
}

// moreInitramfs appends an archive of files to an initramfs section.
func moreInitramfs(s uki.Section, files map[string][]byte, m *ingot.ImageManifest) (uki.Section, error) {
	var b bytes.Buffer
	if _, err := io.Copy(&b, s.Content); err != nil {
		return s, err
	}
	b.Write(make([]byte, -b.Len()&3))
	if err := initramfs.Append(&b, files, m.Created); err != nil {
		return s, err
	}
	return sectionOf(s.Name, b.Bytes()), nil
}

// ours are the sections that a build adds to the stub.
var ours = []string{".osrel", ".cmdline", ".uname", ".initrd", ".linux"}

// splitUKI splits a UKI into the stub, with only its own sections, and the sections that were added
// after them (PE Format, "COFF File Header", "Section Table").
func splitUKI(b []byte) (stub []byte, added []uki.Section, err error) {
	sections, err := uki.Read(bytes.NewReader(b))
	if err != nil {
		return nil, nil, err
	}
	first := slices.IndexFunc(sections, func(s uki.Section) bool { return slices.Contains(ours, s.Name) })
	if first < 1 {
		return nil, nil, fmt.Errorf("%w: its UKI has none of the sections that ingot adds", ErrNoLocalBoot)
	}
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, nil, err
	}
	le := binary.LittleEndian
	coff := int(le.Uint32(b[0x3c:])) + 4
	optional, table := coff+20, coff+20+int(f.SizeOfOptionalHeader)
	stub = slices.Clone(b[:f.Sections[first].Offset])
	data := le.Uint32(stub[optional+8:])
	for i := first; i < len(f.Sections); i++ {
		data -= f.Sections[i].Size
		clear(stub[table+i*40 : table+(i+1)*40])
	}
	le.PutUint16(stub[coff+2:], uint16(first))
	le.PutUint32(stub[optional+8:], data) // SizeOfInitializedData
	return stub, sections[first:], nil
}
