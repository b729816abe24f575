package images

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/builder/secureboot"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// signView is the JSON form of a signed UKI.
type signView struct {
	Image ingot.Digest   `json:"image"`
	Name  string         `json:"name"`
	UKI   image.Referrer `json:"signed"`
	Fresh bool           `json:"fresh"` // false: it was already signed
}

func (a *Commands) imageSignCommand() *cobra.Command {
	var f command.SecureBoot
	c := &cobra.Command{
		Use: "sign IMAGE --secure-boot-key KEY --secure-boot-cert CERT", Short: "sign an image's UKI for Secure Boot",
		Long: `Sign the unified kernel image (UKI) of an image with sbsign. The signed UKI is stored beside
the image, whose digest does not change. An image can have signatures of several certificates.
` + command.ImageHelp,
		Example: "  ingot image sign node:1 --secure-boot-key db.key --secure-boot-cert db.crt",
		Args:    command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !f.Given() {
				return show.Usagef("--secure-boot-key KEY and --secure-boot-cert CERT are needed")
			}
			s, im, err := a.Image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r, fresh, err := secureboot.Sign(cmd.Context(), s, im, secureboot.KeyPair(f))
			if err != nil {
				return err
			}
			if fresh {
				a.Note(cmd.Context(), im, "sign", r.Annotations[ingot.AnnotationSigner])
			}
			return a.Show(signView{im.Digest, im.Name.String(), r, fresh}, func(w io.Writer) {
				how := "is signed by"
				if !fresh {
					how = "was already signed by"
				}
				fmt.Fprintf(w, "%s %s %s\n  UKI %s\n", im.Name, how, show.Plain(r.Annotations[ingot.AnnotationSigner]),
					s.Blob(r.Content.Digest))
			})
		},
	}
	f.Add(c)
	return c
}

func (a *Commands) imageSignatureCommand() *cobra.Command {
	return &cobra.Command{
		Use: "signature IMAGE", Short: "print the release key's signature of an image, for minisign",
		Long: `Print the minisign signature of an image's manifest. The signed manifest is printed by ingot
image manifest; it contains the digests of everything else.
` + command.ImageHelp,
		Example: `  ingot image manifest lab:v1 > lab.json
  ingot image signature lab:v1 > lab.json.minisig
  minisign -Vm lab.json -p STORE/keys/release.pub`,
		Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, im, err := a.Image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if im.Signature == "" {
				return show.WithHint(fmt.Errorf("%s is not signed", im.Name), "build it again, or pull a signed copy")
			}
			return a.Show(map[string]string{"image": string(im.Digest), "signature": im.Signature},
				func(w io.Writer) { fmt.Fprint(w, im.Signature) })
		},
	}
}

func (a *Commands) imageManifestCommand() *cobra.Command {
	return &cobra.Command{
		Use: "manifest IMAGE", Short: "print the signed OCI manifest of an image",
		Long: `Print the OCI manifest of an image. Its digest and its signature are of exactly these bytes.
See also: ingot image signature IMAGE
` + command.ImageHelp,
		Example: "  ingot image manifest lab:v1 | sha256sum", Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, im, err := a.Image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(im.OCI)
			return err
		},
	}
}

func (a *Commands) imageSBOMCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sbom IMAGE", Short: "print the software bill of materials of an image (CycloneDX)",
		Long: `Print the software bill of materials of an image: every package with its version, digest,
licences and files, as a CycloneDX document in JSON, with or without -o json.
` + command.ImageHelp,
		Example: `  ingot image sbom node:1 > node.cdx.json
  ingot image sbom node:1 | jq -r '.components[] | [.name, .version] | @tsv'`,
		Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, im, err := a.Image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			list, err := s.Referrers(cmd.Context(), im.Digest, ingot.ArtifactSBOM)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return show.WithHint(fmt.Errorf("%s has no SBOM", im.Name), "build it again, or pull it with its referrers")
			}
			b, err := s.ReadReferrer(list[len(list)-1])
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(b)
			return err
		},
	}
}

// seals are the rows of an image's details about hashes and signatures.
func (a *Commands) seals(ctx context.Context, s *image.Store, im image.Image) (rows [][2]string, err error) {
	m := im.Manifest
	if m.Verity != nil {
		rows = append(rows, [2]string{"verity root hash", m.Verity.RootHash})
	}
	if m.UKI != nil {
		rows = append(rows, [2]string{"UKI", fmt.Sprintf("%s %s", m.UKI.Digest, show.Size(m.UKI.Size))})
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
			rows = append(rows, [2]string{"SBOM", fmt.Sprintf("%s %s", r.Content.Digest, show.Size(r.Content.Size))})
		case ingot.ArtifactSignedUKI:
			signed = true
			rows = append(rows, [2]string{"Secure Boot", fmt.Sprintf("signed by %s (certificate %s): UKI %s",
				r.Annotations[ingot.AnnotationSigner],
				ingot.Digest(r.Annotations[ingot.AnnotationCertificate]).Short(), r.Content.Digest)})
		}
	}
	if !signed && m.UKI != nil {
		rows = append(rows, [2]string{"Secure Boot", "not signed: firmware that enforces Secure Boot refuses the UKI"})
	}
	return rows, nil
}

// explainForeign adds the next step for a signed UKI that is not the image's.
func explainForeign(err error) error {
	if errors.Is(err, secureboot.ErrForeignUKI) {
		return show.WithHint(err, "more than the signature differs: remove the image, and pull or build it again")
	}
	return err
}
