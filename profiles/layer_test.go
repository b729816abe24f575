package profiles

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestTreesMerge: a base that is a tree replaces the suite and what was to
// come from it; layers are appended; a suite replaces a tree.
func TestTreesMerge(t *testing.T) {
	dir := write(t, map[string]string{
		"os/profile.yaml":   "name: os\nextends: lab\nbase: {oci: registry.example/os:1}\nlayers: [{tar: ./a.tar}]\n",
		"os/a.tar":          "",
		"web/profile.yaml":  "name: web\nextends: ../os\nlayers:\n  - {dir: ../www, into: /srv/www, owners: keep}\n",
		"www/index.html":    "",
		"back/profile.yaml": "name: back\nextends: ../os\nbase: {suite: bookworm}\npackages: [curl]\n",
	})
	p, err := Load(filepath.Join(dir, "web"))
	if err != nil {
		t.Fatal(err)
	}
	if p.Base.Suite != "" || p.Base.OCI == "" || len(p.Packages) != 0 || p.Kernel.Suite != "trixie" || len(p.Files) == 0 {
		t.Errorf("base %+v, packages %v, kernel %+v; want the image, no packages, a kernel of trixie, lab's files", p.Base,
			p.Packages, p.Kernel)
	}
	var got []string
	for _, l := range p.Trees() {
		got = append(got, l.String(), strings.TrimPrefix(l.Path(), dir))
	}
	want := []string{"oci registry.example/os:1", "/os/registry.example/os:1", "tar ./a.tar",
		"/os/a.tar", "dir ../www", "/www"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("trees (-want +got):\n%s", d)
	}
	if l := p.Trees(); l[0].Local() || !l[1].Local() || !l[2].KeepsOwners() || !l[1].KeepsOwners() {
		t.Errorf("trees %+v", l)
	}
	back, err := Load(filepath.Join(dir, "back"))
	if err != nil {
		t.Fatal(err)
	}
	if back.Base.Tree() || back.Base.Suite != "bookworm" || back.Kernel.Suite != "" || len(back.Packages) != 1 {
		t.Errorf("back to a suite: base %+v, packages %v, kernel %+v", back.Base, back.Packages, back.Kernel)
	}
}

// TestFaultsOfTrees: all at once, each with its place and what to write.
func TestFaultsOfTrees(t *testing.T) {
	dir := write(t, map[string]string{"p.yaml": `name: x
extends: lab
base: {oci: ./gone, suite: trixie}
packages: [curl]
layers:
  - {tar: ./a, dir: ./b}
  - {dir: ./p.yaml}
  - {into: srv, owners: me}
  - {tar: ./sub}
  - {zip: ./z}
kernel: {suite: "Trixie!"}
`, "sub/x": "", "a": ""})
	_, err := Load(filepath.Join(dir, "p.yaml"))
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatalf("Load = %v; want Faults", err)
	}
	var got []string
	for _, f := range faults {
		got = append(got, strings.ReplaceAll(f.String(), dir+"/", ""))
	}
	want := []string{
		`p.yaml:3:7: the base is given in 2 ways; keep one of suite, oci, tar and dir`,
		`p.yaml:3:7: packages cannot be installed over a base that is not a Debian suite and has its own package database: ` +
			`curl; install them where the tree is made, or start from a suite and add the tree with layers`,
		`p.yaml:3:7: the container image "./gone" does not exist; put it there, ` +
			`or write its path relative to the profile's folder`,
		`p.yaml:6:5: the layer is given in 2 ways; write exactly one of oci, tar and dir`,
		`p.yaml:7:5: "./p.yaml" is not a folder; write: tar: ./p.yaml`,
		`p.yaml:8:5: the layer is given in 0 ways; write exactly one of oci, tar and dir`,
		`p.yaml:8:5: "srv" cannot be a path in the root; write an absolute path such as /srv/www`,
		`p.yaml:8:5: "me" is not a rule for owners; write keep or root`,
		`p.yaml:9:5: "./sub" is not a file; write: dir: ./sub`,
		`p.yaml:10:5: the layer is given in 0 ways; write exactly one of oci, tar and dir`,
		`p.yaml:10:6: unknown key "zip"; known keys: oci, tar, dir, into, owners`,
		`p.yaml:11:17: "Trixie!" cannot be a Debian suite; write a code name such as trixie`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
}
