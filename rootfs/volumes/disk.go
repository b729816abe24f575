// Package volumes finds a machine's persistent volumes, checks and mounts them.
//
// Its law: booting cannot write to a disk that it has not been granted by
// name, and never to one that holds anything. Disks are probed through
// read-only file descriptors; the one place that makes a filesystem,
// initialise, runs only for a Decision of kind Initialise, which Decide gives
// only for a blank disk that an unexpired grant names.
//
// A volume says on its disk whose it is (see stamp.go). What belongs to another
// machine or installation is neither checked nor mounted: both would write to it.
package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"

	"ingot"
)

// Device is one disk or partition that may hold a volume.
type Device struct {
	ingot.Disk
	Node       string // "/dev/vda"
	Parent     string // name of the disk, of a partition
	Partitions int    // of a disk
	Filesystem string // "ext4", when it holds one
	Label      string // of that filesystem
	UUID       string // likewise
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
		dir := filepath.Join(at.SysBlock, name)
		if skipped(name) || text(dir, "hidden") == "1" { // one of several paths to an NVMe drive
			continue
		}
		d := Device{Node: filepath.Join(at.Dev, name), Disk: ingot.Disk{Name: name, Size: sectors(dir), Serial: serial(dir),
			WWN: text(dir, "wwid", "device/wwid"), Model: text(dir, "device/model"), Path: attached(dir)}}
		parts, _ := filepath.Glob(filepath.Join(dir, name+"*", "partition"))
		sort.Strings(parts)
		d.Partitions = len(parts)
		if d.Size == 0 {
			continue // a card reader without a card
		}
		devices = append(devices, d)
		for _, p := range parts {
			pdir := filepath.Dir(p)
			q := Device{Node: filepath.Join(at.Dev, filepath.Base(pdir)), Parent: name,
				Disk: ingot.Disk{Name: filepath.Base(pdir), Size: sectors(pdir), Serial: d.Serial, WWN: d.WWN, Model: d.Model,
					Path: d.Path}}
			devices = append(devices, q)
		}
	}
	var wg sync.WaitGroup
	for i := range devices { // a machine may have dozens of disks that seek
		wg.Go(func() { probe(&devices[i]) })
	}
	wg.Wait()
	return devices
}

// Names changes when a disk or partition appears or goes, or its medium does. It reads no disk.
func Names(at Paths) string {
	var list []string
	for _, pattern := range []string{"*/size", "*/*/partition"} {
		files, _ := filepath.Glob(filepath.Join(at.SysBlock, pattern))
		for _, f := range files {
			list = append(list, f+" "+text(filepath.Dir(f), "size"))
		}
	}
	return strings.Join(list, "\n")
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
	f, err := os.Open(d.Node)
	if err != nil {
		d.Holds = "unreadable: " + err.Error()
		return
	}
	defer f.Close()
	if d.Partitions > 0 {
		d.Holds = fmt.Sprintf("%d partition(s)", d.Partitions)
		return
	}
	c := Identify(f, d.Size)
	d.Holds, d.Filesystem, d.Label, d.UUID = c.Holds, c.Filesystem, c.Label, c.UUID
	if c.Filesystem != "" {
		d.Owner = readOwner(f, c.UUID)
	}
}
