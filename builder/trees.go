package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"ingot/builder/lock"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/profiles"
)

// treesFormat is part of the keys of trees in the layer cache. It changes when the same pin gives
// another tree.
const treesFormat = 1

// fetchTrees downloads the trees of the plan into the cache and returns the Unix time of the
// newest.
func (b *build) fetchTrees(ctx context.Context) (newest int64, err error) {
	layers := b.p.Trees()
	if len(layers) != len(b.plan.Trees) {
		return 0, fmt.Errorf("the plan pins %d trees, its profile names %d; run: ingot plan", len(b.plan.Trees), len(layers))
	}
	trees := b.Trees()
	for i, pin := range b.plan.Trees {
		newest = max(newest, pin.Created)
		if b.layers.has(treeKey(pin)) {
			continue // unpacked by an earlier build
		}
		err := trees.Fetch(ctx, lock.Origin(b.p.Arch, layers[i]), pin, func(done, total int64) {
			b.Report("fetch trees", done, max(total, done+1), fmt.Sprintf("%s: %d of %d MiB", pin.From, done>>20, total>>20))
		})
		changed := errors.Is(err, source.ErrDigest) && layers[i].At.File == "" // of a plan that was read from an image
		if changed || errors.Is(err, source.ErrNoTree) || errors.Is(err, source.ErrNoImage) {
			return 0, fmt.Errorf("%w: %w", ErrLost, err)
		}
		if err != nil {
			return 0, err
		}
	}
	if len(layers) > 0 {
		b.Report("fetch trees", 1, 1, "")
	}
	return newest, nil
}

func treeKey(p source.Pin) string {
	return fmt.Sprintf("tree-%d-%s-%s", treesFormat, p.Kind, p.Digest.Hex())
}

// pinnedTree returns the tree of a pin, unpacked by this build or an earlier one.
func (b *build) pinnedTree(ctx context.Context, l profiles.Layer, pin source.Pin) (*tree.Tree, error) {
	step := "unpack " + pin.Kind
	b.Report(step, 0, 0, pin.From)
	file, kept, err := b.layers.get(ctx, treeKey(pin), func(fresh string) error {
		trees := b.Trees()
		err := trees.Unpack(ctx, pin, fresh)
		if errors.Is(err, source.ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			b.Logger().Warn("a part of a tree in the cache is damaged; fetching it again", "tree", pin.From)
			if err := trees.Fetch(ctx, lock.Origin(b.p.Arch, l), pin, nil); err != nil {
				return err
			}
			err = trees.Unpack(ctx, pin, fresh)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	detail := pin.From
	if kept {
		detail += ", unchanged, from the cache"
	}
	b.Report(step, 1, 1, detail)
	return tree.FromTar(ctx, file)
}

// rootTree returns the base, which is a tree or installed packages, with the profile's layers on
// top. It calls unpacked when the packages are unpacked and a processor is free.
func (b *build) rootTree(ctx context.Context, unpacked func()) (root *tree.Tree, err error) {
	defer unpacked()
	layers, pins := b.p.Trees(), b.plan.Trees
	if b.p.Base.Tree() {
		if root, err = b.pinnedTree(ctx, layers[0], pins[0]); err != nil {
			return nil, err
		}
		if err := asBase(root); err != nil {
			return nil, err
		}
		layers, pins = layers[1:], pins[1:]
	} else if root, err = b.baseTree(ctx, unpacked); err != nil {
		return nil, err
	} else if err := b.findRandom(ctx, root); err != nil {
		return nil, err
	}
	if err := b.removeSecrets(root); err != nil {
		return nil, err
	}
	for i, l := range layers {
		over, err := b.pinnedTree(ctx, l, pins[i])
		if err != nil {
			return nil, err
		}
		if err := addLayer(root, over, l); err != nil {
			return nil, err
		}
	}
	return root, nil
}

// ofOtherHost are the patterns of what a whole tree brings that belongs to where it ran: another
// kernel, and the marks of containers.
var ofOtherHost = []string{"usr/lib/modules/*", "lib/modules/*", "vmlinuz*", "initrd.img*", ".dockerenv",
	"run/.containerenv", "lost+found"}

// asBase makes a tree from elsewhere the base of a root.
func asBase(root *tree.Tree) error {
	if err := root.RemoveMatching(ofOtherHost...); err != nil {
		return err
	}
	// A folder that was made for an image is often readable by its owner only; the root of a system
	// must be readable by everybody.
	return root.Put(tree.Entry{Kind: tree.Dir, Mode: 0o755})
}

// addLayer adds a layer's tree to the root, below the layer's path and with its owners. The mode of
// the root itself stays.
func addLayer(root, over *tree.Tree, l profiles.Layer) error {
	into := path.Clean("/" + l.Into)
	for _, hard := range []bool{false, true} { // a hard link needs its file
		for _, e := range over.Entries() {
			if e.Path == "" || (e.Hard != "") != hard {
				continue
			}
			c := *e
			c.Path = path.Join(into, e.Path)
			if hard {
				c.Hard = path.Join(into, e.Hard)
			}
			if !l.KeepsOwners() {
				c.UID, c.GID = 0, 0
			}
			if err := addOver(root, c); err != nil {
				return fmt.Errorf("adding layer %s: %w", l, err)
			}
		}
	}
	return nil
}
