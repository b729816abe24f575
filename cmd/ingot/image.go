package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
	"ingot/image"
)

func (a *app) imageCommand() *cobra.Command {
	var deep bool
	ls := &cobra.Command{
		Use: "ls [IMAGE [PATH]]", Short: "list the images of the store, or the files of one", Args: maxArgs(2),
		Long:    "List the images of the store, or what is in a folder of an image's root. With --server or\n--context, the images of that server, and why they must stay.\n" + imageRef,
		Example: "  ingot image ls\n  ingot image ls lab:v1 /etc\n  ingot image ls lab:v1 --recursive\n  ingot image ls -o json | jq -r '.[].digest'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return a.imageFiles(cmd.Context(), args[0], strings.Join(args[1:], ""), deep)
			}
			return a.imageList(cmd.Context())
		},
	}
	ls.Flags().BoolVarP(&deep, "recursive", "r", false, "list all that is below PATH")
	inspect := &cobra.Command{
		Use: "inspect IMAGE", Short: "what an image is made of",
		Long:    "Show one image: digests, sizes, plan, kernel, volumes, health checks, and what vouches\nfor it: dm-verity root hash, UKI and who signed it, PCR 11, SBOM.\n" + imageRef,
		Example: "  ingot image inspect lab:v1", Args: exactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.imageInspect(cmd.Context(), args[0]) },
	}
	return group("image", "list, read, compare, name, move and remove images", ls, inspect, a.imageCatCommand(), a.imageDiffCommand(),
		a.imageTagCommand(), a.imageRmCommand(), a.imageGCCommand(), a.imageVerifyCommand(),
		a.imageExportCommand(), a.imageImportCommand(), a.imagePushCommand(), a.imagePullCommand(),
		a.imageSignCommand(), a.imageSignatureCommand(), a.imageManifestCommand(), a.imageSBOMCommand())
}

func (a *app) imageList(ctx context.Context) error {
	if a.elsewhere() {
		images, err := a.client().Images(ctx)
		if err != nil {
			return err
		}
		return a.show(images, func(w io.Writer) { remoteTable(w, images, time.Now()) })
	}
	s, err := image.Open(ctx, a.storeRoot())
	if err != nil {
		return err
	}
	images, err := s.List(ctx)
	if err != nil {
		return err
	}
	views := make([]imageView, len(images))
	for i, im := range images {
		views[i] = viewOf(im)
	}
	return a.show(views, func(w io.Writer) { imageTable(w, images, time.Now()) })
}

// imageView is the JSON form of an image.
type imageView struct {
	Digest    ingot.Digest        `json:"digest"`
	Name      string              `json:"name"`
	Tags      []string            `json:"tags,omitempty"`
	Size      int64               `json:"size"`
	Signature string              `json:"signature,omitempty"`
	Manifest  ingot.ImageManifest `json:"manifest"`
	OCI       json.RawMessage     `json:"oci"`
	Referrers []image.Referrer    `json:"referrers,omitempty"` // told by inspect: signatures, SBOM, signed UKIs
}

func viewOf(im image.Image) imageView {
	return imageView{Digest: im.Digest, Name: im.Name.String(), Tags: im.Tags, Size: im.Size,
		Signature: im.Signature, Manifest: im.Manifest, OCI: im.OCI}
}

func imageTable(w io.Writer, images []image.Image, now time.Time) {
	if len(images) == 0 {
		fmt.Fprintln(w, "the store holds no image yet\n  → ingot build lab --version v1")
		return
	}
	t := tabs(w)
	row(t, "IMAGE", "DIGEST", "ARCH", "KERNEL", "PACKAGES", "ROOT", "INITRAMFS", "STORED", "TAGS")
	for _, im := range images {
		m := im.Manifest
		row(t, im.Name.String(), im.Digest.Short(), string(m.Arch), m.KernelRelease, fmt.Sprint(m.Packages),
			size(m.Root.Size), size(m.Initramfs.Size), ago(im.Stored, now), dash(strings.Join(im.Tags, " ")))
	}
	t.Flush()
}

// remoteTable lists the images of a server, and why they must stay there.
func remoteTable(w io.Writer, images []api.Image, now time.Time) {
	if len(images) == 0 {
		fmt.Fprintln(w, "the server's store holds no image yet\n  → build or pull one there: ingot build, ingot image pull")
		return
	}
	t := tabs(w)
	row(t, "IMAGE", "DIGEST", "ARCH", "KERNEL", "PACKAGES", "ROOT", "INITRAMFS", "STORED", "TAGS", "IN USE")
	for _, im := range images {
		row(t, im.Name, im.Digest.Short(), string(im.Arch), im.Kernel, fmt.Sprint(im.Packages), size(im.Needed["root"]), size(im.Needed["initramfs"]),
			ago(im.Stored, now), dash(strings.Join(im.Tags, " ")), dash(im.InUse))
	}
	t.Flush()
}

func (a *app) imageInspect(ctx context.Context, ref string) error {
	s, im, err := a.withImage(ctx, ref)
	if err != nil {
		return err
	}
	seals, err := a.seals(ctx, s, im)
	if err != nil {
		return err
	}
	view := viewOf(im)
	if view.Referrers, err = s.Referrers(ctx, im.Digest, ""); err != nil {
		return err
	}
	return a.show(view, func(w io.Writer) { imageDetails(w, im, seals) })
}

func imageDetails(w io.Writer, im image.Image, seals [][2]string) {
	m := im.Manifest
	t := tabs(w)
	row(t, "image", im.Name.String())
	row(t, "digest", im.Digest.String())
	if len(im.Tags) > 0 {
		row(t, "tags", strings.Join(im.Tags, " "))
	}
	row(t, "plan", m.Plan.String())
	row(t, "arch", string(m.Arch))
	row(t, "inputs as of", m.Created.UTC().Format(time.DateOnly))
	row(t, "kernel", fmt.Sprintf("%s, %s", m.KernelRelease, size(m.Kernel.Size)))
	row(t, "arguments", strings.Join(m.Arguments, " "))
	row(t, "initramfs", size(m.Initramfs.Size))
	row(t, "root", fmt.Sprintf("%s in %d chunks, %s unpacked, %d packages", size(m.Root.Size), len(m.Chunks), size(m.Unpacked), m.Packages))
	row(t, "root digest", m.Root.Digest.String())
	row(t, "memory", fmt.Sprintf("needs %s; writes outside volumes are bounded to %s", size(m.MinRAM), overlay(m.Overlay)))
	row(t, "deadline", m.Deadline.String())
	for _, v := range m.Volumes {
		row(t, "volume", volumeText(v))
	}
	for _, c := range m.Checks {
		row(t, "check", checkText(c))
	}
	for _, r := range seals {
		row(t, r[0], r[1])
	}
	row(t, "signed", signed(im))
	t.Flush()
}

func overlay(n int64) string {
	if n == 0 {
		return "a quarter of RAM"
	}
	return size(n)
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
