// Package volumes finds a machine's persistent volumes, checks and mounts them.
//
// Its law: booting cannot write to a disk that it has not been granted by
// name, and never to one that holds anything. Disks are probed through
// read-only file descriptors; the one place that makes a filesystem,
// initialise, runs only for a Decision of kind Initialise, which Decide gives
// only for a blank disk that an unexpired grant names.
package volumes

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"ingot"
)

// Device is one disk or partition that may hold a volume.
type Device struct {
	ingot.Disk
	Path       string // "/dev/vda"
	Parent     string // name of the disk, of a partition
	Partitions int    // of a disk
	Filesystem string // "ext4", when it holds one
	Label      string // of that filesystem
}

// blank is what Holds says of a device that holds nothing.
const blank = "blank"

// Paths are the places of the kernel's view; tests use others.
type Paths struct{ SysBlock, Dev string }

// Host is the machine that we run on.
var Host = Paths{SysBlock: "/sys/block", Dev: "/dev"}

// List returns the disks of the machine and their partitions, sorted by name.
// Devices in memory, loops and optical drives are left out.
func List(at Paths) []Device {
	entries, err := os.ReadDir(at.SysBlock)
	if err != nil {
		return nil
	}
	var devices []Device
	for _, e := range entries {
		name := e.Name()
		if skipped(name) {
			continue
		}
		dir := filepath.Join(at.SysBlock, name)
		d := Device{Path: filepath.Join(at.Dev, name), Disk: ingot.Disk{Name: name, Size: sectors(dir), Serial: serial(dir),
			WWN: text(dir, "wwid", "device/wwid"), Model: text(dir, "device/model")}}
		parts, _ := filepath.Glob(filepath.Join(dir, name+"*", "partition"))
		sort.Strings(parts)
		d.Partitions = len(parts)
		if d.Size == 0 {
			continue // a card reader without a card
		}
		probe(&d)
		devices = append(devices, d)
		for _, p := range parts {
			pdir := filepath.Dir(p)
			q := Device{Path: filepath.Join(at.Dev, filepath.Base(pdir)), Parent: name,
				Disk: ingot.Disk{Name: filepath.Base(pdir), Size: sectors(pdir), Serial: d.Serial, WWN: d.WWN, Model: d.Model}}
			probe(&q)
			devices = append(devices, q)
		}
	}
	return devices
}

func skipped(name string) bool {
	for _, p := range []string{"loop", "ram", "zram", "sr", "fd", "nbd", "md", "dm-"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// sectors reads a size; sysfs counts in 512 bytes whatever the disk's sectors are.
func sectors(dir string) int64 {
	n, err := strconv.ParseInt(text(dir, "size"), 10, 64)
	if err != nil {
		return 0
	}
	return n * 512
}

func text(dir string, names ...string) string {
	for _, n := range names {
		if b, err := os.ReadFile(filepath.Join(dir, n)); err == nil {
			if s := strings.TrimSpace(string(b)); s != "" {
				return s
			}
		}
	}
	return ""
}

// serial reads a disk's serial number: virtio and NVMe have an attribute,
// SCSI and ATA the vital product data page 0x80 (SPC-4, 7.8.15).
func serial(dir string) string {
	if s := text(dir, "serial", "device/serial"); s != "" {
		return s
	}
	if page, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80")); err == nil && len(page) > 4 {
		return strings.TrimSpace(strings.Trim(string(page[4:]), "\x00"))
	}
	return ""
}

// probe says what a device holds. It opens it for reading only.
func probe(d *Device) {
	f, err := os.Open(d.Path)
	if err != nil {
		d.Holds = "unreadable: " + err.Error()
		return
	}
	defer f.Close()
	if d.Partitions > 0 {
		d.Holds = fmt.Sprintf("%d partition(s)", d.Partitions)
		return
	}
	d.Holds, d.Filesystem, d.Label = Identify(f, d.Size)
}

// edge is how much of each end of a device must be zero for it to be blank:
// every partition table, filesystem, RAID, LVM and LUKS signature lies there.
const edge = 1 << 20

// Identify names what the size bytes of r hold: "blank", a signature that we
// know by name, or "unknown data". filesystem and label are set for ext
// filesystems. What cannot be read is not blank.
func Identify(r io.ReaderAt, size int64) (holds, filesystem, label string) {
	head, tail := make([]byte, min(edge, size)), make([]byte, min(edge, size))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return "unreadable: " + err.Error(), "", ""
	}
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return "unreadable: " + err.Error(), "", ""
	}
	if fs, label := extLabel(head); fs != "" {
		return fmt.Sprintf("%s %q", fs, label), fs, label
	}
	for _, s := range signatures {
		area := head
		at := s.offset
		if at < 0 {
			area, at = tail, int64(len(tail))+s.offset
		}
		if at >= 0 && at+int64(len(s.magic)) <= int64(len(area)) && string(area[at:at+int64(len(s.magic))]) == s.magic {
			return s.name, "", ""
		}
	}
	if len(head) > 0 && allZero(head) && allZero(tail) {
		return blank, "", ""
	}
	return "unknown data", "", ""
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// signatures name what people most often have on a disk. They only make the
// refusal clearer: whatever is not zero is refused anyhow. Offsets in bytes,
// negative from the end; sources: util-linux libblkid superblock probes.
var signatures = []struct {
	offset int64
	magic  string
	name   string
}{
	{512, "EFI PART", "GPT partition table"},
	{4096, "EFI PART", "GPT partition table"},
	{-512, "EFI PART", "backup GPT partition table"},
	{0, "XFSB", "xfs filesystem"},
	{0x10040, "_BHRfS_M", "btrfs filesystem"},
	{0, "LUKS\xba\xbe", "LUKS encrypted volume"},
	{512, "LABELONE", "LVM physical volume"},
	{4096, "\xfc\x4e\x2b\xa9", "Linux RAID member"},
	{0, "\xfc\x4e\x2b\xa9", "Linux RAID member"},
	{-65536, "\xfc\x4e\x2b\xa9", "Linux RAID member"},
	{4086, "SWAPSPACE2", "swap space"},
	{0, "hsqs", "squashfs image"},
	{0x8001, "CD001", "ISO 9660 image"},
	{3, "NTFS    ", "NTFS filesystem"},
	{82, "FAT32", "FAT filesystem"},
	{54, "FAT", "FAT filesystem"},
	{510, "\x55\xaa", "MBR partition table"},
}

// extLabel reads the superblock of an ext2, ext3 or ext4 filesystem
// (Linux, Documentation/filesystems/ext4/super.rst).
func extLabel(head []byte) (fs, label string) {
	const start = 1024
	if len(head) < start+264 || binary.LittleEndian.Uint16(head[start+56:]) != 0xEF53 {
		return "", ""
	}
	label = strings.TrimRight(string(head[start+120:start+136]), "\x00")
	const extents, journal = 0x40, 0x4
	switch {
	case binary.LittleEndian.Uint32(head[start+96:])&extents != 0:
		return "ext4", label
	case binary.LittleEndian.Uint32(head[start+92:])&journal != 0:
		return "ext3", label
	}
	return "ext2", label
}
