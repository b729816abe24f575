package bootserver

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
)

// Storeroom changes a store: its images, tags and keys. What a machine needs
// stays, and each change is a line of the audit log. It is api.Images, for a
// server; a program that found the state free (bolt.Open) does the same with
// it: then there is no server that could need an image meanwhile.
type Storeroom struct {
	Store *image.Store
	State state.Store // nil: no server was ever here, so no machine needs anything, and there is no log
	First []string    // images that the configuration gives to new machines
	Now   func() time.Time
}

// FirstImages are the images that a configuration gives to new machines.
func FirstImages(c config.Boots) []string {
	list := []string{c.Image}
	for _, r := range c.Rules {
		list = append(list, r.Image)
	}
	return slices.DeleteFunc(list, func(name string) bool { return name == "" })
}

// first are the images that the configuration names, and why they must stay.
func (s Storeroom) first(images []image.Image) map[ingot.Digest]string {
	used := map[ingot.Digest]string{}
	for _, name := range s.First {
		if im, err := image.Find(images, name); err == nil {
			used[im.Digest] = "the configuration gives " + name + " to new machines"
		}
	}
	return used
}

// guard is the image.Guard of a change: whatever makes a machine need an image
// is a change of the state, and waits until the image has left the index, or
// stays. The audit log has a line of each that left.
func (s Storeroom) guard(ctx context.Context, action string) image.Guard {
	return func(take func(map[ingot.Digest]string) ([]image.Image, error)) error {
		images, err := s.Store.List(ctx)
		if err != nil {
			return err
		}
		used := s.first(images)
		if s.State == nil {
			_, err := take(used)
			return err
		}
		return s.State.Update(func(tx state.Tx) error {
			for d, why := range fleet.InUse(tx.Machines(), tx.LatestBoots()) {
				used[d] = why
			}
			gone, err := take(used)
			for _, im := range gone {
				tx.Audit(s.line(ctx, action, im, toldOf(im), nil))
			}
			return err
		})
	}
}

// line is a line of the audit log about an image.
func (s Storeroom) line(ctx context.Context, action string, im image.Image, before, after any) access.Change {
	from, to := access.Differ(before, after)
	return access.Change{At: s.Now(), Who: access.From(ctx), Action: action, On: string(im.Digest), Name: im.Name.String(), From: from, To: to}
}

// note writes a line of the audit log.
func (s Storeroom) note(c access.Change) error {
	if s.State == nil {
		return nil
	}
	return s.State.Update(func(tx state.Tx) error {
		tx.Audit(c)
		return nil
	})
}

// toldOf is what the audit log tells of an image.
func toldOf(im image.Image) any {
	return struct {
		Image string   `json:"image"`
		Tags  []string `json:"tags,omitempty"`
	}{im.Name.String(), im.Tags}
}

func imageOf(im image.Image) api.Image {
	m := im.Manifest
	needed := map[string]int64{"kernel": m.Kernel.Size, "initramfs": m.Initramfs.Size, "root": m.Root.Size}
	if m.UKI != nil {
		needed[partUKI] = m.UKI.Size
	}
	return api.Image{Digest: im.Digest, Name: im.Name.String(), Tags: im.Tags, Arch: m.Arch, Kernel: m.KernelRelease, Packages: m.Packages, Size: im.Size, Stored: im.Stored,
		Needed: needed}
}

