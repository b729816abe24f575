package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"ingot"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
	"ingot/image/registry"
)

// registryFlags are the flags of a connection to a registry.
type registryFlags struct {
	plainHTTP   bool
	ca          string
	credentials string
}

func (f *registryFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.plainHTTP, "plain-http", false, "use HTTP, for registries in labs")
	c.Flags().StringVar(&f.ca, "ca", "", "PEM file with the CA of the registry's certificate, in addition to the system's")
	c.Flags().StringVar(&f.credentials, "credentials", "",
		"credentials file (default: docker's config.json, then podman's auth.json)")
}

const registryHelp = `
Credentials are those of docker and podman: log in with one of them, or configure a credential
helper in docker's config.json. Blobs that the other side has are not sent again; a broken
connection is resumed.`

// registry returns a client of a registry.
func (a *Commands) registry(ctx context.Context, ref string, f registryFlags) (*registry.Repository, error) {
	o := registry.Options{PlainHTTP: f.plainHTTP, UserAgent: "ingot/" + a.Version, Credentials: command.CredentialFiles()}
	if f.credentials != "" {
		if _, err := os.Stat(f.credentials); err != nil {
			return nil, fmt.Errorf("reading credentials: %w", err)
		}
		o.Credentials = []string{f.credentials}
	}
	if f.ca != "" {
		var err error
		if o.CA, err = os.ReadFile(f.ca); err != nil {
			return nil, fmt.Errorf("reading the CA's certificate: %w", err)
		}
	}
	log := a.Logger()
	o.Retry = func(err error, pause time.Duration) {
		log.Warn("trying again", "in", pause.Round(100*time.Millisecond), "err", err)
	}
	r, err := registry.Open(ctx, ref, o)
	if errors.Is(err, registry.ErrReference) {
		return nil, show.UsageError{Err: err}
	}
	return r, err
}

// transferHint adds the next step to an error between store and registry.
func (a *Commands) transferHint(ctx context.Context, err error, host string) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return show.WithHint(errors.New("interrupted; no image was changed"),
			"run the same command again; complete parts are not sent again")
	}
	for _, h := range []struct {
		of   error
		hint string
	}{
		{registry.ErrCredentials, "docker login " + host + ", or podman login " + host},
		{registry.ErrRefused, "log in again with a valid account: docker login " + host},
		{registry.ErrForbidden, "ask for access, or use another repository"},
		{registry.ErrMissing, "check repository and tag; to send an image there: ingot image push IMAGE " + host +
			"/REPOSITORY"},
		{registry.ErrPlainHTTP, "to use HTTP: --plain-http"},
		{registry.ErrAuthority, "to trust the CA of the registry: --ca FILE"},
		{registry.ErrUnreachable, "check the registry's name and whether it runs, then run the same command again"},
		{registry.ErrTaken, "a version names one image: push to another tag, or delete that one at the registry"},
		{image.ErrUntrusted, "if you trust its builder: ingot key trust FILE.pub (its keys/release.pub), then run it again"},
		{image.ErrContent, "run the same command again; if it fails again, the source is damaged: replace it"},
		{image.ErrExists, "remove the image of this store (ingot image rm), or build the other one with another --version"},
		{image.ErrNotImage, "name an image that ingot built; to start from a container image: ingot import --help"},
		{image.ErrNotArchive, "name a file that ingot image export wrote, or an OCI layout"},
	} {
		if errors.Is(err, h.of) {
			return show.WithHint(err, "%s", h.hint)
		}
	}
	return show.Explain(ctx, err)
}

// move runs a transfer with a progress bar of bytes.
func (a *Commands) move(name string, run func(progress func(done, total int64)) error) error {
	bar := show.NewProgress(a.Stderr)
	start := time.Now()
	err := run(func(done, total int64) {
		rate := int64(float64(done) / max(time.Since(start).Seconds(), 0.001))
		if done >= total { // the bar ends when everything is written, not when it is read
			done = total - 1
		}
		bar.Step(name, done, total, fmt.Sprintf("%s of %s, %s/s", show.Size(done+1), show.Size(total), show.Size(rate)))
	})
	if err != nil {
		bar.Abort()
		return err
	}
	bar.Finish()
	return nil
}

func (a *Commands) imagePushCommand() *cobra.Command {
	var f registryFlags
	c := &cobra.Command{
		Use: "push IMAGE REGISTRY/REPOSITORY[:TAG]", Short: "send an image to a registry",
		Long: `Send an image, its signature, its SBOM and all other referrers to an OCI registry. The default
tag is the image's version.` + registryHelp + "\n" + command.ImageHelp,
		Example: `  ingot image push node:2026.11.24-1 registry.example.com/images/node
  ingot image push node registry.example.com/images/node:stable
  ingot image push lab:v1 127.0.0.1:5000/lab --plain-http`,
		Args: command.ExactArgs("IMAGE", "REGISTRY/REPOSITORY[:TAG]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, im, err := a.Image(cmd.Context(), args[0])
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
			return a.Show(done, func(w io.Writer) {
				fmt.Fprintf(w, "%s is %s, tag %s: %s sent, %s already there, %d referrers\n", im.Name, done.Reference, done.Tag,
					show.Size(done.Sent), show.Size(done.Present), done.Referrers)
			})
		},
	}
	f.add(c)
	return c
}

