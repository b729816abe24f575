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

// exportFlags say what is exported.
type exportFlags struct {
	format, key, certificate string
}

func (a *Commands) imageExportCommand() *cobra.Command {
	var f exportFlags
	c := &cobra.Command{
		Use: "export IMAGE FILE", Short: "write an image to a file: an archive, a bootable disk, an ISO",
		Long: `Write an image to a file.

  oci   an OCI archive with signature, SBOM and all else that refers to the image, for
        ingot image import on another host; skopeo reads it as oci-archive:FILE:IMAGE
  raw   a disk for machines without network boot: write it to a disk or USB stick
        with dd, or give it to a virtual machine
  iso   the same for optical and virtual drives

Without --format, FILE's ending decides: .raw and .img, .iso, anything else is oci.

Disk and ISO boot on UEFI machines alone, not on BIOS ones: what they boot is a UKI, a
program for UEFI. They need no network and no server. The UKI carries the root hash, and
dm-verity refuses every block of the root that is not the image's. Volumes are found and
mounted as usual; none is ever made. With Secure Boot, sign them with your keys, or the
firmware will refuse them.
` + command.ImageHelp,
		Example: "  ingot image export node:1 node.oci.tar\n  ingot image export node:1 node.raw && dd if=node.raw of=/dev/sdX bs=4M conv=fsync\n  ingot image export node:1 node.iso --secure-boot-key db.key --secure-boot-cert db.crt",
		Args:    command.ExactArgs("IMAGE", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.complete(args[1]); err != nil {
				return err
			}
			return a.imageExport(cmd.Context(), args[0], args[1], f)
		},
	}
	c.Flags().StringVar(&f.format, "format", "", "oci, raw or iso (default: by FILE's ending)")
	c.Flags().StringVar(&f.key, "secure-boot-key", "", "PEM file of the key to sign the UKI with (raw, iso)")
	c.Flags().StringVar(&f.certificate, "secure-boot-cert", "", "PEM file of its certificate")
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
		return show.Usagef("--secure-boot-key is for raw and iso; an archive holds the image as it is")
	}
	return nil
}

func (a *Commands) imageExport(ctx context.Context, ref, file string, f exportFlags) error {
	s, im, err := a.Image(ctx, ref)
	if err != nil {
		return err
	}
	if f.format != "oci" { // an archive is checked while it is written, and by whoever imports it
		keys, err := a.trustedKeys()
		if err != nil {
			return err
		}
		if err := s.Verify(ctx, im, image.Public(keys)...); err != nil {
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
	view := map[string]any{"image": im.Name.String(), "digest": im.Digest, "file": file, "format": f.format, "size": st.Size()}
	return a.Show(view, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s, %s\n", file, im.Name, show.Size(st.Size()))
		if f.format != "oci" {
			fmt.Fprintln(w, "  boots UEFI machines, not BIOS ones")
		}
	})
}

func (a *Commands) imageImportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "import FILE", Short: "take images from an OCI archive",
		Long: `Take the images of an OCI archive (a file of ingot image export, of skopeo, or a
folder with an OCI layout). They must be signed by the release key of this store or by
one that it trusts (see: ingot key --help); every part is checked against its digest.`,
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
			var images []image.Image
			for _, d := range list {
				err = a.move("import", func(progress func(done, total int64)) error {
					im, err := s.Receive(cmd.Context(), archive, d, a.receiveOptions(progress))
					images = append(images, im)
					return err
				})
				if err != nil {
					return a.transferHint(cmd.Context(), err, "")
				}
				a.Note(cmd.Context(), images[len(images)-1], "import", args[0])
			}
			return a.showReceived(s, images)
		},
	}
}
