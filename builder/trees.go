package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"ingot"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/profiles"
)

// treesFormat is bumped when the same pin gives another tree.
const treesFormat = 1

// originOf is where the tree of a layer comes from.
func originOf(arch ingot.Arch, l profiles.Layer) source.Origin {
	o := source.Origin{Local: l.Local(), Arch: string(arch), KeepOwners: l.KeepsOwners()}
	o.Kind, o.Ref = l.From()
	if o.Local {
		o.Path = l.Path()
	}
	return o
}

// requestTrees are the trees of a profile as its lock remembers them.
func requestTrees(p *profiles.Profile) []string {
	var list []string
	for _, l := range p.Trees() {
		words := l.String()
		if l.Dir != "" && l.KeepsOwners() {
			words += " with owners"
		}
		list = append(list, words)
	}
	return list
}

// pinTrees pins the trees of a profile. What a registry holds is taken from
// the lock when there is one; files and folders of this host are looked at.
func (o *PlanOptions) pinTrees(ctx context.Context, p *profiles.Profile, locked []source.Pin) ([]source.Pin, error) {
	trees := source.Trees{Blobs: source.Blobs{Dir: o.blobs()}, Offline: o.Offline, Log: o.Log}
	var pins []source.Pin
	for i, l := range p.Trees() {
		origin := originOf(p.Arch, l)
		if locked != nil && !origin.Local {
			pins = append(pins, locked[i])
			continue
		}
		o.tell(Event{Step: "pin trees", Done: int64(i), Total: int64(len(p.Trees())), Detail: l.String()})
		pin, err := trees.Pin(ctx, origin)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.At, err)
		}
		pins = append(pins, pin)
	}
	if n := int64(len(pins)); n > 0 {
		o.tell(Event{Step: "pin trees", Done: n, Total: n, Detail: fmt.Sprintf("%d", n)})
	}
	return pins, nil
}

// refresh looks at the local trees of a profile whose lock fits otherwise.
func (o *PlanOptions) refresh(ctx context.Context, p *profiles.Profile, old *Lock, locked Locked) (*Lock, Locked, error) {
	pins, err := o.pinTrees(ctx, p, old.Trees)
	if err != nil {
		return nil, locked, err
	}
	locked.Changes = treeChanges(old.Trees, pins)
	if len(locked.Changes) == 0 {
		return old, locked, nil
	}
	if o.Mode == LockExact {
		c := locked.Changes[0]
		return nil, locked, fmt.Errorf("%w: %s is %s, locked is %s; run: ingot plan --update", ErrLockStale, c.Package, c.After, c.Before)
	}
	l := *old
	l.Trees = pins
	locked.Why, locked.Renewed = "files of this host changed", true
	locked.NotKept = l.write(o.Lock)
	locked.Written = locked.NotKept == nil
	return &l, locked, nil
}

// treeChanges are the trees that differ between two locks, as changes of what
// the profile calls them.
func treeChanges(before, after []source.Pin) []Change {
	var list []Change
	name := func(p source.Pin) string { return p.Kind + " " + p.From }
	find := func(list []source.Pin, p source.Pin) string {
		i := slices.IndexFunc(list, func(q source.Pin) bool { return name(q) == name(p) })
		if i < 0 {
			return ""
		}
		return list[i].Digest.Short()
	}
	for _, p := range before {
		if find(after, p) == "" {
			list = append(list, Change{Package: name(p), Before: p.Digest.Short()})
		}
	}
	for _, p := range after {
		if old := find(before, p); old != p.Digest.Short() {
			list = append(list, Change{Package: name(p), Before: old, After: p.Digest.Short()})
		}
	}
	return list
}

// trees is the source of the plan's trees.
func (b *build) trees() *source.Trees {
	return &source.Trees{Blobs: source.Blobs{Dir: b.Blobs}, Offline: b.Offline, Log: b.Log}
}

