package operator

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
)

// Editor changes a store: its images, tags and keys. What a machine needs stays, and each change is
// recorded in the audit log. It implements api.Images, for a server; a command that found the state
// unlocked does the same with it: then there is no server that could need an image meanwhile.
type Editor struct {
	Store *image.Store
	State state.Store     // nil: no server ever ran here, so no machine needs an image, and there is no log
	First func() []string // images that the configuration gives to new machines; nil: none
	Now   func() time.Time
	Log   *slog.Logger // nil is quiet
}

func (e Editor) logger() *slog.Logger {
	if e.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return e.Log
}

// first are the images that the configuration names, and why they must stay.
func (e Editor) first(images []image.Image) map[ingot.Digest]string {
	used := map[ingot.Digest]string{}
	if e.First == nil {
		return used
	}
	for _, name := range e.First() {
		if im, err := image.Find(images, name); err == nil {
			used[im.Digest] = "the configuration gives " + name + " to new machines"
		}
	}
	return used
}

// guard is the image.Guard of a change: whatever makes a machine need an image
// is a change of the state, and waits until the image has left the index, or
// stays. The audit log has a line of each that left.
func (e Editor) guard(ctx context.Context, action string) image.Guard {
	return func(take func(map[ingot.Digest]string) ([]image.Image, error)) error {
		images, err := e.Store.List(ctx)
		if err != nil {
			return err
		}
		used := e.first(images)
		if e.State == nil {
			_, err := take(used)
			return err
		}
		return e.State.Update(func(tx state.Tx) error {
			for d, why := range fleet.InUse(tx.Machines(), tx.LatestBoots()) {
				used[d] = why
			}
			gone, err := take(used)
			for _, im := range gone {
				tx.Audit(e.line(ctx, action, im, audited(im), nil))
			}
			return err
		})
	}
}

// line is a line of the audit log about an image.
func (e Editor) line(ctx context.Context, action string, im image.Image, before, after any) access.Change {
	return access.NewChange(ctx, e.Now(), action, string(im.Digest), im.Name.String(), before, after)
}

// note writes a line of the audit log.
func (e Editor) note(c access.Change) error {
	if e.State == nil {
		return nil
	}
	return e.State.Update(func(tx state.Tx) error {
		tx.Audit(c)
		return nil
	})
}

// audited is what the audit log has of an image.
func audited(im image.Image) any {
	return struct {
		Image string   `json:"image"`
		Tags  []string `json:"tags,omitempty"`
	}{im.Name.String(), im.Tags}
}

func imageOf(im image.Image) api.Image {
	m := im.Manifest
	needed := map[string]int64{"kernel": m.Kernel.Size, "initramfs": m.Initramfs.Size, "root": m.Root.Size}
	if m.UKI != nil {
		needed[catalog.UKI] = m.UKI.Size
	}
	return api.Image{Digest: im.Digest, Name: im.Name.String(), Tags: im.Tags, Arch: m.Arch, Kernel: m.KernelRelease, Packages: m.Packages, Size: im.Size, Stored: im.Stored,
		Needed: needed}
}

// Images implements api.Images.
func (e Editor) Images(ctx context.Context) ([]api.Image, error) {
	images, err := e.Store.List(ctx)
	if err != nil {
		return nil, err
	}
	used := e.first(images)
	if e.State != nil {
		for d, why := range fleet.InUse(e.State.Machines(), e.State.Latest()) {
			used[d] = why
		}
	}
	list := []api.Image{}
	for _, im := range images {
		one := imageOf(im)
		one.InUse = used[im.Digest]
		list = append(list, one)
	}
	return list, nil
}

// Image implements api.Images.
func (e Editor) Image(ctx context.Context, ref string) (api.Image, error) {
	im, err := e.Store.Get(ctx, ref)
	return imageOf(im), storeProblem(err)
}

// RemoveImage implements api.Images.
func (e Editor) RemoveImage(ctx context.Context, ref string) (api.Image, error) {
	im, err := e.Store.RemoveUnder(ctx, ref, e.guard(ctx, "image.rm"))
	if err == nil {
		e.logger().Info("an image was removed", "by", access.From(ctx).String(), "image", im.Name)
	}
	return imageOf(im), storeProblem(err)
}

// CollectImages implements api.Images. The log tells of the images first, and
// then how much went altogether.
func (e Editor) CollectImages(ctx context.Context, q api.CollectRequest) (api.Collected, error) {
	done, err := e.Store.GC(ctx, image.GCOptions{Keep: q.Keep, DryRun: q.DryRun, Guard: e.guard(ctx, "image.gc")})
	answer := api.Collected{Images: []string{}, Blobs: done.Blobs, Bytes: done.Bytes, DryRun: q.DryRun}
	for _, im := range done.Images {
		answer.Images = append(answer.Images, im.Name.String())
	}
	if done.Blobs > 0 && !q.DryRun {
		err = errors.Join(err, e.note(access.NewChange(ctx, e.Now(), "image.gc", "", "", nil, struct {
			Keep  int   `json:"keep"`
			Blobs int   `json:"blobs"`
			Bytes int64 `json:"bytes"`
		}{q.Keep, done.Blobs, done.Bytes})))
	}
	if !q.DryRun && len(answer.Images)+answer.Blobs > 0 {
		e.logger().Info("images were collected", "by", access.From(ctx).String(), "images", answer.Images, "bytes", answer.Bytes)
	}
	return answer, storeProblem(err)
}

