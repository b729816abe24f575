package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ingot"

	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/internal/owned"
	"ingot/internal/scratch"
)

// LoaderFiles are the boot loaders that a server serves, by file name, and their paths in Debian's
// package ipxe.
var LoaderFiles = map[string]string{
	"undionly.kpxe":  "usr/lib/ipxe/undionly.kpxe",
	"ipxe.pxe":       "usr/lib/ipxe/ipxe.pxe",
	"snponly.efi":    "usr/lib/ipxe/snponly.efi",
	"ipxe.efi":       "usr/lib/ipxe/ipxe.efi",
	"ipxe-arm64.efi": "usr/lib/ipxe/ipxe-arm64.efi", // there is no snponly for arm64
}

// loaderSuite is the Debian release whose iPXE works on every firmware that we know. The iPXE of
// bookworm hangs when UEFI loads it by HTTP.
const loaderSuite = "trixie"

// loaderLock records which package the loaders are from.
type loaderLock struct {
	Package source.Package `json:"package"`
}

// Loaders returns the folder of the boot loaders, "loaders" in the store's root, and the package
// that they are from. The first call resolves and pins the package and downloads it; later calls
// use the files that are there, without a network.
func Loaders(ctx context.Context, env *Env, root string) (dir string, from source.Package, err error) {
	dir = filepath.Join(root, "loaders")
	lockPath := filepath.Join(dir, "lock.json")
	var pinned loaderLock
	switch b, err := os.ReadFile(lockPath); {
	case err == nil:
		if err := json.Unmarshal(b, &pinned); err != nil {
			return "", from, fmt.Errorf("reading %s: %w; remove it to fetch the loaders again", lockPath, err)
		}
		return dir, pinned.Package, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", from, fmt.Errorf("reading %s: %w", lockPath, err)
	}
	if err := owned.MkdirAll(dir, 0o755); err != nil {
		return "", from, fmt.Errorf("preparing the loaders: %w", err)
	}
	p, t, done, err := fetchLoaders(ctx, env)
	if err != nil {
		return "", from, fmt.Errorf("fetching the boot loaders: %w", err)
	}
	defer done()
	for name, where := range LoaderFiles {
		content, err := t.ReadFile(where)
		if err != nil {
			continue // not every iPXE package has every loader
		}
		if err := owned.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return "", from, fmt.Errorf("storing the loader %s: %w", name, err)
		}
	}
	b, err := json.MarshalIndent(loaderLock{p}, "", "  ")
	if err != nil {
		return "", from, err
	}
	if err := owned.WriteFile(lockPath, append(b, '\n'), 0o644); err != nil {
		return "", from, fmt.Errorf("storing the loaders: %w", err)
	}
	return dir, p, nil
}

func fetchLoaders(ctx context.Context, env *Env) (p source.Package, t *tree.Tree, done func(), err error) {
	mirrors, err := env.Mirrors()
	if err != nil {
		return p, nil, nil, err
	}
	apt, err := env.Apt(ctx, loaderSuite, string(ingot.AMD64), []string{"main"})
	if err != nil {
		return p, nil, nil, err
	}
	p, err = apt.Package(ctx, "ipxe")
	apt.Close()
	if err != nil {
		return p, nil, nil, err
	}
	cache := env.PackageCache()
	if err := cache.Fetch(ctx, mirrors, []source.Package{p}, nil); err != nil {
		return p, nil, nil, err
	}
	w, err := scratch.New("ingot-build-")
	if err != nil {
		return p, nil, nil, err
	}
	tar := filepath.Join(w.Path, "ipxe.tar")
	if err := source.Unpack(ctx, cache, p, tar); err != nil {
		w.Remove()
		return p, nil, nil, err
	}
	if t, err = tree.FromTar(ctx, tar); err != nil {
		w.Remove()
		return p, nil, nil, err
	}
	return p, t, w.Remove, nil
}
