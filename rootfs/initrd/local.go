package initrd

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ingot"
	"ingot/rootfs"
	"ingot/rootfs/volumes"
)

// A local boot asks no server. Its UKI was exported with the image's manifest
// in the initramfs and two arguments: where the root lies, and the root hash of
// its dm-verity tree. What firmware trusts is the UKI (Secure Boot signs it);
// the kernel verifies every block of the root against the root hash.
// No grants exist, so no disk is ever initialised.

// ErrNoRoot: the root is on none of the machine's disks.
var ErrNoRoot = errors.New("no disk holds the root of this UKI")

// diskPatience is how long the root's disk may take to appear: a USB stick
// behind hubs takes ten seconds and more.
const diskPatience = 60 * time.Second

// blockDevices are where disks, partitions and their contents are looked for.
var blockDevices = volumes.Host

// startLocal reads what the UKI brings, and makes the machine's own ticket.
func (b *boot) startLocal() error {
	text, err := os.ReadFile(ingot.LocalFile)
	if err != nil {
		return fmt.Errorf("reading the image's manifest: %w; export the image again", err)
	}
	var l ingot.Local
	if err := json.Unmarshal(text, &l); err != nil {
		return fmt.Errorf("parsing the image's manifest: %w", err)
	}
	if l.Manifest.Verity == nil {
		return fmt.Errorf("%w: the image has no dm-verity tree", ErrImageDigest)
	}
	for _, name := range []string{"dm_mod", "dm_verity", "sha256_generic", "isofs", "sr_mod"} {
		if err := b.mods.byName(name); err != nil {
			return err
		}
	}
	b.image = &l.Manifest
	b.facts = facts("")
	b.ticket = localTicket(l, b.facts)
	return enoughRAM(b.image, b.facts.RAM)
}

// localTicket is what a server's ticket would say, as far as the machine knows it:
// its name is the profile's, its machine-id is made of what the firmware says.
func localTicket(l ingot.Local, f ingot.Facts) ingot.Ticket {
	self := ingot.PlausibleUUID(f.UUID)
	if self == "" {
		self = ingot.PlausibleSerial(f.Serial)
	}
	for _, n := range f.NICs {
		if self == "" {
			self = n.MAC
		}
	}
	if self == "" {
		self = rand.Text()
	}
	key := sha256.Sum256([]byte("ingot: machine-id of " + self))
	return ingot.Ticket{
		Image:      l.Image,
		Name:       l.Manifest.Name().String(),
		Hostname:   l.Manifest.Profile,
		MachineKey: hex.EncodeToString(key[:16]),
	}
}

// tryLocal goes from the disk to the switch of root; it returns only on failure.
func (b *boot) tryLocal(ctx context.Context) error {
	unmountRoot()
	b.stage = ingot.StageRoot
	if b.device == "" {
		device, err := b.waitForRoot(ctx)
		if err != nil {
			return err
		}
		b.device = device
	}
	mapped, err := openVerity(b.device, b.image.Verity, b.args.RootHash)
	if err != nil {
		return err
	}
	b.console.say("root %s on %s, root hash %s…", b.ticket.Name, b.device, b.args.RootHash[:12])
	if err := mountRoot(mapped, b.image.Overlay, b.facts.RAM); err != nil {
		return err
	}
	b.stage = ingot.StageVolumes
	if err := b.furnish(ctx, b.ticket, time.Now()); err != nil {
		return err
	}
	b.stage = ingot.StageSwitch
	h := rootfs.Handover{Ticket: b.ticket, Image: *b.image, RootDevice: b.device, Switched: rootfs.Uptime(),
		Volumes: b.volumes.Results}
	if err := h.Write(ingot.RunDir); err != nil {
		return err
	}
	b.console.say("starting %s", b.ticket.Name)
	b.life.handOver()
	return switchRoot("/sbin/init")
}

