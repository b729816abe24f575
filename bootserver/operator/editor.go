package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state"
	"ingot/image"
)

// Editor changes a store: its images, tags and keys. What a machine needs stays, and each change is
// recorded in the audit log. It implements api.Images, for a server; a command that found the state
// unlocked does the same with it: then there is no server that could need an image meanwhile.
type Editor struct {
	Store *image.Store
	// Catalog is the one that serves images of Store: it knows which files were read. nil: none does.
	Catalog *catalog.Catalog
	State   state.Store     // nil: no server ever ran here, so no machine needs an image, and there is no log
	First   func() []string // images that the configuration gives to new machines; nil: none
	Now     func() time.Time
	Log     *slog.Logger // nil is quiet
	// Measurer reads roots of images of which no SBOM says what their packages take; nil: that is not known.
	Measurer *Measurer
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

// guard is the image.Guard of a change. An image leaves the store in three steps, none of which holds
// the state's lock while the store works: its removal is recorded as pending, unless a machine needs
// the image, and until then no machine can be assigned it; it leaves the store; and the record gives
// way to the Change in the audit log. An image that was looked up before that cannot be assigned
// after it (state.Tx.LookedUp). FinishRemovals looks after what a crash leaves in between.
func (e Editor) guard(ctx context.Context, code fleet.Code) image.Guard {
	return func(candidates []image.Image) (stay map[ingot.Digest]string, done func([]image.Image) error, err error) {
		images, err := e.Store.List(ctx)
		if err != nil {
			return nil, nil, err
		}
		stay = e.first(images)
		if e.State == nil {
			return stay, func([]image.Image) error { return nil }, nil
		}
		var pending []image.Image
		for part := range slices.Chunk(candidates, removalsAtOnce) {
			cleared, err := e.begin(ctx, part, stay)
			pending = append(pending, cleared...)
			if err != nil {
				return nil, nil, errors.Join(err, e.finish(ctx, code, pending, nil))
			}
		}
		return stay, func(left []image.Image) error { return e.finish(ctx, code, pending, left) }, nil
	}
}

// removalsAtOnce bounds the images of one transaction.
const removalsAtOnce = 25

// begin records the removals of those images as pending that may go, and adds the reasons of the
// others to stay.
func (e Editor) begin(ctx context.Context, images []image.Image, stay map[ingot.Digest]string) (pending []image.Image,
	err error) {
	now, by := e.Now(), actorOf(access.From(ctx))
	used := map[ingot.Digest]string{}
	err = e.State.Update(func(tx state.Tx) error {
		clear(used)
		pending = nil
		for _, im := range images {
			if stay[im.Digest] != "" {
				continue
			}
			if why, is := tx.ImageUse(im.Digest); is {
				used[im.Digest] = why
				continue
			}
			tx.PutRemoval(state.Removal{Image: im.Digest, Since: now, By: by})
			pending = append(pending, im)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	maps.Copy(stay, used)
	return pending, nil
}

// finish takes back the pending removals, and records those that were carried out.
func (e Editor) finish(ctx context.Context, code fleet.Code, pending, left []image.Image) error {
	gone := map[ingot.Digest]bool{}
	for _, im := range left {
		gone[im.Digest] = true
	}
	now := e.Now()
	for part := range slices.Chunk(pending, removalsAtOnce) {
		var changes []fleet.Change
		for _, im := range part {
			if gone[im.Digest] {
				changes = append(changes, onImage(im, Action(ctx, now, code, auditedImage(im), nil)))
			}
		}
		if err := e.State.Update(func(tx state.Tx) error {
			for _, im := range part {
				tx.DropRemoval(im.Digest)
			}
			tx.Record(changes...)
			return nil
		}); err != nil {
			return err
		}
		logActions(e.logger(), changes...)
	}
	return nil
}

// FinishRemovals completes or takes back the removals that a crash left pending. It is called before
// anything else changes the store or the state.
func (e Editor) FinishRemovals(ctx context.Context) error {
	for _, r := range e.State.Removals() {
		im, err := e.Store.Get(ctx, string(r.Image))
		left := errors.Is(err, image.ErrNotFound)
		if err != nil && !left && !errors.Is(err, image.ErrDamaged) {
			return fmt.Errorf("completing the removal of image %s: %w", r.Image.Short(), err)
		}
		var changes []fleet.Change
		if left {
			changes = []fleet.Change{{At: e.Now(), Code: fleet.ActionImageRemove, Actor: r.By,
				Image: fleet.ImageRef{Image: r.Image}}}
		}
		if err := e.State.Update(func(tx state.Tx) error {
			tx.DropRemoval(r.Image)
			tx.Record(changes...)
			return nil
		}); err != nil {
			return err
		}
		e.logger().Warn("a removal of an image was interrupted", "image", im.Name.String(), "digest", string(r.Image),
			"removed", len(changes) > 0)
	}
	return nil
}

// record adds an action to the audit log.
func (e Editor) record(c fleet.Change) error {
	if e.State != nil {
		if err := e.State.Append(c); err != nil {
			return err
		}
	}
	logActions(e.logger(), c)
	return nil
}

// onImage returns an action on an image.
func onImage(im image.Image, c fleet.Change) fleet.Change {
	c.Image, c.Name = fleet.ImageRef{Image: im.Digest, Name: im.Name.String()}, im.Name.String()
	return c
}

// auditedImage is what the audit log has of an image.
func auditedImage(im image.Image) any {
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
	return api.Image{Digest: im.Digest, Name: im.Name.String(), Tags: im.Tags, Arch: m.Arch, Kernel: m.KernelRelease,
		Packages: m.Packages, Size: im.Size, Stored: im.Stored,
		Needed: needed}
}

// Images implements api.Images. It lists damaged images, too.
func (e Editor) Images(ctx context.Context) ([]api.Image, error) {
	known := e.Catalog
	if known == nil {
		known = catalog.New(e.Store)
	}
	images, err := known.List(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]image.Image, len(images))
	for i, im := range images {
		all[i] = im.Image
	}
	used := e.inUse(all)
	list := []api.Image{}
	for _, im := range images {
		one := imageOf(im.Image)
		one.State, one.InUse = im.State, used[im.Digest]
		if im.Err != nil {
			one.Problem = im.Err.Error()
		}
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
	im, err := e.Store.RemoveUnder(ctx, ref, e.guard(ctx, fleet.ActionImageRemove))
	if errors.Is(err, image.ErrInUse) {
		return imageOf(im), e.inUseProblem(im.Digest, err)
	}
	return imageOf(im), storeProblem(err)
}

// inUseProblem returns the problem of an image that must stay, with what needs it first and how many other
// machines do. Without a machine, the configuration names it.
func (e Editor) inUseProblem(d ingot.Digest, err error) error {
	var first fleet.Use
	machine, more := "", 0
	if e.State != nil {
		latest := map[ingot.BootID]ingot.Digest{}
		for _, b := range e.State.Latest() {
			latest[b.ID] = b.Image.Image
		}
		for _, m := range e.State.Machines() {
			var use fleet.Use
			fleet.Uses(&m, latest[m.Boot], func(im ingot.Digest, why fleet.Use) {
				if im == d && use == "" {
					use = why
				}
			})
			switch {
			case use != "" && machine == "":
				machine, first = m.Hostname(), use
			case use != "":
				more++
			}
		}
	}
	switch {
	case machine == "":
		return storeProblem(err)
	case more > 0:
		err = fmt.Errorf("%w; %d other machines need it as well", err, more)
	}
	return api.NewProblem(api.CodeImageInUse, err.Error(), "machine", machine, "use", string(first))
}

// CollectImages implements api.Images. The audit log has the images first, and then how much went
// altogether.
func (e Editor) CollectImages(ctx context.Context, q api.CollectRequest) (api.Collected, error) {
	options := image.GCOptions{Keep: q.Keep, DryRun: q.DryRun, Guard: e.guard(ctx, fleet.ActionImageCollect)}
	if q.DryRun {
		images, err := e.Store.List(ctx)
		if err != nil {
			return api.Collected{}, err
		}
		options.Guard, options.InUse = nil, e.inUse(images)
	}
	done, err := e.Store.GC(ctx, options)
	answer := api.Collected{Images: []string{}, Blobs: done.Blobs, Bytes: done.Bytes, DryRun: q.DryRun}
	for _, im := range done.Images {
		answer.Images = append(answer.Images, im.Name.String())
	}
	if done.Blobs > 0 && !q.DryRun {
		err = errors.Join(err, e.record(Action(ctx, e.Now(), fleet.ActionImageCollect, nil, struct {
			Keep  int   `json:"keep"`
			Blobs int   `json:"blobs"`
			Bytes int64 `json:"bytes"`
		}{q.Keep, done.Blobs, done.Bytes})))
	}
	return answer, storeProblem(err)
}

// inUse returns why images must stay, by digest.
func (e Editor) inUse(images []image.Image) map[ingot.Digest]string {
	used := e.first(images)
	if e.State != nil {
		for _, r := range e.State.Rollouts() {
			if !r.State.Ended() { // else it needs none, and its machines may be many
				rollout.Uses(r, e.State.Members(r.ID), func(image ingot.Digest, why string) { used[image] = why })
			}
		}
		maps.Copy(used, fleet.InUse(e.State.Machines(), e.State.Latest()))
	}
	return used
}

// TagImage implements api.Images.
func (e Editor) TagImage(ctx context.Context, ref, tag string) (api.Image, error) {
	if _, err := ingot.ParseImageName(tag); err != nil {
		return api.Image{}, api.NewProblem(api.CodeInvalidTag, err.Error())
	}
	var before any
	if had, err := e.Store.Get(ctx, tag); err == nil {
		before = tagged(had)
	}
	im, err := e.Store.Tag(ctx, ref, tag)
	if err != nil {
		return api.Image{}, storeProblem(err)
	}
	c := onImage(im, Action(ctx, e.Now(), fleet.ActionImageTag, before, tagged(im)))
	c.Name = tag
	return imageOf(im), e.record(c)
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
	c := onImage(im, Action(ctx, e.Now(), fleet.ActionImageUntag, tagged(im), nil))
	c.Name = tag
	return imageOf(im), e.record(c)
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
	return imageOf(im), e.record(onImage(im, Action(ctx, e.Now(), fleet.Code("image."+q.Did), nil, after)))
}

func (e Editor) keys() string { return filepath.Join(e.Store.Root(), "keys") }

// storeProblem returns err as the api.Problem that operators get for an error of the store, or err itself
// when it is none.
func storeProblem(err error) error {
	if loose := (*image.InexactError)(nil); errors.As(err, &loose) {
		return api.NewProblem(api.CodeImageInexact, err.Error(), "image", loose.Means.Name.String())
	}
	for _, p := range []struct {
		is   error
		code api.Code
	}{
		{image.ErrInUse, api.CodeImageInUse},
		{image.ErrBusy, api.CodeStoreBusy},
		{image.ErrExists, api.CodeTagTaken},
		{image.ErrAmbiguous, api.CodeImageAmbiguous},
		{image.ErrNotFound, api.CodeImageNotFound},
		{image.ErrSignature, api.CodeImageUntrusted},
		{image.ErrDamaged, api.CodeImageDamaged},
		{image.ErrReplacedKey, api.CodeImageCannotFollow},
		{image.ErrKeyName, api.CodeKeyName},
		{image.ErrNoSecretKey, api.CodeNoSecretKey},
	} {
		if errors.Is(err, p.is) {
			return api.NewProblem(p.code, err.Error())
		}
	}
	return err
}
