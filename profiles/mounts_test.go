package profiles

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMountsAreChecked: a volume that would hide the system, and an option that no kernel takes, are
// refused before anything is built, with the place.
func TestMountsAreChecked(t *testing.T) {
	dir := write(t, map[string]string{"p.yaml": `name: p
extends: lab
scratch:
  - /var/lib/containerd
  - /proc/x
  - relative
  - /var/lib/containerd/io
volumes:
  - {name: a, mount: /usr}
  - {name: b, mount: /usr/share/app}
  - {name: c, mount: /etc}
  - {name: d, mount: /}
  - {name: e, mount: /run/app}
  - {name: f, mount: /var/lib}
  - {name: g, mount: /var/lib/dpkg/info}
  - {name: h, mount: /srv/../etc}
  - {name: i, mount: /srv/i, options: "noatime,nofail"}
  - {name: j, mount: /srv/j, options: "data=fast"}
  - {name: k, mount: /srv/k, options: "noatime,"}
  - {name: l, mount: /srv/l, options: "x-systemd.growfs,_netdev"}
  - {name: m, mount: /srv/m, scratch: [/srv/m/x]}
  - {name: n, mount: /srv/n, scratch: [/var/lib/docker, /lib/x]}
  - {name: o, mount: /srv/o, scratch: [/var/lib/docker/overlay2]}
`})
	_, err := Load(filepath.Join(dir, "p.yaml"))
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatalf("Load = %v; want Faults", err)
	}
	var got []string
	for _, f := range faults {
		f.Place.File = filepath.Base(f.Place.File)
		got = append(got, f.String())
	}
	const folder = "; write the folder that the data is in, such as /var/lib/postgresql or /srv"
	const image, system = "it has files of the image, which are others in its next version" + folder,
		"the running system mounts it by itself" + folder
	const options = "; write options of mount(8) and ext4(5), such as noatime,nodev,commit=30"
	want := []string{
		`p.yaml:5:5: a folder of scratch cannot be mounted at "/proc/x": ` + system,
		`p.yaml:6:5: a folder of scratch cannot be mounted at "relative"; write an absolute path such as /srv/data`,
		`p.yaml:7:5: the folders "/var/lib/containerd" and "/var/lib/containerd/io" of scratch are one in the other; ` +
			`keep one of them`,
		`p.yaml:9:5: volume "a" cannot be mounted at "/usr": ` + image,
		`p.yaml:10:5: volume "b" cannot be mounted at "/usr/share/app": ` + image,
		`p.yaml:11:5: volume "c" cannot be mounted at "/etc": ` + image,
		`p.yaml:12:5: volume "d" cannot be mounted at "/": the image is there` + folder,
		`p.yaml:13:5: volume "e" cannot be mounted at "/run/app": ` + system,
		`p.yaml:14:5: volume "f" cannot be mounted at "/var/lib": ` + image,
		`p.yaml:15:5: volume "g" cannot be mounted at "/var/lib/dpkg/info": ` + image,
		`p.yaml:16:5: volume "h" cannot be mounted at "/srv/../etc"; write an absolute path such as /srv/data`,
		`p.yaml:17:5: volume "i": unknown mount option "nofail"; write optional: true`,
		`p.yaml:18:5: volume "j": unknown mount option "data=fast"` + options,
		`p.yaml:19:5: volume "k": unknown mount option ""` + options,
		`p.yaml:20:5: volume "l": unknown mount option "x-systemd.growfs"; grow the filesystem with resize2fs`,
		`p.yaml:20:5: volume "l": unknown mount option "_netdev"; leave it out`,
		`p.yaml:21:5: volume "m": the folder "/srv/m/x" of scratch and the volume's own, "/srv/m", are one in the other; ` +
			`leave it out: the volume itself is there`,
		`p.yaml:22:5: volume "n": a folder of scratch cannot be mounted at "/lib/x": ` + image,
		`p.yaml:23:5: the folders "/var/lib/docker" and "/var/lib/docker/overlay2" of scratch are one in the other; ` +
			`keep one of them`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("faults differ (-want +got):\n%s", d)
	}
}

// TestParentsBeforeChildren: wherever a profile says it, a volume is mounted before those inside it,
// and the first volume of the profile keeps the identity.
func TestParentsBeforeChildren(t *testing.T) {
	dir := write(t, map[string]string{
		"base.yaml": "name: base\nextends: node\nvolumes:\n- {name: wal, mount: /srv/db/wal}\n" +
			"- {name: srv2, mount: /srv2}\n- {name: db, mount: /srv/db}\nscratch: [/var/lib/x]\n",
		"p.yaml": "name: p\nextends: base.yaml\nvolumes: [{name: srv, mount: /srv}, {name: local, mount: /usr/local, " +
			"options: 'noatime,commit=30,data=ordered,ro'}]\nscratch: [/var/lib/x, /var/cache/y]\n",
	})
	p, err := Load(filepath.Join(dir, "p.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range p.Volumes {
		if v.Identity != (v.Name == "wal") {
			t.Errorf("volume %s: identity is %t", v.Name, v.Identity)
		}
		got = append(got, v.Name)
	}
	if d := cmp.Diff([]string{"srv", "db", "wal", "srv2", "local"}, got); d != "" {
		t.Errorf("volumes in the order of mounts (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"/var/lib/x", "/var/cache/y"}, p.Scratch); d != "" {
		t.Errorf("scratch (-want +got):\n%s", d)
	}
}

// TestExamplesLoad: the profiles of the documentation have no faults, and say who can log in.
func TestExamplesLoad(t *testing.T) {
	files, err := filepath.Glob("../docs/examples/*/profile.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples (%v)", err)
	}
	for _, f := range files {
		p, err := Load(f)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		if !slices.ContainsFunc(p.Users, func(u User) bool { return len(u.AuthorizedKeys) > 0 }) {
			t.Errorf("%s: nobody can log in to such a machine", f)
		}
	}
}
