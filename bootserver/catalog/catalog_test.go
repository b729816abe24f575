package catalog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/image"
)

// TestCatalogFollowsTheStore: what is remembered is what the store has.
func TestCatalogFollowsTheStore(t *testing.T) {
	root := t.TempDir()
	store, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	c := New(store)
	v1 := put(t, store, keys, "v1")
	for range 2 {
		if im, err := c.Stored(v1.Digest); err != nil || im.Digest != v1.Digest {
			t.Fatalf("Stored(v1) = %s, %v", im.Digest.Short(), err)
		}
	}
	v2 := put(t, store, keys, "v2")
	if im, err := c.Stored(v2.Digest); err != nil || im.Digest != v2.Digest {
		t.Errorf("Stored(v2) = %s, %v; want the image that was put meanwhile", im.Digest.Short(), err)
	}
	index := filepath.Join(root, "images", "index.json")
	text, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(index), os.WriteFile(index, []byte(`{"schemaVersion":2,"manifests":[]}`),
		0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stored(v1.Digest); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("Stored(v1) after it left the index: %v; want ErrNotFound", err)
	}
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stored(v1.Digest); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("Stored(v1) without an index: %v; want ErrNotFound", err)
	}
	if err := os.WriteFile(index, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stored(v1.Digest); err != nil {
		t.Errorf("Stored(v1) after it came back: %v", err)
	}
}

// TestNamesFollowTheStore: a reference is looked up once, however many images the store has, and again
// when it may name another image.
func TestNamesFollowTheStore(t *testing.T) {
	root := t.TempDir()
	store, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	c := New(store)
	resolves := func(ref string, want image.Image) {
		t.Helper()
		if im, err := c.Resolve(t.Context(), ref); err != nil || im.Digest != want.Digest {
			t.Errorf("Resolve(%q) = %s, %v; want %s", ref, im.Name, err, want.Name)
		}
	}
	few := put(t, store, keys, "v0")
	resolves("lab", few)
	cost := testing.AllocsPerRun(10, func() { resolves("lab:v0", few) })
	if _, err := c.Resolve(t.Context(), "stable"); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("a name that nothing has: %v", err)
	}
	var last image.Image
	for n := range 8 {
		last = put(t, store, keys, fmt.Sprint("v1.", n))
	}
	resolves("lab", last)
	resolves("lab:v0", few)
	if _, err := store.Tag(t.Context(), "lab:v0", "stable"); err != nil {
		t.Fatal(err)
	}
	resolves("stable", few)
	if _, err := store.Tag(t.Context(), "lab:v1.3", "stable"); err != nil {
		t.Fatal(err)
	}
	if im, err := c.Resolve(t.Context(), "stable"); err != nil || im.Name.Version != "v1.3" {
		t.Errorf("a tag that was moved: %s, %v", im.Name, err)
	}
	if now := testing.AllocsPerRun(10, func() { resolves("lab:v0", few) }); now > cost+2 {
		t.Errorf("a name costs %.0f allocations with 9 images in the store, and %.0f with one", now, cost)
	}
	if uki, has := c.UKI(few); !has || uki.Digest != few.Manifest.UKI.Digest {
		t.Errorf("the UKI is %v, %t; want the image's", uki, has)
	}
	if _, err := store.AddReferrer(t.Context(), few.Digest, image.Attachment{Type: ingot.ArtifactSignedUKI,
		Media: ingot.MediaTypeUKI, Content: strings.NewReader("a signed UKI")}); err != nil {
		t.Fatal(err)
	}
	if uki, _ := c.UKI(few); uki.Digest != ingot.DigestOf([]byte("a signed UKI")) {
		t.Errorf("the UKI is %v; want the one that was signed since", uki)
	}
}

