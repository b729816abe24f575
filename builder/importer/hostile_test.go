package importer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ingot/builder/buildertest"
	"ingot/builder/tree"
	"ingot/internal/harmless"
	"ingot/profiles"
)

// injections are texts that would begin another line, or another key, of a YAML file.
var injections = func() (list []string) {
	for _, end := range []string{"\r", "\n", "\r\n", "\u0085", "\u2028", "\u2029", "\v", "\f", "\x00", "\ufeff", "\x1b[2J",
		"\ufffe", "\xff", "\u202e"} {
		list = append(list, "Debian 13"+end+"layers:"+end+"  - dir: /any/folder"+end+"#")
	}
	return append(list, `"`, `'`, ": {", "--- |", "\\", strings.Repeat("x", 1<<16))
}()

// TestHostileProfile: what an image, tarball or host calls itself and its files says nothing in the
// profile that is written: it means what the profile of a harmless root means, and shows no character
// that does something.
func TestHostileProfile(t *testing.T) {
	kernel := profiles.Kernel{Suite: "trixie", Modules: []string{"@boot"}, Arguments: []string{"console=ttyS0"}}
	load := func(im *Result, root *tree.Tree) (*profiles.Profile, string) {
		t.Helper()
		text, err := startingProfile(im, profiles.Base{Tar: "./root.tar.zst"}, kernel, root)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		file := filepath.Join(dir, "profile.yaml")
		for name, content := range map[string]string{"root.tar.zst": "", "profile.yaml": text} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p, err := profiles.Load(file)
		if err != nil {
			t.Fatalf("%+q: %v", text, err)
		}
		return p, text
	}
	root := buildertest.SystemdTree(t)
	want, _ := load(&Result{From: "x", Name: "web", Arch: "amd64"}, root)
	for _, evil := range injections {
		im := &Result{From: evil, Name: "web", Arch: "amd64", Distribution: evil, Lacks: []string{evil}, Fix: evil,
			Passwords: []string{evil}, LeftOut: []string{"/dev/" + evil}, Compared: &Comparison{Suite: evil,
				Asked: []string{evil}, Conffiles: []string{evil}, Modified: []string{evil}, Local: []LocalPath{{Path: evil}}}}
		got, text := load(im, root)
		if d := cmp.Diff(want, got, cmpopts.IgnoreTypes(profiles.Place{}), cmpopts.IgnoreUnexported(profiles.Profile{}),
			cmpopts.IgnoreFields(profiles.Profile{}, "File")); d != "" {
			t.Errorf("%.60q changes the profile (-want +got):\n%s", evil, d)
		}
		if bad := strings.ReplaceAll(text, "\n", ""); strings.ContainsFunc(bad, harmless.Harms) {
			t.Errorf("%.60q: the profile has characters that do something: %+q", evil, text)
		}
	}
}

// TestHostileValues: an operator's odd path or argument is the value that was asked for.
func TestHostileValues(t *testing.T) {
	root := buildertest.SystemdTree(t)
	for _, evil := range injections {
		k := profiles.Kernel{Package: evil, Suite: evil, Modules: []string{evil}, Arguments: []string{evil}}
		if !strings.Contains(evil, "\xff") { // no text: refused below
			if text, err := startingProfile(&Result{Name: "web", Arch: "amd64"}, profiles.Base{OCI: evil}, k, root); err != nil {
				t.Errorf("%.60q: %v\n%+q", evil, err, text)
			}
			continue
		}
		if _, err := startingProfile(&Result{Name: "web", Arch: "amd64"}, profiles.Base{OCI: evil}, k, root); err == nil {
			t.Errorf("%q, which YAML cannot hold, was written as something else", evil)
		}
	}
}
