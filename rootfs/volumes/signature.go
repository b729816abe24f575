package volumes

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Contents is what a device holds.
type Contents struct {
	Holds      string // "blank", `ext4 "data"`, the name of a signature, or "unknown data"
	Filesystem string // ext2, ext3 or ext4, and only if nothing else has a signature
	Label      string // of that filesystem
	UUID       string // of that filesystem, canonical
}

// edge is how much of each end of a device must be zero for it to be blank: nearly every
// signature lies there.
const edge = 1 << 20

// Identify says what the size bytes of r hold. Every signature is looked for before a filesystem
// counts: a member of a RAID set can look like a plain filesystem, and must not be mounted. What
// cannot be read is not blank.
func Identify(r io.ReaderAt, size int64) Contents {
	d := &device{r: r, size: size}
	if d.err = d.load(); d.err != nil {
		return Contents{Holds: "unreadable: " + d.err.Error()}
	}
	ext := extSuperblock(d.head)
	found := d.signatures(ext.Filesystem != "")
	if d.err != nil {
		return Contents{Holds: "unreadable: " + d.err.Error()}
	}
	switch {
	case len(found) > 0 && ext.Filesystem != "":
		return Contents{Holds: strings.Join(found, " and ") + " beside " + ext.Holds}
	case len(found) > 0:
		return Contents{Holds: strings.Join(found, " and ")}
	case ext.Filesystem != "":
		return ext
	case len(d.head) == 0 || !allZero(d.head) || !allZero(d.tail):
		return Contents{Holds: "unknown data"}
	}
	if at, err := nonzeroInside(r, size, fewSamples); err != nil {
		return Contents{Holds: "unreadable: " + err.Error()}
	} else if at >= 0 {
		return Contents{Holds: fmt.Sprintf("unknown data at byte %d", at)}
	}
	return Contents{Holds: blank}
}

// device is a device under examination.
type device struct {
	r          io.ReaderAt
	size       int64
	head, tail []byte // its first and last MiB
	err        error  // the first one of a read
}

func (d *device) load() error {
	d.head, d.tail = make([]byte, min(edge, d.size)), make([]byte, min(edge, d.size))
	if _, err := d.r.ReadAt(d.head, 0); err != nil && err != io.EOF {
		return err
	}
	if _, err := d.r.ReadAt(d.tail, d.size-int64(len(d.tail))); err != nil && err != io.EOF {
		return err
	}
	return nil
}

// at returns n bytes at an offset, or nil if they are outside of the device.
func (d *device) at(offset int64, n int) []byte {
	end := offset + int64(n)
	tailStart := d.size - int64(len(d.tail))
	switch {
	case offset < 0 || end > d.size:
		return nil
	case end <= int64(len(d.head)):
		return d.head[offset:end]
	case offset >= tailStart:
		return d.tail[offset-tailStart : end-tailStart]
	}
	b := make([]byte, n)
	if _, err := d.r.ReadAt(b, offset); err != nil && err != io.EOF {
		d.err = err
		return nil
	}
	return b
}

