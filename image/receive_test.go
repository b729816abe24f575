package image_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
	"ingot/image"
	"ingot/image/imagetest"
)

// keyring makes the keys of a build host and of a stranger.
func keyring(t *testing.T) (host, stranger image.Keys) {
	t.Helper()
	var keys [2]image.Keys
	for i := range keys {
		var err error
		if keys[i], err = image.LoadOrCreateKeys(filepath.Join(t.TempDir(), "keys")); err != nil {
			t.Fatal(err)
		}
	}
	return keys[0], keys[1]
}

func openStore(t *testing.T) *image.Store {
	t.Helper()
	s, err := image.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const sbom = "application/vnd.cyclonedx+json"

func receive(t *testing.T, s *image.Store, o *imagetest.Origin, keys ...image.PublicKey) (image.Image, error) {
	t.Helper()
	return s.Receive(t.Context(), o, o.Image, image.ReceiveOptions{Trusted: keys})
}

func TestReceive(t *testing.T) {
	host, stranger := keyring(t)
	s := openStore(t)
	spec := imagetest.Spec{Name: labV1, Root: []byte("the root"), Sign: &host.Release, Arch: ingot.ARM64}
	o := imagetest.New(spec)
	list := o.Refer(o.Image, sbom, []byte(`{"bomFormat":"CycloneDX"}`))
	o.Refer(list, ingot.ArtifactSignature, []byte("a signature of the SBOM"))
	foreign := stranger.Release.Secret.Sign(o.Blobs[o.Image.Digest], "stranger")
	bad := o.Refer(o.Image, ingot.ArtifactSignature, []byte(foreign))
	var done, total int64
	im, err := s.Receive(t.Context(), o, o.Image, image.ReceiveOptions{
		Trusted:  []image.PublicKey{stranger.Server.Public, host.Release.Public},
		Progress: func(d, n int64) { done, total = d, n },
	})
	if err != nil {
		t.Fatal(err)
	}
	if im.Name.String() != "lab:v1" || im.Manifest.Arch != ingot.ARM64 || done != total || total == 0 {
		t.Errorf("received %s for %s, progress %d of %d bytes", im.Name, im.Manifest.Arch, done, total)
	}
	if err := s.Verify(t.Context(), im, host.Release.Public); err != nil {
		t.Error(err)
	}
	referrers, err := s.ReferrerTree(im)
	if err != nil || len(referrers) != 3 {
		t.Errorf("%d referrers came along (%v); want the signature, the SBOM and the SBOM's signature", len(referrers), err)
	}
	if slices.ContainsFunc(referrers, func(d ocispec.Descriptor) bool { return d.Digest == bad.Digest }) {
		t.Error("a stranger's signature came along")
	}
	// Once more: nothing travels, nothing changes, a tag stays.
	if _, err := s.Tag(t.Context(), "lab:v1", "lab:stable"); err != nil {
		t.Fatal(err)
	}
	o.Fetched = nil
	if _, err := receive(t, s, o, host.Release.Public); err != nil || o.Has(ingot.MediaTypeRoot) {
		t.Errorf("receiving it again: %v; the root travelled: %v", err, o.Has(ingot.MediaTypeRoot))
	}
	if again, err := s.Get(t.Context(), "lab:stable"); err != nil || again.Digest != im.Digest {
		t.Errorf("the tag after receiving again: %v", err)
	}
	// What refers to it goes with it.
	if _, err := s.Remove(t.Context(), "lab:v1", nil); err != nil {
		t.Fatal(err)
	}
	if c, err := s.GC(t.Context(), image.GCOptions{}); err != nil || c.Blobs == 0 {
		t.Fatal(c, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "images/blobs/sha256/*")); len(left) != 0 {
		t.Errorf("after removal and collection there are %v", left)
	}
}

// TestReceiveRefuses: one clear error each, before the root travels, and
// nothing is listed.
func TestReceiveRefuses(t *testing.T) {
	host, stranger := keyring(t)
	signed := imagetest.Spec{Name: labV1, Sign: &host.Release}
	badName, badRoot := signed, signed
	badName.Name.Profile = "../lab"
	badRoot.Change = func(m *ingot.ImageManifest) { m.Root.Size++ }
	for _, c := range []struct {
		name string
		spec imagetest.Spec
		edit func(*imagetest.Origin)
		want error
		say  string
	}{
		{"unsigned", imagetest.Spec{Name: labV1}, nil, image.ErrUntrusted, "it has no signature"},
		{"stranger", imagetest.Spec{Name: labV1, Sign: &stranger.Release}, nil, image.ErrUntrusted,
			stranger.Release.Public.ID()},
		{"garbage for a signature", imagetest.Spec{Name: labV1}, func(o *imagetest.Origin) {
			o.Refer(o.Image, ingot.ArtifactSignature, []byte("garbage"))
		}, image.ErrUntrusted, ""},
		{"signature of another image", imagetest.Spec{Name: labV1}, func(o *imagetest.Origin) {
			o.Refer(o.Image, ingot.ArtifactSignature, []byte(host.Release.Secret.Sign([]byte("other"), "")))
		}, image.ErrUntrusted, ""},
		{"tampered manifest", signed, func(o *imagetest.Origin) {
			o.Blobs[o.Image.Digest] = bytes.Replace(o.Blobs[o.Image.Digest], []byte("schemaVersion"), []byte("schemaVersioN"), 1)
		}, image.ErrContent, ""},
		{"bad name", badName, nil, image.ErrNotImage, "invalid name"},
		{"root of another image", badRoot, nil, image.ErrNotImage, "root"},
		{"signature is gone", signed, func(o *imagetest.Origin) {
			for d := range o.Blobs {
				if bytes.Contains(o.Blobs[d], []byte("ingot signature")) {
					delete(o.Blobs, d)
				}
			}
		}, os.ErrNotExist, "signature"},
		{"huge manifest", imagetest.Spec{Name: labV1}, func(o *imagetest.Origin) { o.Image.Size = 1 << 30 }, nil, "at most"},
		{"not ours", signed, func(o *imagetest.Origin) { o.Image = o.Manifests[1] }, image.ErrNotImage, "config is"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t)
			c.spec.Root = []byte("root")
			o := imagetest.New(c.spec)
			if c.edit != nil {
				c.edit(o)
			}
			_, err := receive(t, s, o, host.Release.Public)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("error = %v; want %v and %q", err, c.want, c.say)
			}
			if o.Has(ingot.MediaTypeRoot) {
				t.Error("the root travelled before the image was accepted")
			}
			if list, err := s.List(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("List = %d images, %v; want none", len(list), err)
			}
		})
	}
}

