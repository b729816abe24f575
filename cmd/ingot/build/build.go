package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/builder"
	"ingot/builder/accounts"
	"ingot/builder/lock"
	"ingot/builder/secureboot"
	"ingot/builder/source"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
	"ingot/profiles"
)

type buildFlags struct {
	version string
	mirror  string
	keyring string
	init    string
	server  string // public key of the boot server
	fetch   bool   // plan only
	check   bool   // build only
	update  bool
	locked  bool
	offline bool
	set     []string // NAME=VALUE
}

// load reads a profile with the variables that the flags set.
func (f *buildFlags) load(ref string) (*profiles.Profile, error) {
	set, err := variables(f.set)
	if err != nil {
		return nil, err
	}
	return profiles.LoadWith(ref, set)
}

// variables reads the values of --set.
func variables(list []string) (map[string]string, error) {
	set := map[string]string{}
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, show.Usagef("bad --set %q: want NAME=VALUE", s)
		}
		set[name] = value
	}
	return set, nil
}

// addSet adds the flag that sets variables.
func addSet(c *cobra.Command, set *[]string) {
	c.Flags().StringArrayVar(set, "set", nil, "give a variable of the profile a value: NAME=VALUE")
}

func (a *Commands) planCommand() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use: "plan PROFILE", Short: "resolve a profile and write its lock: every package by version and digest",
		Long: `Resolve a profile without building it: print the packages to install, each pinned by version
and SHA-256, and the digest that names the build. The answer of apt is written to a lock
beside the profile (web/profile.lock for web/profile.yaml; STORE/locks for a shipped profile)
and used from then on by plan and build. --update renews it and shows what changed. When the
profile names other packages, the lock is renewed as well, unless --locked is given. A lock
contains no mirror: commit it with the profile. It also keeps the number of every account, so
that files on volumes keep their owners; accounts whose number the plan changes are listed.

PROFILE is a folder, a YAML file or a shipped profile: debian, node, lab, rescue.`,
		Example: `  ingot plan lab
  ingot plan ./profiles/web --update        # newer packages, as a diff
  ingot plan ./profiles/web --locked        # in CI: fail when the lock does not match
  ingot plan ./profiles/web --fetch         # download the packages for a build --offline
  ingot plan ./profiles/web -o json > web.plan.json`,
		Args: command.ExactArgs("PROFILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := f.load(args[0])
			if err != nil {
				return err
			}
			plan, locked, err := a.resolve(cmd.Context(), p, f)
			if err != nil {
				return err
			}
			if f.fetch {
				if err := a.fetch(cmd.Context(), plan, f); err != nil {
					return err
				}
			}
			moved, err := a.moved(cmd.Context(), plan)
			if err != nil {
				return err
			}
			return a.Show(planView{plan, plan.Digest(), locked, moved}, func(w io.Writer) {
				planTable(w, plan, locked)
				movedText(w, moved)
			})
		},
	}
	f.add(c)
	c.Flags().BoolVar(&f.fetch, "fetch", false, "also download the packages into the cache")
	return c
}

// fetch gets the packages of a plan into the cache.
func (a *Commands) fetch(ctx context.Context, plan *builder.Plan, f buildFlags) error {
	env, err := a.env(f)
	if err != nil {
		return err
	}
	bar := a.progress(env)
	err = builder.Fetch(ctx, env, plan)
	if err != nil {
		bar.Abort()
		return show.Explain(ctx, err)
	}
	bar.Finish()
	return nil
}

// planView is the JSON form of a plan.
type planView struct {
	*builder.Plan
	Digest ingot.Digest `json:"digest"`
	Lock   lock.Result  `json:"lock"`
	Moved  *movedView   `json:"moved,omitempty"`
}

// mirrorOf is the mirror of a flag or of the environment.
func mirrorOf(flag string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv("INGOT_MIRROR")
}

// keyringOf is the absolute path of the keys of a flag or of the environment.
func keyringOf(flag string) (string, error) {
	if flag == "" {
		flag = os.Getenv("INGOT_KEYRING")
	}
	if flag == "" {
		return "", nil
	}
	if ext := filepath.Ext(flag); ext != ".gpg" && ext != ".asc" {
		return "", show.Usagef(
			"bad --keyring %q: want a file whose name ends in .gpg (binary) or .asc (armoured), as apt does", flag)
	}
	return filepath.Abs(flag)
}

