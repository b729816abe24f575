package builder

import (
	"errors"
	"strings"
	"testing"

	"ingot/builder/buildertest"
	"ingot/builder/tree"
	"ingot/profiles"
)

// ownedTree is a root with a package that owns folders, files and links to folders.
func ownedTree(t *testing.T) *tree.Tree {
	t.Helper()
	tr := buildertest.PackagedTree(t)
	for p, text := range map[string]string{
		"var/lib/dpkg/info/openssh-client:amd64.list": "/.\n/etc\n/etc/ssh\n/etc/ssh/ssh_config\n/usr/lib/ssh\n/etc/link\n" +
			"/sbin/ours\n",
		"etc/ssh/ssh_config": "x", "usr/lib/ssh/x": "x", "usr/sbin/ours/x": "x", "srv/local/x": "x", "etc/localfile": "x",
	} {
		if err := tr.PutFile(p, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tr.PutLink("etc/link", "ssh"), tr.PutLink("etc/mine", "/srv/local"),
		tr.PutLink("etc/dangling", "/run/gone"), tr.PutLink("etc/tofile", "/etc/localfile")); err != nil {
		t.Fatal(err)
	}
	return tr
}

// TestFilesReplaceNoFolders: no kind of entry that a profile names takes the place of a folder, and
// no folder that of a file; what people do on purpose works.
func TestFilesReplaceNoFolders(t *testing.T) {
	file, link := func(p string) profiles.File { return profiles.File{Path: p, Content: "x"} },
		func(p, to string) profiles.File { return profiles.File{Path: p, Link: to} }
	for _, c := range []struct {
		file profiles.File
		want string // empty: it works
	}{
		{link("/etc/ssh", "/tmp"), "a link would replace a folder of the package openssh-client"},
		{file("/etc/ssh"), "a file would replace a folder of the package openssh-client"},
		{link("/srv/local", "/tmp"), "a link would replace a folder"},
		{file("/srv/local"), "a file would replace a folder"},
		{link("/lib/ssh", "/tmp"), "a link would replace a folder of the package openssh-client"},
		{link("/sbin/ours", "/tmp"), "a link would replace a folder of the package openssh-client"},
		{link("/sbin", "/tmp"), "a link would replace a link to the folder /usr/sbin"},
		{file("/sbin"), "a file would replace a link to the folder /usr/sbin"},
		{link("/etc/link", "/tmp"), "a link would replace a link to the folder /etc/ssh of the package openssh-client"},
		{file("/etc/mine"), "a file would replace a link to the folder /srv/local"},
		{file("/etc/ssh/ssh_config/x"), "not a folder"},
		{file("/etc/ssh/ssh_config"), ""}, {link("/etc/ssh/ssh_config", "/etc/app.conf"), ""},
		{file("/etc/os-release"), ""}, {file("/etc/dangling"), ""}, {link("/etc/mine", "/srv"), ""},
		{link("/sbin", "/usr/sbin"), ""}, {link("/etc/link", "../etc/ssh/"), ""}, {file("/etc/new/x"), ""},
	} {
		tr := ownedTree(t)
		before := tr.Len()
		b := &build{p: &profiles.Profile{Files: []profiles.File{c.file}}}
		err := b.addFiles(tr)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("adding %s (link %q) = %v; want %q", c.file.Path, c.file.Link, err, c.want)
		}
		if c.want != "" && tr.Len() != before {
			t.Errorf("adding %s (link %q) changes the root although it is refused", c.file.Path, c.file.Link)
		}
	}
}

// TestHomes: a home takes the place of nothing, and a package's folder keeps its owner.
func TestHomes(t *testing.T) {
	tr := ownedTree(t)
	for home, fails := range map[string]bool{"/etc/localfile": true, "/etc/tofile": true, "/etc/ssh": false, "/etc": false,
		"/srv/local": false, "/home/new": false} {
		_, err := addUsers(tr, []profiles.User{{Name: "u" + strings.ToLower(strings.NewReplacer("/", "-", ".", "").
			Replace(home)), Home: home}}, nil, nil)
		if errors.Is(err, ErrReplaces) != fails {
			t.Errorf("a home at %s = %v; want ErrReplaces: %v", home, err, fails)
		}
	}
	for p, own := range map[string]bool{"etc/ssh": false, "etc": false, "srv/local": true, "home/new": true} {
		if e := tr.Get(p); (e.UID != 0) != own || (e.Mode == 0o700) != own {
			t.Errorf("/%s has uid %d and mode %o; want the user's own: %v", p, e.UID, e.Mode, own)
		}
	}
}

// TestLayersReplaceNoPackages: a layer exchanges nothing that a package owns; between trees without
// packages the later one counts.
func TestLayersReplaceNoPackages(t *testing.T) {
	dir := tree.Entry{Kind: tree.Dir, Mode: 0o755}
	file := tree.Entry{Kind: tree.File, Mode: 0o644, Open: tree.Bytes(nil)}
	link := tree.Entry{Kind: tree.Symlink, Mode: 0o777, Target: "/tmp"}
	at := func(p string, e tree.Entry) tree.Entry { e.Path = p; return e }
	for _, c := range []struct {
		entry tree.Entry
		want  string
	}{
		{at("etc/ssh", link), "its link /etc/ssh would replace a folder of the package openssh-client"},
		{at("etc/ssh", file), "its file /etc/ssh would replace a folder of the package openssh-client"},
		{at("etc/ssh/ssh_config", dir), "its folder /etc/ssh/ssh_config would replace a file of the package openssh-client"},
		{at("etc/link", link), "would replace a link to the folder /etc/ssh of the package openssh-client"},
		{at("srv/local", link), ""}, {at("etc/localfile", dir), ""}, {at("lib", dir), ""}, {at("etc/dangling", dir), ""},
		{at("etc/ssh", dir), ""}, {at("etc/ssh/ssh_config", link), ""},
	} {
		tr, over := ownedTree(t), tree.New()
		if err := over.Put(c.entry); err != nil {
			t.Fatal(err)
		}
		err := addLayer(tr, over, profiles.Layer{Tar: "./over.tar"})
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrReplaces) ||
			!strings.Contains(err.Error(), c.want)) {
			t.Errorf("a layer with %+v = %v; want %q", c.entry, err, c.want)
		}
		if e := tr.Get("usr/lib/ssh/x"); e == nil {
			t.Errorf("a layer with %+v removes a file of a package", c.entry)
		}
	}
}
