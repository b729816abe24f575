package volumes

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
)

const size = 64 << 20 // of the disk images of these tests

// blkid is what libblkid, the judge, says of a disk image: the type of what it holds; "" for
// nothing, "several" when it holds more than one thing.
func blkid(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command(tool(t, "blkid"), "-p", "-o", "export", path).Output()
	if exit, is := err.(*exec.ExitError); is && exit.ExitCode() == 8 {
		return "several"
	}
	kind := ""
	for _, line := range strings.Split(string(out), "\n") {
		for _, key := range []string{"TYPE=", "PTTYPE="} {
			if v, ok := strings.CutPrefix(line, key); ok && kind == "" {
				kind = v
			}
		}
	}
	return kind
}

// mdSuperblock is a version 1 superblock of Linux RAID at a sector (linux/raid/md_p.h).
func mdSuperblock(sector uint64) []byte {
	b := make([]byte, 4096)
	le := binary.LittleEndian
	le.PutUint32(b, 0xa92b4efc)
	le.PutUint32(b[4:], 1)
	copy(b[16:], bytes.Repeat([]byte{7}, 16))
	copy(b[32:], "host:0")
	le.PutUint64(b[144:], sector)
	return b
}

func writeAt(t *testing.T, path string, offset int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}

// TestFilesystemBesideSignature: an ext4 filesystem with the right label and the signature of
// something else is not an ext4 filesystem, as blkid says. Of version 1.0, RAID members are whole
// filesystems with a superblock behind.
func TestFilesystemBesideSignature(t *testing.T) {
	md10 := int64(size-8<<10) &^ 4095
	zfs := make([]byte, 128<<10)
	for at := 0; at < len(zfs); at += 1024 {
		copy(zfs[at:], "\x0c\xb1\xba\x00\x00\x00\x00\x00\x88\x13\x00\x00\x00\x00\x00\x00")
	}
	for _, c := range []struct {
		name   string
		offset int64
		bytes  []byte
		holds  string
	}{
		{"Linux RAID 1.0", md10, mdSuperblock(uint64(md10 / 512)), "Linux RAID member"},
		{"Linux RAID 0.90", size&^0xffff - 0x10000, []byte("\xfc\x4e\x2b\xa9\x00\x00\x00\x00\x5a\x00\x00\x00"),
			"Linux RAID member"},
		{"Intel RAID", size - 1024, []byte("Intel Raid ISM Cfg Sig. 1.3.00"), "Intel RAID member"},
		{"DDF", size - 512, []byte("\xde\x11\xde\x11"), "DDF RAID member"},
		{"LVM", 512, []byte("LABELONE\x01\x00\x00\x00\x00\x00\x00\x00"), "LVM physical volume"},
		{"ZFS", 256<<10 + 128<<10, zfs, "ZFS member"},
		{"DRBD", size - 4096, []byte("\x83\x74\x02\x6b"), "DRBD device"},
		{"VMFS", 2 << 20, []byte("\x5e\xf1\xab\x2f"), "VMFS filesystem"},
		{"btrfs", 0x10040, []byte("_BHRfS_M"), "btrfs filesystem"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := image(t, "mkfs.ext4", "-q", "-L", "data", "-b", "4096")
			writeAt(t, f.Name(), c.offset, c.bytes)
			got := Identify(f, size)
			if got.Filesystem != "" || !strings.HasPrefix(got.Holds, c.holds+" beside ext4") {
				t.Errorf("Identify = %+v; want no filesystem, but %s beside it (blkid: %q)", got, c.holds, blkid(t, f.Name()))
			}
			d := Device{Disk: ingot.Disk{Name: "vda", Holds: got.Holds}, Filesystem: got.Filesystem, Label: got.Label}
			if k := Decide(ingot.Volume{Name: "data"}, []Device{d}, Machine{}).Kind; k != Refuse {
				t.Errorf("Decide = kind %d; want that it is refused", k)
			}
		})
	}
}

// TestBlkidJudges: whatever signature lies over an ext4 filesystem, what we still call ext4 is ext4
// alone for blkid, too.
func TestBlkidJudges(t *testing.T) {
	plain, err := os.ReadFile(image(t, "mkfs.ext4", "-q", "-L", "data").Name())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, s := range signatures {
		at := s.offset
		if at < 0 {
			at += size
		}
		before := make([]byte, len(s.magic))
		if _, err := f.ReadAt(before, at); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte(s.magic), at); err != nil {
			t.Fatal(err)
		}
		got, judge := Identify(f, size), blkid(t, path)
		if _, err := f.WriteAt(before, at); err != nil {
			t.Fatal(err)
		}
		if got.Filesystem == "ext4" && judge != "ext4" || got.Holds == blank {
			t.Errorf("with %s at %d: Identify = %+v; blkid says %q", s.name, at, got, judge)
		}
	}
}

