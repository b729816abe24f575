package profiles

import (
	"errors"
	"io"
	"os"
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
		at, _ := l.Path()
		got = append(got, l.String(), strings.TrimPrefix(at.String(), dir))
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

// TestLinksStayBelow: of every path that a profile names, a link may lead to another file of the
// folder, never out of it. What a path says by itself, with "..", everybody can read.
func TestLinksStayBelow(t *testing.T) {
	top := write(t, map[string]string{"secret": "root:$y$hash:1::::::\n",
		"away/profile.yaml": "name: away\nextends: lab\n", "away/tree/etc/x": "x",
		"all/os/profile.yaml": "name: os\nextends: lab\n", "all/www/index.html": "",
		"all/web/good.txt": "good", "all/web/sub/a": ""})
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(top, "all/web", name)); err != nil {
			t.Fatal(err)
		}
	}
	link(filepath.Join(top, "secret"), "absolute")
	link("../../secret", "relative")
	link("../..", "up")
	link("good.txt", "inside")
	link("../../away", "profile")
	link("../../away/tree", "tree")
	link("../../secret", "linked.yaml")
	link("../../../"+filepath.Base(top)+"/away", "../out")
	profile := func(text string) string {
		t.Helper()
		file := filepath.Join(top, "all/web/p.yaml")
		if err := os.WriteFile(file, []byte("name: x\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const leads = "a symbolic link leads out of the folder"
	for text, want := range map[string]string{
		"extends: lab\nfiles: [{path: /a, source: absolute}]\n":  `the source "absolute" of /a: ` + leads,
		"extends: lab\nfiles: [{path: /a, source: relative}]\n":  `the source "relative" of /a: ` + leads,
		"extends: lab\nfiles: [{path: /a, source: up/secret}]\n": `the source "up/secret" of /a: ` + leads,
		"extends: ./profile\n":                           `extends "./profile": ` + leads,
		"extends: up/away\n":                             `extends "up/away": ` + leads,
		"extends: ../out\n":                              `extends "../out": ` + leads,
		"extends: lab\nlayers: [{dir: ./tree}]\n":        `the folder "./tree": ` + leads,
		"extends: lab\nlayers: [{dir: up/away/tree}]\n":  `the folder "up/away/tree": ` + leads,
		"extends: lab\nlayers: [{tar: ./absolute}]\n":    `the tarball "./absolute": ` + leads,
		"extends: lab\nbase: {oci: ./absolute}\n":        `the container image "./absolute": ` + leads,
		"extends: lab\nbase: {oci: './profile#web:1'}\n": `the container image "./profile#web:1": ` + leads,
		"extends: ./linked.yaml\n":                       `extends "./linked.yaml": ` + leads,
		"extends: [../os, lab]\nlayers: [{dir: ../www}, {dir: ./sub}]\nfiles: [{path: /a, source: inside}]\n": "",
	} {
		p, err := Load(profile(text))
		switch {
		case want == "" && err != nil:
			t.Errorf("Load of\n%s= %v; want links within the folder, and written paths, to work", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hash")):
			t.Errorf("Load of\n%s= %v; want %s", text, err, want)
		case want == "":
			r, err := p.Open(p.Files[len(p.Files)-1])
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if b, err := io.ReadAll(r); err != nil || string(b) != "good" {
				t.Errorf("the source is %q, %v; want what the link points to", b, err)
			}
		}
	}
	if _, err := Load(filepath.Join(top, "all/web/linked.yaml")); err == nil || strings.Contains(err.Error(), "hash") ||
		!strings.Contains(err.Error(), leads) {
		t.Errorf("Load of a link out of the folder = %v; want it refused, with nothing of the file", err)
	}
	// A source that becomes a link after it was checked.
	p, err := Load(profile("extends: lab\nfiles: [{path: /a, source: good.txt}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(top, "all/web/good.txt")); err != nil {
		t.Fatal(err)
	}
	link("../../secret", "good.txt")
	if r, err := p.Open(p.Files[len(p.Files)-1]); err == nil {
		r.Close()
		t.Error("a source that became a link out of the folder is opened")
	}
}

// TestArchive: a profile that extends another may give another mirror; the key stays the file beside the profile
// that names it. What is missing or of no use is one fault each.
func TestArchive(t *testing.T) {
	const key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
	top := func(name, base string) string {
		return "name: " + name + "\nbase: {suite: noble, archive: {" + base + "}}\nkernel: {package: linux-image-amd64}\n"
	}
	dir := write(t, map[string]string{
		"u/profile.yaml": top("u", "uris: http://a.example/ubuntu, updates: noble-updates, key: k.asc"), "u/k.asc": key,
		"c/profile.yaml": "name: c\nextends: ../u\nbase: {components: [main, universe], " +
			"archive: {uris: [http://b.example/u]}}\npackages: [zip/noble-backports]\n",
		"nokey/profile.yaml": top("nokey", "uris: http://a.example/ubuntu"),
		"nouri/profile.yaml": top("nouri", "updates: noble-updates"),
		"login/profile.yaml": top("login", "uris: http://me:secret@a.example/u, key: "+`"`+armoured+`"`),
		"word/profile.yaml":  top("word", "uris: http://a.example/u, updates: [A B], key: "+`"`+armoured+`"`),
		"lost/profile.yaml":  top("lost", "uris: http://a.example/ubuntu, key: gone.asc"),
		"name/profile.yaml": "name: name\nextends: ../u\nrepositories:\n" +
			"  - {name: base, uris: http://v.example/, suites: ./, key: \"" + armoured + "\"}\n",
		"tree/profile.yaml": "name: tree\nextends: ../u\nbase: {dir: .., archive: {key: k.asc}}\n",
	})
	p, err := Load(filepath.Join(dir, "c"))
	if err != nil {
		t.Fatal(err)
	}
	list := p.Archives()
	if len(list) != 1 || p.Kernel.Suite != "trixie" {
		t.Fatalf("archives %+v, kernel of %q; want one archive, and the kernel of trixie", list, p.Kernel.Suite)
	}
	a := list[0]
	if d := cmp.Diff([]OneOrMore{{"http://b.example/u"}, {"noble", "noble-updates", "noble-backports"},
		{"main", "universe"}}, []OneOrMore{a.URIs, a.Suites, a.Components}); d != "" {
		t.Errorf("archive (-want +got):\n%s", d)
	}
	if got, err := p.RepositoryKey(a); string(got) != key {
		t.Errorf("RepositoryKey = %q, %v; want the key beside the parent", got, err)
	}
	got := map[string][]string{}
	for _, name := range []string{"nokey", "nouri", "login", "word", "lost", "name", "tree"} {
		got[name] = faultsOf(t, dir, name)
	}
	const at = "/profile.yaml:2:31: "
	if d := cmp.Diff(map[string][]string{
		"nokey": {"nokey" + at + "base.archive has no key; write key: FILE, with the OpenPGP key that signs it; there " +
			"is no way to trust an archive without one"},
		"nouri": {"nouri" + at + "base.archive has no URL; write uris"},
		"login": {"login" + at + "base.archive: the URL has a user or a query, and would be in every image; use " +
			"a mirror that asks for no credentials"},
		"word": {"word" + at + `base.archive: "A B" cannot be a suite; write suites such as noble-updates`},
		"lost": {"lost" + at + `the key "gone.asc" of repository "base" does not exist; put it beside the profile`},
		"name": {`name/profile.yaml:4:5: the repository "base" has the name of the archive of the suite; choose ` +
			"another name"},
		"tree": {"tree/profile.yaml:3:26: base.archive: the base is a tree, which comes from no archive; leave it out"},
	}, got); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
}
