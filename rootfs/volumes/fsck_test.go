package volumes

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestCheckReportsProgress: a real e2fsck checks a filesystem that was not unmounted. A filesystem
// that is damaged beyond what it may repair by itself is refused.
func TestCheckReportsProgress(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for chroot")
	}
	f := image(t, "mkfs.ext4", "-q", "-L", "data")
	change := func(request string) {
		t.Helper()
		if out, err := exec.Command(tool(t, "debugfs"), "-w", "-R", request, f.Name()).CombinedOutput(); err != nil {
			t.Fatalf("debugfs: %v: %s", err, out)
		}
	}
	change("set_super_value state 0")
	m := mounter(t)
	var got []int
	m.Progress = func(p Progress) {
		if p.Volume != "data" || p.Device != f.Name() {
			t.Errorf("Progress = %+v", p)
		}
		got = append(got, p.Percent)
	}
	if err := m.check(t.Context(), "data", f.Name()); err != nil {
		t.Fatal(err)
	}
	if len(got) < 5 || !slices.IsSorted(got) || got[len(got)-1] != 100 {
		t.Errorf("percents = %v; want ascending ones up to 100", got)
	}
	if got = nil; m.check(t.Context(), "data", f.Name()) != nil || len(got) > 0 {
		t.Errorf("a clean filesystem is checked again: %v", got)
	}
	change("clri <2>") // the root directory
	change("set_super_value state 0")
	if err := m.check(t.Context(), "data", f.Name()); err == nil || !strings.Contains(err.Error(), "cannot be repaired") {
		t.Errorf("check of a filesystem without a root directory = %v; want that a person is asked", err)
	}
}

func TestFollow(t *testing.T) {
	var got []int
	follow(strings.NewReader("1 0 10 /dev/vdb\n1 5 10 /dev/vdb\nnoise\n2 10 10 x\n9 1 1 x\n5 0 0 x\n5 7 7 x\n"),
		func(p int) { got = append(got, p) })
	if want := []int{0, 35, 90, 100}; !slices.Equal(got, want) {
		t.Errorf("follow = %v; want %v", got, want)
	}
	follow(strings.NewReader(strings.Repeat("x", 1<<20)), func(int) { t.Error("noise is progress") })
}
