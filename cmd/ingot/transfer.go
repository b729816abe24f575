package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
	"ingot/builder"
	"ingot/image"
	"ingot/image/registry"
)

// registryFlags say how a registry is talked to.
type registryFlags struct {
	plainHTTP   bool
	ca          string
	credentials string
}

func (f *registryFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "talk HTTP, for registries in labs")
	c.Flags().StringVar(&f.ca, "ca", "", "PEM file of the authority of the registry's certificate, besides the system's")
	c.Flags().StringVar(&f.credentials, "credentials", "", "credentials file (default: docker's config.json, then podman's auth.json)")
}

const registryHelp = `
Credentials are those of docker and podman: log in with one of them, or have a
credential helper in docker's config.json. What a registry has is not sent again, a
broken connection goes on where it stopped.`

// open makes the client of a registry.
func (a *app) registry(ctx context.Context, ref string, f registryFlags) (*registry.Repository, error) {
	o := registry.Options{PlainHTTP: f.plainHTTP, UserAgent: "ingot/" + version, Credentials: credentialFiles()}
	if f.credentials != "" {
		if _, err := os.Stat(f.credentials); err != nil {
			return nil, fmt.Errorf("reading credentials: %w", err)
		}
		o.Credentials = []string{f.credentials}
	}
	if f.ca != "" {
		var err error
		if o.CA, err = os.ReadFile(f.ca); err != nil {
			return nil, fmt.Errorf("reading the authority's certificate: %w", err)
		}
	}
	log := a.logger()
	o.Retry = func(err error, pause time.Duration) {
		log.Warn("trying again", "in", pause.Round(100*time.Millisecond), "err", err)
	}
	r, err := registry.Open(ctx, ref, o)
	if errors.Is(err, registry.ErrReference) {
		return nil, usageError{err}
	}
	return r, err
}

// credentialFiles are where docker and podman keep what one logged in with.
func credentialFiles() []string {
	var files []string
	if d := os.Getenv("DOCKER_CONFIG"); d != "" {
		files = append(files, filepath.Join(d, "config.json"))
	} else if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".docker", "config.json"))
	}
	if f := os.Getenv("REGISTRY_AUTH_FILE"); f != "" {
		files = append(files, f)
	} else if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		files = append(files, filepath.Join(d, "containers", "auth.json"))
	}
	return files
}

// transferHint adds the next step to what went wrong between store and registry.
func (a *app) transferHint(ctx context.Context, err error, host string) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return withHint(errors.New("interrupted; no image was changed"), "run the same command again, what is complete is not moved again")
	}
	for _, h := range []struct {
		of   error
		hint string
	}{
		{registry.ErrCredentials, "docker login " + host + ", or podman login " + host},
		{registry.ErrRefused, "log in again with an account that the registry knows: docker login " + host},
		{registry.ErrForbidden, "ask for the right to do this, or name another repository"},
		{registry.ErrMissing, "check repository and tag; to send an image there: ingot image push IMAGE " + host + "/REPOSITORY"},
		{registry.ErrPlainHTTP, "--plain-http, if that is what you want"},
		{registry.ErrAuthority, "--ca FILE, with the certificate of the authority"},
		{registry.ErrUnreachable, "check the registry's name and whether it runs, then run the same command again"},
		{registry.ErrTaken, "a version names one image: push to another tag, or delete that one at the registry"},
		{image.ErrUntrusted, "if you trust whoever built it: ingot key trust FILE.pub (keys/release.pub of that host's store), then run the same command again"},
		{image.ErrContent, "run the same command again; if it stays so, what is there is damaged: have it written anew from a good copy"},
		{image.ErrExists, "remove the one here (ingot image rm), or build the other with another --version"},
		{image.ErrNotImage, "name an image that ingot built; container images are a base of profiles: ingot profile --help"},
		{image.ErrNotArchive, "name a file that ingot image export wrote, or an OCI layout"},
	} {
		if errors.Is(err, h.of) {
			return withHint(err, "%s", h.hint)
		}
	}
	return explain(ctx, err)
}