// addMirror adds the flag that names the mirror.
func (f *buildFlags) addMirror(c *cobra.Command) {
	c.Flags().StringVar(&f.mirror, "mirror", "",
		"Debian mirror: URL, or 'URL SECURITY-URL', or 'URL none'\n(default: $INGOT_MIRROR, else this host's apt sources)")
}

func (f *buildFlags) add(c *cobra.Command) {
	addSet(c, &f.set)
	f.addMirror(c)
	c.Flags().StringVar(&f.keyring, "keyring", "",
		"OpenPGP keys of the mirror's package lists, .gpg or .asc\n(default: $INGOT_KEYRING, else Debian's archive keys)")
	c.Flags().BoolVar(&f.update, "update", false, "renew the lock and show what changed")
	c.Flags().BoolVar(&f.locked, "locked", false, "fail when the lock is missing or does not match the profile")
	c.Flags().BoolVar(&f.offline, "offline", false, "use cached package lists and packages, without a mirror")
	c.MarkFlagsMutuallyExclusive("update", "locked")
	c.Flags().StringVar(&f.server, "server-key", "",
		"public key of the boot server that the image trusts:\nkeys/server.pub of its store (default: that of this store)")
	c.Flags().StringVar(&f.init, "init", "",
		"ingot-init binary to put into the image (default: the one beside this program)")
}

func planTable(w io.Writer, p *builder.Plan, locked lock.Result) {
	t := show.Table(w)
	show.Row(t, "PACKAGE", "VERSION", "ARCH", "SIZE", "SHA256")
	var sum int64
	for _, pk := range p.Packages {
		show.Row(t, pk.Name, pk.Version, pk.Arch, show.Size(pk.Size), pk.SHA256[:12])
		sum += pk.Size
	}
	t.Flush()
	treeTable(w, p.Trees)
	fmt.Fprintf(w, "\n%d packages, %s; kernel %s %s\n", len(p.Packages), show.Size(sum), p.Kernel.Name, p.Kernel.Version)
	lockText(w, locked)
	fmt.Fprintf(w, "plan %s\n", p.Digest())
}

// treeTable shows the trees of base and layers.
func treeTable(w io.Writer, trees []source.Pin) {
	if len(trees) == 0 {
		return
	}
	fmt.Fprintln(w)
	t := show.Table(w)
	show.Row(t, "TREE", "FROM", "SIZE", "DIGEST")
	for _, p := range trees {
		show.Row(t, p.Kind, p.From, show.Size(p.Size), string(p.Digest))
	}
	t.Flush()
}

// lockText prints how a lock changed.
func lockText(w io.Writer, locked lock.Result) {
	changeTable(w, locked.Changes)
	if !locked.Written {
		return
	}
	what, why := "wrote", ""
	if locked.Renewed && len(locked.Changes) == 0 {
		what = "no package changed; wrote"
	}
	if locked.Why != "" {
		why = " (" + show.Plain(locked.Why) + ")"
	}
	fmt.Fprintf(w, "%s %s%s\n", what, locked.Path, why)
}

// changeTable prints packages that differ.
func changeTable(w io.Writer, changes []lock.Change) {
	for _, c := range changes {
		show.Change(w, c.Package, c.Before, c.After)
	}
}

func (a *Commands) buildCommand() *cobra.Command {
	var f buildFlags
	var boot command.SecureBoot
	c := &cobra.Command{
		Use: "build PROFILE", Short: "build an image from a profile",
		Long: `Build an image: resolve the profile, install its packages, pack the root and the initramfs,
sign the manifest and add everything to the store. The same plan gives the same digest.
Packages come from the profile's lock; without a lock, or when the profile names other
packages, a new lock is written (see ingot plan). Packages are cached. An interrupted build leaves
nothing in the store. With a Secure Boot key and certificate, the image's UKI is signed as well
(see ingot image sign).

If the store has an undamaged image of the plan, it is not built again. A damaged one is built
again under its name, which repairs it.

Keys and other secrets that package scripts make are left out, and made on each machine. A build
fails when it finds others; allow them in the profile (secrets: allow).

PROFILE is a folder, a YAML file or a shipped profile: debian, node, lab, rescue.`,
		Example: `  ingot build lab --version v1
  ingot build ./profiles/web            # version: today's date and a number
  ingot build ./profiles/web --update   # with the newest packages
  ingot build ./profiles/web --set workers=8
  ingot build ./profiles/web --locked --offline
  ingot build node -o json | jq -r .digest`,
		Args: command.ExactArgs("PROFILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			if boot.Given() {
				if _, err := secureboot.KeyPair(boot).Check(); err != nil {
					return err
				}
			}
			im, was, err := a.build(cmd.Context(), args[0], f)
			if err != nil {
				return err
			}
			if was != unchanged {
				a.note(cmd.Context(), im, "build", args[0])
			}
			if boot.Given() {
				if err := a.sign(cmd.Context(), im, boot); err != nil {
					return err
				}
			}
			return a.Show(show.ViewOf(im), func(w io.Writer) {
				if was == unchanged {
					fmt.Fprintf(w, "%s %s\n  nothing changed since it was built; to add another version name, use --version\n",
						im.Name, im.Digest)
					return
				}
				if was == repaired {
					fmt.Fprintf(w, "%s %s\n  repaired: its stored files were damaged, and it was built again, in %s\n",
						im.Name, im.Digest, show.Seconds(time.Since(start)))
					return
				}
				fmt.Fprintf(w, "%s %s\n  root %s, initramfs %s, kernel %s, in %s\n  → ingot assign MACHINE %s\n", im.Name,
					im.Digest,
					show.Size(im.Manifest.Root.Size), show.Size(im.Manifest.Initramfs.Size), im.Manifest.KernelRelease,
					show.Seconds(time.Since(start)), im.Name)
			})
		},
	}
	c.Flags().StringVar(&f.version, "version", "", "version of the image (default: the date and the next free number)")
	c.Flags().BoolVar(&f.check, "check", false,
		"run the package scripts twice, and fail when they make\nsomething at random that the profile does not allow")
	f.add(c)
	boot.Add(c)
	return c
}