// TagImage implements api.Images.
func (e Editor) TagImage(ctx context.Context, ref, tag string) (api.Image, error) {
	if _, err := ingot.ParseImageName(tag); err != nil {
		return api.Image{}, api.Problem{Status: 400, Detail: err.Error(), Next: "write PROFILE:WORD, such as node:stable"}
	}
	var before any
	if had, err := e.Store.Get(ctx, tag); err == nil {
		before = tagged(had)
	}
	im, err := e.Store.Tag(ctx, ref, tag)
	if err != nil {
		return api.Image{}, storeProblem(err)
	}
	return imageOf(im), e.note(access.NewChange(ctx, e.Now(), "image.tag", string(im.Digest), tag, before, tagged(im)))
}

// UntagImage implements api.Images.
func (e Editor) UntagImage(ctx context.Context, tag string) (api.Image, error) {
	im, err := e.Store.Get(ctx, tag)
	if err == nil {
		err = e.Store.Untag(ctx, tag)
	}
	if err != nil {
		return api.Image{}, storeProblem(err)
	}
	return imageOf(im), e.note(access.NewChange(ctx, e.Now(), "image.untag", string(im.Digest), tag, tagged(im), nil))
}

// tagged is what the audit log has of the image of a tag.
func tagged(im image.Image) any {
	return struct {
		Image  string       `json:"image"`
		Digest ingot.Digest `json:"digest"`
	}{im.Name.String(), im.Digest}
}

// NoteImage implements api.Images.
func (e Editor) NoteImage(ctx context.Context, ref string, q api.NoteRequest) (api.Image, error) {
	im, err := e.Store.Get(ctx, ref)
	if err != nil {
		return api.Image{}, storeProblem(err)
	}
	after := struct {
		Image string `json:"image"`
		With  string `json:"with,omitempty"`
	}{im.Name.String(), q.With}
	return imageOf(im), e.note(e.line(ctx, "image."+q.Did, im, nil, after))
}

func (e Editor) keys() string { return filepath.Join(e.Store.Root(), "keys") }

// TrustKey implements api.Images.
func (e Editor) TrustKey(ctx context.Context, q api.KeyRequest) (api.Key, error) {
	key, err := image.ParsePublicKey([]byte(q.Key))
	if err != nil {
		return api.Key{}, api.Problem{Status: 400, Detail: err.Error(), Next: "name a minisign public key, such as keys/release.pub of another store"}
	}
	answer := api.Key{Name: q.Name, ID: key.ID()}
	known := e.key(q.Name)
	if err := image.Trust(e.keys(), q.Name, key); err != nil || known.ID == answer.ID {
		return answer, storeProblem(err)
	}
	e.logger().Info("a release key is trusted", "by", access.From(ctx).String(), "key", answer.ID, "name", answer.Name)
	return answer, e.note(access.NewChange(ctx, e.Now(), "key.trust", answer.ID, q.Name, nil, answer))
}

// DistrustKey implements api.Images.
func (e Editor) DistrustKey(ctx context.Context, name string) (api.Key, error) {
	known := e.key(name)
	if err := image.Distrust(e.keys(), name); err != nil {
		return api.Key{}, storeProblem(err)
	}
	answer := api.Key{Name: name, ID: known.ID}
	e.logger().Info("a release key is not trusted any more", "by", access.From(ctx).String(), "key", answer.ID, "name", answer.Name)
	return answer, e.note(access.NewChange(ctx, e.Now(), "key.distrust", answer.ID, name, answer, nil))
}

// key is a trusted key by its name, if there is one.
func (e Editor) key(name string) (k image.NamedKey) {
	keys, _ := image.TrustedKeys(e.keys()) // Trust and Distrust read them as well, and say what is wrong
	for _, k = range keys {
		if k.Name == name {
			return k
		}
	}
	return image.NamedKey{}
}

// storeProblem returns err as the api.Problem that operators get for an error of the store, or err itself
// when it is none.
func storeProblem(err error) error {
	for _, p := range []struct {
		is     error
		status int
		next   string
	}{
		{image.ErrInUse, 409, "give it another image first: ingot assign MACHINE IMAGE"},
		{image.ErrBusy, 409, "run the same command again when the pull or import is done"},
		{image.ErrExists, 409, "choose another word for the tag"},
		{image.ErrAmbiguous, 409, "give more digits: ingot image ls"},
		{image.ErrNotFound, 404, "ingot image ls"},
		{image.ErrSignature, 400, "ingot image ls"},
		{image.ErrKeyName, 409, "ingot key ls; or choose another name: --name NAME"},
	} {
		if errors.Is(err, p.is) {
			return api.Problem{Status: p.status, Detail: err.Error(), Next: p.next}
		}
	}
	return err
}
