package images

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
	"ingot/builder"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// packagesView is the JSON form of what an image consists of.
type packagesView struct {
	Image    string              `json:"image"`
	Digest   ingot.Digest        `json:"digest"`
	Bytes    int64               `json:"bytes"` // of all files, before compression
	Packages []image.PackageSize `json:"packages"`
	Other    int64               `json:"other"` // bytes of files of no package
	Measured bool                `json:"measured"`
	Problem  string              `json:"problem,omitempty"` // why the sizes are not known
}

func (a *Commands) imagePackagesCommand() *cobra.Command {
	var byName bool
	c := &cobra.Command{
		Use: "packages IMAGE", Short: "list the packages of an image by size",
		Long: `List the packages of an image's root, the largest first. SIZE is the content of a package's files
before compression; files that no package ships are summed up in the last line. With --server or
--context, list those of an image of that server.
` + command.ImageHelp,
		Example: `  ingot image packages node:1
  ingot image packages node:1 --by-name
  ingot image packages node:1 -o json | jq -r '.packages[] | [.name, .bytes] | @tsv'`,
		Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.packagesOf(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if !byName {
				slices.SortStableFunc(v.Packages, func(a, b image.PackageSize) int { return cmp.Compare(b.Bytes, a.Bytes) })
			}
			return a.Show(v, func(w io.Writer) { packagesText(w, v) })
		},
	}
	c.Flags().BoolVar(&byName, "by-name", false, "sort by name")
	return c
}

// packagesOf lists the packages of an image of this host's store, or of another server.
func (a *Commands) packagesOf(ctx context.Context, ref string) (v packagesView, err error) {
	if a.Elsewhere() {
		im, err := a.Client().Image(ctx, ref)
		if err != nil {
			return v, err
		}
		c, err := a.Client().ImageContents(ctx, string(im.Digest))
		return remotePackages(im, c), err
	}
	s, im, err := a.Image(ctx, ref)
	if err != nil {
		return v, err
	}
	c, err := builder.Measure(ctx, s, im)
	return packagesView{Image: im.Name.String(), Digest: im.Digest, Bytes: c.Bytes(), Packages: c.Packages,
		Other: c.Other, Measured: true}, err
}

// remotePackages are those that a server lists.
func remotePackages(im api.Image, c api.Contents) packagesView {
	v := packagesView{Image: im.Name, Digest: im.Digest, Bytes: c.Other, Packages: []image.PackageSize{}, Other: c.Other,
		Measured: c.Measured, Problem: c.Problem}
	for _, p := range c.Packages {
		v.Packages = append(v.Packages, image.PackageSize{Name: p.Name, Version: p.Version, Files: p.Files, Bytes: p.Size})
		v.Bytes += p.Size
	}
	return v
}

func packagesText(w io.Writer, v packagesView) {
	t := show.Table(w)
	if !v.Measured {
		show.Row(t, "PACKAGE", "VERSION")
		for _, p := range v.Packages {
			show.Row(t, p.Name, p.Version)
		}
		t.Flush()
		fmt.Fprintf(w, "sizes are not known: %s\n", show.Plain(v.Problem))
		return
	}
	share := func(n int64) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(max(v.Bytes, 1))) }
	show.Row(t, "PACKAGE", "VERSION", "FILES", "SIZE", "SHARE")
	for _, p := range v.Packages {
		show.Row(t, p.Name, show.Dash(p.Version), fmt.Sprint(p.Files), show.Size(p.Bytes), share(p.Bytes))
	}
	show.Row(t, "(no package)", show.Dash(""), show.Dash(""), show.Size(v.Other), share(v.Other))
	t.Flush()
	fmt.Fprintf(w, "%d packages, %s before compression\n", len(v.Packages), show.Size(v.Bytes))
}

// largestShown is how many packages the details of an image name.
const largestShown = 5

// largest names the packages of an image that take most, for its details.
func largest(c image.Contents) string {
	list := slices.Clone(c.Packages)
	slices.SortStableFunc(list, func(a, b image.PackageSize) int { return cmp.Compare(b.Bytes, a.Bytes) })
	text := ""
	for i, p := range list[:min(len(list), largestShown)] {
		if i > 0 {
			text += ", "
		}
		text += p.Name + " " + show.Size(p.Bytes)
	}
	return text
}