// TestReceiveResumes: a damaged blob leaves no image; the next try fetches
// what is missing, and what is damaged here.
func TestReceiveResumes(t *testing.T) {
	host, _ := keyring(t)
	s := openStore(t)
	spec := imagetest.Spec{Name: labV1, Root: []byte("the root"), Sign: &host.Release}
	o := imagetest.New(spec)
	root := ingot.DigestOf(spec.Root)
	for d := range o.Blobs {
		if ingot.Digest(d) == root {
			o.Blobs[d] = []byte("the r00t")
		}
	}
	_, err := receive(t, s, o, host.Release.Public)
	if !errors.Is(err, image.ErrContent) || !strings.Contains(err.Error(), "root") {
		t.Errorf("with a damaged root: %v", err)
	}
	if list, _ := s.List(t.Context()); len(list) != 0 {
		t.Errorf("an image with a damaged root is listed: %v", list)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Root(), "images/blobs/sha256/.*")); len(left) != 0 {
		t.Errorf("temporary files are left: %v", left)
	}
	o = imagetest.New(spec)
	im, err := receive(t, s, o, host.Release.Public)
	if err != nil {
		t.Fatal(err)
	}
	if !o.Has(ingot.MediaTypeRoot) {
		t.Error("the root did not travel")
	}
	// Damage that the size does not show is mended by receiving again.
	if err := os.WriteFile(s.Blob(root), []byte("the r00t"), 0o644); err != nil {
		t.Fatal(err)
	}
	o = imagetest.New(spec)
	if _, err := receive(t, s, o, host.Release.Public); err != nil || len(o.Fetched) != 1 {
		t.Errorf("mending fetched %d parts, %v; want the root alone", len(o.Fetched), err)
	}
	if err := s.Verify(t.Context(), im, host.Release.Public); err != nil {
		t.Error(err)
	}
}

