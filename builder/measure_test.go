package builder

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/builder/buildertest"
	"ingot/builder/sbom"
	"ingot/builder/squashfs"
	"ingot/builder/tree"
	"ingot/image"
	"ingot/profiles"
)

// TestMeasure reads from the squashfs of an image what its packages take: dpkg's lists, the kernel's modules,
// hard links once, and what no package ships. The SBOM says the same of the tree that it was made of.
func TestMeasure(t *testing.T) {
	root := buildertest.PackagedTree(t)
	for p, text := range map[string]string{"usr/lib/modules/6.12/a.ko": "12345", ingot.AgentPath: "agent"} {
		if err := root.PutFile(p, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := root.Put(tree.Entry{Path: "opt/tool/again", Kind: tree.File, Hard: "usr/bin/app"}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "root")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = squashfs.Write(t.Context(), f, squashEntries(root, 0), rootOptions[profiles.CompressBalanced])
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p := newPlanned(t)
	file := func(name string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		return at
	}
	m := &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: "1", Arch: ingot.AMD64,
		Created: time.Unix(1, 0).UTC(), KernelRelease: "6.12", Plan: p.plan.Digest()}
	for _, e := range root.Entries() {
		m.Unpacked += e.Size
	}
	im, err := p.store.Put(t.Context(), m, image.Files{Kernel: file("kernel"), Initramfs: file("initramfs"), Root: path,
		Plan: file("plan"), UKI: file("uki")}, p.keys.Release.Secret)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Measure(t.Context(), p.store, im)
	if err != nil {
		t.Fatal(err)
	}
	// app: the link /lib, lib/app, usr/bin/app, edited, old, etc/app.conf and same.conf, nothing else of its folders.
	want := []image.PackageSize{{Name: "app", Version: "1.0", Files: 7, Bytes: 3 + 3 + 7 + 4 + 6 + 3},
		{Name: "linux-image-6.12", Version: "6.12", Files: 2, Bytes: 5 + 3}}
	if diff := cmp.Diff(want, got.Packages); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if got.Bytes() != m.Unpacked {
		t.Errorf("the contents are %d bytes in all; want %d, as the manifest says", got.Bytes(), m.Unpacked)
	}
	bom, err := sbom.Describe(sbom.Contents{Root: root, Manifest: m, Init: ingot.DigestOf(nil),
		Kernel: buildertest.Package("linux-image-6.12", "6.12"), Stub: buildertest.Package("systemd-boot-efi", "257")})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, c := range *bom.Components {
		for _, property := range *c.Properties {
			said[c.Name] = property.Name + " " + property.Value
		}
	}
	if diff := cmp.Diff(map[string]string{"app": "ingot:size 26", "linux-image-6.12": "ingot:size 8",
		"ingot-init": "ingot:size 5", "systemd-boot-efi": "ingot:size 0",
		"lab-files": "ingot:size " + strconv.FormatInt(got.Other-5, 10)}, said); diff != "" {
		t.Errorf("the SBOM says (-want +got):\n%s", diff)
	}
}
