package command

import (
	"context"

	"ingot/image"
)

// ImageHelp is in the help of every command that takes an image.
const ImageHelp = `
IMAGE is PROFILE:VERSION, a tag, PROFILE (its newest version), a digest or a unique prefix of
one.`

// Image opens the store of this host and looks an image up.
func (a *App) Image(ctx context.Context, ref string) (*image.Store, image.Image, error) {
	if err := a.Here("this command"); err != nil {
		return nil, image.Image{}, err
	}
	s, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return nil, image.Image{}, err
	}
	im, err := s.Get(ctx, ref)
	return s, im, err
}
