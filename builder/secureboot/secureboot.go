// Package secureboot signs the unified kernel image (UKI) of an image for UEFI Secure Boot, by
// sbsign, and keeps the result beside the image as an OCI referrer: signing does not change the
// image's digest. It does not decide whose signature is trusted; firmware does.
package secureboot

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
	// ErrCertificate: the file is not an X.509 certificate in PEM form.
	ErrCertificate = errors.New("not a certificate")
	// ErrNoUKI: the image has no unified kernel image to sign.
	ErrNoUKI = errors.New("the image has no UKI")
	// ErrForeignUKI: a signed UKI is not the image's own with a signature added.
	ErrForeignUKI = errors.New("the signed UKI is not the image's own")
)

// KeyPair names the key and the certificate, as PEM files, that sbsign signs with. The firmware of
// the machines must know the certificate.
type KeyPair struct {
	Key, Certificate string // paths
}

// Signer is what a certificate says about its owner.
type Signer struct {
	Subject     string       // of the certificate, RFC 4514
	Certificate ingot.Digest // of its DER form
}

// Check reads the certificate and looks for the key and the tools, so that a build does not fail at
// its end because of them.
func (k KeyPair) Check() (Signer, error) {
	if err := source.NeedTools("sbsign", "sbverify"); err != nil {
		return Signer{}, err
	}
	if f, err := os.Open(k.Key); err != nil {
		return Signer{}, fmt.Errorf("reading the Secure Boot key: %w", err)
	} else if err := f.Close(); err != nil {
		return Signer{}, fmt.Errorf("reading the Secure Boot key: %w", err)
	}
	text, err := os.ReadFile(k.Certificate)
	if err != nil {
		return Signer{}, fmt.Errorf("reading the Secure Boot certificate: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return Signer{}, fmt.Errorf("reading %s: %w in PEM form; convert it with: openssl x509 -inform DER -in %s",
			k.Certificate, ErrCertificate, k.Certificate)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Signer{}, fmt.Errorf("reading %s: %w: %w", k.Certificate, ErrCertificate, err)
	}
	return Signer{c.Subject.String(), ingot.DigestOf(c.Raw)}, nil
}

// Sign signs an image's UKI for Secure Boot and keeps the result as a referrer of the image. An
// image that the certificate has signed already is not signed again; fresh reports whether it was
// signed now.
func Sign(ctx context.Context, s *image.Store, im image.Image, k KeyPair) (r image.Referrer, fresh bool, err error) {
	signer, err := k.Check()
	if err != nil {
		return r, false, err
	}
	if im.Manifest.UKI == nil {
		return r, false, fmt.Errorf("signing %s: %w; build the image again", im.Name, ErrNoUKI)
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
	if err := k.SignFile(ctx, s.Blob(im.Manifest.UKI.Digest), signed); err != nil {
		return r, false, fmt.Errorf("signing %s: %w", im.Name, err)
	}
	f, err := os.Open(signed)
	if err != nil {
		return r, false, fmt.Errorf("signing %s: %w", im.Name, err)
	}
	defer f.Close()
	r, err = s.AddReferrer(ctx, im.Digest, image.Attachment{Type: ingot.ArtifactSignedUKI,
		Media: ingot.MediaTypeUKI, Content: f,
		Annotations: map[string]string{ingot.AnnotationSigner: signer.Subject,
			ingot.AnnotationCertificate: string(signer.Certificate)}})
	if err == nil {
		err = isOwn(s, im, r)
	}
	return r, err == nil, err
}

// SignFile signs the program at from, by sbsign, writes it to the file at to, and checks that with
// sbverify.
func (k KeyPair) SignFile(ctx context.Context, from, to string) error {
	if err := source.NeedTools("sbsign", "sbverify"); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"sbsign", "--key", k.Key, "--cert", k.Certificate, "--output", to, from},
		{"sbverify", "--cert", k.Certificate, to},
	} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			first, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n")) // the rest is OpenSSL's error stack
			return fmt.Errorf("running %s: %w: %s", argv[0], err, first)
		}
	}
	return nil
}

// Verify checks that every signed UKI of an image is the image's own UKI with a signature added,
// and returns how many there are. It does not check whose signature that is; firmware and sbverify
// do.
func Verify(ctx context.Context, s *image.Store, im image.Image) (int, error) {
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

// isOwn returns an error unless a referrer is the image's UKI with a signature added.
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
		return errors.Join(fmt.Errorf("%w: %s, signed by %s", ErrForeignUKI, r.Content.Digest.Short(),
			r.Annotations[ingot.AnnotationSigner]), err)
	}
	return nil
}
