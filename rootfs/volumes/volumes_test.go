package volumes

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ingot"
)

// tool finds a program that makes what a disk may hold. In CI it must be there.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin"} {
		if p := filepath.Join(dir, name); exists(p) {
			return p
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed; run scripts/setup test", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

// image makes a disk image of 16 MiB and runs a command on it.
func image(t *testing.T, argv ...string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	if len(argv) > 0 {
		cmd := exec.Command(tool(t, argv[0]), append(argv[1:], f.Name())...)
		if argv[0] == "sfdisk" {
			cmd = exec.Command(tool(t, "sfdisk"), "--quiet", f.Name())
			cmd.Stdin = strings.NewReader(argv[1])
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	return f
}

// TestIdentify: the tools that make signatures judge what we say of them.
func TestIdentify(t *testing.T) {
	for _, c := range []struct {
		want string
		argv []string
	}{
		{"blank", nil},
		{`ext4 "data"`, []string{"mkfs.ext4", "-q", "-L", "data"}},
		{`ext2 "old"`, []string{"mkfs.ext2", "-q", "-L", "old"}},
		{"xfs filesystem", []string{"mkfs.xfs", "-q", "-d", "size=64m", "--unsupported"}},
		{"GPT partition table", []string{"sfdisk", "label: gpt\n,10M\n"}},
		{"MBR partition table", []string{"sfdisk", "label: dos\n,10M\n"}},
		{"swap space", []string{"mkswap", "-q"}},
	} {
		if c.argv != nil && c.argv[0] == "mkfs.xfs" {
			if exec.Command(tool(t, "mkfs.xfs"), "-V").Run() != nil {
				continue
			}
		}
		f := image(t, c.argv...)
		if got := Identify(f, 64<<20).Holds; got != c.want {
			t.Errorf("after %v: Identify = %q; want %q", c.argv, got, c.want)
		}
	}
}

// TestNotBlank: one byte that is not zero in the first or last MiB, or a disk
// that cannot be read, is never blank, and so never initialised.
func TestNotBlank(t *testing.T) {
	const size = 8 << 20
	rapid.Check(t, func(rt *rapid.T) {
		disk := make([]byte, size)
		at := rapid.IntRange(0, edge-1).Draw(rt, "offset")
		if rapid.Bool().Draw(rt, "at the end") {
			at = size - 1 - at
		}
		disk[at] = byte(rapid.IntRange(1, 255).Draw(rt, "byte"))
		c := Identify(readerAt(disk), size)
		if c.Holds == blank {
			rt.Fatalf("a disk with byte %#x at %d is called blank", disk[at], at)
		}
		d := Device{Disk: ingot.Disk{Name: "vda", Serial: "S", Size: size, Holds: c.Holds}, Filesystem: c.Filesystem,
			Label: c.Label}
		on := Machine{Grants: []ingot.Grant{{Volume: "data", Disk: "S", Expires: time.Unix(100, 0)}}, Now: time.Unix(1, 0)}
		if got := Decide(ingot.Volume{Name: "data"}, []Device{d}, on); got.Kind == Initialise {
			rt.Fatalf("Decide = initialise a disk that holds %s", c.Holds)
		}
	})
	if Identify(brokenDisk{}, size).Holds == blank {
		t.Error("a disk that cannot be read is called blank")
	}
	if Identify(readerAt(nil), 0).Holds == blank {
		t.Error("a disk without bytes is called blank")
	}
}

type readerAt []byte

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return copy(p, r[off:]), nil }

type brokenDisk struct{}

func (brokenDisk) ReadAt([]byte, int64) (int, error) { return 0, errors.New("I/O error") }

// on2038 is later than any of these tests.
var on2038 = time.Date(2038, 1, 1, 0, 0, 0, 0, time.UTC)

func TestDecide(t *testing.T) {
	now := time.Unix(1000, 0)
	data := ingot.Volume{Name: "data"}
	ext4 := func(name, label string) Device {
		return Device{
			Disk:       ingot.Disk{Name: name, Serial: "S-" + name, Holds: `ext4 "` + label + `"`},
			Filesystem: "ext4",
			Label:      label,
		}
	}
	empty := func(name string) Device {
		return Device{Disk: ingot.Disk{Name: name, Serial: "S-" + name, Holds: blank}}
	}
	grant := func(disk string, until time.Time) []ingot.Grant {
		return []ingot.Grant{{Volume: "data", Disk: disk, Expires: until}}
	}
	later := now.Add(time.Hour)
	for _, c := range []struct {
		name    string
		volume  ingot.Volume
		devices []Device
		grants  []ingot.Grant
		kind    Kind
		device  string
		reason  string
		absent  bool
	}{
		{name: "found by label", volume: data, devices: []Device{empty("vda"), ext4("vdb", "data")}, kind: Mount,
			device: "vdb"},
		{name: "found although granted elsewhere", volume: data, devices: []Device{empty("vda"), ext4("vdb", "data")},
			grants: grant("S-vda", later), kind: Mount, device: "vdb"},
		{name: "two of a label", volume: data, devices: []Device{ext4("vda", "data"), ext4("vdb", "data")},
			reason: "2 devices have the label"},
		{name: "no grant", volume: data, devices: []Device{empty("vda")}, reason: `vda (serial "S-vda") holds blank`,
			absent: true},
		{name: "no disk", volume: data, reason: "this machine has no disks", absent: true},
		{name: "granted", volume: data, devices: []Device{empty("vda"), empty("vdb")}, grants: grant("S-vdb", later),
			kind: Initialise, device: "vdb"},
		{name: "grant expired", volume: data, devices: []Device{empty("vda")}, grants: grant("S-vda", now),
			reason: "expired"},
		{name: "granted disk absent", volume: data, devices: []Device{empty("vda")}, grants: grant("S-vdz", later),
			reason: "not in this machine"},
		{name: "granted disk holds data", volume: data, devices: []Device{ext4("vda", "other")},
			grants: grant("S-vda", later), reason: "is not blank"},
		{name: "granted disk has partitions", volume: data,
			devices: []Device{{Disk: ingot.Disk{Name: "vda", Serial: "S-vda", Holds: blank}, Partitions: 1}},
			grants:  grant("S-vda", later), reason: "is not blank"},
		{name: "grant of another volume", volume: data, devices: []Device{empty("vda")},
			grants: []ingot.Grant{{Volume: "logs", Disk: "S-vda", Expires: later}}, reason: "no device", absent: true},
		{name: "two disks of a serial", volume: data,
			devices: []Device{{Disk: ingot.Disk{Name: "sda", Serial: "X", Holds: blank}},
				{Disk: ingot.Disk{Name: "sdb", Serial: "X", Holds: blank}}}, grants: grant("X", later),
			reason: "2 disks have the serial number, WWN or path"},
		{name: "found by serial", volume: ingot.Volume{Name: "data", Serial: "S-vdb"},
			devices: []Device{ext4("vda", "data"), ext4("vdb", "x")}, kind: Mount, device: "vdb"},
		{name: "no name matches an empty serial", volume: data,
			devices: []Device{{Disk: ingot.Disk{Name: "vda", Holds: blank}}}, grants: grant("", later),
			reason: "not in this machine"},
	} {
		got := Decide(c.volume, c.devices, Machine{Grants: c.grants, Now: now})
		if got.Kind != c.kind || got.Kind != Refuse && got.Device.Name != c.device ||
			!strings.Contains(got.Reason, c.reason) ||
			got.Absent != c.absent {
			t.Errorf("%s: Decide = kind %d, device %q, reason %q, absent %t; want %d, %q, %q, %t",
				c.name, got.Kind, got.Device.Name, got.Reason, got.Absent, c.kind, c.device, c.reason, c.absent)
		}
	}
}

// TestListReadsSysfs: a made-up /sys/block, with real images behind it.
func TestListReadsSysfs(t *testing.T) {
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
	noise := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	write(at.SysBlock+"/vda/size", "8192\n")
	write(at.SysBlock+"/vda/serial", "S1\n")
	write(at.Dev+"/vda", string(make([]byte, 4<<20)))
	write(at.SysBlock+"/sda/size", "8192\n")
	write(at.SysBlock+"/sda/device/vpd_pg80", "\x00\x80\x00\x04ABCD")
	write(at.SysBlock+"/sda/sda1/partition", "1\n")
	write(at.SysBlock+"/sda/sda1/size", "4096\n")
	write(at.Dev+"/sda", string(noise))
	write(at.Dev+"/sda1", string(noise))
	write(at.SysBlock+"/loop0/size", "8\n")
	got := List(at)
	if len(got) != 3 {
		t.Fatalf("List = %d devices; want sda, sda1, vda: %+v", len(got), got)
	}
	if d := got[0]; d.Name != "sda" || d.Serial != "ABCD" || d.Partitions != 1 || d.Holds != "1 partition(s)" {
		t.Errorf("List[0] = %+v; want sda with its serial from the VPD page and one partition", d)
	}
	if d := got[2]; d.Name != "vda" || d.Serial != "S1" || d.Holds != blank || d.Size != 4<<20 {
		t.Errorf("List[2] = %+v; want the blank vda", d)
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add(make([]byte, 2048))
	f.Add(append(make([]byte, 1024+56), 0x53, 0xEF))
	f.Fuzz(func(t *testing.T, b []byte) {
		if Identify(readerAt(b), int64(len(b))).Holds == blank && strings.Trim(string(b), "\x00") != "" && len(b) <= edge {
			t.Errorf("%d bytes that are not all zero are called blank", len(b))
		}
	})
}
