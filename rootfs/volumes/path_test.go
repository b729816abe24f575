package volumes

import (
	"os"
	"path/filepath"
	"testing"

	"ingot"
)

// TestAttached: places in sysfs as real machines and QEMU have them. The numbers of hosts, virtio
// and NVMe controllers may be others at the next boot.
func TestAttached(t *testing.T) {
	const scsiPort = "/sys/devices/pci0000:00/0000:00:05.0/virtio"
	for _, c := range []struct{ sysfs, namespace, want string }{
		{"/sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda", "", "pci-0000:00:04.0"},
		{"/sys/devices/pci0000:00/0000:00:04.0/virtio9/block/vdc", "", "pci-0000:00:04.0"},
		{scsiPort + "2/host0/target0:0:1/0:0:1:0/block/sda", "", "pci-0000:00:05.0-scsi-0:1:0"},
		{scsiPort + "3/host7/target7:0:1/7:0:1:0/block/sdq", "", "pci-0000:00:05.0-scsi-0:1:0"},
		{"/sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda", "", "pci-0000:00:1f.2-ata-1"},
		{"/sys/devices/pci0000:00/0000:00:1c.0/0000:01:00.0/nvme/nvme0/nvme0n1", "1", "pci-0000:01:00.0-nvme-1"},
		{"/sys/devices/pci0000:3a/0000:3a:00.0/host0/port-0:0/expander-0:0/port-0:0:3/end_device-0:0:3/target0:0:3/" +
			"0:0:3:0/block/sdd", "", "pci-0000:3a:00.0-sas-0x5000c500a1b2c3d4-scsi-0:3:0"},
		{"/sys/devices/pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host5/target5:0:0/5:0:0:0/block/sdb", "",
			"pci-0000:00:14.0-usb-3:1.0"},
		{"/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "1", ""},
	} {
		got := attachedPath(c.sysfs, func(part, _ string) string {
			return map[string]string{"ata3": "1", "end_device-0:0:3": "0x5000c500a1b2c3d4"}[part]
		}, c.namespace)
		if got != c.want {
			t.Errorf("attachedPath(%s) = %q; want %q", c.sysfs, got, c.want)
		}
	}
}

// TestHiddenPath: a drive with several NVMe controllers shows its paths, which are no disks
// (Linux, Documentation/ABI/testing/sysfs-block, "hidden").
func TestHiddenPath(t *testing.T) {
	dir := t.TempDir()
	at := Paths{SysBlock: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev")}
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"nvme0n1", "nvme0c0n1", "nvme0c1n1"} {
		write(filepath.Join(at.SysBlock, name, "size"), "16384\n")
		write(filepath.Join(at.SysBlock, name, "wwid"), "nvme.1b36-31\n")
	}
	write(filepath.Join(at.SysBlock, "nvme0c0n1/hidden"), "1\n")
	write(filepath.Join(at.SysBlock, "nvme0c1n1/hidden"), "1\n")
	write(filepath.Join(at.SysBlock, "nvme0n1/hidden"), "0\n")
	write(filepath.Join(at.Dev, "nvme0n1"), string(make([]byte, 8<<20)))
	got := List(at)
	if len(got) != 1 || got[0].Name != "nvme0n1" || got[0].Holds != blank {
		t.Errorf("List = %+v; want the blank nvme0n1 alone", got)
	}
	// Otherwise a grant by WWN would find three disks.
	on := Machine{Grants: []ingot.Grant{{Volume: "data", Disk: "nvme.1b36-31", Expires: on2038}}}
	if d := Decide(ingot.Volume{Name: "data"}, got, on); d.Kind != Initialise {
		t.Errorf("Decide = %+v; want that the granted disk is initialised", d)
	}
}

// TestGrantByPath: a disk without a serial number and WWN is granted by its path.
func TestGrantByPath(t *testing.T) {
	d := func(name, path string) Device {
		return Device{Disk: ingot.Disk{Name: name, Path: path, Size: size, Holds: blank}}
	}
	devices := []Device{d("vda", "pci-0000:00:04.0"), d("vdb", "pci-0000:00:05.0")}
	on := Machine{Grants: []ingot.Grant{{Volume: "data", Disk: "pci-0000:00:05.0", Expires: on2038}}}
	if got := Decide(ingot.Volume{Name: "data"}, devices, on); got.Kind != Initialise || got.Device.Name != "vdb" {
		t.Errorf("Decide = %+v; want that vdb is initialised", got)
	}
}
