package operator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/image"
)

// TrustKey implements api.Images.
func (e Editor) TrustKey(ctx context.Context, q api.KeyRequest) (api.Key, error) {
	key, err := image.ParsePublicKey([]byte(q.Key))
	if err != nil {
		return api.Key{}, api.NewProblem(api.CodeInvalidKey, err.Error())
	}
	answer := api.Key{Name: q.Name, ID: key.ID()}
	keys, _ := image.TrustedKeys(e.keys()) // Trust reads them as well, and says what is wrong
	known := slices.ContainsFunc(keys, func(k image.NamedKey) bool { return k.Name == q.Name && k.ID == answer.ID })
	if err := image.Trust(e.keys(), q.Name, key); err != nil || known {
		return answer, storeProblem(err)
	}
	return answer, e.record(onKey(answer, Action(ctx, e.Now(), fleet.ActionKeyTrust, nil, answer)))
}

// DistrustKey implements api.Images.
func (e Editor) DistrustKey(ctx context.Context, name string, force bool) (api.Key, error) {
	known, err := e.key(ctx, name)
	if err != nil {
		return api.Key{}, err
	}
	if need := neededBy(known); !force && known.State != api.KeyTrusted && need != "" {
		return api.Key{}, api.NewProblem(api.CodeKeyInUse, fmt.Sprintf("machines need images that hold key %s: %s", known.ID,
			need), "key", known.ID)
	}
	if err := image.Distrust(e.keys(), name); err != nil {
		return api.Key{}, storeProblem(err)
	}
	answer := api.Key{Name: name, ID: known.ID}
	return answer, e.record(onKey(answer, Action(ctx, e.Now(), fleet.ActionKeyDistrust, answer, nil)))
}

// onKey returns an action on a release key.
func onKey(k api.Key, c fleet.Change) fleet.Change {
	c.Subject, c.Name = k.ID, k.Name
	return c
}

// key is a key of the store by its name; the zero one if there is none.
func (e Editor) key(ctx context.Context, name string) (api.SigningKey, error) {
	keys, err := e.SigningKeys(ctx)
	if err != nil {
		return api.SigningKey{}, err
	}
	for _, k := range keys {
		if k.Name == name {
			return k, nil
		}
	}
	return api.SigningKey{}, nil // Distrust says so
}

// neededBy says which machines need images that hold a key; empty if none does.
func neededBy(k api.SigningKey) string {
	var list []string
	for _, im := range k.Images {
		for _, m := range im.Machines {
			if im.Holds {
				list = append(list, m.Name+" "+m.Why+" ("+im.Name+")")
			}
		}
	}
	if n := len(list) - 3; n > 0 {
		list = append(list[:3], fmt.Sprintf("and %d more", n))
	}
	return strings.Join(list, ", ")
}

// RotateKey implements api.Images. The private half of a replaced server key is kept only if an image
// needs it.
func (e Editor) RotateKey(ctx context.Context, q api.RotateRequest) (api.SigningKey, error) {
	keys, err := e.SigningKeys(ctx)
	if err != nil {
		return api.SigningKey{}, err
	}
	id := q.Old
	if q.Use == ingot.KeyServer {
		i := slices.IndexFunc(keys, func(k api.SigningKey) bool { return k.Use == q.Use && k.State == api.KeyInUse })
		keep := i >= 0 && slices.ContainsFunc(keys[i].Images, func(im api.KeyImage) bool { return !im.Follows })
		old, _, err := image.Rotate(e.keys(), image.Rotation{Use: q.Use, Now: e.Now(), Leaked: q.Leaked, Keep: keep})
		if err != nil {
			return api.SigningKey{}, storeProblem(err)
		}
		id = old.ID
	}
	if keys, err = e.SigningKeys(ctx); err != nil {
		return api.SigningKey{}, err
	}
	i := slices.IndexFunc(keys, func(k api.SigningKey) bool { return k.Use == q.Use && k.ID == id && k.Successor != "" })
	if i < 0 {
		return api.SigningKey{}, api.NewProblem(api.CodeNoSecretKey, fmt.Sprintf("the store has replaced no %s key %q", q.Use,
			id))
	}
	brief := keys[i]
	brief.Images = nil
	return keys[i], e.record(onKey(api.Key{Name: string(q.Use), ID: id},
		Action(ctx, e.Now(), fleet.ActionKeyRotate, nil, brief)))
}

