package secureboot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot"
	"ingot/builder/buildertest"
	"ingot/image"
	"ingot/internal/wire"
)

// sealedImage is a stored image with a UKI.
func sealedImage(t *testing.T) (*image.Store, image.Image) {
	t.Helper()
	stub, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		wire.Cannot(t, "systemd-boot-efi is not installed; run scripts/setup test")
	}
	return buildertest.SealedImage(t, stub)
}

// secureBoot makes a key and its certificate.
func secureBoot(t *testing.T, name string) KeyPair {
	t.Helper()
	dir := t.TempDir()
	sb := KeyPair{Key: filepath.Join(dir, "key"), Certificate: filepath.Join(dir, "crt")}
	wire.Run(t, "openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", sb.Key, "-out",
		sb.Certificate, "-days", "9", "-subj", "/CN="+name+"/")
	return sb
}

// TestSign: sbverify accepts what Sign keeps beside the image, whose digest
// stays; a second time changes nothing; a second key adds its own.
func TestSign(t *testing.T) {
	wire.Need(t, "sbsign", "sbverify", "openssl")
	s, im := sealedImage(t)
	one, two := secureBoot(t, "one"), secureBoot(t, "two")
	for _, c := range []struct {
		by    KeyPair
		fresh bool
		count int
	}{{one, true, 1}, {one, false, 1}, {two, true, 2}} {
		r, fresh, err := Sign(t.Context(), s, im, c.by)
		if err != nil || fresh != c.fresh {
			t.Fatalf("Sign = %v, %v; want fresh %v", fresh, err, c.fresh)
		}
		wire.Run(t, "sbverify", "--cert", c.by.Certificate, s.Blob(r.Content.Digest))
		if n, err := Verify(t.Context(), s, im); err != nil || n != c.count {
			t.Errorf("Verify = %d, %v; want %d", n, err, c.count)
		}
	}
	list, err := s.Referrers(t.Context(), im.Digest, ingot.ArtifactSignedUKI)
	if err != nil || len(list) != 2 || list[0].Annotations[ingot.AnnotationSigner] != "CN=one" ||
		list[1].Annotations[ingot.AnnotationSigner] != "CN=two" {
		t.Errorf("signed by %v (%v); want CN=one and CN=two", list, err)
	}
	if again, err := s.Get(t.Context(), im.Name.String()); err != nil || again.Digest != im.Digest {
		t.Errorf("signing changed the image's digest to %s (%v)", again.Digest, err)
	}
}

// TestForeignUKI: a UKI that somebody changed and signed himself is not taken
// for the image's own.
func TestForeignUKI(t *testing.T) {
	wire.Need(t, "sbsign", "sbverify", "openssl")
	s, im := sealedImage(t)
	evil, err := os.ReadFile(s.Blob(im.Manifest.UKI.Digest))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "evil.efi")
	if err := os.WriteFile(path, bytes.Replace(evil, []byte("quiet"), []byte("evil!"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	by := secureBoot(t, "evil")
	if err := by.SignFile(t.Context(), path, path+".signed"); err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(path + ".signed")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddReferrer(t.Context(), im.Digest, image.Attachment{Type: ingot.ArtifactSignedUKI,
		Media: ingot.MediaTypeUKI, Content: bytes.NewReader(signed)}); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), s, im); !errors.Is(err, ErrForeignUKI) {
		t.Errorf("Verify = %v; want %v", err, ErrForeignUKI)
	}
}

// TestBadSecureBoot: what is wrong with key or certificate is said before
// anything is done.
func TestBadSecureBoot(t *testing.T) {
	wire.Need(t, "sbsign", "sbverify", "openssl")
	s, im := sealedImage(t)
	good, other := secureBoot(t, "good"), secureBoot(t, "other")
	for name, c := range map[string]struct {
		sb   KeyPair
		want string
	}{
		"no key":             {KeyPair{filepath.Join(t.TempDir(), "none"), good.Certificate}, "no such file"},
		"key as certificate": {KeyPair{good.Key, good.Key}, "not a certificate"},
		"another's key":      {KeyPair{other.Key, good.Certificate}, "key/certificate"},
	} {
		_, fresh, err := Sign(t.Context(), s, im, c.sb)
		if err == nil || fresh || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Sign = %v; want %q", name, err, c.want)
		}
	}
	if list, err := s.Referrers(t.Context(), im.Digest, ingot.ArtifactSignedUKI); err != nil || len(list) != 0 {
		t.Errorf("%d signed UKIs are stored (%v); want none", len(list), err)
	}
}
