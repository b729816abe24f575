package image_test

import (
	"errors"
	"os"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
	"ingot/image"
	"ingot/image/imagetest"
)

// harms are the ways in which a stored file can be damaged.
var harms = map[string]func(t *testing.T, path string){
	"flipped byte": func(t *testing.T, path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	},
	"truncated": func(t *testing.T, path string) {
		st, err := os.Stat(path)
		if err == nil {
			err = os.Truncate(path, st.Size()-1)
		}
		if err != nil {
			t.Fatal(err)
		}
	},
	"missing": func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	},
}

// filesOf returns the files of an image, by the name that Repaired and errors have for them.
func filesOf(t *testing.T, s *image.Store, im image.Image) map[string]ingot.Digest {
	t.Helper()
	files := map[string]ingot.Digest{"manifest": im.Digest}
	blobs, err := s.Blobs(im.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		files[image.PartName(b.MediaType)] = ingot.Digest(b.Digest)
	}
	list, err := s.Referrers(t.Context(), im.Digest, ingot.ArtifactSignature)
	if err != nil || len(list) != 1 {
		t.Fatalf("Referrers() = %v, %v; want one signature", list, err)
	}
	files["signature"] = list[0].Content.Digest
	return files
}

// TestReceiveRepairs: receiving an image that the store has repairs each file of it that is damaged, and
// says which.
func TestReceiveRepairs(t *testing.T) {
	host, _ := keyring(t)
	s := openStore(t)
	o := imagetest.New(imagetest.Spec{Name: labV1, Root: []byte("the root"), Sign: &host.Release})
	var repaired []string
	pull := func() image.Image {
		t.Helper()
		repaired = nil
		im, err := s.Receive(t.Context(), o, o.Image, image.ReceiveOptions{
			Trusted: []image.PublicKey{host.Release.Public}, Repaired: func(parts []string) { repaired = parts }})
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	im := pull()
	if repaired != nil {
		t.Errorf("receiving a new image repaired %v", repaired)
	}
	if pull(); repaired != nil {
		t.Errorf("receiving an undamaged image repaired %v", repaired)
	}
	files := filesOf(t, s, im)
	for _, part := range []string{"kernel", "initramfs", "root", "plan", "manifest", "config", "signature"} {
		for how, harm := range harms {
			harm(t, s.Blob(files[part]))
			if pull(); !slices.Equal(repaired, []string{part}) {
				t.Errorf("%s %s: repaired %v; want %s", part, how, repaired, part)
			}
			if err := s.Intact(t.Context(), im); err != nil {
				t.Errorf("%s %s: after the repair: %v", part, how, err)
			}
		}
	}
}

// TestIntact: Intact finds each damaged file that a build makes, and not those of another image or of a
// signed UKI.
func TestIntact(t *testing.T) {
	host, _ := keyring(t)
	s := openStore(t)
	o := imagetest.New(imagetest.Spec{Name: labV1, Root: []byte("the root"), Sign: &host.Release})
	uki := o.Refer(o.Image, ingot.ArtifactSignedUKI, []byte("a signed UKI"))
	im, err := receive(t, s, o, host.Release.Public)
	if err != nil {
		t.Fatal(err)
	}
	other := imagetest.New(imagetest.Spec{Name: ingot.ImageName{Profile: "lab", Version: "v2"},
		Root: []byte("another root"), Sign: &host.Release})
	v2, err := receive(t, s, other, host.Release.Public)
	if err != nil {
		t.Fatal(err)
	}
	stored := func() image.Image {
		t.Helper()
		again, err := s.Get(t.Context(), "lab:v1")
		if err != nil {
			t.Fatal(err)
		}
		return again
	}
	if err := s.Intact(t.Context(), stored()); err != nil {
		t.Fatalf("Intact() of an undamaged image = %v", err)
	}
	for part, d := range filesOf(t, s, im) {
		if part == "manifest" || part == "config" {
			continue // the image cannot be read any more
		}
		b, err := os.ReadFile(s.Blob(d))
		if err != nil {
			t.Fatal(err)
		}
		harms["flipped byte"](t, s.Blob(d))
		if err := s.Intact(t.Context(), stored()); !errors.Is(err, image.ErrDamaged) {
			t.Errorf("Intact() with a damaged %s = %v; want ErrDamaged", part, err)
		}
		if err := os.WriteFile(s.Blob(d), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	harms["flipped byte"](t, s.Blob(ingot.Digest(uki.Digest)))
	for _, d := range filesOf(t, s, v2) {
		if !slices.ContainsFunc(blobsOf(t, s, im), func(b ocispec.Descriptor) bool { return ingot.Digest(b.Digest) == d }) {
			harms["flipped byte"](t, s.Blob(d))
		}
	}
	if err := s.Intact(t.Context(), stored()); err != nil {
		t.Errorf("Intact() beside a damaged image and a damaged signed UKI = %v", err)
	}
}

func blobsOf(t *testing.T, s *image.Store, im image.Image) []ocispec.Descriptor {
	t.Helper()
	list, err := s.Blobs(im.Digest)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