// TestWipedAtItsEnds: a disk whose signatures were removed, or whose ends were overwritten, still
// has its data, and is not blank.
func TestWipedAtItsEnds(t *testing.T) {
	f := image(t, "mkfs.ext4", "-q", "-L", "data", "-b", "1024")
	writeAt(t, f.Name(), 0, make([]byte, edge))
	writeAt(t, f.Name(), size-edge, make([]byte, edge))
	if got := Identify(f, size); got.Holds == blank {
		t.Errorf("Identify = %q of a filesystem whose first and last MiB were wiped", got.Holds)
	}
	for _, log2 := range []int{24, 30, 33} { // a run of data as long as the distance of samples is always found
		disk := int64(1) << log2
		run := disk / manySamples
		for _, at := range []int64{edge, disk/3 + 12345, disk - edge - 2*run - sample} {
			found, err := nonzeroInside(runOfData{at, at + run + sample}, disk, manySamples)
			if err != nil || found < 0 {
				t.Errorf("nonzeroInside(%d bytes, data from %d, %d bytes) = %d, %v", disk, at, run, found, err)
			}
		}
	}
}

// runOfData is a disk that is zero except from one offset to another.
type runOfData struct{ from, to int64 }

func (r runOfData) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if from, to := max(r.from-off, 0), min(r.to-off, int64(len(p))); from < to {
		p[from] = 1
	}
	return len(p), nil
}

func TestStamp(t *testing.T) {
	owner := ingot.VolumeOwner{Fleet: strings.Repeat("ab", 16), Machine: "m-525400120001", Volume: "data"}
	f := image(t, "mkfs.ext4", "-q", "-L", "data", "-U", volumeUUID(owner))
	c := Identify(f, size)
	if c.UUID != volumeUUID(owner) || !derived(c.UUID) || readOwner(f, c.UUID) != nil {
		t.Fatalf("a volume without a stamp: %+v, owner %v", c, readOwner(f, c.UUID))
	}
	for range 2 { // twice is once
		if err := writeStamp(f.Name(), owner, c.UUID); err != nil {
			t.Fatal(err)
		}
	}
	if got := readOwner(f, c.UUID); got == nil || *got != owner {
		t.Errorf("readOwner = %v; want %v", got, owner)
	}
	if got := blkid(t, f.Name()); got != "ext4" {
		t.Errorf("blkid calls the volume with its stamp %q", got)
	}
	if out, err := exec.Command(tool(t, "e2fsck"), "-f", "-n", f.Name()).CombinedOutput(); err != nil {
		t.Errorf("e2fsck of a volume with its stamp: %v: %s", err, out)
	}
	if got := readOwner(f, "another filesystem"); got != nil {
		t.Errorf("a stamp of another filesystem counts: %v", got)
	}
	for at := range stampSize { // half of it, or a flipped bit, is no stamp
		b := make([]byte, stampSize)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		b[at] ^= 1
		if got := decodeStamp(b, c.UUID); got != nil && *got != owner {
			t.Errorf("with byte %d flipped, the owner is %v", at, got)
		}
		if got := decodeStamp(b[:at], c.UUID); got != nil && at < len(bytes.TrimRight(b, "\x00"))-1 {
			t.Errorf("%d bytes are a stamp: %v", at, got)
		}
	}
	writeAt(t, f.Name(), 0, []byte{0xeb, 0x63})
	if err := writeStamp(f.Name(), owner, c.UUID); err == nil {
		t.Error("a boot loader was overwritten")
	}
}

// mounter works on disk images with this system's own tools. It reaches the mount, which fails:
// the image is no block device.
func mounter(t *testing.T) Mounter {
	t.Helper()
	for _, name := range []string{"mkfs.ext4", "e2fsck", "blkid"} {
		tool(t, name)
	}
	return Mounter{Root: "/", Log: t.Logf}
}

// TestInitialise makes a volume and finds it again. Another machine finds a stranger's.
func TestInitialise(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for chroot")
	}
	m, f := mounter(t), image(t)
	v := ingot.Volume{Name: "data", Mount: "/srv"}
	on := Machine{Fleet: strings.Repeat("ab", 16), ID: "m-525400120001", Now: time.Unix(1, 0)}
	d := Device{Node: f.Name(), Disk: ingot.Disk{Name: "vda", Serial: "S", Size: size}}
	if err := m.initialise(context.Background(), v, d, on); err != nil {
		t.Fatal(err)
	}
	probe(&d)
	if got := Decide(v, []Device{d}, on); got.Kind != Mount || got.Stamp {
		t.Errorf("Decide = %+v; want that it is mounted as it is", got)
	}
	if err := m.initialise(context.Background(), v, d, on); err == nil ||
		!strings.Contains(err.Error(), "no longer blank") {
		t.Errorf("a second initialise = %v; want that it is refused", err)
	}
	if err := m.confirm(context.Background(), d, "ext4"); err != nil {
		t.Errorf("blkid does not confirm the volume: %v", err)
	}
	if err := m.confirm(context.Background(), d, ""); err == nil {
		t.Error("blkid confirms that the volume is blank")
	}
	stranger := on
	stranger.ID = "m-525400120002"
	if got := Decide(v, []Device{d}, stranger); got.Kind != Refuse ||
		!strings.Contains(got.Reason, `volume "data" of machine m-525400120001`) {
		t.Errorf("Decide of another machine = %+v; want that it is refused with the owner's name", got)
	}
	writeAt(t, f.Name(), 0, make([]byte, 512)) // the UUID is left
	probe(&d)
	if got := Decide(v, []Device{d}, on); got.Kind != Mount || !got.Stamp {
		t.Errorf("Decide without the text = %+v; want that it is stamped anew", got)
	}
	if got := Decide(v, []Device{d}, stranger); got.Kind != Refuse || !strings.Contains(got.Reason, "as its UUID says") {
		t.Errorf("Decide of another machine without the text = %+v; want that it is refused", got)
	}
}

