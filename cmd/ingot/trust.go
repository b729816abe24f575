package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/builder"
	"ingot/image"
)

// secureBootFlags name the key and certificate that a UKI is signed with.
type secureBootFlags struct{ builder.SecureBoot }

func (f *secureBootFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.Key, "secure-boot-key", "", "private key (PEM) that signs the UKI for Secure Boot")
	c.Flags().StringVar(&f.Certificate, "secure-boot-cert", "", "certificate (PEM) of that key, as the machines' firmware knows it")
	c.MarkFlagsRequiredTogether("secure-boot-key", "secure-boot-cert")
}

// given reports whether there is something to sign with.
func (f *secureBootFlags) given() bool { return f.Key != "" }

// signView is the JSON form of a signed UKI.
type signView struct {
	Image ingot.Digest   `json:"image"`
	Name  string         `json:"name"`
	UKI   image.Referrer `json:"signed"`
	Fresh bool           `json:"fresh"` // false: it was signed already
}

func (a *app) imageSignCommand() *cobra.Command {
	var f secureBootFlags
	c := &cobra.Command{
		Use: "sign IMAGE --secure-boot-key KEY --secure-boot-cert CERT", Short: "sign an image's UKI for Secure Boot",
		Long: `Sign the unified kernel image of an image with sbsign. The signed UKI is kept beside
the image, whose digest does not change; signatures of several certificates may be.
` + imageRef,
		Example: "  ingot image sign node:1 --secure-boot-key db.key --secure-boot-cert db.crt",
		Args:    exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !f.given() {
				return usagef("name the key and the certificate with --secure-boot-key and --secure-boot-cert")
			}
			s, im, err := a.withImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r, fresh, err := builder.Sign(cmd.Context(), s, im, f.SecureBoot)
			if err != nil {
				return err
			}
			if fresh {
				a.note(cmd.Context(), im, "sign", r.Annotations[ingot.AnnotationSigner])
			}
			return a.show(signView{im.Digest, im.Name.String(), r, fresh}, func(w io.Writer) {
				how := "is signed by"
				if !fresh {
					how = "was signed already by"
				}
				fmt.Fprintf(w, "%s %s %s\n  UKI %s\n", im.Name, how, plain(r.Annotations[ingot.AnnotationSigner]), s.Blob(r.Content.Digest))
			})
		},
	}
	f.add(c)
	return c
}

// sign signs the UKI of an image that was just built.
func (a *app) sign(ctx context.Context, im image.Image, f secureBootFlags) error {
	s, err := image.Open(ctx, a.storeRoot())
	if err != nil {
		return err
	}
	r, fresh, err := builder.Sign(ctx, s, im, f.SecureBoot)
	if err != nil {
		return withHint(err, "the image is built; sign it with: ingot image sign %s --secure-boot-key KEY --secure-boot-cert CERT", im.Name)
	}
	if fresh {
		a.note(ctx, im, "sign", r.Annotations[ingot.AnnotationSigner])
	}
	return nil
}

func (a *app) imageSignatureCommand() *cobra.Command {
	return &cobra.Command{
		Use: "signature IMAGE", Short: "print the release key's signature of an image, as minisign reads it",
		Long: `Print the minisign signature of an image's manifest. The manifest, in the bytes that
are signed, is what ingot image manifest prints; it holds the digests of all the rest.
` + imageRef,
		Example: "  ingot image manifest lab:v1 > lab.json\n  ingot image signature lab:v1 > lab.json.minisig\n  minisign -Vm lab.json -p STORE/keys/release.pub",
		Args:    exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, im, err := a.withImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if im.Signature == "" {
				return withHint(fmt.Errorf("%s is not signed", im.Name), "build it again, or pull it from where it is signed")
			}
			return a.show(map[string]string{"image": string(im.Digest), "signature": im.Signature}, func(w io.Writer) { fmt.Fprint(w, im.Signature) })
		},
	}
}

func (a *app) imageManifestCommand() *cobra.Command {
	return &cobra.Command{
		Use: "manifest IMAGE", Short: "print an image's OCI manifest, in the bytes that are signed",
		Long: `Print the OCI manifest of an image, byte by byte as it is signed and as its digest is
computed. See also: ingot image signature IMAGE
` + imageRef,
		Example: "  ingot image manifest lab:v1 | sha256sum", Args: exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, im, err := a.withImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(im.OCI)
			return err
		},
	}
}

func (a *app) imageSBOMCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sbom IMAGE", Short: "print what an image is made of, as CycloneDX JSON",
		Long: `Print the software bill of materials of an image: every package with its version,
digest, licences and files, as a CycloneDX document in JSON. -o json changes nothing.
` + imageRef,
		Example: "  ingot image sbom node:1 > node.cdx.json\n  ingot image sbom node:1 | jq -r '.components[] | [.name, .version] | @tsv'",
		Args:    exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, im, err := a.withImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			list, err := s.Referrers(cmd.Context(), im.Digest, ingot.ArtifactSBOM)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return withHint(fmt.Errorf("%s has no SBOM", im.Name), "build it again, or pull it together with what refers to it")
			}
			b, err := s.ReadReferrer(list[len(list)-1])
			if err != nil {
				return err
			}
			_, err = a.stdout.Write(b)
			return err
		},
	}
}

// seals are the rows of an image's details that say what vouches for it.
func (a *app) seals(ctx context.Context, s *image.Store, im image.Image) (rows [][2]string, err error) {
	m := im.Manifest
	if m.Verity != nil {
		rows = append(rows, [2]string{"verity root hash", m.Verity.RootHash})
	}
	if m.UKI != nil {
		rows = append(rows, [2]string{"UKI", fmt.Sprintf("%s %s", m.UKI.Digest, size(m.UKI.Size))})
	}
	for _, bank := range []string{"sha256", "sha384"} {
		if v := m.PCR11[bank]; v != "" {
			rows = append(rows, [2]string{"PCR 11 " + bank, v})
		}
	}
	list, err := s.Referrers(ctx, im.Digest, "")
	if err != nil {
		return nil, err
	}
	signed := false
	for _, r := range list {
		switch r.Type {
		case ingot.ArtifactSBOM:
			rows = append(rows, [2]string{"SBOM", fmt.Sprintf("%s %s", r.Content.Digest, size(r.Content.Size))})
		case ingot.ArtifactSignedUKI:
			signed = true
			rows = append(rows, [2]string{"Secure Boot", fmt.Sprintf("signed by %s (certificate %s): UKI %s", r.Annotations[ingot.AnnotationSigner],
				ingot.Digest(r.Annotations[ingot.AnnotationCertificate]).Short(), r.Content.Digest)})
		}
	}
	if !signed && m.UKI != nil {
		rows = append(rows, [2]string{"Secure Boot", "signed by nobody: firmware that enforces it refuses the UKI"})
	}
	return rows, nil
}

// explainForeign explains a signed UKI that is not the image's.
func explainForeign(err error) error {
	if errors.Is(err, builder.ErrForeignUKI) {
		return withHint(err, "whoever made it changed more than a signature: remove the image, and pull or build it again")
	}
	return err
}
