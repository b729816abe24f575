package initrd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot"
	"ingot/builder/bootdisk"
	"ingot/rootfs/volumes"
)

const (
	hash   = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	rootID = "00112233-4455-6677-8899-aabbccddeeff"
)

// disks makes a folder of devices as the kernel shows them: one with an
// exported disk and its two partitions, one with an exported ISO, one blank,
// one that is too small for anything, and a loop device.
func disks(t *testing.T) volumes.Paths {
	t.Helper()
	at := volumes.Paths{SysBlock: filepath.Join(t.TempDir(), "block"), Dev: t.TempDir()}
	for name, content := range map[string]string{
		"vda/vda1/partition": "1\n", "vda/vda2/partition": "2\n", "vda/queue/x": "", "sr0/size": "1",
		"sda/size": "1", "sdb/size": "1", "loop0/size": "1",
	} {
		path := filepath.Join(at.SysBlock, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	small := filepath.Join(at.Dev, "small")
	if err := os.WriteFile(small, make([]byte, 8192), 0o644); err != nil {
		t.Fatal(err)
	}
	m := bootdisk.Media{Program: small, Root: small, Label: "INGOT_0011223344556677",
		Disk: "d3b0f6a1-0000-4000-8000-000000000001", System: "d3b0f6a1-0000-4000-8000-000000000002", Partition: rootID}
	if err := bootdisk.WriteDisk(t.Context(), filepath.Join(at.Dev, "vda"), m, nil); err != nil {
		t.Fatal(err)
	}
	if err := bootdisk.WriteISO(t.Context(), filepath.Join(at.Dev, "sr0"), t.TempDir(), m, nil); err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{"sda": 1 << 20, "sdb": 100} {
		if err := os.WriteFile(filepath.Join(at.Dev, name), make([]byte, n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

func TestFindRoot(t *testing.T) {
	at := disks(t)
	for id, want := range map[string]string{
		rootID: "vda2", strings.ToUpper(rootID): "vda2", "d3b0f6a1-0000-4000-8000-000000000002": "vda1",
		"d3b0f6a1-0000-4000-8000-000000000001": "", "00000000-0000-0000-0000-000000000001": "",
	} {
		got := strings.TrimPrefix(findPartition(at, id), at.Dev+"/")
		if got != want {
			t.Errorf("findPartition(%s) = %q; want %q", id, got, want)
		}
	}
	for label, want := range map[string]string{"INGOT_0011223344556677": "sr0", "INGOT_0011": "", "": ""} {
		if got := strings.TrimPrefix(findISO(at, label), at.Dev+"/"); got != want {
			t.Errorf("findISO(%q) = %q; want %q", label, got, want)
		}
	}
	if got := strings.Join(wholeDisks(at), " "); got != "sda sdb sr0 vda" {
		t.Errorf("wholeDisks = %q; want no loop device", got)
	}
	if _, err := findRoot("floppy/a"); err == nil || !strings.Contains(err.Error(), "ingot.local=floppy/a") {
		t.Errorf("findRoot of what nobody knows: %v", err)
	}
}

func TestLocalArguments(t *testing.T) {
	a, err := ParseArguments("console=ttyS0 ingot.roothash=" + hash + " ingot.local=partition/" + rootID)
	if err != nil || a.Local != "partition/"+rootID || a.RootHash != hash {
		t.Errorf("ParseArguments = %+v, %v", a, err)
	}
	if _, err := ParseArguments("ingot.local=partition/" + rootID); err == nil ||
		!strings.Contains(err.Error(), "ingot.roothash") {
		t.Errorf("without a root hash: %v; want an error that names ingot.roothash", err)
	}
	// A root hash alone is what a UKI has that firmware started: the network is
	// asked for the server.
	if a, err := ParseArguments("ingot.roothash=" + hash); err != nil || !a.lost() {
		t.Errorf("with a root hash alone: %+v, %v; want that the network is asked", a, err)
	}
}

func TestVerityTable(t *testing.T) {
	v := ingot.Verity{RootHash: hash, Salt: "abcd", HashOffset: 40960}
	want := "1 /dev/vda2 /dev/vda2 4096 4096 10 11 sha256 " + hash + " abcd"
	if got, err := verityTable("/dev/vda2", &v); err != nil || got != want {
		t.Errorf("verityTable = %q, %v; want %q", got, err, want)
	}
	for _, bad := range []ingot.Verity{
		{RootHash: hash, HashOffset: 4097}, {RootHash: hash}, {RootHash: hash[:60], HashOffset: 4096},
		{RootHash: strings.Repeat("x", 64), HashOffset: 4096}, {RootHash: hash, Salt: "1 2", HashOffset: 4096},
	} {
		if got, err := verityTable("/dev/vda2", &bad); err == nil {
			t.Errorf("verityTable(%+v) = %q; want an error", bad, got)
		}
	}
	if _, err := openVerity("/dev/null", &v, strings.Repeat("0", 64)); !errors.Is(err, ErrRootHash) {
		t.Errorf("another root hash than the image's: %v; want ErrRootHash", err)
	}
}

func TestLocalTicket(t *testing.T) {
	l := ingot.Local{Image: "sha256:1", Manifest: ingot.ImageManifest{Profile: "lab", Version: "v1"}}
	one := localTicket(l, ingot.Facts{UUID: "d1b2c3a4-0000-4000-8000-525400120101"})
	two := localTicket(l, ingot.Facts{UUID: "d1b2c3a4-0000-4000-8000-525400120102"})
	if one.Name != "lab:v1" || one.Hostname != "lab" || len(one.MachineKey) != 32 || one.MachineKey == two.MachineKey ||
		len(one.Grants) != 0 {
		t.Errorf("localTicket = %+v and %+v; want two machines of that image, without grants", one, two)
	}
	again := localTicket(l, ingot.Facts{UUID: "D1B2C3A4-0000-4000-8000-525400120101"})
	if again.MachineKey != one.MachineKey {
		t.Error("the same machine has another machine-id the next time")
	}
	a, b := localTicket(l, ingot.Facts{}), localTicket(l, ingot.Facts{UUID: "00000000-0000-0000-0000-000000000000"})
	if a.MachineKey == b.MachineKey {
		t.Error("two machines that know nothing of themselves share a machine-id")
	}
}
