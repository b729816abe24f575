package builder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"ingot/builder/squashfs"
	"ingot/builder/tree"
	"ingot/profiles"
)

// rootOptions are the options of the squashfs writer for each compression of a profile. They were
// measured on the node root against mksquashfs: docs/BENCHMARKS.md.
var rootOptions = map[profiles.Compression]squashfs.Options{
	profiles.CompressFast:     {Level: 1, BlockSize: 128 << 10},
	profiles.CompressBalanced: {Level: 3, BlockSize: 512 << 10},
	profiles.CompressSmall:    {Level: 19, BlockSize: 1 << 20},
}

// packRoot writes the tree as squashfs and returns the sizes of its chunks.
func (b *build) packRoot(ctx context.Context, root *tree.Tree, out string) ([]int64, error) {
	b.Report("pack root", 0, 0, "")
	f, err := os.Create(out)
	if err != nil {
		return nil, fmt.Errorf("packing the root: %w", err)
	}
	defer f.Close()
	o := rootOptions[b.p.Compression]
	o.Epoch = b.epoch
	o.Cache = &squashfs.Cache{Dir: filepath.Join(b.CacheDir, "blocks")}
	o.Progress = func(done, total int64) {
		b.Report("pack root", done, max(total, done+1), fmt.Sprintf("%d of %d MiB", done>>20, total>>20))
	}
	info, err := squashfs.Write(ctx, f, squashEntries(root, b.epoch.Unix()), o)
	if err != nil {
		return nil, fmt.Errorf("packing the root: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("packing the root: %w", err)
	}
	if info.Repaired > 0 {
		b.Logger().Warn("the block cache was damaged; compressing the lost blocks again", "damaged", info.Repaired)
	}
	detail := sizeOf(out)
	if info.Cached > 0 {
		detail += fmt.Sprintf(", %d %% from the cache", 100*info.Cached/max(info.Blocks, 1))
	}
	b.Report("pack root", 1, 1, detail)
	return info.Cuts, nil
}

// squashKinds are the kinds of entries of a tree.
var squashKinds = map[tree.Kind]squashfs.Kind{tree.File: squashfs.File,
	tree.Dir: squashfs.Dir, tree.Symlink: squashfs.Symlink,
	tree.CharDevice: squashfs.CharDevice, tree.BlockDevice: squashfs.BlockDevice, tree.Fifo: squashfs.Fifo}

// squashEntries returns the entries of a tree for the squashfs writer. The time of each is epoch.
func squashEntries(t *tree.Tree, epoch int64) []squashfs.Entry {
	entries := make([]squashfs.Entry, 0, t.Len())
	for _, e := range t.Entries() {
		entries = append(entries, squashfs.Entry{Path: e.Path, Kind: squashKinds[e.Kind], Mode: e.Mode,
			UID: uint32(e.UID), GID: uint32(e.GID),
			ModTime: epoch, Size: e.Size, Target: e.Target, Hard: e.Hard, Major: uint32(e.Major),
			Minor: uint32(e.Minor), Xattrs: e.Xattrs, Open: e.Open})
	}
	return entries
}