// signatures returns the names of everything but ext filesystems that has a signature, each once.
// beside says that there is an ext filesystem; its first sector may hold a boot loader.
func (d *device) signatures(beside bool) (found []string) {
	add := func(name string) {
		if !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	for _, s := range signatures {
		offset := s.offset
		if offset < 0 {
			offset += d.size
		}
		if beside && (s.name == nilfs || s.name == sun) {
			continue // two bytes that the number of blocks, or a boot loader, can have
		}
		if string(d.at(offset, len(s.magic))) == s.magic {
			add(s.name)
		}
	}
	if slices.Contains(found, gpt) {
		found = slices.DeleteFunc(found, func(name string) bool { return name == backupGPT })
	}
	if b := d.at(510, 2); string(b) == "\x55\xaa" && !slices.ContainsFunc(found, hasMBR) &&
		(!beside || !allZero(d.at(446, 64))) {
		add("MBR partition table")
	}
	for _, at := range d.raidOffsets() {
		if b := d.at(at, 4); string(b) == "\xfc\x4e\x2b\xa9" || string(b) == "\xa9\x2b\x4e\xfc" {
			add("Linux RAID member")
		}
	}
	if d.hasZFS() {
		add("ZFS member")
	}
	return found
}

const (
	gpt       = "GPT partition table"
	backupGPT = "backup GPT partition table"
	sun       = "Sun partition table"
	nilfs     = "nilfs2 filesystem"
)

// hasMBR reports whether the two bytes of an MBR belong to another signature: a GPT has a
// protective MBR, FAT, NTFS and exFAT have a boot sector.
func hasMBR(name string) bool {
	return slices.ContainsFunc([]string{gpt, "FAT ", "NTFS ", "exFAT ", "BitLocker "}, func(p string) bool {
		return strings.HasPrefix(name, p)
	})
}

// raidOffsets are where superblocks of Linux RAID lie: versions 1.1, 1.2, 1.0 and 0.90
// (md(4), "THE VERSION-1 SUPERBLOCK").
func (d *device) raidOffsets() []int64 {
	const k = 1 << 10
	return []int64{0, 4 * k, (d.size - 8*k) &^ (4*k - 1), d.size&^(64*k-1) - 64*k}
}

// hasZFS looks for an uberblock in the four labels of a member of a pool (ZFS on-disk
// specification, section 1.3).
func (d *device) hasZFS() bool {
	const label, ring, slot = 256 << 10, 128 << 10, 1 << 10
	end := d.size &^ (label - 1)
	for _, start := range []int64{0, label, end - 2*label, end - label} {
		for at := start + ring; at < start+label; at += slot {
			switch string(d.at(at, 8)) {
			case "\x0c\xb1\xba\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\xba\xb1\x0c":
				return true
			}
		}
	}
	return false
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// signatures are what people have on disks. Offsets in bytes, negative from the end; sources:
// the superblock and partition probes of libblkid in util-linux, and the formats' own
// documentation.
var signatures = []struct {
	offset int64
	magic  string
	name   string
}{
	// Partition tables.
	{512, "EFI PART", gpt},
	{4096, "EFI PART", gpt},
	{-512, "EFI PART", backupGPT},
	{-4096, "EFI PART", backupGPT},
	{508, "\xda\xbe", sun},
	{0, "\x0b\xe5\xa9\x41", "SGI partition table"},
	{512, "PM\x00\x00", "Apple partition map"},
	{512, "\x57\x45\x56\x82", "BSD disklabel"},
	// RAID sets of firmware and of other systems.
	{-512, "\xde\x11\xde\x11", "DDF RAID member"},
	{-257 * 512, "\xde\x11\xde\x11", "DDF RAID member"},
	{-1024, "Intel Raid ISM Cfg Sig. ", "Intel RAID member"},
	{-1024, "NVIDIA", "NVIDIA RAID member"},
	{-512, "$XIDE$", "LSI RAID member"},
	{-512, "\x90\x07\x65\xc4", "Adaptec RAID member"},
	{-512, "\xc4\x65\x07\x90", "Adaptec RAID member"},
	{-512, "JM", "JMicron RAID member"},
	{-63 * 512, "Promise Technology, Inc.", "Promise RAID member"},
	{9*512 + 32, "\xf0\x16\x78\x5a", "HighPoint RAID member"},
	{9*512 + 32, "\xfd\x16\x78\x5a", "HighPoint RAID member"},
	// Volume managers, caches and encryption.
	{0, "LABELONE", "LVM physical volume"},
	{512, "LABELONE", "LVM physical volume"},
	{1024, "LABELONE", "LVM physical volume"},
	{1536, "LABELONE", "LVM physical volume"},
	{0, "HM\x01\x00", "LVM1 physical volume"},
	{0, "HM\x02\x00", "LVM1 physical volume"},
	{0, "LUKS\xba\xbe", "LUKS encrypted volume"},
	{0x4000, "SKUL\xba\xbe", "LUKS encrypted volume"},
	{0x8000, "SKUL\xba\xbe", "LUKS encrypted volume"},
	{3, "-FVE-FS-", "BitLocker volume"},
	{0x1018, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache device"},
	{0x1018, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs device"},
	{-4096, "\x83\x74\x02\x6b", "DRBD device"},
	{4096 + 4, "!Stra0tis\x86\xff\x02^\x41rh", "Stratis device"},
	{512 + 4, "!Stra0tis\x86\xff\x02^\x41rh", "Stratis device"},
	{0, "dmvdo001", "VDO device"},
	{0, "bluestore block device", "Ceph OSD"},
	{0, "integrt\x00", "dm-integrity device"},
	{0, "verity\x00\x00", "dm-verity hash device"},
	{0, "SnAp", "LVM snapshot store"},
	{32, "ORCLDISK", "Oracle ASM disk"},
	{1 << 20, "\x0d\xd0\x01\xc0", "VMFS volume"},
	{2 << 20, "\x5e\xf1\xab\x2f", "VMFS filesystem"},
	// Filesystems.
	{0, "XFSB", "xfs filesystem"},
	{0x10040, "_BHRfS_M", "btrfs filesystem"},
	{0x400, "\x10\x20\xf5\xf2", "f2fs filesystem"},
	{0x8000, "JFS1", "jfs filesystem"},
	{0x10034, "ReIsErFs", "reiserfs filesystem"},
	{0x10034, "ReIsEr2Fs", "reiserfs filesystem"},
	{0x10034, "ReIsEr3Fs", "reiserfs filesystem"},
	{0x10000, "ReIsEr4", "reiser4 filesystem"},
	{0x406, "\x34\x34", nilfs},
	{0x10000, "\x01\x16\x19\x70", "gfs2 filesystem"},
	{0x800, "OCFSV2", "ocfs2 filesystem"},
	{0x1000, "OCFSV2", "ocfs2 filesystem"},
	{0x400, "OCFSV2", "ocfs2 filesystem"},
	{0x2000, "OCFSV2", "ocfs2 filesystem"},
	{0x400, "\xe2\xe1\xf5\xe0", "erofs image"},
	{0, "hsqs", "squashfs image"},
	{0, "sqsh", "squashfs image"},
	{0, "\x45\x3d\xcd\x28", "cramfs image"},
	{32, "NXSB", "APFS container"},
	{0x400, "H+\x00\x04", "HFS+ filesystem"},
	{0x400, "HX\x00\x05", "HFS+ filesystem"},
	{0x400, "BD", "HFS filesystem"},
	{0x255c, "\x54\x19\x01\x00", "UFS filesystem"},
	{0x1055c, "\x19\x01\x54\x19", "UFS filesystem"},
	{0x8001, "CD001", "ISO 9660 image"},
	{0x8001, "BEA01", "UDF filesystem"},
	{0x8001, "NSR0", "UDF filesystem"},
	{3, "NTFS    ", "NTFS filesystem"},
	{3, "EXFAT   ", "exFAT filesystem"},
	{3, "ReFS\x00\x00\x00\x00", "ReFS filesystem"},
	{82, "FAT32", "FAT filesystem"},
	{54, "FAT", "FAT filesystem"},
	{4086, "SWAPSPACE2", "swap space"},
	{4086, "SWAP-SPACE", "swap space"},
	{8182, "SWAPSPACE2", "swap space"},
	{65526, "SWAPSPACE2", "swap space"},
}

// extSuperblock reads the superblock of an ext2, ext3 or ext4 filesystem
// (Linux, Documentation/filesystems/ext4/super.rst).
func extSuperblock(head []byte) (c Contents) {
	const start = 1024
	if len(head) < start+264 || binary.LittleEndian.Uint16(head[start+56:]) != 0xEF53 {
		return c
	}
	c.Label = strings.TrimRight(string(head[start+120:start+136]), "\x00")
	c.UUID = canonicalUUID(head[start+104 : start+120])
	const journalDevice, extents, journal = 0x8, 0x40, 0x4
	switch {
	case binary.LittleEndian.Uint32(head[start+96:])&journalDevice != 0:
		return Contents{Holds: "external ext4 journal"}
	case binary.LittleEndian.Uint32(head[start+96:])&extents != 0:
		c.Filesystem = "ext4"
	case binary.LittleEndian.Uint32(head[start+92:])&journal != 0:
		c.Filesystem = "ext3"
	default:
		c.Filesystem = "ext2"
	}
	c.Holds = fmt.Sprintf("%s %q", c.Filesystem, c.Label)
	return c
}

// canonicalUUID is the text of 16 bytes (RFC 9562, section 4).
func canonicalUUID(b []byte) string {
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
