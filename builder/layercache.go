package builder

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ingot/internal/scratch"
)

// layerCache keeps what takes long to make and depends on few inputs: installed package sets,
// unpacked kernels, initramfs. A file is named after the digest of its inputs and the checksum of
// its content, so that a damaged one is detected and made again.
type layerCache struct {
	dir  string
	warn func(what string) // reports a repair
	held string            // folder of links to the layers that this build uses; empty: nothing is held
}

// keptLayers is the number of layers that the cache keeps.
const keptLayers = 16

// partial is the prefix of folders that are being written.
const partial = ".incoming-"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// hold makes the cache keep every layer that get returns until release is called, although other
// builds prune it.
func (c *layerCache) hold() (release func(), err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("preparing the layer cache: %w", err)
	}
	dir, err := scratch.In(c.dir, partial)
	if err != nil {
		return nil, fmt.Errorf("preparing the layer cache: %w", err)
	}
	c.held = dir.Path
	return dir.Remove, nil
}

// maxRemoved is how often a layer may be removed by other builds before it is held.
const maxRemoved = 5

// get returns the layer of a key, and whether it was in the cache. When it is not, fresh must write
// it to the path that it is given, which is removed when fresh fails.
func (c *layerCache) get(ctx context.Context, key string, fresh func(path string) error) (path string, kept bool,
	err error) {
	for range maxRemoved {
		if path, kept, err = c.take(ctx, key, fresh); err != nil || c.held == "" {
			return path, kept, err
		}
		link := filepath.Join(c.held, filepath.Base(path))
		if err = os.Link(path, link); err == nil || errors.Is(err, fs.ErrExist) {
			return link, kept, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return "", false, fmt.Errorf("keeping a layer in the cache: %w", err)
}

// take is get for a layer that other builds may remove.
func (c *layerCache) take(ctx context.Context, key string, fresh func(path string) error) (path string, kept bool,
	err error) {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return "", false, fmt.Errorf("preparing the layer cache: %w", err)
	}
	if path, err = c.find(ctx, key); path != "" || err != nil {
		return path, path != "", err
	}
	incoming, err := scratch.In(c.dir, partial) // the next build removes it when this one is killed
	if err != nil {
		return "", false, fmt.Errorf("adding to the layer cache: %w", err)
	}
	defer incoming.Remove()
	tmp := filepath.Join(incoming.Path, "layer")
	if err := fresh(tmp); err != nil {
		return "", false, err
	}
	f, err := os.Open(tmp)
	if err != nil {
		return "", false, fmt.Errorf("adding to the layer cache: %w", err)
	}
	defer f.Close()
	sum, err := checksum(ctx, f)
	if err != nil {
		return "", false, fmt.Errorf("adding to the layer cache: %w", err)
	}
	if err := f.Chmod(0o600); err != nil { // roots hold password hashes
		return "", false, fmt.Errorf("adding to the layer cache: %w", err)
	}
	// Not synced to the disk: after a power cut the checksum detects what is missing.
	path = filepath.Join(c.dir, key+"."+sum)
	if err := os.Rename(tmp, path); err != nil {
		return "", false, fmt.Errorf("adding to the layer cache: %w", err)
	}
	c.prune(path)
	return path, false, nil
}

// has reports whether the cache has a layer of a key. It does not read it; get does.
func (c *layerCache) has(key string) bool {
	paths, _ := filepath.Glob(filepath.Join(c.dir, key+".*"))
	return len(paths) > 0
}

// find returns the layer of a key whose checksum is right, or "". Damaged layers are removed.
func (c *layerCache) find(ctx context.Context, key string) (string, error) {
	paths, err := filepath.Glob(filepath.Join(c.dir, key+".*"))
	if err != nil {
		return "", fmt.Errorf("reading the layer cache: %w", err)
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			continue // another build removed it
		}
		sum, err := checksum(ctx, f)
		f.Close()
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if err == nil && strings.HasSuffix(path, "."+sum) {
			now := time.Now()
			_ = os.Chtimes(path, now, now) // recently used: decides only what is pruned
			_ = os.Chmod(path, 0o600)      // older versions let everybody read it
			return path, nil
		}
		c.warn("a layer in the cache is damaged; making it again")
		if err := os.Remove(path); err != nil {
			return "", fmt.Errorf("removing a damaged layer from the cache: %w", err)
		}
	}
	return "", nil
}

// checksum is the CRC-32C of a file: it detects damage, not attacks.
func checksum(ctx context.Context, f *os.File) (string, error) {
	sum, buf := crc32.New(castagnoli), make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		sum.Write(buf[:n])
		if err == io.EOF {
			return fmt.Sprintf("%08x", sum.Sum32()), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// prune removes the layers that were used longest ago.
func (c *layerCache) prune(current string) {
	type aged struct {
		path string
		when time.Time
	}
	var layers []aged
	entries, _ := os.ReadDir(c.dir)
	for _, e := range entries {
		st, err := e.Info()
		path := filepath.Join(c.dir, e.Name())
		if err == nil && path != current && !e.IsDir() && !strings.HasPrefix(e.Name(), partial) {
			layers = append(layers, aged{path, st.ModTime()})
		}
	}
	slices.SortFunc(layers, func(a, b aged) int { return a.when.Compare(b.when) })
	for len(layers) >= keptLayers {
		os.Remove(layers[0].path)
		layers = layers[1:]
	}
}
