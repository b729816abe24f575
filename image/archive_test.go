package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ingot"
	"ingot/image"
	"ingot/image/imagetest"
)

// labV1 is the name of the images under test.
var labV1 = ingot.ImageName{Profile: "lab", Version: "v1"}

// exported is a store with one image that has referrers, and its archive.
func exported(t *testing.T) (s *image.Store, im image.Image, file string, keys image.Keys) {
	t.Helper()
	keys, _ = keyring(t)
	s = openStore(t)
	root := bytes.Repeat([]byte("root "), 10_000)
	o := imagetest.New(imagetest.Spec{Name: labV1, Root: root, Sign: &keys.Release})
	o.Refer(o.Refer(o.Image, sbom, []byte("{}")), ingot.ArtifactSignature, []byte("of the SBOM"))
	im, err := receive(t, s, o, keys.Release.Public)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "lab.oci.tar")
	if err := s.Export(t.Context(), im, file, nil); err != nil {
		t.Fatal(err)
	}
	return s, im, file, keys
}

func importFrom(t *testing.T, s *image.Store, file string, keys ...image.PublicKey) (image.Image, error) {
	t.Helper()
	a, err := image.OpenArchive(file)
	if err != nil {
		return image.Image{}, err
	}
	defer a.Close()
	list, err := a.Images(t.Context())
	if err != nil {
		return image.Image{}, err
	}
	return s.Receive(t.Context(), a, list[0], image.ReceiveOptions{Trusted: keys})
}

func TestExportAndImport(t *testing.T) {
	s, im, file, keys := exported(t)
	again := filepath.Join(t.TempDir(), "again.tar")
	if err := s.Export(t.Context(), im, again, nil); err != nil {
		t.Fatal(err)
	}
	one, err1 := os.ReadFile(file)
	two, err2 := os.ReadFile(again)
	if err1 != nil || err2 != nil || !bytes.Equal(one, two) {
		t.Errorf("exporting twice gives other bytes (%v, %v)", err1, err2)
	}
	unpacked := t.TempDir()
	if out, err := exec.Command("tar", "-C", unpacked, "-xf", file).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	for _, from := range []string{file, unpacked} {
		other := openStore(t)
		if _, err := importFrom(t, other, from); !errors.Is(err, image.ErrUntrusted) {
			t.Errorf("importing without the key: %v; want ErrUntrusted", err)
		}
		got, err := importFrom(t, other, from, keys.Release.Public)
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != im.Digest || got.Signature != im.Signature {
			t.Errorf("imported %s; want %s with its signature", got.Digest, im.Digest)
		}
		if list, err := other.ReferrerTree(got); err != nil || len(list) != 3 {
			t.Errorf("%d referrers came along (%v); want 3", len(list), err)
		}
		if err := other.Verify(t.Context(), got, keys.Release.Public); err != nil {
			t.Error(err)
		}
	}
}

// TestSkopeoReadsExport lets skopeo judge the archive, and copy it.
func TestSkopeoReadsExport(t *testing.T) {
	if _, err := exec.LookPath("skopeo"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("skopeo is not installed; run scripts/setup test")
		}
		t.Skip("skopeo is not installed")
	}
	_, im, file, _ := exported(t)
	out, err := exec.Command("skopeo", "inspect", "--raw", "oci-archive:"+file+":lab:v1").Output()
	if err != nil || ingot.DigestOf(out) != im.Digest {
		t.Errorf("skopeo reads %s, %v; want manifest %s", out, err, im.Digest)
	}
	dir := t.TempDir()
	skopeo := exec.Command("skopeo", "--insecure-policy", "copy", "--preserve-digests",
		"oci-archive:"+file+":lab:v1", "dir:"+dir)
	if out, err := skopeo.CombinedOutput(); err != nil {
		t.Errorf("skopeo copy: %v\n%s", err, out)
	}
	root := im.Manifest.Root.Digest
	if b, err := os.ReadFile(filepath.Join(dir, root.Hex())); err != nil || ingot.DigestOf(b) != root {
		t.Errorf("the root that skopeo copied: %v", err)
	}
}

// TestExportRefusesDamage: what is damaged here is not passed on, and no file
// is left.
func TestExportRefusesDamage(t *testing.T) {
	s, im, _, _ := exported(t)
	b, err := os.ReadFile(s.Blob(im.Manifest.Root.Digest))
	if err != nil {
		t.Fatal(err)
	}
	b[77] ^= 1
	if err := os.WriteFile(s.Blob(im.Manifest.Root.Digest), b, 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := s.Export(t.Context(), im, filepath.Join(dir, "x.tar"), nil); !errors.Is(err, image.ErrDamaged) {
		t.Errorf("exporting a damaged image: %v; want ErrDamaged", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("a failed export leaves %v", left)
	}
}

func TestImportRefuses(t *testing.T) {
	_, _, file, keys := exported(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte("root root root "))
	flipped := bytes.Clone(whole)
	flipped[at+3000] ^= 1
	var foreign bytes.Buffer
	w := tar.NewWriter(&foreign)
	for name, text := range map[string]string{
		"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": `{"schemaVersion":2,"manifests":[]}`,
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, text) // into memory
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"empty": {nil, image.ErrNotArchive}, "text": {[]byte(strings.Repeat("no archive ", 200)), image.ErrNotArchive},
		"cut": {whole[:at+5000], image.ErrNotArchive}, "flipped": {flipped, image.ErrContent},
		"other things": {foreign.Bytes(), image.ErrNotImage},
	} {
		bad := filepath.Join(t.TempDir(), "bad.tar")
		if err := os.WriteFile(bad, c.bytes, 0o644); err != nil {
			t.Fatal(err)
		}
		s := openStore(t)
		if _, err := importFrom(t, s, bad, keys.Release.Public); !errors.Is(err, c.want) {
			t.Errorf("importing %s: %v; want %v", name, err, c.want)
		}
		if list, _ := s.List(t.Context()); len(list) != 0 {
			t.Errorf("importing %s leaves %d images", name, len(list))
		}
	}
}
