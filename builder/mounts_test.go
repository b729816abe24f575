package builder

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/builder/buildertest"
	"ingot/profiles"
)

// TestScratchOfPrograms: container runtimes get a plain filesystem without a line in the profile,
// wherever their programs come from; on a volume that the profile names.
func TestScratchOfPrograms(t *testing.T) {
	root := buildertest.SystemdTree(t)
	if got := scratchFolders(&profiles.Profile{}, root); got != nil {
		t.Errorf("scratch of a root without such programs = %v; want none", got)
	}
	for _, p := range []string{"usr/bin/containerd", "usr/sbin/dockerd", "usr/local/bin/podman", "usr/bin/buildah"} {
		if err := root.PutFile(p, 0o755, []byte("ELF")); err != nil {
			t.Fatal(err)
		}
	}
	p := &profiles.Profile{Scratch: []string{"/var/lib/docker/below", "/srv/build"},
		Volumes: []profiles.Volume{{Name: "data", Mount: "/data", Scratch: []string{"/var/lib/docker"}}}}
	want := []ingot.Scratch{{Path: "/srv/build"}, {Path: "/var/lib/containerd"}, {Path: "/var/lib/containers"},
		{Path: "/var/lib/docker", Volume: "data"}}
	if d := cmp.Diff(want, scratchFolders(p, root)); d != "" {
		t.Errorf("scratch (-want +got):\n%s", d)
	}
}

// TestMountPoints: a path that leads through a link or a file of the root fails the build, with the place
// in the profile.
func TestMountPoints(t *testing.T) {
	root := buildertest.SystemdTree(t)
	if err := errors.Join(root.PutLink("var/mail", "spool/mail"), root.PutFile("srv/file", 0o644, nil),
		root.PutFile("var/spool/mail/x", 0o644, nil)); err != nil {
		t.Fatal(err)
	}
	for mount, want := range map[string]string{
		"/var/spool/mail": "", "/var/spool/new/deep": "", "/data": "",
		"/var/mail":       "(p.yaml:7:5) cannot be mounted at /var/mail: no mount point: /var/mail is a link to spool/mail",
		"/var/mail/below": "/var/mail is a link to spool/mail in the root; write the path that it points to",
		"/srv/file/below": "/srv/file is a file in the root",
	} {
		b := &build{Env: &Env{}, p: &profiles.Profile{Volumes: []profiles.Volume{{Name: "v", Mount: mount,
			At: profiles.Place{File: "p.yaml", Line: 7, Column: 5}}}}}
		err := b.checkMounts(root)
		if want == "" && err != nil || want != "" && (!errors.Is(err, ErrMount) || !strings.Contains(err.Error(), want)) {
			t.Errorf("volume at %s: %v; want %q", mount, err, want)
		}
	}
	b := &build{Env: &Env{}, p: &profiles.Profile{Scratch: []string{"/var/mail/x"}}}
	if err := b.checkMounts(root); !errors.Is(err, ErrMount) {
		t.Errorf("scratch behind a link: %v; want ErrMount", err)
	}
}
