package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ingot/builder"
	"ingot/builder/compare"
	"ingot/builder/secureboot"
	"ingot/builder/squashfs"
	"ingot/cmd/ingot/client"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// imageFiles lists files of an image: ingot image ls IMAGE [PATH].
func (a *Commands) imageFiles(ctx context.Context, ref, path string, deep bool) error {
	s, im, err := a.Image(ctx, ref)
	if err != nil {
		return err
	}
	c, err := builder.OpenContents(s, im)
	if err != nil {
		return err
	}
	defer c.Close()
	list, err := c.Below(path, deep)
	if err != nil {
		return err
	}
	views := make([]fileView, len(list))
	for i, e := range list {
		if e.Hard != "" {
			hard := e.Hard
			at, _ := slices.BinarySearchFunc(c.Entries, hard, func(e squashfs.Entry, p string) int {
				return strings.Compare(e.Path, p)
			})
			e = c.Entries[at]
			e.Path, e.Hard = list[i].Path, hard
		}
		views[i] = fileView{Path: "/" + e.Path, Kind: squashfs.KindName(e.Kind), Mode: fmt.Sprintf("%04o", e.Mode),
			UID: e.UID, GID: e.GID, Size: e.Size,
			Target: e.Target, Hard: e.Hard, Xattrs: slices.Sorted(maps.Keys(e.Xattrs))}
	}
	return a.Show(views, func(w io.Writer) {
		t := show.Table(w)
		for _, v := range views {
			show.Row(t, v.Mode, v.Kind, fmt.Sprintf("%d:%d", v.UID, v.GID), show.Size(v.Size), v.name())
		}
		t.Flush()
	})
}

// fileView is the JSON form of a file of an image.
type fileView struct {
	Path   string   `json:"path"`
	Kind   string   `json:"kind"`
	Mode   string   `json:"mode"`
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Size   int64    `json:"size"`
	Target string   `json:"target,omitempty"`
	Hard   string   `json:"hardLink,omitempty"`
	Xattrs []string `json:"xattrs,omitempty"`
}

func (v fileView) name() string {
	switch {
	case v.Target != "":
		return v.Path + " → " + v.Target
	case v.Hard != "":
		return v.Path + " = /" + v.Hard
	}
	return v.Path
}

func (a *Commands) imageCatCommand() *cobra.Command {
	return &cobra.Command{
		Use: "cat IMAGE PATH", Short: "print a file of an image's root",
		Long: `Print a file of an image's root, links followed.
` + command.ImageHelp,
		Example: "  ingot image cat lab:v1 /etc/os-release", Args: command.ExactArgs("IMAGE", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, im, err := a.Image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			c, err := builder.OpenContents(s, im)
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Cat(a.Stdout, args[1])
		},
	}
}

func (a *Commands) imageDiffCommand() *cobra.Command {
	var files bool
	c := &cobra.Command{
		Use: "diff IMAGE IMAGE", Short: "compare two images",
		Long: `Show packages that were added, removed and upgraded, with their changelogs; sizes by package,
files, kernel, modules, kernel arguments, accounts with other numbers and other settings.
Changelogs are read from cached packages, because images contain none. An image that another
version of ingot built is compared as far as its plan goes; what the plan lacks is said first.
` + command.ImageHelp,
		Example: `  ingot image diff node:1 node:2
  ingot image diff node:1 node:2 --files
  ingot image diff node:1 node:2 -o json | jq '.packages[].package'`,
		Args: command.ExactArgs("IMAGE", "IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, from, err := a.Image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			to, err := s.Get(cmd.Context(), args[1])
			if err != nil {
				return err
			}
			d, err := compare.Images(cmd.Context(), &builder.Env{CacheDir: command.CacheDir(),
				Credentials: command.CredentialFiles()}, s, from, to)
			if err != nil {
				return err
			}
			return a.Show(d, func(w io.Writer) { diffText(w, d, files) })
		},
	}
	c.Flags().BoolVar(&files, "files", false, "list every file that differs")
	return c
}