// Images implements api.Images.
func (s Storeroom) Images(ctx context.Context) ([]api.Image, error) {
	images, err := s.Store.List(ctx)
	if err != nil {
		return nil, err
	}
	used := s.first(images)
	if s.State != nil {
		for d, why := range fleet.InUse(s.State.Machines(), s.State.Latest()) {
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
func (s Storeroom) Image(ctx context.Context, ref string) (api.Image, error) {
	im, err := s.Store.Get(ctx, ref)
	return imageOf(im), storeProblem(err)
}

// RemoveImage implements api.Images.
func (s Storeroom) RemoveImage(ctx context.Context, ref string) (api.Image, error) {
	im, err := s.Store.RemoveUnder(ctx, ref, s.guard(ctx, "image.rm"))
	return imageOf(im), storeProblem(err)
}

// CollectImages implements api.Images. The log tells of the images first, and
// then how much went altogether.
func (s Storeroom) CollectImages(ctx context.Context, q api.CollectRequest) (api.Collected, error) {
	done, err := s.Store.GC(ctx, image.GCOptions{Keep: q.Keep, DryRun: q.DryRun, Guard: s.guard(ctx, "image.gc")})
	told := api.Collected{Images: []string{}, Blobs: done.Blobs, Bytes: done.Bytes, DryRun: q.DryRun}
	for _, im := range done.Images {
		told.Images = append(told.Images, im.Name.String())
	}
	if done.Blobs > 0 && !q.DryRun {
		_, to := access.Differ(nil, struct {
			Keep  int   `json:"keep"`
			Blobs int   `json:"blobs"`
			Bytes int64 `json:"bytes"`
		}{q.Keep, done.Blobs, done.Bytes})
		err = errors.Join(err, s.note(access.Change{At: s.Now(), Who: access.From(ctx), Action: "image.gc", To: to}))
	}
	return told, storeProblem(err)
}

// TagImage implements api.Images.
func (s Storeroom) TagImage(ctx context.Context, ref, tag string) (api.Image, error) {
	if _, err := ingot.ParseImageName(tag); err != nil {
		return api.Image{}, api.Problem{Status: 400, Detail: err.Error(), Next: "write PROFILE:WORD, such as node:stable"}
	}
	var before any
	if had, err := s.Store.Get(ctx, tag); err == nil {
		before = tagged(had)
	}
	im, err := s.Store.Tag(ctx, ref, tag)
	if err != nil {
		return api.Image{}, storeProblem(err)
	}
	from, to := access.Differ(before, tagged(im))
	return imageOf(im), s.note(access.Change{At: s.Now(), Who: access.From(ctx), Action: "image.tag", On: string(im.Digest), Name: tag, From: from, To: to})
}

// UntagImage implements api.Images.
func (s Storeroom) UntagImage(ctx context.Context, tag string) (api.Image, error) {
	im, err := s.Store.Get(ctx, tag)
	if err == nil {
		err = s.Store.Untag(ctx, tag)
	}
	if err != nil {
		return api.Image{}, storeProblem(err)
	}
	from, _ := access.Differ(tagged(im), nil)
	return imageOf(im), s.note(access.Change{At: s.Now(), Who: access.From(ctx), Action: "image.untag", On: string(im.Digest), Name: tag, From: from})
}

// tagged is what the audit log tells of what a tag stands for.
func tagged(im image.Image) any {
	return struct {
		Image  string       `json:"image"`
		Digest ingot.Digest `json:"digest"`
	}{im.Name.String(), im.Digest}
}

// NoteImage implements api.Images.
func (s Storeroom) NoteImage(ctx context.Context, ref string, q api.NoteRequest) (api.Image, error) {
	im, err := s.Store.Get(ctx, ref)
	if err != nil {
		return api.Image{}, storeProblem(err)
	}
	after := struct {
		Image string `json:"image"`
		With  string `json:"with,omitempty"`
	}{im.Name.String(), q.With}
	return imageOf(im), s.note(s.line(ctx, "image."+q.Did, im, nil, after))
}

func (s Storeroom) keys() string { return filepath.Join(s.Store.Root(), "keys") }

// TrustKey implements api.Images.
func (s Storeroom) TrustKey(ctx context.Context, q api.KeyRequest) (api.Key, error) {
	key, err := image.ParsePublicKey([]byte(q.Key))
	if err != nil {
		return api.Key{}, api.Problem{Status: 400, Detail: err.Error(), Next: "name a minisign public key, such as keys/release.pub of another store"}
	}
	told := api.Key{Name: q.Name, ID: key.ID()}
	known := s.key(q.Name)
	if err := image.Trust(s.keys(), q.Name, key); err != nil || known.ID == told.ID {
		return told, storeProblem(err)
	}
	_, to := access.Differ(nil, told)
	return told, s.note(access.Change{At: s.Now(), Who: access.From(ctx), Action: "key.trust", On: told.ID, Name: q.Name, To: to})
}

// DistrustKey implements api.Images.
func (s Storeroom) DistrustKey(ctx context.Context, name string) (api.Key, error) {
	known := s.key(name)
	if err := image.Distrust(s.keys(), name); err != nil {
		return api.Key{}, storeProblem(err)
	}
	told := api.Key{Name: name, ID: known.ID}
	from, _ := access.Differ(told, nil)
	return told, s.note(access.Change{At: s.Now(), Who: access.From(ctx), Action: "key.distrust", On: told.ID, Name: name, From: from})
}

// key is a trusted key by its name, if there is one.
func (s Storeroom) key(name string) (k image.NamedKey) {
	keys, _ := image.TrustedKeys(s.keys()) // Trust and Distrust read them as well, and say what is wrong
	for _, k = range keys {
		if k.Name == name {
			return k
		}
	}
	return image.NamedKey{}
}

// storeProblem says what to do about an error of the store.
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
		{image.ErrKeyName, 409, "ingot key ls; or choose another name: --name NAME"},
	} {
		if errors.Is(err, p.is) {
			return api.Problem{Status: p.status, Detail: err.Error(), Next: p.next}
		}
	}
	return err
}