func TestReceiveKeepsNames(t *testing.T) {
	host, _ := keyring(t)
	s := openStore(t)
	spec := imagetest.Spec{Name: ingot.ImageName{Profile: "lab", Version: "v1"}, Root: []byte("one"), Sign: &host.Release}
	if _, err := receive(t, s, imagetest.New(spec), host.Release.Public); err != nil {
		t.Fatal(err)
	}
	spec.Root = []byte("two")
	o := imagetest.New(spec)
	if _, err := receive(t, s, o, host.Release.Public); !errors.Is(err, image.ErrExists) || o.Has(ingot.MediaTypeRoot) {
		t.Errorf("another lab:v1: %v; want ErrExists before the root travels", err)
	}
}

// TestNoCollectionMeanwhile: nobody takes away the blobs of an image that is
// just coming in, and two may come in at once.
func TestNoCollectionMeanwhile(t *testing.T) {
	host, _ := keyring(t)
	s := openStore(t)
	spec := imagetest.Spec{Name: ingot.ImageName{Profile: "lab", Version: "v1"}, Root: []byte("one"), Sign: &host.Release}
	o := imagetest.New(spec)
	var once sync.Once
	o.Before = func(d ocispec.Descriptor) {
		if d.MediaType != ingot.MediaTypeRoot {
			return
		}
		once.Do(func() {
			if _, err := s.GC(context.Background(), image.GCOptions{}); !errors.Is(err, image.ErrBusy) {
				t.Errorf("collecting meanwhile: %v; want ErrBusy", err)
			}
			if _, err := s.Clean(context.Background()); err != nil {
				t.Errorf("cleaning meanwhile: %v", err)
			}
			two := spec
			two.Name.Version = "v2"
			if _, err := receive(t, s, imagetest.New(two), host.Release.Public); err != nil {
				t.Errorf("another image meanwhile: %v", err)
			}
		})
	}
	if _, err := receive(t, s, o, host.Release.Public); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("List = %d images, %v; want both", len(list), err)
	}
	if _, err := s.GC(t.Context(), image.GCOptions{}); err != nil {
		t.Errorf("collecting afterwards: %v", err)
	}
}

func TestTrust(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	own, err := image.LoadOrCreateKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	host, stranger := keyring(t)
	names := func() (list []string) {
		keys, err := image.TrustedKeys(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			list = append(list, k.Name+" "+k.ID)
		}
		return list
	}
	if err := image.Trust(dir, "build1", host.Release.Public); err != nil {
		t.Fatal(err)
	}
	if err := image.Trust(dir, "build1", host.Release.Public); err != nil {
		t.Errorf("the same again: %v", err)
	}
	for name, key := range map[string]image.PublicKey{
		"build1": stranger.Release.Public, "own": host.Release.Public, "../x": host.Release.Public, "": host.Release.Public,
	} {
		if err := image.Trust(dir, name, key); !errors.Is(err, image.ErrKeyName) {
			t.Errorf("trusting %q: %v; want ErrKeyName", name, err)
		}
	}
	want := []string{"own " + own.Release.Public.ID(), "build1 " + host.Release.Public.ID()}
	if got := names(); !slices.Equal(got, want) {
		t.Errorf("trusted keys = %v; want %v", got, want)
	}
	if err := image.Distrust(dir, "own"); !errors.Is(err, image.ErrKeyName) {
		t.Errorf("distrusting our own key: %v", err)
	}
	if err := image.Distrust(dir, "build1"); err != nil || len(names()) != 1 {
		t.Errorf("distrusting: %v, left %v", err, names())
	}
}
