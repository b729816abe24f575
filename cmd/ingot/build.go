package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/builder"
	"ingot/image"
	"ingot/profiles"
)

type buildFlags struct {
	version string
	mirror  string
	init    string
}

func (a *app) planCommand() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use: "plan PROFILE", Short: "resolve a profile: every package by version and digest",
		Long: `Resolve a profile without building it: the packages that would be installed, each
pinned by version and sha256, and the digest that names the build.
PROFILE is a folder, a YAML file or a shipped profile: debian, node, lab.`,
		Example: "  ingot plan lab\n  ingot plan ./profiles/web -o json > web.plan.json",
		Args:    exactArgs("PROFILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, plan, err := a.resolve(cmd.Context(), args[0], f)
			if err != nil {
				return err
			}
			return a.show(plan, func(w io.Writer) { planTable(w, plan) })
		},
	}
	f.add(c)
	return c
}

// mirrorOf is the mirror of a flag or of the environment.
func mirrorOf(flag string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv("INGOT_MIRROR")
}

func (f *buildFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.mirror, "mirror", "", "Debian mirror URL (default: $INGOT_MIRROR, else this host's own apt sources)")
	c.Flags().StringVar(&f.init, "init", "", "the ingot-init binary to put into the image (default: beside this program)")
}

func planTable(w io.Writer, p *builder.Plan) {
	t := tabs(w)
	row(t, "PACKAGE", "VERSION", "ARCH", "SIZE", "SHA256")
	var sum int64
	for _, pk := range p.Packages {
		row(t, pk.Name, pk.Version, pk.Arch, size(pk.Size), pk.SHA256[:12])
		sum += pk.Size
	}
	t.Flush()
	fmt.Fprintf(w, "\n%d packages, %s to fetch; kernel %s %s\nplan %s\n", len(p.Packages), size(sum),
		p.Kernel.Name, p.Kernel.Version, p.Digest())
}

func (a *app) buildCommand() *cobra.Command {
	var f buildFlags
	c := &cobra.Command{
		Use: "build PROFILE", Short: "build an image from a profile",
		Long: `Build an image: resolve the profile, install its packages, pack the root and the
initramfs, sign the manifest and put everything into the store. The same plan gives
the same digest. An interrupted build leaves no image and no litter.
PROFILE is a folder, a YAML file or a shipped profile: debian, node, lab.`,
		Example: `  ingot build lab --version v1
  ingot build ./profiles/web            # version: today's date and a number
  ingot build node -o json | jq -r .digest`,
		Args: exactArgs("PROFILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			start := time.Now()
			im, err := a.build(cmd.Context(), args[0], f)
			if err != nil {
				return err
			}
			return a.show(viewOf(im), func(w io.Writer) {
				fmt.Fprintf(w, "%s %s\n  root %s, initramfs %s, kernel %s, in %s\n  → ingot assign MACHINE %s\n", im.Name, im.Digest,
					size(im.Manifest.Root.Size), size(im.Manifest.Initramfs.Size), im.Manifest.KernelRelease,
					seconds(time.Since(start)), im.Name)
			})
		},
	}
	c.Flags().StringVar(&f.version, "version", "", "version of the image (default: the date and the next free number)")
	f.add(c)
	return c
}

// resolve loads a profile and pins all its inputs.
func (a *app) resolve(ctx context.Context, ref string, f buildFlags) (*profiles.Profile, *builder.Plan, error) {
	p, err := profiles.Load(ref)
	if err != nil {
		return nil, nil, err
	}
	opt, err := a.planOptions(f)
	if err != nil {
		return nil, nil, err
	}
	bar := newProgress(a.stderr)
	opt.Progress = func(e builder.Event) { bar.Step(e.Step, e.Done, e.Total, e.Detail) }
	plan, err := builder.Resolve(ctx, p, opt)
	if err != nil {
		bar.Abort()
		return nil, nil, explain(ctx, err)
	}
	bar.Finish()
	return p, plan, nil
}

func (a *app) planOptions(f buildFlags) (builder.PlanOptions, error) {
	cache, err := cacheDir()
	if err != nil {
		return builder.PlanOptions{}, err
	}
	init, err := initBinary(f.init)
	if err != nil {
		return builder.PlanOptions{}, err
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(a.storeRoot(), "keys"))
	if err != nil {
		return builder.PlanOptions{}, fmt.Errorf("preparing the signing keys: %w", err)
	}
	return builder.PlanOptions{CacheDir: cache, Mirror: mirrorOf(f.mirror), Init: init, Version: f.version, Keys: keys, Log: a.logger()}, nil
}

func (a *app) build(ctx context.Context, ref string, f buildFlags) (image.Image, error) {
	if f.version != "" && !ingot.ValidVersion(f.version) {
		return image.Image{}, usagef("bad version %q: want letters, digits, dots, dashes and underscores, at most 64", f.version)
	}
	store, err := image.Open(ctx, a.storeRoot())
	if err != nil {
		return image.Image{}, err
	}
	if f.version == "" {
		p, err := profiles.Load(ref)
		if err != nil {
			return image.Image{}, err
		}
		if f.version, err = builder.NextVersion(ctx, store, p.Name, time.Now()); err != nil {
			return image.Image{}, err
		}
	}
	p, plan, err := a.resolve(ctx, ref, f)
	if err != nil {
		return image.Image{}, err
	}
	opt, err := a.planOptions(f)
	if err != nil {
		return image.Image{}, err
	}
	bar := newProgress(a.stderr)
	im, err := builder.Build(ctx, plan, p, builder.BuildOptions{
		Store: store, Keys: opt.Keys, CacheDir: opt.CacheDir, Mirror: opt.Mirror, Init: opt.Init, Log: opt.Log,
		Progress: func(e builder.Event) { bar.Step(e.Step, e.Done, e.Total, e.Detail) },
	})
	if err != nil {
		bar.Abort()
		return image.Image{}, explain(ctx, err)
	}
	bar.Finish()
	return im, nil
}

// initBinary finds the machine's binary: named, or beside this program, or installed.
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
	return "", withHint(fmt.Errorf("ingot-init is not at %s", strings.Join(places, " nor at ")),
		"make build, or name it with --init")
}

// explain adds the next step to failures whose cause is outside ingot.
func explain(ctx context.Context, err error) error {
	switch {
	case err != nil && ctx.Err() != nil: // whatever else it says, a tool that was killed with us for one
		return withHint(errors.New("interrupted; nothing was stored"), "run the same command again, downloads are kept")
	case errors.Is(err, syscall.ENOSPC), err != nil && strings.Contains(err.Error(), "No space left on device"): // ours, or a tool's words
		return withHint(err, "free disk space, or move the store (--store) or the cache (XDG_CACHE_HOME); nothing was stored")
	}
	return err
}
