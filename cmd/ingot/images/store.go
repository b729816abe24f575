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
)

// whoseStore is said by the commands that change a store.
const whoseStore = `
The store is that of this host (--store), even while a context is in use: its running
server does the work, or this command itself when none runs. With --server or --context
it is the store of that server.`

// elsewhere reports whether the store of another server is meant: one that was
// named. A context that is merely in use names no store.
func (a *Commands) elsewhere() bool { return a.Server != "" || a.Context != "" }

// here refuses what can only be done to files of this host.
func (a *Commands) here(cmd string) error {
	if a.Elsewhere() {
		return show.Usagef("%s reads the files of this host's store: say which with --store, without --server and --context", cmd)
	}
	return nil
}

// storeroom is who changes the store: the server that was named, else the
// server of this host's store, wherever it answers; without one, this process,
// which has the state to itself until done is called.
func (a *Commands) storeroom(ctx context.Context) (room api.Images, done func(), err error) {
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
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return own, nothing, nil // no server ever ran here
		}
		st, err := bolt.Open(ctx, dir)
		if err == nil {
			own.State = st
			if err := own.FinishRemovals(ctx); err != nil {
				return nil, nil, errors.Join(err, st.Close())
			}
			return own, func() { _ = st.Close() }, nil // every change is on the disk when it is answered
		}
		_, socket := a.Locate(root)
		switch {
		case !errors.Is(err, state.ErrLocked):
			return nil, nil, fmt.Errorf("looking for machines that need images: %w", err)
		case socket != "":
			return api.Dial(socket), nothing, nil
		case time.Now().After(patience): // a server of an older version does not tell
			return api.Dial(filepath.Join(root, "ingot.sock")), nothing, nil
		}
		select { // a server that starts, or a command like this one
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// firstImages are those that this host's configuration gives to new machines,
// when it is about the store at root.
func firstImages(root string) ([]string, error) {
	c, err := config.Load(config.Default)
	if errors.Is(err, config.ErrAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, show.WithHint(fmt.Errorf("looking for images that new machines get: %w", err), "ingot config check")
	}
	if cmp.Or(c.Store, client.DefaultStore()) != root {
		return nil, nil
	}
	return bootserver.FirstImages(c.Boots), nil
}

// asSelf is the context of what this process does by itself.
func asSelf(ctx context.Context) context.Context {
	return access.With(ctx, access.LocalUser(os.Getuid(), os.Getpid()))
}

// Note writes down what was done to an image of the store. It is done: that it
// could not be written down is a warning.
func (a *Commands) Note(ctx context.Context, im image.Image, did, with string) {
	room, done, err := a.storeroom(ctx)
	if err == nil {
		defer done()
		_, err = room.NoteImage(asSelf(ctx), string(im.Digest), api.NoteRequest{Did: did, With: with})
	}
	if err != nil {
		a.Logger().Warn("the audit log has no line of this", "image", im.Name.String(), "did", did, "err", err)
	}
}

func (a *Commands) imageTagCommand() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use: "tag IMAGE PROFILE:WORD", Short: "give an image one more name, which may move",
		Long: `Give an image one more name. A tag may move to another image; a version never does.
Machines are assigned digests: moving a tag changes nothing for them.
` + command.ImageHelp + "\n" + whoseStore,
		Example: "  ingot image tag node:2026.11.24-1 node:stable\n  ingot image tag --remove node:stable",
		Args: func(cmd *cobra.Command, args []string) error {
			if remove {
				return command.ExactArgs("TAG")(cmd, args)
			}
			return command.ExactArgs("IMAGE", "PROFILE:WORD")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			room, done, err := a.storeroom(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			ctx := asSelf(cmd.Context())
			if remove {
				if _, err := room.UntagImage(ctx, args[0]); err != nil {
					return err
				}
				return a.Show(map[string]string{"removed": args[0]}, func(w io.Writer) { fmt.Fprintf(w, "%s is no tag any more\n", args[0]) })
			}
			im, err := room.TagImage(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return a.Show(im, func(w io.Writer) {
				fmt.Fprintf(w, "%s is %s %s\n", args[1], show.Plain(im.Name), show.Plain(im.Digest.Short()))
			})
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "take the tag away; the image stays")
	return c
}

func (a *Commands) imageRmCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE", Short: "remove an image that no machine needs",
		Long: `Remove an image and its tags. An image that a machine is assigned, runs or may fall
back to is not removed, nor one that the configuration gives to new machines. The bytes
go with: ingot image gc
` + command.ImageHelp + "\n" + whoseStore,
		Example: "  ingot image rm lab:v1 && ingot image gc", Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			room, done, err := a.storeroom(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			im, err := room.RemoveImage(asSelf(cmd.Context()), args[0])
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
		Use: "gc", Short: "free the space of what no image needs",
		Long: `Remove files of the store that no image needs. With --keep N, remove first all but
the newest N images of each profile. Images stay in any case that have a tag, that a
machine is assigned, runs or may fall back to, or that the configuration gives to new
machines.
` + whoseStore,
		Example: "  ingot image gc --keep 5 --dry-run\n  ingot image gc --keep 5\n  ingot --context berlin image gc", Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Keep < 0 || cmd.Flags().Changed("keep") && q.Keep == 0 {
				return show.Usagef("--keep %d: want a number of images above 0", q.Keep)
			}
			room, closeRoom, err := a.storeroom(cmd.Context())
			if err != nil {
				return err
			}
			defer closeRoom()
			done, err := room.CollectImages(asSelf(cmd.Context()), q)
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
				fmt.Fprintf(w, "%s %d files, %s\n", verb, done.Blobs, show.Size(done.Bytes))
			})
		},
	}
	c.Flags().IntVar(&q.Keep, "keep", 0, "how many images of each profile stay (default: all)")
	c.Flags().BoolVar(&q.DryRun, "dry-run", false, "show what would go, remove nothing")
	return c
}
