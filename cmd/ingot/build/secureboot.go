package build

import (
	"context"

	"ingot"
	"ingot/builder/secureboot"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// sign signs the UKI of an image that was just built.
func (a *Commands) sign(ctx context.Context, im image.Image, f command.SecureBoot) error {
	s, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return err
	}
	r, fresh, err := secureboot.Sign(ctx, s, im, secureboot.KeyPair(f))
	if err != nil {
		return show.WithHint(err,
			"the image is built; sign it with: ingot image sign %s --secure-boot-key KEY --secure-boot-cert CERT", im.Name)
	}
	if fresh {
		a.note(ctx, im, "sign", r.Annotations[ingot.AnnotationSigner])
	}
	return nil
}