// TestOwners: which volumes a machine may mount.
func TestOwners(t *testing.T) {
	on := Machine{Fleet: "f1", ID: "m-1", Now: time.Unix(1, 0)}
	v := ingot.Volume{Name: "data"}
	ext4 := func(name, uuid string, o *ingot.VolumeOwner) Device {
		return Device{Disk: ingot.Disk{Name: name, Serial: "S-" + name, Holds: `ext4 "data"`, Owner: o, Size: size},
			Filesystem: "ext4", Label: "data", UUID: uuid}
	}
	const random = "11111111-1111-4111-8111-111111111111"
	own, foreign, elsewhere := ingot.VolumeOwner{Fleet: "f1", Machine: "m-1", Volume: "data"},
		ingot.VolumeOwner{Fleet: "f1", Machine: "m-2", Volume: "data"},
		ingot.VolumeOwner{Fleet: "f2", Machine: "m-1", Volume: "data"}
	had := func(d Device) Machine { m := on; m.Had = []ingot.Disk{d.Disk}; return m }
	adopt := func(disk string) Machine {
		m := on
		m.Grants = []ingot.Grant{{Volume: "data", Disk: disk, Adopt: true, Expires: time.Unix(100, 0)}}
		return m
	}
	free := ext4("vda", random, nil)
	moved := had(free)
	moved.Had[0].Serial = "S-other"
	for _, c := range []struct {
		name    string
		on      Machine
		devices []Device
		kind    Kind
		device  string
		stamp   bool
		reason  string
	}{
		{"its own", on, []Device{ext4("vda", random, &own)}, Mount, "vda", false, ""},
		{"its own beside a stranger's of the same label", on, []Device{ext4("vda", random, &foreign),
			ext4("vdb", random, &own)}, Mount, "vdb", false, ""},
		{"of another machine", on, []Device{ext4("vda", random, &foreign)}, Refuse, "", false, "of machine m-2"},
		{"of another server", on, []Device{ext4("vda", random, &elsewhere)}, Refuse, "", false, "of another ingot server"},
		{"of nobody", on, []Device{free}, Refuse, "", false, "does not say whose it is"},
		{"of nobody, used before", had(free), []Device{free}, Mount, "vda", true, ""},
		{"of nobody, on another disk than before", moved, []Device{free}, Refuse, "", false, "does not say whose it is"},
		{"of another machine, in the place of its own", had(free), []Device{ext4("vda", random, &foreign)}, Refuse, "", false,
			"of machine m-2"},
		{"a stranger's, taken over", adopt("S-vda"), []Device{ext4("vda", random, &foreign)}, Mount, "vda", true, ""},
		{"a grant to take over another disk", adopt("S-vdb"), []Device{ext4("vda", random, &foreign)}, Refuse, "", false,
			"has no ext4 filesystem"},
		{"a grant to take over formats nothing", adopt("S-vda"), []Device{{Disk: ingot.Disk{Name: "vda", Serial: "S-vda",
			Holds: blank}}}, Refuse, "", false, "has no ext4 filesystem"},
		{"a server that knows no owners", Machine{ID: "m-1"}, []Device{free}, Mount, "vda", false, ""},
		{"a server that knows no owners, and a stranger's", Machine{ID: "m-1"}, []Device{ext4("vda", random, &foreign)},
			Refuse, "", false, "of machine m-2"},
		{"no server", Machine{}, []Device{ext4("vda", random, &foreign)}, Mount, "vda", false, ""},
		{"two paths to one disk", on, []Device{ext4("sda", random, &own), func() Device {
			d := ext4("sda", random, &own)
			d.Name = "sdb"
			return d
		}()}, Refuse, "", false, "paths to one disk (multipath)"},
	} {
		got := Decide(v, c.devices, c.on)
		if got.Kind != c.kind || got.Kind != Refuse && got.Device.Name != c.device || got.Stamp != c.stamp ||
			!strings.Contains(got.Reason, c.reason) {
			t.Errorf("%s: Decide = kind %d, device %q, stamp %t, reason %q; want %d, %q, %t, %q", c.name, got.Kind,
				got.Device.Name, got.Stamp, got.Reason, c.kind, c.device, c.stamp, c.reason)
		}
	}
}
