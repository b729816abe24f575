package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/catalog"
	"ingot/builder"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
	"ingot/internal/count"
)

func (a *Commands) imageCommand() *cobra.Command {
	var deep bool
	ls := &cobra.Command{
		Use: "ls [IMAGE [PATH]]", Short: "list the images of the store, or the files of one", Args: command.MaxArgs(2),
		Long: `List the images of the store, or the files in a folder of an image's root. With --server or
--context, list the images of that server, and what they are needed for.

STATE is "damaged" (a file is missing or has other content, or the manifest cannot be read),
"untrusted" (no trusted release key signed it), "complete" (the files have the right sizes) or
"verified" (the running server has read the files, and they have not changed since). To read
all files: ingot image verify IMAGE
` + command.ImageHelp,
		Example: `  ingot image ls
  ingot image ls lab:v1 /etc
  ingot image ls lab:v1 --recursive
  ingot image ls -o json | jq -r '.[].digest'
  ingot image ls -o json | jq '.[] | select(.state == "damaged") | .problem'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return a.imageFiles(cmd.Context(), args[0], strings.Join(args[1:], ""), deep)
			}
			return a.imageList(cmd.Context())
		},
	}
	ls.Flags().BoolVarP(&deep, "recursive", "r", false, "list everything below PATH")
	inspect := &cobra.Command{
		Use: "inspect IMAGE", Short: "show an image in detail",
		Long: `Show one image: digests, sizes, plan, kernel, volumes, health checks, the largest packages, dm-verity
root hash, UKI and its signer, PCR 11, SBOM.
` + command.ImageHelp,
		Example: "  ingot image inspect lab:v1", Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.imageInspect(cmd.Context(), args[0]) },
	}
	return command.Parent("image", "list, read, compare, tag, copy and remove images",
		"  ingot image ls\n  ingot image inspect lab:v1", ls, inspect, a.imageCatCommand(),
		a.imageDiffCommand(), a.imagePackagesCommand(),
		a.imageTagCommand(), a.imageRmCommand(), a.imageGCCommand(), a.imageVerifyCommand(),
		a.imageExportCommand(), a.imageImportCommand(), a.imagePushCommand(), a.imagePullCommand(),
		a.imageSignCommand(), a.imageSignatureCommand(), a.imageManifestCommand(), a.imageSBOMCommand())
}

func (a *Commands) imageList(ctx context.Context) error {
	if a.Elsewhere() {
		images, err := a.Client().Images(ctx)
		if err != nil {
			return err
		}
		return a.Show(images, func(w io.Writer) { remoteTable(w, images, time.Now()) })
	}
	s, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return err
	}
	images, err := catalog.New(s).List(ctx)
	if err != nil {
		return err
	}
	a.believeServer(ctx, images)
	views := make([]show.ImageView, len(images))
	for i, im := range images {
		views[i] = show.ViewOf(im.Image)
		views[i].State = im.State
		if im.Err != nil {
			views[i].Problem = im.Err.Error()
		}
	}
	return a.Show(views, func(w io.Writer) { imageTable(w, images, time.Now()) })
}

// believeServer takes over what the running server of the store, if there is one, found when it read the
// files of images.
func (a *Commands) believeServer(ctx context.Context, images []catalog.Listed) {
	_, socket := a.Locate(a.StoreRoot())
	if socket == "" {
		return
	}
	reported, err := api.Dial(socket).Images(ctx)
	if err != nil {
		return // the list is good without it
	}
	for i := range images {
		im := &images[i]
		k := slices.IndexFunc(reported, func(t api.Image) bool { return t.Digest == im.Digest })
		if k < 0 || im.State != catalog.Complete {
			continue
		}
		if im.State = reported[k].State; reported[k].Problem != "" {
			im.Err = errors.New(reported[k].Problem)
		}
	}
}

func imageTable(w io.Writer, images []catalog.Listed, now time.Time) {
	if len(images) == 0 {
		fmt.Fprintln(w, "the store has no images\n  → ingot build lab --version v1")
		return
	}
	t := show.Table(w)
	show.Row(t, "IMAGE", "DIGEST", "STATE", "ARCH", "KERNEL", "PACKAGES", "ROOT", "INITRAMFS", "STORED", "TAGS")
	for _, im := range images {
		m := im.Manifest
		show.Row(t, show.Dash(im.Name.String()), im.Digest.Short(), im.State, show.Dash(string(m.Arch)),
			show.Dash(m.KernelRelease), fmt.Sprint(m.Packages), show.Size(m.Root.Size), show.Size(m.Initramfs.Size),
			stored(im.Stored, now), show.Dash(strings.Join(im.Tags, " ")))
	}
	t.Flush()
	for _, im := range images {
		if im.Err != nil {
			problem(w, im.State, im.Err.Error())
		}
	}
}

// problem prints why an image cannot be booted, and the next step.
func problem(w io.Writer, state, why string) {
	text, _ := strings.CutSuffix(why, "; "+image.Repair)
	fix := image.Repair
	if state == catalog.Untrusted {
		fix = trustHint
	}
	fmt.Fprintf(w, "%s: %s\n  → %s\n", state, show.Plain(text), fix)
}

// stored is when an image was stored; unknown of a damaged one.
func stored(at, now time.Time) string {
	if at.IsZero() {
		return show.Dash("")
	}
	return show.Ago(at, now)
}

// remoteTable lists the images of a server, and what they are needed for.
func remoteTable(w io.Writer, images []api.Image, now time.Time) {
	if len(images) == 0 {
		fmt.Fprintln(w, "the server's store has no images\n  → on that host, run: ingot build, or ingot image pull")
		return
	}
	t := show.Table(w)
	show.Row(t, "IMAGE", "DIGEST", "STATE", "ARCH", "KERNEL", "PACKAGES", "ROOT", "INITRAMFS", "STORED", "TAGS", "IN USE")
	for _, im := range images {
		show.Row(t, show.Dash(im.Name), im.Digest.Short(), show.Dash(im.State), show.Dash(string(im.Arch)),
			show.Dash(im.Kernel), fmt.Sprint(im.Packages), show.Size(im.Needed["root"]), show.Size(im.Needed["initramfs"]),
			stored(im.Stored, now), show.Dash(strings.Join(im.Tags, " ")), show.Dash(im.InUse))
	}
	t.Flush()
	for _, im := range images {
		if im.Problem != "" {
			problem(w, im.State, im.Problem)
		}
	}
}

func (a *Commands) imageInspect(ctx context.Context, ref string) error {
	s, im, err := a.Image(ctx, ref)
	if err != nil {
		return err
	}
	seals, err := a.seals(ctx, s, im)
	if err != nil {
		return err
	}
	view := show.ViewOf(im)
	if view.Referrers, err = s.Referrers(ctx, im.Digest, ""); err != nil {
		return err
	}
	if c, err := builder.Measure(ctx, s, im); err == nil && len(c.Packages) > 0 { // else the rest is shown
		view.Contents = &c
		seals = append([][2]string{{"largest", largest(c)}}, seals...)
	}
	return a.Show(view, func(w io.Writer) { imageDetails(w, im, seals) })
}

func imageDetails(w io.Writer, im image.Image, seals [][2]string) {
	m := im.Manifest
	t := show.Table(w)
	show.Row(t, "image", im.Name.String())
	show.Row(t, "digest", im.Digest.String())
	if len(im.Tags) > 0 {
		show.Row(t, "tags", strings.Join(im.Tags, " "))
	}
	show.Row(t, "plan", m.Plan.String())
	show.Row(t, "arch", string(m.Arch))
	show.Row(t, "inputs as of", m.Created.UTC().Format(time.DateOnly))
	show.Row(t, "kernel", fmt.Sprintf("%s, %s", m.KernelRelease, show.Size(m.Kernel.Size)))
	show.Row(t, "arguments", strings.Join(m.Arguments, " "))
	show.Row(t, "initramfs", show.Size(m.Initramfs.Size))
	show.Row(t, "root", fmt.Sprintf("%s in %s, %s unpacked, %s", show.Size(m.Root.Size),
		count.Of(len(m.Chunks), "chunk"), show.Size(m.Unpacked), count.Of(m.Packages, "package")))
	show.Row(t, "root digest", m.Root.Digest.String())
	show.Row(t, "memory", fmt.Sprintf("needs %s; writes outside volumes are limited to %s", show.Size(m.MinRAM),
		overlay(m.Overlay)))
	show.Row(t, "deadline", m.Deadline.String())
	for _, v := range m.Volumes {
		show.Row(t, "volume", volumeText(v))
	}
	for _, s := range m.Scratch {
		show.Row(t, "scratch", scratchText(s, m.Volumes))
	}
	for _, c := range m.Checks {
		show.Row(t, "check", checkText(c))
	}
	for _, h := range m.Drain {
		show.Row(t, "drain", fmt.Sprintf("%s: %s, within %s", h.Name, strings.Join(h.Command, " "), h.Limit()))
	}
	for _, r := range seals {
		show.Row(t, r[0], r[1])
	}
	show.Row(t, "signed", signed(im))
	t.Flush()
}

func overlay(n int64) string {
	if n == 0 {
		return "a quarter of RAM"
	}
	return show.Size(n)
}

func volumeText(v ingot.Volume) string {
	found := "label " + v.FSLabel()
	if v.Serial != "" {
		found = "serial " + v.Serial
	}
	need := "required"
	if v.Optional {
		need = "optional"
	}
	return fmt.Sprintf("%s at %s, found by %s, %s", v.Name, v.Mount, found, need)
}

// scratchText says where a folder of scratch is: on a volume, or in memory.
func scratchText(s ingot.Scratch, volumes []ingot.Volume) string {
	for _, v := range volumes {
		if s.Volume == v.Name || s.Path == v.Mount || strings.HasPrefix(s.Path, v.Mount+"/") {
			return fmt.Sprintf("%s on volume %s", s.Path, v.Name)
		}
	}
	return s.Path + " in memory"
}

func checkText(c ingot.Check) string {
	switch {
	case len(c.Units) > 0:
		return c.Name + ": units " + strings.Join(c.Units, ", ")
	case c.TCP != "":
		return c.Name + ": connects to " + c.TCP
	case c.HTTP != "":
		return c.Name + ": GET " + c.HTTP
	}
	return c.Name + ": runs " + strings.Join(c.Command, " ")
}

func signed(im image.Image) string {
	if im.Signature == "" {
		return "no: machines will refuse it"
	}
	return "by the release key"
}
