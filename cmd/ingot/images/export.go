package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ingot/builder/export"
	"ingot/builder/secureboot"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// exportFlags are the flags of image export.
type exportFlags struct {
	format, key, certificate string
}

func (a *Commands) imageExportCommand() *cobra.Command {
	var f exportFlags
	c := &cobra.Command{
		Use: "export IMAGE FILE", Short: "write an image to a file: an archive, a bootable disk or an ISO",
		Long: `Write an image to a file.

  oci   an OCI archive with signature, SBOM and all other referrers, for ingot image import
        on another host; skopeo reads it as oci-archive:FILE:IMAGE
  raw   a disk image for machines without network boot: write it to a disk or USB stick
        with dd, or attach it to a virtual machine
  iso   the same for optical and virtual drives

Without --format, the extension of FILE decides: .raw or .img, .iso, else oci.

Disk and ISO boot UEFI machines, not BIOS ones, because they contain a UKI. They need no
network and no server. The UKI contains the root hash, so dm-verity refuses every block that
is not from the image. Volumes are found and mounted as usual; no disk is initialised. With
Secure Boot, sign the UKI with your keys, or the firmware refuses it.
` + command.ImageHelp,
		Example: `  ingot image export node:1 node.oci.tar
  ingot image export node:1 node.raw && dd if=node.raw of=/dev/sdX bs=4M conv=fsync
  ingot image export node:1 node.iso --secure-boot-key db.key --secure-boot-cert db.crt`,
		Args: command.ExactArgs("IMAGE", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.complete(args[1]); err != nil {
				return err
			}
			return a.imageExport(cmd.Context(), args[0], args[1], f)
		},
	}
	c.Flags().StringVar(&f.format, "format", "", "oci, raw or iso (default: by the extension of FILE)")
	c.Flags().StringVar(&f.key, "secure-boot-key", "", "PEM file of the key to sign the UKI with (raw, iso)")
	c.Flags().StringVar(&f.certificate, "secure-boot-cert", "", "PEM file of the certificate of that key")
	c.MarkFlagsRequiredTogether("secure-boot-key", "secure-boot-cert")
	return c
}

// complete chooses the format and checks that the flags fit it.
func (f *exportFlags) complete(file string) error {
	if f.format == "" {
		switch strings.ToLower(filepath.Ext(file)) {
		case ".raw", ".img":
			f.format = string(export.RawDisk)
		case ".iso":
			f.format = string(export.ISO)
		default:
			f.format = "oci"
		}
	}
	switch {
	case f.format != "oci" && f.format != string(export.RawDisk) && f.format != string(export.ISO):
		return show.Usagef("unknown format %q: want oci, raw or iso", f.format)
	case f.format == "oci" && f.key != "":
		return show.Usagef("--secure-boot-key is for raw and iso; an archive contains the image unchanged")
	}
	return nil
}

func (a *Commands) imageExport(ctx context.Context, ref, file string, f exportFlags) error {
	s, im, err := a.Image(ctx, ref)
	if err != nil {
		return err
	}
	if file, err = command.Destination(file); err != nil {
		return fmt.Errorf("exporting %s: %w", im.Name, err)
	}
	if f.format != "oci" { // an archive is checked while it is written, and when it is imported
		keys, err := image.ReadKeyring(a.keyDir())
		if err != nil {
			return err
		}
		if err := s.Verify(ctx, im, keys.For(im.Digest)...); err != nil {
			return explainUnverified(err)
		}
	}
	err = a.move("export", func(progress func(done, total int64)) error {
		if f.format == "oci" {
			return s.Export(ctx, im, file, progress)
		}
		return export.Write(ctx, s, im, file, export.Options{Medium: export.Medium(f.format),
			Sign: secureboot.KeyPair{Key: f.key, Certificate: f.certificate}, Progress: progress})
	})
	switch {
	case errors.Is(err, export.ErrNoLocalBoot):
		return show.WithHint(err, "build it again with this ingot: ingot build %s", im.Name.Profile)
	case err != nil && ctx.Err() != nil:
		return show.WithHint(errors.New("interrupted; no file was written"), "run the same command again")
	case err != nil:
		return show.Explain(ctx, err)
	}
	st, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("exporting %s: %w", im.Name, err)
	}
	view := map[string]any{"image": im.Name.String(), "digest": im.Digest, "file": file, "format": f.format,
		"size": st.Size()}
	return a.Show(view, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s, %s\n", file, im.Name, show.Size(st.Size()))
		if f.format != "oci" {
			fmt.Fprintln(w, "  boots UEFI machines, not BIOS ones")
		}
	})
}

func (a *Commands) imageImportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "import FILE", Short: "import images from an OCI archive",
		Long: `Import the images of an OCI archive: a file written by ingot image export or skopeo, or a
folder with an OCI layout. They must be signed by the release key of this store or by a key
that it trusts (see: ingot key --help). Every part is checked against its digest.`,
		Example: "  ingot image import node.oci.tar", Args: command.ExactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.Here(cmd.CommandPath()); err != nil {
				return err
			}
			archive, err := image.OpenArchive(args[0])
			if err != nil {
				return a.transferHint(cmd.Context(), err, "")
			}
			defer archive.Close()
			list, err := archive.Images(cmd.Context())
			if err != nil {
				return a.transferHint(cmd.Context(), err, "")
			}
			s, err := image.Open(cmd.Context(), a.StoreRoot())
			if err != nil {
				return err
			}
			var images []receivedImage
			for _, d := range list {
				err = a.move("import", func(progress func(done, total int64)) error {
					got, err := a.receive(cmd.Context(), s, archive, d, progress)
					images = append(images, got)
					return err
				})
				if err != nil {
					return a.transferHint(cmd.Context(), err, "")
				}
				a.Note(cmd.Context(), images[len(images)-1].Image, "import", args[0])
			}
			return a.showReceived(s, images)
		},
	}
}