// SigningKeys implements api.Images.
func (e Editor) SigningKeys(ctx context.Context) ([]api.SigningKey, error) {
	ring, err := image.ReadKeyring(e.keys())
	if err != nil {
		return nil, err
	}
	found, err := e.findImages(ctx)
	if err != nil {
		return nil, err
	}
	list := []api.SigningKey{}
	server, err := e.serverKey()
	if err == nil {
		list = append(list, api.SigningKey{Use: ingot.KeyServer, ID: server.ID(), State: api.KeyInUse,
			Images: found.concerned(ring, ingot.KeyServer, server)})
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, k := range ring.Trusted {
		if k.Name == image.OwnKey || !slices.ContainsFunc(ring.Old, func(o image.OldKey) bool { return o.Name() == k.Name }) {
			state := api.KeyTrusted
			if k.Name == image.OwnKey {
				state = api.KeyInUse
			}
			list = append(list, api.SigningKey{Use: ingot.KeyRelease, ID: k.ID, Name: k.Name, State: state,
				Images: found.concerned(ring, ingot.KeyRelease, k.Key)})
		}
	}
	for _, o := range ring.Old {
		key, err := image.ParsePublicKey([]byte(o.Text))
		if err != nil {
			return nil, err
		}
		next, err := image.ParsePublicKey([]byte(o.Successor.Key))
		if err != nil {
			return nil, err
		}
		list = append(list, api.SigningKey{Use: o.Use, ID: o.ID, Name: o.Name(), State: stateOf(o), Replaced: o.Replaced,
			Successor: next.ID(), Kept: o.Kept, Images: found.concerned(ring, o.Use, key)})
	}
	return list, nil
}

func stateOf(o image.OldKey) api.KeyState {
	switch {
	case o.Distrusted:
		return api.KeyDistrusted
	case o.Leaked:
		return api.KeyLeaked
	}
	return api.KeyReplaced
}

func (e Editor) serverKey() (image.PublicKey, error) {
	b, err := os.ReadFile(filepath.Join(e.keys(), string(ingot.KeyServer)+".pub"))
	if err != nil {
		return image.PublicKey{}, fmt.Errorf("reading a public key: %w", err)
	}
	return image.ParsePublicKey(b)
}

// imagesFound are the images of a store, with the keys that they hold and the machines that need them.
type imagesFound struct {
	images   []image.Image
	held     map[ingot.Digest]map[ingot.KeyUse]ingot.Digest
	machines map[ingot.Digest][]api.KeyMachine
}

func (e Editor) findImages(ctx context.Context) (f imagesFound, err error) {
	if f.images, err = e.Store.List(ctx); err != nil {
		return f, err
	}
	f.held = map[ingot.Digest]map[ingot.KeyUse]ingot.Digest{}
	for _, im := range f.images {
		if f.held[im.Digest], err = e.Store.HeldKeys(im.Digest); err != nil {
			return f, err
		}
	}
	f.machines = map[ingot.Digest][]api.KeyMachine{}
	if e.State == nil {
		return f, nil
	}
	latest := map[ingot.BootID]ingot.Digest{}
	for _, b := range e.State.Latest() {
		latest[b.ID] = b.Image.Image
	}
	for _, m := range e.State.Machines() {
		whys := map[ingot.Digest][]string{}
		fleet.Uses(&m, latest[m.Boot], func(im ingot.Digest, why fleet.Use) {
			if !slices.Contains(whys[im], why.String()) {
				whys[im] = append(whys[im], why.String())
			}
		})
		for im, why := range whys {
			f.machines[im] = append(f.machines[im], api.KeyMachine{Machine: m.ID, Name: m.Hostname(), Runs: latest[m.Boot] == im,
				Why: strings.Join(why, ", ")})
		}
	}
	return f, nil
}

// concerned are the images whose machines accept what a key signs.
func (f imagesFound) concerned(ring image.Keyring, use ingot.KeyUse, key image.PublicKey) []api.KeyImage {
	list, digest := []api.KeyImage{}, ingot.DigestOf(key.Text())
	for _, im := range f.images {
		held := f.held[im.Digest][use]
		signed := use == ingot.KeyRelease && held == "" && im.VerifySignature(key) == nil // by an older ingot
		if !signed && !ring.Accepts(im, use, held, digest) {
			continue
		}
		machines := f.machines[im.Digest]
		if machines == nil {
			machines = []api.KeyMachine{}
		}
		list = append(list, api.KeyImage{Digest: im.Digest, Name: im.Name.String(), Holds: signed || held == digest,
			Follows: im.Manifest.Has(ingot.FeatureSuccessors), Machines: machines})
	}
	return list
}
