package bootserver

import (
	"context"
	"fmt"
	"path/filepath"

	"ingot/bootserver/config"
	"ingot/bootserver/fleet"
	"ingot/image"
)

// checkFirst says now what would be said at the first new machine.
func (b *booter) checkFirst(ctx context.Context, c config.Boots) error {
	if c.Image == "" {
		return nil
	}
	_, err := b.assignment(ctx, c.Image, "")
	return err
}

// assignment resolves an image for a machine: it must be complete and signed
// by a release key that the store trusts.
func (b *booter) assignment(ctx context.Context, ref, why string) (fleet.Assignment, error) {
	im, err := b.images.Get(ctx, ref)
	if err != nil {
		return fleet.Assignment{}, err
	}
	trusted, err := image.TrustedKeys(filepath.Join(b.images.Root(), "keys"))
	if err != nil {
		return fleet.Assignment{}, err
	}
	if err := im.VerifySignature(image.Public(trusted)...); err != nil {
		return fleet.Assignment{}, fmt.Errorf("image %s: %w; machines would refuse it", im.Name, err)
	}
	return fleet.Assignment{ImageRef: fleet.ImageRef{Image: im.Digest, Name: im.Name.String()}, Why: why, Since: b.now()}, nil
}