// diffText prints a difference for people.
func diffText(w io.Writer, d *compare.Diff, files bool) {
	fmt.Fprintf(w, "%s → %s\n", d.From, d.To)
	for _, l := range d.Lacks {
		fmt.Fprintf(w, "  %s\n", show.Plain(l))
	}
	if len(d.Artifacts)+len(d.Settings)+len(d.Arguments.Added)+len(d.Arguments.Removed) == 0 {
		fmt.Fprintln(w, "  no difference")
		return
	}
	for _, p := range d.Packages {
		packageText(w, p)
	}
	for _, c := range d.Trees {
		show.Change(w, c.Package, c.Before, c.After)
	}
	if d.Kernel != nil {
		packageText(w, *d.Kernel)
	}
	for _, l := range []struct {
		what string
		list compare.ListChange
	}{{"kernel argument", d.Arguments}, {"module", d.Modules}} {
		listText(w, "+ "+l.what, l.list.Added)
		listText(w, "− "+l.what, l.list.Removed)
	}
	for _, m := range d.Accounts {
		fmt.Fprintf(w, "  %s: files on volumes keep the old number\n", show.Plain(m.String()))
	}
	for _, s := range d.Settings {
		for _, line := range settingLines(s.Name, s.Before, s.After) {
			fmt.Fprintf(w, "  %s\n", show.Plain(line))
		}
	}
	t := show.Table(w)
	for _, s := range d.Sizes[:min(len(d.Sizes), sizesShown)] {
		name := s.Package
		if name == "" {
			name = "(no package)"
		}
		show.Row(t, "  "+name, show.Size(s.Before), "→", show.Size(s.After), signedSize(s.After-s.Before))
	}
	t.Flush()
	if n := len(d.Sizes) - sizesShown; n > 0 {
		fmt.Fprintf(w, "  and %d more packages whose size differs; to list all: -o json\n", n)
	}
	if files {
		for _, f := range d.Files {
			owner := ""
			if f.Package != "" {
				owner = " (" + f.Package + ")"
			}
			fmt.Fprintf(w, "  /%s: %s%s\n", show.Plain(f.Path), show.Plain(f.How), owner)
		}
	} else if len(d.Files) > 0 {
		fmt.Fprintf(w, "  files that differ: %d; list them with --files\n", len(d.Files))
	}
	fmt.Fprintf(w, "  root %s → %s, of which %s in chunks of both images; %s differ\n", show.Size(d.Root.Before),
		show.Size(d.Root.After), show.Size(d.Shared), strings.Join(d.Artifacts, ", "))
}

// Limits of long lists.
const (
	sizesShown = 15 // packages with their size
	namesShown = 15 // modules, kernel arguments
)

func listText(w io.Writer, what string, list []string) {
	for _, s := range list[:min(len(list), namesShown)] {
		fmt.Fprintf(w, "  %s %s\n", what, show.Plain(s))
	}
	if n := len(list) - namesShown; n > 0 {
		fmt.Fprintf(w, "  %s … and %d more\n", what, n)
	}
}

// packageText prints a package that differs, and its changelog.
func packageText(w io.Writer, p compare.PackageChange) {
	if p.Older {
		fmt.Fprintf(w, "  ↓ %s %s → %s, downgraded:\n", p.Package, p.Before, p.After)
	} else {
		show.Change(w, p.Package, p.Before, p.After)
	}
	for _, line := range p.Changelog {
		fmt.Fprintf(w, "      %s\n", show.Plain(line))
	}
	if p.NoChangelog != "" {
		fmt.Fprintf(w, "      no changelog: %s\n", show.Plain(p.NoChangelog))
	}
}

func signedSize(n int64) string {
	if n < 0 {
		return "−" + show.Size(-n)
	}
	return "+" + show.Size(n)
}

// trustHint is the next step if the signature of an image is not by a trusted key.
const trustHint = "if you trust its signer: ingot key trust FILE.pub; to list trusted keys: ingot key ls"

// explainUnverified adds the next step for an image that is damaged or not trusted.
func explainUnverified(err error) error {
	if errors.Is(err, image.ErrSignature) {
		return show.WithHint(err, trustHint)
	}
	var hint show.HintError
	if errors.As(err, &hint) || !errors.Is(err, image.ErrDamaged) {
		return err
	}
	return show.WithHint(err, image.Repair)
}

// unverified shows in JSON that an image could not be verified, and returns the error for people.
func (a *Commands) unverified(ref string, im image.Image, err error) error {
	if !errors.Is(err, image.ErrDamaged) && !errors.Is(err, image.ErrSignature) {
		return err
	}
	err = explainUnverified(err)
	shown := a.Show(map[string]any{"image": ref, "digest": im.Digest, "ok": false, "problem": err.Error(),
		"next": client.NextStep(err)}, func(io.Writer) {})
	return errors.Join(err, shown)
}

func (a *Commands) imageVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "verify IMAGE", Short: "check an image's files and signature in the store",
		Long: `Check every file of an image, and of its referrers, against its digest, and the signature
against the release keys that the store trusts. A UKI signed for Secure Boot must equal the
image's UKI except for the signature. All files that are missing or damaged are named, with -o
json in "problem". To rebuild the image from its plan and compare: ingot verify IMAGE
` + command.ImageHelp,
		Example: "  ingot image verify lab:v1", Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, im, err := a.Image(cmd.Context(), args[0])
			if err != nil {
				return a.unverified(args[0], im, err)
			}
			keys, err := image.ReadKeyring(a.keyDir())
			if err != nil {
				return err
			}
			if err := s.Verify(cmd.Context(), im, keys.For(im.Digest)...); err != nil {
				return a.unverified(im.Name.String(), im, err)
			}
			signed, err := secureboot.Verify(cmd.Context(), s, im)
			if err != nil {
				return explainForeign(err)
			}
			return a.Show(map[string]any{"image": im.Name.String(), "digest": im.Digest, "ok": true, "signedUKIs": signed},
				func(w io.Writer) {
					fmt.Fprintf(w, "%s %s: %s verified, signed by a trusted key\n", im.Name, im.Digest.Short(), show.Size(im.Size))
					if signed > 0 {
						fmt.Fprintf(w, "  %d UKIs signed for Secure Boot, equal to the image's except for the signature\n", signed)
					}
				})
		},
	}
}
