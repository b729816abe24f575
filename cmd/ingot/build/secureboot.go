package build

import (
	"context"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/builder/secureboot"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// SecureBootFlags name the key and certificate that a UKI is signed with.
type SecureBootFlags struct{ secureboot.KeyPair }

// Add adds the flags to a command.
func (f *SecureBootFlags) Add(c *cobra.Command) {
	c.Flags().StringVar(&f.Key, "secure-boot-key", "", "private key (PEM) that signs the UKI for Secure Boot")
	c.Flags().StringVar(&f.Certificate, "secure-boot-cert", "", "certificate (PEM) of that key, as the machines' firmware knows it")
	c.MarkFlagsRequiredTogether("secure-boot-key", "secure-boot-cert")
}

// Given reports whether there is something to sign with.
func (f *SecureBootFlags) Given() bool { return f.Key != "" }

// sign signs the UKI of an image that was just built.
func (a *Commands) sign(ctx context.Context, im image.Image, f SecureBootFlags) error {
	s, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return err
	}
	r, fresh, err := secureboot.Sign(ctx, s, im, f.KeyPair)
	if err != nil {
		return show.WithHint(err, "the image is built; sign it with: ingot image sign %s --secure-boot-key KEY --secure-boot-cert CERT", im.Name)
	}
	if fresh {
		a.note(ctx, im, "sign", r.Annotations[ingot.AnnotationSigner])
	}
	return nil
}