// resolve pins all inputs of a profile.
func (a *Commands) resolve(ctx context.Context, p *profiles.Profile, f buildFlags) (*builder.Plan, lock.Result, error) {
	opt, err := a.planOptions(f)
	if err != nil {
		return nil, lock.Result{}, err
	}
	env, err := a.env(f)
	if err != nil {
		return nil, lock.Result{}, err
	}
	opt.Lock.Dir = a.lockDir()
	opt.Lock.Path = lock.Path(opt.Lock.Dir, p.Name, p.File)
	opt.Lock.Accounts = func(ctx context.Context, profile string) (accounts.List, error) {
		store, err := image.Open(ctx, a.StoreRoot())
		if err != nil {
			return nil, err
		}
		return builder.KeptAccounts(ctx, store, profile)
	}
	bar := a.progress(env)
	plan, locked, err := builder.Resolve(ctx, env, p, opt)
	if err != nil {
		bar.Abort()
		return nil, locked, show.Explain(ctx, err)
	}
	bar.Finish()
	if locked.NotKept != nil {
		a.Logger().Warn("cannot write the lock; another build may get newer packages", "err", locked.NotKept)
	}
	return plan, locked, nil
}

// lockDir returns the folder of the locks of shipped profiles.
func (a *Commands) lockDir() string { return filepath.Join(a.StoreRoot(), "locks") }

// env is what the steps of a build share.
func (a *Commands) env(f buildFlags) (*builder.Env, error) {
	keyring, err := keyringOf(f.keyring)
	if err != nil {
		return nil, err
	}
	return &builder.Env{CacheDir: command.CacheDir(), Mirror: mirrorOf(f.mirror), Keyring: keyring, Offline: f.offline,
		Credentials: command.CredentialFiles(), Log: a.Logger()}, nil
}

// progress shows the progress of what uses env. The caller finishes or aborts it.
func (a *Commands) progress(env *builder.Env) *show.Progress {
	bar := show.NewProgress(a.Stderr)
	env.Progress = func(e builder.Event) { bar.Step(e.Step, e.Done, e.Total, e.Detail) }
	return bar
}

func (a *Commands) planOptions(f buildFlags) (builder.PlanOptions, error) {
	init, err := initBinary(f.init)
	if err != nil {
		return builder.PlanOptions{}, err
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(a.StoreRoot(), "keys"))
	if errors.Is(err, image.ErrNoSecretKey) {
		return builder.PlanOptions{}, show.WithHint(fmt.Errorf("preparing the signing keys: %w", err),
			"build where the private half is, or restore it from a backup of the folder keys of the store")
	}
	if err != nil {
		return builder.PlanOptions{}, fmt.Errorf("preparing the signing keys: %w", err)
	}
	if f.server != "" {
		if keys.Server, err = foreignServer(f.server); err != nil {
			return builder.PlanOptions{}, err
		}
	}
	mode := lock.Use
	switch {
	case f.update:
		mode = lock.Update
	case f.locked:
		mode = lock.Exact
	}
	return builder.PlanOptions{Lock: lock.Options{Mode: mode}, Init: init, Keys: keys}, nil
}

