package catalog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/image"
)

// TestListShowsStates: every image of the index is listed, with what is known of it, and none is read.
func TestListShowsStates(t *testing.T) {
	root := t.TempDir()
	store, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := image.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := New(store)
	list := map[string]Listed{}
	read := func() {
		t.Helper()
		all, err := c.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		clear(list)
		for _, im := range all {
			list[im.Name.String()] = im
		}
	}
	images := map[string]image.Image{}
	for _, v := range []string{"good", "short", "missing", "changed", "manifest"} {
		images[v] = put(t, store, keys, v)
	}
	put(t, store, stranger, "foreign")
	time.Sleep(2 * clockTick) // what was written just now is not remembered
	for _, v := range []string{"good", "changed"} {
		if _, err := c.Image(images[v].Digest); err != nil {
			t.Fatal(err)
		}
	}
	read()
	for name, want := range map[string]string{"lab:good": Verified, "lab:changed": Verified, "lab:short": Complete,
		"lab:foreign": Untrusted} {
		if list[name].State != want {
			t.Errorf("before the damage, %s is %q, %v; want %q", name, list[name].State, list[name].Err, want)
		}
	}
	blob := func(v string) string { return store.Blob(images[v].Manifest.Root.Digest) }
	change := func(file string) error {
		b, err := os.ReadFile(file)
		b[0] ^= 1
		return errors.Join(err, os.WriteFile(file, b, 0o644))
	}
	if err := errors.Join(os.Truncate(blob("short"), 2), os.Remove(blob("missing")), change(blob("changed")),
		change(store.Blob(images["manifest"].Digest))); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * clockTick)
	read()
	if list["lab:changed"].State != Complete {
		t.Errorf("a file that was changed since it was read: %+v; want %s", list["lab:changed"].State, Complete)
	}
	_, _ = c.Image(images["changed"].Digest)
	read()
	for v, want := range map[string]string{"short": "has 2 bytes", "missing": "no such file", "changed": "has digest",
		"manifest": "does not match the digest"} {
		im := list["lab:"+v]
		if im.State != Damaged || !errors.Is(im.Err, image.ErrDamaged) || !strings.Contains(im.Err.Error(), want) ||
			!strings.HasSuffix(im.Err.Error(), image.Repair) || im.Digest != images[v].Digest {
			t.Errorf("%s: %q, %v; want %s with %q and the next step", v, im.State, im.Err, Damaged, want)
		}
	}
	if list["lab:good"].State != Verified || len(list) != 6 {
		t.Errorf("after the damage: good is %q, and %d images are listed; want 6", list["lab:good"].State, len(list))
	}
	if _, err := store.Get(t.Context(), string(ingot.Digest(images["manifest"].Digest))[:14]); !errors.Is(err,
		image.ErrDamaged) {
		t.Errorf("the beginning of the digest of a damaged image: %v; want ErrDamaged", err)
	}
}