func (a *Commands) imagePullCommand() *cobra.Command {
	var f registryFlags
	c := &cobra.Command{
		Use: "pull REGISTRY/REPOSITORY:TAG|@DIGEST", Short: "fetch an image from a registry",
		Long: `Fetch an image with its referrers. It must be signed by the release key of this store or by a
key that it trusts (see: ingot key --help). That is checked first, and every part is checked
against its digest. An interrupted pull leaves no image; the next one fetches only what is
missing.` + registryHelp,
		Example: `  ingot image pull registry.example.com/images/node:stable
  ingot image pull 127.0.0.1:5000/lab:v1 --plain-http`,
		Args: command.ExactArgs("REGISTRY/REPOSITORY:TAG"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.Here(cmd.CommandPath()); err != nil {
				return err
			}
			r, err := a.registry(cmd.Context(), args[0], f)
			if err != nil {
				return err
			}
			d, err := r.Resolve(cmd.Context())
			if errors.Is(err, registry.ErrReference) {
				return show.UsageError{Err: err}
			}
			if err != nil {
				return a.transferHint(cmd.Context(), err, r.Reference.Registry)
			}
			s, err := image.Open(cmd.Context(), a.StoreRoot())
			if err != nil {
				return err
			}
			var got receivedImage
			err = a.move("pull", func(progress func(done, total int64)) (err error) {
				got, err = a.receive(cmd.Context(), s, r, d, progress)
				return err
			})
			if err != nil {
				return a.transferHint(cmd.Context(), err, r.Reference.Registry)
			}
			a.Note(cmd.Context(), got.Image, "pull", args[0])
			return a.showReceived(s, []receivedImage{got})
		},
	}
	f.add(c)
	return c
}

// receivedImage is an image that was pulled or imported.
type receivedImage struct {
	image.Image
	repaired []string // files of it that the store had, damaged
}

// receive adds an image of an origin to the store.
func (a *Commands) receive(ctx context.Context, s *image.Store, from image.Origin, d ocispec.Descriptor,
	progress func(done, total int64)) (got receivedImage, err error) {
	o := a.receiveOptions(progress)
	o.Repaired = func(parts []string) { got.repaired = parts }
	got.Image, err = s.Receive(ctx, from, d, o)
	return got, err
}

// receiveOptions trusts the store's own key and those its operator added. Keys
// that cannot be read are not trusted.
func (a *Commands) receiveOptions(progress func(done, total int64)) image.ReceiveOptions {
	keys, err := a.trustedKeys()
	if err != nil {
		a.Logger().Warn("reading the trusted keys", "err", err)
	}
	return image.ReceiveOptions{Trusted: image.Public(keys), Progress: progress}
}

func (a *Commands) keyDir() string { return filepath.Join(a.StoreRoot(), "keys") }

func (a *Commands) trustedKeys() ([]image.NamedKey, error) { return image.TrustedKeys(a.keyDir()) }

// showReceived prints imported images, and warns about those that will not boot.
func (a *Commands) showReceived(s *image.Store, images []receivedImage) error {
	views := make([]show.ImageView, len(images))
	for i, im := range images {
		views[i] = show.ViewOf(im.Image)
		a.warnServerKey(s, im.Image)
	}
	return a.Show(views, func(w io.Writer) {
		for _, im := range images {
			fmt.Fprintf(w, "%s %s for %s: %s, signed\n", im.Name, im.Digest.Short(), im.Manifest.Arch, show.Size(im.Size))
			if len(im.repaired) > 0 {
				fmt.Fprintf(w, "  repaired in the store: %s\n", strings.Join(im.repaired, ", "))
			}
		}
	})
}

// warnServerKey warns when machines that boot an image would not trust this
// store's server: the initramfs contains the key of the server it was built for.
func (a *Commands) warnServerKey(s *image.Store, im image.Image) {
	own, err := os.ReadFile(filepath.Join(a.keyDir(), "server.pub"))
	if err != nil {
		return // no server runs from this store yet
	}
	ring, err := image.ReadKeyring(a.keyDir())
	if err != nil {
		return // what needs the keys says so
	}
	held, err := s.HeldKeys(im.Digest)
	if err != nil || held[ingot.KeyServer] == "" {
		return
	}
	err = ring.Follows(im, held[ingot.KeyServer])
	switch {
	case err != nil:
		a.Logger().Warn("this image will not boot", "image", im.Name.String(), "err", err)
	case held[ingot.KeyServer] != ingot.DigestOf(own) && !ring.Replaced(held[ingot.KeyServer]):
		a.Logger().Warn("machines that boot this image trust another server; build it with --server-key keys/server.pub",
			"image", im.Name.String())
	}
}
