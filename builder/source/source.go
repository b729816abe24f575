// Package source gets what images are made of.
//
// Debian packages: a private apt resolves names to exact packages, against an empty list of
// installed packages and the mirror's signed lists (Apt). A cache keeps packages by their SHA-256
// and downloads what is missing (Cache). Install unpacks them in parallel, writes dpkg's database
// as dpkg --unpack does, and lets the root's own dpkg configure them once.
//
// Trees: container images from a registry, an OCI layout or a docker save archive, tarballs,
// folders of this host (Trees), and the root of a running host over SSH (Host). All but the last
// are pinned by digest and kept in Blobs.
//
// Env holds what these and the other steps of a build share. The package leaves out resolving by
// any other package manager than apt: roots of other distributions come as trees.
package source

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
)

// Errors that callers may test for with errors.Is.
var (
	// ErrNoPackage: the suite has no package of that name.
	ErrNoPackage = errors.New("no such package")
	// ErrNoSuite: the mirror has no such suite.
	ErrNoSuite = errors.New("no such suite")
	// ErrNoMirror: neither the caller nor the host's apt sources name a Debian mirror.
	ErrNoMirror = errors.New("no Debian mirror is known")
	// ErrOffline: the mirror cannot be reached and nothing is cached.
	ErrOffline = errors.New("the mirror cannot be reached")
	// ErrNoTool: a program that ingot needs is not installed on this host.
	ErrNoTool = errors.New("a required program is not installed")
	// ErrConflict: the packages cannot be installed together.
	ErrConflict = errors.New("the packages cannot be installed together")
	// ErrDigest: a file does not have the digest that the plan pins.
	ErrDigest = errors.New("the file is not the one that was planned")
	// ErrUntrusted: the mirror's package lists are not signed by a trusted key, or are too old.
	ErrUntrusted = errors.New("the mirror's package lists cannot be trusted")
	// ErrScript: a maintainer script of a package failed.
	ErrScript = errors.New("a package cannot be configured")
	// ErrProfileScript: a script of the profile failed.
	ErrProfileScript = errors.New("a script of the profile failed")

	// Of container images and other trees:

	// ErrNoImage: the image does not exist, or what has its name is not a container image.
	ErrNoImage = errors.New("no such container image")
	// ErrArch: the image is for other architectures only.
	ErrArch = errors.New("the container image is for another architecture")
	// ErrManyImages: an archive has several images and the reference names none of them.
	ErrManyImages = errors.New("there are several container images")
	// ErrRefused: the registry refuses access with these credentials, or for now.
	ErrRefused = errors.New("the registry refused the request")
	// ErrNoRegistry: the registry cannot be reached, or what answers is not a registry.
	ErrNoRegistry = errors.New("the registry cannot be reached")
	// ErrBadImage: a manifest or a layer is invalid or missing at its source.
	ErrBadImage = errors.New("the container image is broken")
	// ErrNoTree: the place of a tree is not known, and it is not in the cache.
	ErrNoTree = errors.New("the tree is neither in the cache nor at a known place")
	// ErrDamaged: a file of the cache does not have the bytes of its digest. It is removed and can be
	// fetched again.
	ErrDamaged = errors.New("a file of the cache is damaged")
	// ErrBadTar: the file is not a tarball, or it is damaged.
	ErrBadTar = errors.New("the tarball cannot be read")

	// ErrTooLarge: an archive unpacks to more than is sensible, or than there is room for.
	ErrTooLarge = errors.New("the archive unpacks to too much")

	// Of running hosts:

	// ErrNoHost: the host cannot be reached.
	ErrNoHost = errors.New("the host cannot be reached")
	// ErrHostKey: the host's key is unknown or has changed.
	ErrHostKey = errors.New("the host's key is not trusted")
	// ErrNoLogin: the host refused the login.
	ErrNoLogin = errors.New("the host refused the login")
	// ErrNotRoot: the login cannot read all of the host's files.
	ErrNotRoot = errors.New("only root can read all files of the host")
	// ErrCapture: the host could not send its files.
	ErrCapture = errors.New("the host could not send its files")
)

// Event reports how far a step of a build is. Total 0 means that it is not known; a step has ended
// when Done reaches a Total above 0.
type Event struct {
	Step        string
	Done, Total int64
	Detail      string
}

// Env is what all steps of a build share: where things are cached, where packages come from, and
// where progress and warnings go. It is made once and handed down. Its zero value uses the current
// folder as its cache and this host's own apt sources, and is quiet.
type Env struct {
	CacheDir string // of package lists, packages, trees, layers and blocks
	Packages string // cache of packages; empty: "debs" in CacheDir
	Blobs    string // cache of trees; empty: "blobs" in CacheDir
	Mirror   string // URL, or "URL SECURITY-URL"; empty: the host's own apt sources
	Keyring  string // OpenPGP keys that sign the mirror's lists, absolute path; empty: Debian's own
	Offline  bool   // use what is cached and contact no mirror and no registry

	Credentials []string // files such as docker's config.json, for registries

	Log      *slog.Logger // nil is quiet
	Progress func(Event)  // nil is quiet
}

// Report reports the progress of a step.
func (e *Env) Report(step string, done, total int64, detail string) {
	if e.Progress != nil {
		e.Progress(Event{step, done, total, detail})
	}
}

// Logger returns Log, or a logger that discards everything.
func (e *Env) Logger() *slog.Logger {
	if e.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return e.Log
}

// PackageCache returns the cache of packages.
func (e *Env) PackageCache() Cache {
	if e.Packages != "" {
		return Cache{Dir: e.Packages}
	}
	return Cache{Dir: filepath.Join(e.CacheDir, "debs")}
}

// Trees returns the source of trees that are not installed packages.
func (e *Env) Trees() *Trees {
	dir := e.Blobs
	if dir == "" {
		dir = filepath.Join(e.CacheDir, "blobs")
	}
	return &Trees{Blobs: Blobs{Dir: dir}, Offline: e.Offline, Credentials: e.Credentials, Log: e.Log}
}

// Mirrors returns where packages are fetched from. Offline there are none.
func (e *Env) Mirrors() (Mirrors, error) {
	if e.Offline {
		return Mirrors{}, nil
	}
	return HostMirrors("/etc/apt", e.Mirror)
}

// Apt opens a private apt for one suite and architecture. The caller closes it.
func (e *Env) Apt(ctx context.Context, suite, arch string, components []string) (*Apt, error) {
	return e.AptWith(ctx, AptOptions{Suite: suite, Arch: arch, Components: components})
}

// AptWith opens a private apt for a suite, an architecture and further archives. The rest of the options is
// that of e. The caller closes it.
func (e *Env) AptWith(ctx context.Context, o AptOptions) (*Apt, error) {
	mirrors, err := e.Mirrors()
	if err != nil {
		return nil, err
	}
	o.Dir, o.Mirrors, o.Keyring = filepath.Join(e.CacheDir, "apt"), mirrors, e.Keyring
	o.Offline, o.Log = e.Offline, e.Log
	return OpenApt(ctx, o)
}
