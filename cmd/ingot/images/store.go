package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/operator"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/cmd/ingot/client"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
	"ingot/internal/count"
	"ingot/internal/scratch"
)

// whoseStore is in the help of commands that change a store.
const whoseStore = `
It changes the store of this host (--store), also when a context is in use: through the running
server, or directly when none runs. With --server or --context, it changes the store of that
server.`

// editor returns what changes the store: the server that was named, else the
// running server of this host's store; without one, this process itself, which
// has the state locked until done is called.
func (a *Commands) editor(ctx context.Context) (editor api.Images, done func(), err error) {
	nothing := func() {}
	if a.Elsewhere() {
		return a.Client(), nothing, nil
	}
	root := a.StoreRoot()
	first, err := firstImages(root)
	if err != nil {
		return nil, nil, err
	}
	store, err := image.Open(ctx, root)
	if err != nil {
		return nil, nil, err
	}
	own := operator.Editor{Store: store, First: func() []string { return first }, Now: time.Now}
	dir := filepath.Join(root, state.Folder)
	for patience := time.Now().Add(10 * time.Second); ; {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) && !access.HasCA(filepath.Join(root, "keys")) {
			return own, nothing, nil // no server has used this store
		}
		st, err := bootserver.OpenState(ctx, root)
		if err == nil {
			if c := st.Converted(); c != nil {
				fmt.Fprintf(a.Stderr, "note: %s\n", c)
			}
			own.State = st
			if err := own.FinishRemovals(ctx); err != nil {
				return nil, nil, errors.Join(err, st.Close())
			}
			return own, func() { _ = st.Close() }, nil // every change is durable when its call returns
		}
		_, socket := a.Locate(root)
		switch {
		case !errors.Is(err, state.ErrLocked):
			return nil, nil, fmt.Errorf("reading which machines need images: %w", err)
		case socket != "":
			return api.Dial(socket), nothing, nil
		case time.Now().After(patience): // a server of an older version does not record its socket
			return api.Dial(filepath.Join(root, "ingot.sock")), nothing, nil
		}
		select { // a server that starts, or a command like this one
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// reader is editor for what only reads: a state of an older schema, which opening would convert, is copied
// and the copy is read.
func (a *Commands) reader(ctx context.Context) (editor api.Images, done func(), err error) {
	root := a.StoreRoot()
	dir := filepath.Join(root, state.Folder)
	if _, socket := a.Locate(root); a.Elsewhere() || socket != "" || bolt.Absent(dir) != "" {
		return a.editor(ctx)
	}
	copied, err := scratch.New("ingot-state-")
	if err != nil {
		return nil, nil, err
	}
	folder := filepath.Join(copied.Path, state.Folder)
	older, err := bolt.CopyOlder(dir, folder)
	if err != nil || !older {
		copied.Remove()
		return a.editor(ctx) // which says what is wrong
	}
	first, err := firstImages(root)
	if err == nil {
		var st *bolt.Store
		var store *image.Store
		if store, err = image.Open(ctx, root); err == nil {
			st, err = bolt.Open(ctx, folder)
		}
		if err == nil {
			own := operator.Editor{Store: store, State: st, First: func() []string { return first }, Now: time.Now}
			return own, func() { _ = st.Close(); copied.Remove() }, nil // the copy goes away
		}
	}
	copied.Remove()
	return nil, nil, err
}

// firstImages are the images that this host's configuration gives to new
// machines, if it is for the store at root.
func firstImages(root string) ([]string, error) {
	c, err := config.Load(config.Default)
	if errors.Is(err, config.ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, show.WithHint(fmt.Errorf("reading which images new machines get: %w", err), "ingot config check")
	}
	if cmp.Or(c.Store, client.DefaultStore()) != root {
		return nil, nil
	}
	return bootserver.FirstImages(c.Boots), nil
}

// asSelf is a context for changes by this process itself.
func asSelf(ctx context.Context) context.Context {
	return access.With(ctx, access.LocalUser(os.Getuid(), os.Getpid()))
}

// Note records in the audit log what was done to an image. Because it is done
// already, a failure is only a warning.
func (a *Commands) Note(ctx context.Context, im image.Image, did, with string) {
	editor, done, err := a.editor(ctx)
	if err == nil {
		defer done()
		_, err = editor.NoteImage(asSelf(ctx), string(im.Digest), api.NoteRequest{Did: did, With: with})
	}
	if err != nil {
		a.Logger().Warn("recording this in the audit log", "image", im.Name.String(), "did", did, "err", err)
	}
}

func (a *Commands) imageTagCommand() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use: "tag IMAGE PROFILE:WORD", Short: "add a tag to an image, or move it",
		Long: `Add a tag to an image. A tag can be moved to another image; a version cannot. Machines are
assigned digests, so moving a tag does not change what they boot.
` + command.ImageHelp + "\n" + whoseStore,
		Example: `  ingot image tag node:2026.11.24-1 node:stable
  ingot image tag --remove node:stable`,
		Args: func(cmd *cobra.Command, args []string) error {
			if remove {
				return command.ExactArgs("TAG")(cmd, args)
			}
			return command.ExactArgs("IMAGE", "PROFILE:WORD")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			editor, done, err := a.editor(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			ctx := asSelf(cmd.Context())
			if remove {
				if _, err := editor.UntagImage(ctx, args[0]); err != nil {
					return err
				}
				return a.Show(map[string]string{"removed": args[0]}, func(w io.Writer) {
					fmt.Fprintf(w, "the tag %s is removed\n",
						args[0])
				})
			}
			im, err := editor.TagImage(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return a.Show(im, func(w io.Writer) {
				fmt.Fprintf(w, "%s is %s %s\n", args[1], show.Plain(im.Name), show.Plain(im.Digest.Short()))
			})
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "remove the tag; the image stays")
	return c
}

func (a *Commands) imageRmCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE", Short: "remove an image that no machine needs",
		Long: `Remove an image and its tags. An image that is assigned to a machine, runs on one, may be
fallen back to, or is given to new machines by the configuration, is not removed. To free the
space afterwards: ingot image gc

IMAGE is PROFILE:VERSION, a digest, or at least 8 digits of one that no other begins with. A
profile or a tag, which mean another image tomorrow, are refused.
` + whoseStore,
		Example: "  ingot image rm lab:v1 && ingot image gc", Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			editor, done, err := a.editor(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			im, err := editor.RemoveImage(asSelf(cmd.Context()), args[0])
			if err != nil {
				return err
			}
			return a.Show(im, func(w io.Writer) { fmt.Fprintf(w, "%s is removed\n  → ingot image gc\n", show.Plain(im.Name)) })
		},
	}
}

func (a *Commands) imageGCCommand() *cobra.Command {
	var q api.CollectRequest
	c := &cobra.Command{
		Use: "gc", Short: "remove unused files, and with --keep old images",
		Long: `Remove files of the store that no image needs. With --keep N, first remove all but the newest
N images of each profile. Images always stay if they have a tag, are assigned to a machine,
run on one, may be fallen back to, or are given to new machines by the configuration.
` + whoseStore,
		Example: `  ingot image gc --keep 5 --dry-run
  ingot image gc --keep 5
  ingot --context berlin image gc`, Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Keep < 0 || cmd.Flags().Changed("keep") && q.Keep == 0 {
				return show.Usagef("bad --keep %d: want 1 or more", q.Keep)
			}
			open := a.editor
			if q.DryRun {
				open = a.reader
			}
			editor, closeEditor, err := open(cmd.Context())
			if err != nil {
				return err
			}
			defer closeEditor()
			done, err := editor.CollectImages(asSelf(cmd.Context()), q)
			if err != nil {
				return err
			}
			return a.Show(done, func(w io.Writer) {
				verb := "removed"
				if done.DryRun {
					verb = "would remove"
				}
				for _, name := range done.Images {
					fmt.Fprintf(w, "%s %s\n", verb, show.Plain(name))
				}
				fmt.Fprintf(w, "%s %s, %s\n", verb, count.Of(done.Blobs, "file"), show.Size(done.Bytes))
			})
		},
	}
	c.Flags().IntVar(&q.Keep, "keep", 0, "number of images of each profile to keep (default: all)")
	c.Flags().BoolVar(&q.DryRun, "dry-run", false, "show what would be removed, remove nothing")
	return c
}
