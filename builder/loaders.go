package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

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

// loaderFolder is the folder of the loaders in a store.
const loaderFolder = "loaders"

// loaderLock records which package the loaders are from, and their content.
type loaderLock struct {
	Package source.Package          `json:"package"`
	Files   map[string]ingot.Digest `json:"files,omitempty"` // earlier versions recorded none
}

// LoaderSet are the boot loaders of a store.
type LoaderSet struct {
	Folder  string
	Package source.Package
	Files   map[string]ingot.Digest // empty if an earlier version fetched them: then they cannot be checked
	Damaged map[string]error        // why a file does not have its content
}

// ErrLoaders: files of the boot loaders do not have the content that was fetched.
var ErrLoaders = errors.New("boot loaders are damaged")

// maxLoader bounds a loader that is read; a larger one is not served.
const maxLoader = 4 << 20

// Loaders returns the boot loaders in the folder "loaders" of the store's root. The first call
// resolves and pins the package and downloads it; later calls use the files that are there, without a
// network, and check their content. Files that are damaged are fetched again. If that fails, the error is
// ErrLoaders, and the result says which files are damaged: the others can be used.
func Loaders(ctx context.Context, env *Env, root string) (LoaderSet, error) {
	set, err := StoredLoaders(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return newLoaders(ctx, env, root)
	case err != nil || len(set.Damaged) == 0:
		return set, err
	}
	fetched, err := newLoaders(ctx, env, root)
	if err != nil {
		return set, fmt.Errorf("%w: %w; fetching them again: %w", ErrLoaders, set.problem(), err)
	}
	return fetched, nil
}

// problem names all files that are damaged.
func (s LoaderSet) problem() error {
	var text []string
	for _, name := range slices.Sorted(maps.Keys(s.Damaged)) {
		text = append(text, name+" "+s.Damaged[name].Error())
	}
	return errors.New(strings.Join(text, ", "))
}

// StoredLoaders returns the boot loaders that a store has, and checks their content. Without any, the error
// is fs.ErrNotExist.
func StoredLoaders(root string) (LoaderSet, error) {
	set := LoaderSet{Folder: filepath.Join(root, loaderFolder), Damaged: map[string]error{}}
	lockPath := filepath.Join(set.Folder, "lock.json")
	b, err := os.ReadFile(lockPath)
	if err != nil {
		return set, fmt.Errorf("reading %s: %w", lockPath, err)
	}
	var pinned loaderLock
	if err := json.Unmarshal(b, &pinned); err != nil {
		return set, fmt.Errorf("reading %s: %w; remove it to fetch the loaders again", lockPath, err)
	}
	set.Package, set.Files = pinned.Package, pinned.Files
	for name, want := range set.Files {
		if err := checkLoader(filepath.Join(set.Folder, filepath.Base(name)), want); err != nil {
			set.Damaged[name] = err
		}
	}
	return set, nil
}

// checkLoader returns an error unless a file has the content that was fetched.
func checkLoader(path string, want ingot.Digest) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("is missing")
	case errors.Is(err, syscall.ELOOP):
		return errors.New("is a symbolic link")
	case err != nil:
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLoader+1))
	if err != nil {
		return err
	}
	if got := ingot.DigestOf(b); got != want {
		return fmt.Errorf("has %d bytes with digest %s; want digest %s", len(b), got.Short(), want.Short())
	}
	return nil
}

// newLoaders fetches the loaders. Files of other names in the folder stay.
func newLoaders(ctx context.Context, env *Env, root string) (set LoaderSet, err error) {
	set = LoaderSet{Folder: filepath.Join(root, loaderFolder), Files: map[string]ingot.Digest{}}
	if err := owned.MkdirAll(set.Folder, 0o755); err != nil {
		return set, fmt.Errorf("preparing the loaders: %w", err)
	}
	p, t, done, err := fetchLoaders(ctx, env)
	if err != nil {
		return set, fmt.Errorf("fetching the boot loaders: %w", err)
	}
	defer done()
	set.Package = p
	for name, where := range LoaderFiles {
		content, err := t.ReadFile(where)
		if err != nil {
			continue // not every iPXE package has every loader
		}
		if err := owned.WriteFile(filepath.Join(set.Folder, name), content, 0o644); err != nil {
			return set, fmt.Errorf("storing the loader %s: %w", name, err)
		}
		set.Files[name] = ingot.DigestOf(content)
	}
	b, err := json.MarshalIndent(loaderLock{p, set.Files}, "", "  ")
	if err != nil {
		return set, err
	}
	if err := owned.WriteFile(filepath.Join(set.Folder, "lock.json"), append(b, '\n'), 0o644); err != nil {
		return set, fmt.Errorf("storing the loaders: %w", err)
	}
	return set, nil
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