// move runs a transfer with a progress bar of bytes.
func (a *app) move(name string, run func(progress func(done, total int64)) error) error {
	bar := newProgress(a.stderr)
	start := time.Now()
	err := run(func(done, total int64) {
		rate := int64(float64(done) / max(time.Since(start).Seconds(), 0.001))
		if done >= total { // the bar ends when all is written, not when all is read
			done = total - 1
		}
		bar.Step(name, done, total, fmt.Sprintf("%s of %s, %s/s", size(done+1), size(total), size(rate)))
	})
	if err != nil {
		bar.Abort()
		return err
	}
	bar.Finish()
	return nil
}

func (a *app) imagePushCommand() *cobra.Command {
	var f registryFlags
	c := &cobra.Command{
		Use: "push IMAGE REGISTRY/REPOSITORY[:TAG]", Short: "send an image to a registry",
		Long: `Send an image, its signature, its SBOM and whatever else refers to it to any OCI
registry. Without a tag it is the image's version.` + registryHelp + "\n" + imageRef,
		Example: "  ingot image push node:2026.11.24-1 registry.example.com/images/node\n  ingot image push node registry.example.com/images/node:stable\n  ingot image push lab:v1 127.0.0.1:5000/lab --plain-http",
		Args:    exactArgs("IMAGE", "REGISTRY/REPOSITORY[:TAG]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, im, err := a.withImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			r, err := a.registry(cmd.Context(), args[1], f)
			if err != nil {
				return err
			}
			var done registry.Pushed
			err = a.move("push", func(progress func(done, total int64)) (err error) {
				done, err = r.Push(cmd.Context(), s, im, progress)
				return err
			})
			if err != nil {
				return a.transferHint(cmd.Context(), err, r.Reference.Registry)
			}
			return a.show(done, func(w io.Writer) {
				fmt.Fprintf(w, "%s is %s, tag %s: %s sent, %s was there, with %d referrers\n", im.Name, done.Reference, done.Tag,
					size(done.Sent), size(done.Present), done.Referrers)
			})
		},
	}
	f.add(c)
	return c
}

func (a *app) imagePullCommand() *cobra.Command {
	var f registryFlags
	c := &cobra.Command{
		Use: "pull REGISTRY/REPOSITORY:TAG|@DIGEST", Short: "fetch an image from a registry",
		Long: `Fetch an image with all that refers to it. It must be signed by the release key of
this store or by one that it trusts (see: ingot key --help); that is checked before
anything big is fetched, and every part is checked against its digest. A pull that is
interrupted leaves no image, and the next one fetches only what is missing.` + registryHelp,
		Example: "  ingot image pull registry.example.com/images/node:stable\n  ingot image pull 127.0.0.1:5000/lab:v1 --plain-http",
		Args:    exactArgs("REGISTRY/REPOSITORY:TAG"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.here(cmd.CommandPath()); err != nil {
				return err
			}
			r, err := a.registry(cmd.Context(), args[0], f)
			if err != nil {
				return err
			}
			d, err := r.Resolve(cmd.Context())
			if errors.Is(err, registry.ErrReference) {
				return usageError{err}
			}
			if err != nil {
				return a.transferHint(cmd.Context(), err, r.Reference.Registry)
			}
			s, err := image.Open(cmd.Context(), a.storeRoot())
			if err != nil {
				return err
			}
			var im image.Image
			err = a.move("pull", func(progress func(done, total int64)) (err error) {
				im, err = s.Receive(cmd.Context(), r, d, a.receiveOptions(progress))
				return err
			})
			if err != nil {
				return a.transferHint(cmd.Context(), err, r.Reference.Registry)
			}
			a.note(cmd.Context(), im, "pull", args[0])
			return a.showReceived(s, []image.Image{im})
		},
	}
	f.add(c)
	return c
}

