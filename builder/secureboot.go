package builder

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"ingot"
	"ingot/builder/source"
	"ingot/builder/uki"
	"ingot/image"
	"ingot/internal/scratch"
)

// Errors of Secure Boot signing that callers may test for with errors.Is.
var (
	// ErrCertificate: the file is no X.509 certificate in PEM form.
	ErrCertificate = errors.New("not a certificate")
	// ErrNoUKI: the image has no unified kernel image to sign.
	ErrNoUKI = errors.New("the image has no UKI")
	// ErrForeignUKI: a signed UKI is not the image's own with a signature added.
	ErrForeignUKI = errors.New("the signed UKI is not the image's own")
)

// SecureBoot is the key and the certificate, as PEM files, that sbsign signs
// with. The firmware of the machines must know the certificate.
type SecureBoot struct {
	Key, Certificate string // paths
}

// Signer is who signs.
type Signer struct {
	Subject     string       // of the certificate, RFC 4514
	Certificate ingot.Digest // of its DER form
}

// Check reads the certificate and looks for key and tools, so that a build
// need not fail at its end.
func (s SecureBoot) Check() (Signer, error) {
	if err := source.NeedTools("sbsign", "sbverify"); err != nil {
		return Signer{}, err
	}
	if f, err := os.Open(s.Key); err != nil {
		return Signer{}, fmt.Errorf("reading the Secure Boot key: %w", err)
	} else if err := f.Close(); err != nil {
		return Signer{}, fmt.Errorf("reading the Secure Boot key: %w", err)
	}
	text, err := os.ReadFile(s.Certificate)
	if err != nil {
		return Signer{}, fmt.Errorf("reading the Secure Boot certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return Signer{}, fmt.Errorf("reading %s: %w in PEM form; convert it with: openssl x509 -inform DER -in %s", s.Certificate, ErrCertificate, s.Certificate)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Signer{}, fmt.Errorf("reading %s: %w: %w", s.Certificate, ErrCertificate, err)
	}
	return Signer{c.Subject.String(), ingot.DigestOf(c.Raw)}, nil
}

// Sign signs an image's UKI for Secure Boot and keeps the result as a referrer:
// the image stays what it is. An image that the certificate has signed already
// is not signed again; fresh tells.
func Sign(ctx context.Context, s *image.Store, im image.Image, sb SecureBoot) (r image.Referrer, fresh bool, err error) {
	signer, err := sb.Check()
	if err != nil {
		return r, false, err
	}
	if im.Manifest.UKI == nil {
		return r, false, fmt.Errorf("signing %s: %w; build it again", im.Name, ErrNoUKI)
	}
	list, err := s.Referrers(ctx, im.Digest, ingot.ArtifactSignedUKI)
	if err != nil {
		return r, false, err
	}
	for _, r := range list {
		if r.Annotations[ingot.AnnotationCertificate] == string(signer.Certificate) && isOwn(s, im, r) == nil {
			return r, false, nil
		}
	}
	work, err := scratch.New("ingot-sign-")
	if err != nil {
		return r, false, err
	}
	defer work.Remove()
	signed := filepath.Join(work.Path, "signed.efi")
	if err := sb.sign(ctx, s.Blob(im.Manifest.UKI.Digest), signed); err != nil {
		return r, false, fmt.Errorf("signing %s: %w", im.Name, err)
	}
	f, err := os.Open(signed)
	if err != nil {
		return r, false, fmt.Errorf("signing %s: %w", im.Name, err)
	}
	defer f.Close()
	r, err = s.AddReferrer(ctx, im.Digest, image.Attachment{Type: ingot.ArtifactSignedUKI, Media: ingot.MediaTypeUKI, Content: f,
		Annotations: map[string]string{ingot.AnnotationSigner: signer.Subject, ingot.AnnotationCertificate: string(signer.Certificate)}})
	if err == nil {
		err = isOwn(s, im, r)
	}
	return r, err == nil, err
}

// sign runs sbsign, and sbverify over what it made.
func (s SecureBoot) sign(ctx context.Context, from, to string) error {
	for _, argv := range [][]string{
		{"sbsign", "--key", s.Key, "--cert", s.Certificate, "--output", to, from},
		{"sbverify", "--cert", s.Certificate, to},
	} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			first, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n")) // the rest is OpenSSL's stack
			return fmt.Errorf("running %s: %w: %s", argv[0], err, first)
		}
	}
	return nil
}

// VerifySigned checks that every signed UKI of an image is the image's own UKI
// with a signature added, and returns how many there are. Whose signature it
// is, firmware and sbverify tell.
func VerifySigned(ctx context.Context, s *image.Store, im image.Image) (int, error) {
	list, err := s.Referrers(ctx, im.Digest, ingot.ArtifactSignedUKI)
	if err != nil {
		return 0, err
	}
	for _, r := range list {
		if err := isOwn(s, im, r); err != nil {
			return 0, fmt.Errorf("verifying %s: %w", im.Name, err)
		}
	}
	return len(list), nil
}

// isOwn is an error unless a referrer is the image's UKI with a signature added.
func isOwn(s *image.Store, im image.Image, r image.Referrer) error {
	if im.Manifest.UKI == nil {
		return ErrForeignUKI
	}
	plain, err := os.Open(s.Blob(im.Manifest.UKI.Digest))
	if err != nil {
		return err
	}
	defer plain.Close()
	signed, err := os.Open(s.Blob(r.Content.Digest))
	if err != nil {
		return err
	}
	defer signed.Close()
	if ok, err := uki.IsSigned(signed, plain, im.Manifest.UKI.Size); err != nil || !ok {
		return errors.Join(fmt.Errorf("%w: %s, signed by %s", ErrForeignUKI, r.Content.Digest.Short(), r.Annotations[ingot.AnnotationSigner]), err)
	}
	return nil
}
