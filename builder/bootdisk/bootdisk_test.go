package bootdisk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	diskID   = "D3B0F6A1-0000-4000-8000-000000000001"
	systemID = "D3B0F6A1-0000-4000-8000-000000000002"
	rootID   = "D3B0F6A1-0000-4000-8000-000000000003"
)

// media are a program and a root of random bytes.
func media(t *testing.T, m Machine, program, root int) Media {
	t.Helper()
	dir := t.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	for name, n := range map[string]int{"program": program, "root": root} {
		b := make([]byte, n)
		_, _ = random.Read(b) // never fails
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Media{Machine: m, Program: filepath.Join(dir, "program"),
		Root: filepath.Join(dir, "root"), Label: "INGOT_0123456789AB",
		Disk: diskID, System: systemID, Partition: rootID}
}

// referee runs a foreign tool.
func referee(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed; run scripts/setup test", name)
		}
		t.Skipf("%s is not installed", name)
	}
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s%s", name, args, err, out, stderr.String())
	}
	return string(out)
}

func same(t *testing.T, what, a, b string) {
	t.Helper()
	x, errX := os.ReadFile(a)
	y, errY := os.ReadFile(b)
	if errX != nil || errY != nil || !bytes.Equal(x, y) {
		t.Errorf("%s is not the file that went in (%d and %d bytes; %v, %v)", what, len(x), len(y), errX, errY)
	}
}

func TestDisk(t *testing.T) {
	for machine, want := range map[Machine]struct{ boot, kind string }{
		X64:   {"BOOTX64.EFI", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"},
		ARM64: {"BOOTAA64.EFI", "B921B045-1DF0-41C3-AF44-4C6F280D3FAE"},
	} {
		m := media(t, machine, 3<<20+77, 5<<20+4096)
		disk := filepath.Join(t.TempDir(), "disk.raw")
		if err := WriteDisk(t.Context(), disk, m, nil); err != nil {
			t.Fatal(err)
		}
		var table struct {
			PartitionTable struct {
				Label, ID  string
				Partitions []struct {
					Start, Size       int64
					Type, UUID, Attrs string
				}
			}
		}
		if err := json.Unmarshal([]byte(referee(t, "sfdisk", "--json", disk)), &table); err != nil {
			t.Fatal(err)
		}
		p := table.PartitionTable
		if p.Label != "gpt" || p.ID != diskID || len(p.Partitions) != 2 ||
			p.Partitions[0].UUID != systemID || p.Partitions[1].UUID != rootID ||
			p.Partitions[1].Type != want.kind || p.Partitions[1].Attrs != "GUID:60,63" {
			t.Errorf("sfdisk reads %+v", p)
		}
		if out := referee(t, "sfdisk", "--verify", disk); !strings.Contains(out, "No errors detected") {
			t.Errorf("sfdisk --verify: %s", out)
		}
		dir := t.TempDir()
		cut(t, disk, filepath.Join(dir, "esp"), p.Partitions[0].Start*512, p.Partitions[0].Size*512)
		cut(t, disk, filepath.Join(dir, "root"), p.Partitions[1].Start*512, 5<<20+4096)
		same(t, "the root", m.Root, filepath.Join(dir, "root"))
		referee(t, "fsck.vfat", "-n", filepath.Join(dir, "esp"))
		referee(t, "mcopy", "-i", filepath.Join(dir, "esp"), "::EFI/BOOT/"+want.boot, filepath.Join(dir, "program"))
		same(t, "the program", m.Program, filepath.Join(dir, "program"))
	}
}

// cut takes a piece of a file out.
func cut(t *testing.T, from, to string, at, n int64) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestISO(t *testing.T) {
	m := media(t, X64, 34<<20, 5<<20+4096) // more than 16 bits of sectors
	dir := t.TempDir()
	iso := filepath.Join(dir, "x.iso")
	if err := WriteISO(t.Context(), iso, t.TempDir(), m, nil); err != nil {
		t.Fatal(err)
	}
	report := referee(t, "xorriso", "-indev", iso, "-report_el_torito", "plain", "-toc")
	if !strings.Contains(report, "UEFI") || !strings.Contains(report, m.Label) {
		t.Errorf("xorriso says:\n%s", report)
	}
	referee(t, "xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", filepath.Join(dir, "out"))
	same(t, "the root", m.Root, filepath.Join(dir, "out", rootFile))
	referee(t, "fsck.vfat", "-n", filepath.Join(dir, "out", bootFile))
	referee(t, "mcopy", "-i", filepath.Join(dir, "out", bootFile), "::EFI/BOOT/BOOTX64.EFI", filepath.Join(dir, "program"))
	same(t, "the program", m.Program, filepath.Join(dir, "program"))
}

// TestSameBytes: at another time, in another time zone and folder.
func TestSameBytes(t *testing.T) {
	m := media(t, X64, 1<<20, 1<<20)
	write := func(kind string) string {
		path := filepath.Join(t.TempDir(), "out")
		var err error
		if kind == "disk" {
			err = WriteDisk(t.Context(), path, m, nil)
		} else {
			err = WriteISO(t.Context(), path, t.TempDir(), m, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	zone := time.Local
	defer func() { time.Local = zone }()
	for _, kind := range []string{"disk", "iso"} {
		one := write(kind)
		time.Sleep(2100 * time.Millisecond) // FAT's clock ticks every two seconds
		time.Local = time.FixedZone("elsewhere", 5*3600)
		same(t, "a second "+kind, one, write(kind))
	}
}

func TestInterrupted(t *testing.T) {
	m := media(t, X64, 1<<20, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WriteDisk(ctx, filepath.Join(t.TempDir(), "x"), m, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted disk: %v", err)
	}
	if err := WriteISO(ctx, filepath.Join(t.TempDir(), "x"), t.TempDir(), m, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted ISO: %v", err)
	}
	huge := filepath.Join(t.TempDir(), "huge")
	if err := os.WriteFile(huge, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 5<<30); err != nil {
		t.Fatal(err)
	}
	m.Root = huge
	if err := WriteISO(t.Context(), filepath.Join(t.TempDir(), "x"), t.TempDir(), m, nil); !errors.Is(err, ErrTooBig) {
		t.Errorf("a root of 5 GiB: %v; want ErrTooBig", err)
	}
}