// fetchTrees brings the trees of the plan into the cache and returns the Unix
// time of the newest.
func (b *build) fetchTrees(ctx context.Context) (newest int64, err error) {
	layers := b.p.Trees()
	if len(layers) != len(b.plan.Trees) {
		return 0, fmt.Errorf("the plan pins %d trees, its profile asks for %d; plan again", len(b.plan.Trees), len(layers))
	}
	trees := b.trees()
	for i, pin := range b.plan.Trees {
		newest = max(newest, pin.Created)
		if b.layers.has(treeKey(pin)) {
			continue // unpacked by an earlier build
		}
		err := trees.Fetch(ctx, originOf(b.p.Arch, layers[i]), pin, func(done, total int64) {
			b.tell("fetch trees", done, max(total, done+1), fmt.Sprintf("%s: %d of %d MiB", pin.From, done>>20, total>>20))
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
		b.tell("fetch trees", 1, 1, "")
	}
	return newest, nil
}

func treeKey(p source.Pin) string {
	return fmt.Sprintf("tree-%d-%s-%s", treesFormat, p.Kind, p.Digest.Hex())
}

// pinnedTree is the tree of a pin, unpacked by this build or an earlier one.
func (b *build) pinnedTree(ctx context.Context, l profiles.Layer, pin source.Pin) (*tree.Tree, error) {
	step := "unpack " + pin.Kind
	b.tell(step, 0, 0, pin.From)
	file, kept, err := b.layers.get(ctx, treeKey(pin), func(fresh string) error {
		trees := b.trees()
		err := trees.Unpack(ctx, pin, fresh)
		if errors.Is(err, source.ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			b.Log.Warn("a part of a tree in the cache is damaged; it is fetched again", "tree", pin.From)
			if err := trees.Fetch(ctx, originOf(b.p.Arch, l), pin, nil); err != nil {
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
	b.tell(step, 1, 1, detail)
	return tree.FromTar(ctx, file)
}

// rootTree is the base, a tree or installed packages, with the profile's
// layers over it. unpacked is called when a processor is free for something else.
func (b *build) rootTree(ctx context.Context, unpacked func()) (root *tree.Tree, err error) {
	defer unpacked()
	layers, pins := b.p.Trees(), b.plan.Trees
	if b.p.Base.Tree() {
		if root, err = b.pinnedTree(ctx, layers[0], pins[0]); err != nil {
			return nil, err
		}
		if err := settle(root); err != nil {
			return nil, err
		}
		layers, pins = layers[1:], pins[1:]
	} else if root, err = b.baseTree(ctx, unpacked); err != nil {
		return nil, err
	}
	for i, l := range layers {
		over, err := b.pinnedTree(ctx, l, pins[i])
		if err != nil {
			return nil, err
		}
		if err := layOver(root, over, l); err != nil {
			return nil, err
		}
	}
	return root, nil
}

// unsettled is what a whole tree brings that belongs to where it ran: another
// kernel, and the marks of containers.
var unsettled = []string{"usr/lib/modules/*", "lib/modules/*", "vmlinuz*", "initrd.img*", ".dockerenv", "run/.containerenv", "lost+found"}

// settle makes a tree from elsewhere the base of a root.
func settle(root *tree.Tree) error {
	if err := root.RemoveMatching(unsettled...); err != nil {
		return err
	}
	// A folder that was made for an image is often its owner's alone; the root
	// of a system is everybody's.
	return root.Put(tree.Entry{Kind: tree.Dir, Mode: 0o755})
}

// layOver lays a layer's tree below its place, with its owners, and without a
// say in the mode of the root.
func layOver(root, over *tree.Tree, l profiles.Layer) error {
	into := path.Clean("/" + l.Into)
	for _, hard := range []bool{false, true} { // a link needs its file
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
			if err := root.Put(c); err != nil {
				return fmt.Errorf("laying %s: %w", l, err)
			}
		}
	}
	return nil
}
