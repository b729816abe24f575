package volumes

import (
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot"
)

// oneDisk is a machine with one disk, a loop device that is called vda.
type oneDisk struct {
	t      *testing.T
	at     Paths
	node   string // "…/dev/vda"
	target string // where volumes are mounted
}

func newOneDisk(t *testing.T) *oneDisk {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for loop devices and mounts")
	}
	// Mounts of this test alone: another program's copy of them would keep a filesystem in use.
	runtime.LockOSThread() // the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skipf("no mount namespaces here: %v", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	f := image(t)
	out, err := exec.Command(tool(t, "losetup"), "--find", "--show", f.Name()).CombinedOutput()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("losetup: %v: %s", err, out)
		}
		t.Skipf("no loop devices here: %s", out)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", loop).Run() })
	dir := t.TempDir()
	d := &oneDisk{t: t, at: Paths{SysBlock: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev")},
		target: filepath.Join(dir, "target")}
	d.node = filepath.Join(d.at.Dev, "vda")
	for _, sub := range []string{filepath.Join(d.at.SysBlock, "vda"), d.at.Dev} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"size": strconv.Itoa(size / 512), "serial": "S1"} {
		if err := os.WriteFile(filepath.Join(d.at.SysBlock, "vda", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(loop, d.node); err != nil {
		t.Fatal(err)
	}
	return d
}

// boot mounts the volume "data" as a boot does, and takes it down again.
func (d *oneDisk) boot(on Machine) ingot.VolumeResult {
	d.t.Helper()
	m := mounter(d.t)
	m.At = d.at
	on.Fleet, on.Now = strings.Repeat("ab", 16), time.Unix(1, 0)
	results, err := m.Mount(d.t.Context(), []ingot.Volume{{Name: "data", Mount: d.target}}, on)
	r := results[0].VolumeResult
	if r.Mounted() {
		if err := unix.Unmount(d.target, 0); err != nil {
			d.t.Errorf("unmounting the volume: %v", err)
		}
	}
	if (err == nil) != r.Mounted() {
		d.t.Errorf("Mount = %+v, %v", r, err)
	}
	return r
}

// run runs a command as a person would.
func (d *oneDisk) run(command string, codes ...int) {
	d.t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	for _, c := range codes {
		if exit, is := err.(*exec.ExitError); is && exit.ExitCode() == c {
			err = nil
		}
	}
	if err != nil {
		d.t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// remedy runs the remedy of a problem, which its text must print, too.
func (d *oneDisk) remedy(r ingot.VolumeResult, codes ...int) {
	d.t.Helper()
	if r.Remedy() == "" || !strings.Contains(r.Detail, r.Remedy()) {
		d.t.Fatalf("the remedy is %q, the text says %q", r.Remedy(), r.Detail)
	}
	d.run(r.Remedy(), codes...)
}

func (d *oneDisk) want(r ingot.VolumeResult, state ingot.VolumeState, problem ingot.VolumeProblem) {
	d.t.Helper()
	if r.State != state || r.Problem != problem {
		d.t.Errorf("the volume is %s (%s): %s; want %s (%s)", r.State, r.Problem, r.Detail, state, problem)
	}
}

// TestRemedies: for each problem of a volume that a person can solve, what is printed is done, and
// then the volume is mounted.
func TestRemedies(t *testing.T) {
	d := newOneDisk(t)
	grant := func(id ingot.MachineID, adopt bool) Machine {
		return Machine{ID: id, Grants: []ingot.Grant{{Volume: "data", Disk: "S1", Adopt: adopt, Expires: on2038}}}
	}
	first, second := Machine{ID: "m-1"}, Machine{ID: "m-2"}

	d.want(d.boot(first), ingot.VolumeAbsent, ingot.VolumeNoDisk)
	d.run("mkfs.ext4 -q -L somebodys " + d.node)
	d.want(d.boot(grant("m-1", false)), ingot.VolumeRefused, ingot.VolumeNotBlank)
	d.run("wipefs --all " + d.node)
	r := d.boot(grant("m-1", false))
	d.want(r, ingot.VolumeRefused, ingot.VolumeNotBlank)
	d.remedy(r)
	d.want(d.boot(grant("m-1", false)), ingot.VolumeInitialised, "")
	d.want(d.boot(grant("m-1", false)), ingot.VolumeMounted, "") // the grant formats nothing that is there
	d.want(d.boot(first), ingot.VolumeMounted, "")

	r = d.boot(second)
	d.want(r, ingot.VolumeRefused, ingot.VolumeForeign)
	if r.Disk != "S1" || r.Device != d.node || !strings.Contains(r.Detail, "machine m-1") {
		t.Errorf("the result of a stranger's volume is %+v; want its disk and its owner", r)
	}
	d.want(d.boot(grant("m-2", true)), ingot.VolumeAdopted, "")
	d.want(d.boot(second), ingot.VolumeMounted, "")
	d.want(d.boot(first), ingot.VolumeRefused, ingot.VolumeForeign)

	d.run("debugfs -w -R 'clri <2>' " + d.node + " && debugfs -w -R 'set_super_value state 0' " + d.node)
	r = d.boot(second)
	d.want(r, ingot.VolumeFailed, ingot.VolumeUnrepaired)
	d.remedy(r, 1, 2)
	d.want(d.boot(second), ingot.VolumeMounted, "")
}

// TestStrangersJournal: a stranger's volume, with a journal that a mount would replay, does not
// change by a byte.
func TestStrangersJournal(t *testing.T) {
	d := newOneDisk(t)
	d.want(d.boot(Machine{ID: "m-1", Grants: []ingot.Grant{{Volume: "data", Disk: "S1", Expires: on2038}}}),
		ingot.VolumeInitialised, "")
	d.run("debugfs -w -R 'feature needs_recovery' " + d.node)
	before := d.sum()
	for _, on := range []Machine{{ID: "m-2"}, {ID: "m-2", Grants: []ingot.Grant{{Volume: "data", Disk: "S1",
		Expires: on2038}}}} {
		if r := d.boot(on); r.Mounted() {
			t.Errorf("a stranger's volume is %s", r.State)
		}
	}
	if d.sum() != before {
		t.Error("the stranger's volume changed")
	}
}

// sum is a digest of the whole disk.
func (d *oneDisk) sum() string {
	d.t.Helper()
	f, err := os.Open(d.node)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		d.t.Fatal(err)
	}
	return string(h.Sum(nil))
}

// TestFieldVolumeGetsOwner: a volume of an image before owners is taken and stamped by the machine
// that had it, and by no other.
func TestFieldVolumeGetsOwner(t *testing.T) {
	d := newOneDisk(t)
	d.run("mkfs.ext4 -q -L data -E lazy_itable_init=1,lazy_journal_init=1 " + d.node)
	had := List(d.at)
	if len(had) != 1 || had[0].Owner != nil {
		t.Fatalf("List = %+v; want one disk without an owner", had)
	}
	d.want(d.boot(Machine{ID: "m-2"}), ingot.VolumeRefused, ingot.VolumeUnowned)
	d.want(d.boot(Machine{ID: "m-1", Had: []ingot.Disk{had[0].Disk}}), ingot.VolumeMounted, "")
	if now := List(d.at); now[0].Owner == nil || now[0].Owner.Machine != "m-1" || now[0].UUID != had[0].UUID {
		t.Errorf("after the boot of its machine: %+v; want m-1 as owner, and the same UUID", now[0])
	}
	d.want(d.boot(Machine{ID: "m-1"}), ingot.VolumeMounted, "")
	d.want(d.boot(Machine{ID: "m-2", Had: []ingot.Disk{had[0].Disk}}), ingot.VolumeRefused, ingot.VolumeForeign)
}