// TestVerdictsFollowSignaturesAndKeys: what was found of a signature is forgotten when the image is
// signed anew, and when other keys are trusted.
func TestVerdictsFollowSignaturesAndKeys(t *testing.T) {
	root := t.TempDir()
	store, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(root, "keys")
	keys, err := image.LoadOrCreateKeys(own)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := image.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := New(store)
	im := put(t, store, stranger, "v1")
	for range 2 {
		if _, err := c.Resolve(t.Context(), "lab:v1"); !errors.Is(err, image.ErrSignature) || c.Servable(im.Digest) {
			t.Errorf("an image that a stranger signed: %v, servable: %t", err, c.Servable(im.Digest))
		}
	}
	if err := image.Trust(own, "stranger", stranger.Release.Public); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), "lab:v1"); err != nil || !c.Servable(im.Digest) {
		t.Errorf("once its key is trusted: %v, servable: %t", err, c.Servable(im.Digest))
	}
	if err := image.Distrust(own, "stranger"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resolve(t.Context(), "lab:v1"); !errors.Is(err, image.ErrSignature) {
		t.Errorf("once its key is not trusted any more: %v", err)
	}
	text := keys.Release.Secret.Sign(im.OCI, "signed again")
	a := image.Attachment{Type: ingot.ArtifactSignature, Media: ingot.ArtifactSignature,
		Content: strings.NewReader(text)}
	if _, err := store.AddReferrer(t.Context(), im.Digest, a); err != nil {
		t.Fatal(err)
	}
	as, err := c.Assignment(t.Context(), "lab:v1", "why", time.Unix(1, 0))
	if err != nil || as.Image != im.Digest || as.Name != "lab:v1" || as.Why != "why" ||
		!as.Since.Equal(time.Unix(1, 0)) {
		t.Errorf("signed by our key: %+v, %v", as, err)
	}
}

// put puts a small image into a store.
func put(t *testing.T, store *image.Store, keys image.Keys, version string) image.Image {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(name+" of "+version), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	im, err := store.Put(t.Context(), &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: version},
		image.Files{Kernel: file("kernel"), Initramfs: file("initramfs"), Root: file("root"), UKI: file("uki"),
			Plan: file("plan")}, keys.Release.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// TestKeysCountAtOnce: a change of the trusted keys counts at once, also long after they were read, and
// they are not read for every look-up, nor are files of images opened.
func TestKeysCountAtOnce(t *testing.T) {
	root := t.TempDir()
	store, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(root, "keys")
	if _, err := image.LoadOrCreateKeys(own); err != nil {
		t.Fatal(err)
	}
	var stranger [2]image.Keys
	for i := range stranger {
		if stranger[i], err = image.LoadOrCreateKeys(t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	im := put(t, store, stranger[0], "v1")
	c := New(store)
	served := func(when string, want bool) {
		t.Helper()
		for range 2 {
			if got := c.Servable(im.Digest); got != want {
				t.Errorf("%s: servable = %t", when, got)
			}
		}
	}
	file := filepath.Join(own, "trusted", "stranger.pub")
	write := func(key image.PublicKey) {
		t.Helper()
		if err := os.WriteFile(file, key.Text(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	served("before its key is trusted", false)
	for range 2 {
		if err := image.Trust(own, "stranger", stranger[0].Release.Public); err != nil {
			t.Fatal(err)
		}
		served("its key is trusted", true)
		time.Sleep(2 * clockTick)
		served("its key is trusted since a moment", true)
		if reads := testing.AllocsPerRun(10, func() { c.Servable(im.Digest) }); reads > 50 {
			t.Errorf("a look-up costs %.0f allocations although nothing changed", reads)
		}
		write(stranger[1].Release.Public)
		served("the file has another key of the same size", false)
		write(stranger[0].Release.Public)
		served("the file has its key again", true)
		time.Sleep(2 * clockTick)
		served("its key has been trusted for long", true)
		if err := image.Distrust(own, "stranger"); err != nil {
			t.Fatal(err)
		}
		served("its key is not trusted any more", false)
	}
}

// TestAbsentNamesFollowTheIndex: a name that the store did not have is found once an image has it, and is
// not looked for again before.
func TestAbsentNamesFollowTheIndex(t *testing.T) {
	root := t.TempDir()
	store, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	c := New(store)
	v1 := put(t, store, keys, "v1")
	if _, err := c.Stored(v1.Digest); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.Resolve(t.Context(), "lab:v2"); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("Resolve(lab:v2) = %v; want ErrNotFound", err)
		}
	}
	if len(c.absent) != 1 {
		t.Errorf("the catalog remembers %v as absent; want lab:v2", c.absent)
	}
	v2 := put(t, store, keys, "v2")
	if im, err := c.Resolve(t.Context(), "lab:v2"); err != nil || im.Digest != v2.Digest {
		t.Errorf("Resolve(lab:v2) once it is stored = %s, %v", im.Digest, err)
	}
}