// receiveOptions trust the store's own key and those its operator added. Keys
// that cannot be read are trusted by nobody: the refusal names them.
func (a *app) receiveOptions(progress func(done, total int64)) image.ReceiveOptions {
	keys, err := a.trustedKeys()
	if err != nil {
		a.logger().Warn("the trusted keys cannot be read", "err", err)
	}
	return image.ReceiveOptions{Trusted: image.Public(keys), Progress: progress}
}

func (a *app) keyDir() string { return filepath.Join(a.storeRoot(), "keys") }

func (a *app) trustedKeys() ([]image.NamedKey, error) { return image.TrustedKeys(a.keyDir()) }

// showReceived prints images that came in, and what the operator should know.
func (a *app) showReceived(s *image.Store, images []image.Image) error {
	views := make([]imageView, len(images))
	for i, im := range images {
		views[i] = viewOf(im)
		a.warnServerKey(s, im)
	}
	return a.show(views, func(w io.Writer) {
		for _, im := range images {
			fmt.Fprintf(w, "%s %s for %s: %s, signed\n", im.Name, im.Digest.Short(), im.Manifest.Arch, size(im.Size))
		}
	})
}

// warnServerKey tells when machines that boot an image would not believe this
// store's server: the initramfs carries the key of the server it was built for.
func (a *app) warnServerKey(s *image.Store, im image.Image) {
	blobs, err := s.Blobs(im.Digest)
	if err != nil {
		return
	}
	own, err := os.ReadFile(filepath.Join(a.keyDir(), "server.pub"))
	if err != nil {
		return // no server runs from this store yet
	}
	for _, d := range blobs {
		if d.MediaType != ingot.MediaTypePlan {
			continue
		}
		var plan struct {
			Keys map[string]ingot.Digest `json:"keys"`
		}
		b, err := os.ReadFile(s.Blob(ingot.Digest(d.Digest)))
		if err == nil && json.Unmarshal(b, &plan) == nil && plan.Keys["server"] != "" && plan.Keys["server"] != ingot.DigestOf(own) {
			a.logger().Warn("machines that boot this image by network believe another server than this store's; build it with --server-key and this store's keys/server.pub",
				"image", im.Name.String())
		}
	}
}

// exportFlags say what is exported.
type exportFlags struct {
	format, key, certificate string
}