// waitForRoot looks until the root's device is there.
func (b *boot) waitForRoot(ctx context.Context) (string, error) {
	deadline := time.Now().Add(diskPatience)
	for announced := false; ; announced = true {
		device, err := findRoot(b.args.Local)
		if device != "" || err != nil {
			return device, err
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf(
				"%w (%s); there are %s; is their driver in the initramfs (kernel.modules of the profile)?",
				ErrNoRoot,
				b.args.Local,
				diskNames(),
			)
		}
		if !announced {
			b.console.say("waiting for the disk with the root")
		}
		b.loadDrivers()
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// findRoot returns the block device that holds the root, or "" while it is not
// there.
func findRoot(where string) (string, error) {
	if id, ok := strings.CutPrefix(where, ingot.LocalPartition); ok {
		return findPartition(blockDevices, id), nil
	}
	if label, ok := strings.CutPrefix(where, ingot.LocalISO); ok {
		medium := findISO(blockDevices, label)
		if medium == "" {
			return "", nil
		}
		return attachISO(medium)
	}
	return "", fmt.Errorf("the kernel command line has an %s=%s that this ingot-init does not know", ingot.ArgLocal, where)
}

// wholeDisks are the names of disks and optical drives, in order.
func wholeDisks(at volumes.Paths) []string {
	entries, err := os.ReadDir(at.SysBlock)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		made := slices.ContainsFunc(
			[]string{"loop", "ram", "zram", "fd", "nbd", "md", "dm-"},
			func(p string) bool { return strings.HasPrefix(e.Name(), p) },
		)
		if !made {
			names = append(names, e.Name())
		}
	}
	return names
}

func diskNames() string {
	if names := wholeDisks(blockDevices); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return "none"
}

// findPartition looks through the partition tables of all disks for a
// partition by its UUID (UEFI 2.10, section 5.3.3). The kernel shows PARTUUIDs
// to userspace only since 6.10, and not in sysfs.
func findPartition(at volumes.Paths, id string) string {
	for _, disk := range wholeDisks(at) {
		n := partitionNumber(filepath.Join(at.Dev, disk), id)
		if n == 0 {
			continue
		}
		files, _ := filepath.Glob(filepath.Join(at.SysBlock, disk, disk+"*", "partition"))
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == fmt.Sprint(n) {
				return filepath.Join(at.Dev, filepath.Base(filepath.Dir(f)))
			}
		}
	}
	return ""
}

// partitionNumber reads a disk's GPT; 0 means that it has no such partition.
func partitionNumber(path, id string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	const sector, entry, entries = 512, 128, 128
	b := make([]byte, sector*2+entry*entries)
	if _, err := io.ReadFull(f, b); err != nil || string(b[sector:sector+8]) != "EFI PART" {
		return 0
	}
	for i := range entries {
		e := b[2*sector+i*entry:]
		if guid(e[16:32]) == strings.ToLower(id) {
			return i + 1
		}
	}
	return 0
}

// guid is the text of a GUID as it lies on a disk (UEFI 2.10, appendix A).
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// findISO looks for an ISO 9660 file system by its volume label (ECMA-119,
// section 8.4): an optical drive, or a disk that it was copied to.
func findISO(at volumes.Paths, label string) string {
	for _, disk := range wholeDisks(at) {
		path := filepath.Join(at.Dev, disk)
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		b := make([]byte, 2048)
		_, err = f.ReadAt(b, 16*2048)
		f.Close()
		if err == nil && string(b[:6]) == "\x01CD001" && string(bytes.TrimRight(b[40:72], " \x00")) == label {
			return path
		}
	}
	return ""
}

// attachISO mounts the medium and makes a block device of the root on it.
func attachISO(medium string) (string, error) {
	dir := filepath.Join(ingot.RunDir, "medium")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("mounting the medium: %w", err)
	}
	if err := unix.Mount(medium, dir, "iso9660", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOSUID,
		""); err != nil &&
		!errors.Is(err, unix.EBUSY) {
		return "", fmt.Errorf("mounting the medium %s: %w", medium, err)
	}
	f, err := os.Open(filepath.Join(dir, ingot.LocalRoot))
	if err != nil {
		return "", fmt.Errorf("opening the root on the medium: %w", err)
	}
	defer f.Close() // the loop device holds it
	return attachLoop(f)
}
