package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/builder/buildertest"
	"ingot/builder/lock"
	"ingot/builder/source"
	"ingot/profiles"
)

// keptPlan is a plan of a profile in testdata/kept, without the inputs of this host.
func keptPlan(t *testing.T, name string) *Plan {
	t.Helper()
	p, err := profiles.Load(filepath.Join("testdata/kept", name))
	if err != nil {
		t.Fatal(err)
	}
	plan := &Plan{Format: PlanFormat, Profile: p, Kernel: buildertest.Package("linux-image-6.12", "6.12-1"),
		Stub: buildertest.Package("systemd-boot-efi", "257"), Init: ingot.DigestOf([]byte("init")),
		Packages: []source.Package{buildertest.Package("bash", "5.2"), buildertest.Package("libc6", "2.41")}}
	if plan.Sources, err = digestSources(p); err != nil {
		t.Fatal(err)
	}
	return plan
}

// TestPlansKeepTheirDigests: the plan of a profile that uses none of the newer keys has the text that
// it had before there were such keys, so that images that were built then can be verified, and are not
// built again for nothing. The files in testdata/kept were written by the version before.
func TestPlansKeepTheirDigests(t *testing.T) {
	for _, name := range []string{"server", "database", "tree"} {
		got, err := keptPlan(t, name).Canonical()
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("testdata/kept", name+".plan.json"))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); d != "" {
			t.Errorf("the plan of %s differs from the one of earlier versions (-want +got):\n%s", name, d)
		}
	}
}

// TestLocksKeepTheirText: a lock of an earlier version answers the request of its profile, and is not
// written again.
func TestLocksKeepTheirText(t *testing.T) {
	path := filepath.Join("testdata/kept", "database.lock")
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := lock.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Text()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("the text of the lock differs (-want +got):\n%s", d)
	}
	plan := keptPlan(t, "database")
	if d := cmp.Diff(f.Request, lock.RequestOf(plan.Profile)); d != "" {
		t.Errorf("the request of the profile differs from the lock's (-want +got):\n%s", d)
	}
}
