package bootserver

import (
	"context"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
)

// What operators do with the store's images and keys. The policy is read each
// time: it may name other images meanwhile.

func (a admin) storeroom() Storeroom {
	return Storeroom{Store: a.images, State: a.state, First: FirstImages(*a.policy.Load()), Now: a.now}
}

// Images implements api.Images.
func (a admin) Images(ctx context.Context) ([]api.Image, error) { return a.storeroom().Images(ctx) }

// Image implements api.Images.
func (a admin) Image(ctx context.Context, ref string) (api.Image, error) {
	return a.storeroom().Image(ctx, ref)
}

// RemoveImage implements api.Images.
func (a admin) RemoveImage(ctx context.Context, ref string) (api.Image, error) {
	im, err := a.storeroom().RemoveImage(ctx, ref)
	if err == nil {
		a.log.Info("an image was removed", "by", access.From(ctx).String(), "image", im.Name)
	}
	return im, err
}

// CollectImages implements api.Images.
func (a admin) CollectImages(ctx context.Context, q api.CollectRequest) (api.Collected, error) {
	done, err := a.storeroom().CollectImages(ctx, q)
	if !q.DryRun && len(done.Images)+done.Blobs > 0 {
		a.log.Info("images were collected", "by", access.From(ctx).String(), "images", done.Images, "bytes", done.Bytes)
	}
	return done, err
}

// TagImage implements api.Images.
func (a admin) TagImage(ctx context.Context, ref, tag string) (api.Image, error) {
	return a.storeroom().TagImage(ctx, ref, tag)
}

// UntagImage implements api.Images.
func (a admin) UntagImage(ctx context.Context, tag string) (api.Image, error) {
	return a.storeroom().UntagImage(ctx, tag)
}

// NoteImage implements api.Images.
func (a admin) NoteImage(ctx context.Context, ref string, q api.NoteRequest) (api.Image, error) {
	return a.storeroom().NoteImage(ctx, ref, q)
}

// TrustKey implements api.Images.
func (a admin) TrustKey(ctx context.Context, q api.KeyRequest) (api.Key, error) {
	k, err := a.storeroom().TrustKey(ctx, q)
	if err == nil {
		a.log.Info("a release key is trusted", "by", access.From(ctx).String(), "key", k.ID, "name", k.Name)
	}
	return k, err
}

// DistrustKey implements api.Images.
func (a admin) DistrustKey(ctx context.Context, name string) (api.Key, error) {
	k, err := a.storeroom().DistrustKey(ctx, name)
	if err == nil {
		a.log.Info("a release key is not trusted any more", "by", access.From(ctx).String(), "key", k.ID, "name", k.Name)
	}
	return k, err
}