// foreignServer reads the public key of another boot server.
func foreignServer(path string) (image.KeyPair, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return image.KeyPair{}, fmt.Errorf("reading the boot server's key: %w", err)
	}
	public, err := image.ParsePublicKey(text)
	if err != nil {
		return image.KeyPair{}, show.WithHint(fmt.Errorf("reading the boot server's key %q: %w", path, err),
			"use keys/server.pub of the boot server's store")
	}
	return image.KeyPair{Public: public}, nil
}

// Build returns the image of a profile. It is built if the store has no image of
// this version.
func (a *Commands) Build(ctx context.Context, profile, version string) (image.Image, error) {
	im, _, err := a.build(ctx, profile, buildFlags{version: version})
	return im, err
}

// outcome is what a build did.
type outcome uint8

const (
	built     outcome = iota
	unchanged         // the store had the image, undamaged
	repaired          // the store had the image, damaged
)

// build returns the image of a profile, and what was done for it.
func (a *Commands) build(ctx context.Context, ref string, f buildFlags) (im image.Image, was outcome, err error) {
	if f.version != "" && !ingot.ValidVersion(f.version) {
		return im, built, show.Usagef("bad version %q: want letters, digits, dots, dashes and underscores, at most 64",
			f.version)
	}
	store, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return im, built, err
	}
	p, err := f.load(ref)
	if err != nil {
		return im, built, err
	}
	plan, locked, err := a.resolve(ctx, p, f)
	if err != nil {
		return im, built, err
	}
	lockText(a.Stderr, locked)
	there, err := builder.Built(ctx, store, plan, f.version)
	if err != nil {
		return im, built, err
	}
	if there != nil && there.Damaged == nil {
		if f.check {
			err = a.check(ctx, plan, f)
		}
		return there.Image, unchanged, err
	}
	if there != nil {
		a.Logger().Warn("the stored image is damaged; building it again", "image", there.Name.String(), "err",
			there.Damaged)
		f.version = there.Name.Version
	}
	if im, err = a.buildPlan(ctx, store, plan, f); err != nil {
		return im, built, err
	}
	a.keepAccounts(store, im, p, f)
	if there == nil || there.Digest != im.Digest {
		return im, built, nil
	}
	return im, repaired, store.Intact(ctx, im)
}

// check runs the package scripts of a plan whose image there is already.
func (a *Commands) check(ctx context.Context, plan *builder.Plan, f buildFlags) error {
	opt, err := a.planOptions(f)
	if err != nil {
		return err
	}
	env, err := a.env(f)
	if err != nil {
		return err
	}
	bar := a.progress(env)
	if err := builder.Check(ctx, env, plan, builder.BuildOptions{Keys: opt.Keys, Init: opt.Init}); err != nil {
		bar.Abort()
		return show.Explain(ctx, err)
	}
	bar.Finish()
	return nil
}

// buildPlan builds a plan. Without a --version, it is the next free one; if
// another build takes that first, the next one is tried.
func (a *Commands) buildPlan(ctx context.Context, store *image.Store, plan *builder.Plan, f buildFlags) (image.Image,
	error) {
	opt, err := a.planOptions(f)
	if err != nil {
		return image.Image{}, err
	}
	env, err := a.env(f)
	if err != nil {
		return image.Image{}, err
	}
	for {
		version := f.version
		if version == "" {
			if version, err = builder.NextVersion(ctx, store, plan.Profile.Name, time.Now()); err != nil {
				return image.Image{}, err
			}
		}
		bar := a.progress(env)
		im, err := builder.Build(ctx, env, plan, builder.BuildOptions{Store: store, Version: version, Keys: opt.Keys,
			Init: opt.Init, Check: f.check})
		if err == nil {
			bar.Finish()
			return im, nil
		}
		bar.Abort()
		if f.version == "" && errors.Is(err, image.ErrExists) {
			continue
		}
		return image.Image{}, show.Explain(ctx, err)
	}
}

// initBinary returns the path of ingot-init: named, beside this program, or installed.
func initBinary(named string) (string, error) {
	if named != "" {
		if _, err := os.Stat(named); err != nil {
			return "", fmt.Errorf("finding ingot-init: %w", err)
		}
		return named, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding ingot-init: %w", err)
	}
	places := []string{filepath.Join(filepath.Dir(self), "ingot-init"), ingot.AgentPath}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", show.WithHint(fmt.Errorf("there is no ingot-init at %s", strings.Join(places, " or at ")),
		"run: make build, or name it with --init")
}