func (a *app) imageExportCommand() *cobra.Command {
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
` + imageRef,
		Example: "  ingot image export node:1 node.oci.tar\n  ingot image export node:1 node.raw && dd if=node.raw of=/dev/sdX bs=4M conv=fsync\n  ingot image export node:1 node.iso --secure-boot-key db.key --secure-boot-cert db.crt",
		Args:    exactArgs("IMAGE", "FILE"),
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
			f.format = string(builder.RawDisk)
		case ".iso":
			f.format = string(builder.ISO)
		default:
			f.format = "oci"
		}
	}
	switch {
	case f.format != "oci" && f.format != string(builder.RawDisk) && f.format != string(builder.ISO):
		return usagef("unknown format %q: want oci, raw or iso", f.format)
	case f.format == "oci" && f.key != "":
		return usagef("--secure-boot-key is for raw and iso; an archive holds the image as it is")
	}
	return nil
}

func (a *app) imageExport(ctx context.Context, ref, file string, f exportFlags) error {
	s, im, err := a.withImage(ctx, ref)
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
		return builder.Export(ctx, s, im, file, builder.ExportOptions{Medium: builder.Medium(f.format), Key: f.key, Certificate: f.certificate, Progress: progress})
	})
	switch {
	case errors.Is(err, builder.ErrNoLocalBoot):
		return withHint(err, "build it again with this ingot: ingot build %s", im.Name.Profile)
	case err != nil && ctx.Err() != nil:
		return withHint(errors.New("interrupted; no file was written"), "run the same command again")
	case err != nil:
		return explain(ctx, err)
	}
	st, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("exporting %s: %w", im.Name, err)
	}
	view := map[string]any{"image": im.Name.String(), "digest": im.Digest, "file": file, "format": f.format, "size": st.Size()}
	return a.show(view, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %s, %s\n", file, im.Name, size(st.Size()))
		if f.format != "oci" {
			fmt.Fprintln(w, "  boots UEFI machines, not BIOS ones")
		}
	})
}

func (a *app) imageImportCommand() *cobra.Command {
	return &cobra.Command{
		Use: "import FILE", Short: "take images from an OCI archive",
		Long: `Take the images of an OCI archive (a file of ingot image export, of skopeo, or a
folder with an OCI layout). They must be signed by the release key of this store or by
one that it trusts (see: ingot key --help); every part is checked against its digest.`,
		Example: "  ingot image import node.oci.tar", Args: exactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.here(cmd.CommandPath()); err != nil {
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
			s, err := image.Open(cmd.Context(), a.storeRoot())
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
				a.note(cmd.Context(), images[len(images)-1], "import", args[0])
			}
			return a.showReceived(s, images)
		},
	}
}

func (a *app) keyCommand() *cobra.Command {
	return group("key", "whose images this store takes from elsewhere", a.keyLsCommand(), a.keyTrustCommand(), a.keyDistrustCommand())
}

func (a *app) keyTrustCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "trust FILE.pub", Short: "take images that another release key signed",
		Long: `Take images, by pull and import, that this release key signed: the one of a build
host, keys/release.pub in its store. Compare its ID with what that host shows.
` + whoseStore,
		Example: "  ingot key trust build1.pub\n  ingot key trust release.pub --name build1", Args: exactArgs("FILE.pub"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("reading a public key: %w", err)
			}
			if _, err := image.ParsePublicKey(b); err != nil {
				return withHint(fmt.Errorf("reading %q: %w", args[0], err), "name a minisign public key, such as keys/release.pub of another store")
			}
			if name == "" {
				name = strings.TrimSuffix(filepath.Base(args[0]), ".pub")
			}
			room, done, err := a.storeroom(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			key, err := room.TrustKey(asSelf(cmd.Context()), api.KeyRequest{Name: name, Key: string(b)})
			if err != nil {
				return err
			}
			return a.show(key, func(w io.Writer) {
				fmt.Fprintf(w, "images signed by %s (key %s) are taken from now on\n", plain(key.Name), plain(key.ID))
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "what to call it (default: the file's name)")
	return c
}

func (a *app) keyLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "whose images this store takes",
		Long:    "List the release keys whose images this store takes from registries and archives.",
		Example: "  ingot key ls", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.here(cmd.CommandPath()); err != nil {
				return err
			}
			keys, err := a.trustedKeys()
			if err != nil {
				return err
			}
			if keys == nil {
				keys = []image.NamedKey{}
			}
			return a.show(keys, func(w io.Writer) {
				if len(keys) == 0 {
					fmt.Fprintln(w, "the store has no keys yet; ingot build and ingot serve make them\n  → ingot key trust FILE.pub")
					return
				}
				t := tabs(w)
				row(t, "NAME", "ID")
				for _, k := range keys {
					row(t, k.Name, k.ID)
				}
				t.Flush()
			})
		},
	}
}

func (a *app) keyDistrustCommand() *cobra.Command {
	return &cobra.Command{
		Use: "distrust NAME", Short: "take no more images of a key",
		Long:    "Forget a trusted key. Images that are in the store already stay there, and no machine\nboots one that only this key signed.\n" + whoseStore,
		Example: "  ingot key distrust build1", Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			room, done, err := a.storeroom(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			key, err := room.DistrustKey(asSelf(cmd.Context()), args[0])
			if err != nil {
				return err
			}
			return a.show(map[string]string{"distrusted": key.Name, "id": key.ID}, func(w io.Writer) { fmt.Fprintf(w, "%s is not trusted any more\n", args[0]) })
		},
	}
}
