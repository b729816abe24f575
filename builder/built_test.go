package builder

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ingot"
	"ingot/image"
	"ingot/profiles"
)

// planned is a store and a plan of which small images are put into it.
type planned struct {
	t     *testing.T
	store *image.Store
	keys  image.Keys
	plan  *Plan
}

func newPlanned(t *testing.T) planned {
	t.Helper()
	root := t.TempDir()
	s, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return planned{t, s, keys, &Plan{Format: PlanFormat, Profile: &profiles.Profile{Name: "lab"}}}
}

// put does what the end of Build does.
func (p planned) put(version string) image.Image {
	p.t.Helper()
	dir := p.t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("the content of "+name), 0o644); err != nil {
			p.t.Fatal(err)
		}
		return path
	}
	im, err := p.store.Put(p.t.Context(), &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: version,
		Arch: ingot.AMD64, Created: time.Unix(1, 0).UTC(), Plan: p.plan.Digest()},
		image.Files{Kernel: file("kernel"), Initramfs: file("initramfs"), Root: file("root"), Plan: file("plan"),
			UKI: file("uki")}, p.keys.Release.Secret)
	if err != nil {
		p.t.Fatal(err)
	}
	return im
}

func (p planned) built(version string) *Existing {
	p.t.Helper()
	x, err := Built(p.t.Context(), p.store, p.plan, version)
	if err != nil {
		p.t.Fatal(err)
	}
	return x
}

// harm damages a file in one of three ways.
func harm(t *testing.T, path, how string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	switch how {
	case "flipped byte":
		b[len(b)/2] ^= 1
		err = os.WriteFile(path, b, 0o644)
	case "truncated":
		err = os.Truncate(path, int64(len(b)-1))
	case "missing":
		err = os.Remove(path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestBuiltFindsDamage: an image of the plan counts as built only if each of its files is undamaged. What
// a build stores then repairs it.
func TestBuiltFindsDamage(t *testing.T) {
	p := newPlanned(t)
	if x := p.built(""); x != nil {
		t.Fatalf("Built() in an empty store = %+v", x)
	}
	im := p.put("v1")
	if _, err := p.store.Tag(t.Context(), "lab:v1", "lab:stable"); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"", "v1"} {
		if x := p.built(version); x == nil || x.Damaged != nil || x.Image.Digest != im.Digest {
			t.Fatalf("Built(%q) of an undamaged image = %+v", version, x)
		}
	}
	if x := p.built("v2"); x != nil {
		t.Errorf("Built(v2) = %+v; want none", x)
	}
	signature, err := p.store.Referrers(t.Context(), im.Digest, ingot.ArtifactSignature)
	if err != nil || len(signature) != 1 {
		t.Fatal(signature, err)
	}
	for part, d := range map[string]ingot.Digest{"kernel": im.Manifest.Kernel.Digest,
		"initramfs": im.Manifest.Initramfs.Digest, "root": im.Manifest.Root.Digest, "UKI": im.Manifest.UKI.Digest,
		"manifest": im.Digest, "config": im.Config,
		"signature": signature[0].Content.Digest, "signature's manifest": signature[0].Digest} {
		for _, how := range []string{"flipped byte", "truncated", "missing"} {
			harm(t, p.store.Blob(d), how)
			x := p.built("v1")
			if x == nil || !errors.Is(x.Damaged, image.ErrDamaged) || x.Digest != im.Digest || x.Name != im.Name {
				t.Errorf("%s %s: Built() = %+v; want %s, damaged", part, how, x, im.Name)
			}
			if part != "manifest" && part != "config" { // from which the plan is known
				if x := p.built(""); x == nil || x.Damaged == nil || x.Name != im.Name {
					t.Errorf("%s %s: Built() without a version = %+v; want %s, damaged", part, how, x, im.Name)
				}
			}
			p.put("v1")
			if x := p.built("v1"); x == nil || x.Damaged != nil || x.Digest != im.Digest {
				t.Errorf("%s %s: Built() after the image was stored again = %+v", part, how, x)
			}
		}
	}
	if again, err := p.store.Get(t.Context(), "lab:stable"); err != nil || again.Digest != im.Digest {
		t.Errorf("the tag after the repairs: %v", err)
	}
}

// TestNextVersionLeavesDamagedNames: the name of a damaged image is not given to another one.
func TestNextVersionLeavesDamagedNames(t *testing.T) {
	p := newPlanned(t)
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	im := p.put("2026.11.30-1")
	harm(t, p.store.Blob(im.Config), "missing")
	if v, err := NextVersion(t.Context(), p.store, "lab", now); err != nil || v != "2026.11.30-2" {
		t.Errorf("NextVersion() = %s, %v; want 2026.11.30-2", v, err)
	}
}
