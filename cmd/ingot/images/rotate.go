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
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
	"ingot/internal/count"
)

func (a *Commands) keyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show [KEY]", Short: "show keys, and the images and machines that each one concerns",
		Long: `Show the keys that sign tickets and images, also those that were replaced. KEY is server,
release, an ID or a name; then the images are listed whose machines accept what the key signs, and
the machines that need them. After a leak these are the images to build again.
` + whoseStore,
		Example: `  ingot key show
  ingot key show server
  ingot key show 4C0A5B7D19E2F386 -o json | jq -r '.[].images[].machines[].name'`, Args: command.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			editor, done, err := a.editor(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			keys, err := editor.SigningKeys(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) > 0 {
				keys = slices.DeleteFunc(keys, func(k api.SigningKey) bool { return !named(k, args[0]) })
				if len(keys) == 0 {
					return show.WithHint(fmt.Errorf("the store has no key %q", args[0]), "ingot key show")
				}
			}
			return a.Show(keys, func(w io.Writer) {
				keyTable(w, keys)
				for _, k := range keys {
					if len(args) > 0 {
						fmt.Fprintln(w)
						concernedTable(w, k)
					}
				}
			})
		},
	}
}

// named reports whether a word names a key: its ID, its name, or what it is used for.
func named(k api.SigningKey, word string) bool {
	return strings.EqualFold(k.ID, word) || k.Name == word || string(k.Use) == word && k.State == api.KeyInUse
}

func keyTable(w io.Writer, keys []api.SigningKey) {
	if len(keys) == 0 {
		fmt.Fprintln(w, "the store has no keys yet; ingot build and ingot serve create them\n  → ingot build PROFILE")
		return
	}
	t := show.Table(w)
	show.Row(t, "USE", "ID", "NAME", "STATE", "SUCCESSOR", "IMAGES", "MACHINES")
	for _, k := range keys {
		state := strings.ReplaceAll(string(k.State), "-", " ")
		if k.Kept {
			state += ", kept"
		}
		show.Row(t, string(k.Use), k.ID, show.Dash(k.Name), state, show.Dash(k.Successor), fmt.Sprint(len(k.Images)),
			fmt.Sprint(len(machinesOf(k.Images))))
	}
	t.Flush()
}

// machinesOf are the names of the machines that need images, each once.
func machinesOf(images []api.KeyImage) []string {
	var names []string
	for _, im := range images {
		for _, m := range im.Machines {
			names = append(names, m.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// concernedTable lists the images that a key concerns.
func concernedTable(w io.Writer, k api.SigningKey) {
	if len(k.Images) == 0 {
		fmt.Fprintf(w, "%s key %s: no image of the store accepts what it signs\n", k.Use, show.Plain(k.ID))
		return
	}
	fmt.Fprintf(w, "%s key %s: machines that boot these images accept what it signs\n", k.Use, show.Plain(k.ID))
	keyImageTable(w, k.Images)
}

func keyImageTable(w io.Writer, images []api.KeyImage) {
	t := show.Table(w)
	show.Row(t, "IMAGE", "DIGEST", "HOW", "MACHINES")
	for _, im := range images {
		how := "follows to it"
		switch {
		case im.Holds && im.Follows:
			how = "holds it, follows its successor"
		case im.Holds:
			how = "holds it, cannot follow"
		}
		var machines []string
		for _, m := range im.Machines {
			if m.Runs {
				machines = append(machines, m.Name+" (runs it)")
			} else {
				machines = append(machines, m.Name)
			}
		}
		show.Row(t, im.Name, im.Digest.Short(), how, show.Dash(strings.Join(machines, ", ")))
	}
	t.Flush()
}

func (a *Commands) keyRotateCommand() *cobra.Command {
	var leaked bool
	c := &cobra.Command{
		Use: "rotate server|release", Short: "replace the key that signs tickets or images by a new one",
		Long: `Make a new key. The old one signs it, and each ticket carries that statement, so that machines
go on with the images that they have. Images of an older ingot cannot follow: as long as the store
has such images with the old server key, the server keeps that key for their tickets.

The server key is replaced by the running server. The release key is replaced by this command, on
the host that builds images; other hosts trust the new one after: ingot key trust FILE.pub

--leaked says that others have the private half. Machines go on all the same, and the images are
listed that must be built again: what is in their initramfs cannot be changed, and it accepts what
the old key signs. A leaked release key is accepted only for the images that the store has now.

Afterwards, back up the folder keys of the store: with an older copy of it, the server cannot boot
images that are built from now on.
` + whoseStore,
		Example: `  ingot key rotate server
  ingot key rotate release --leaked
  ingot key rotate server --leaked -o json | jq -r '.images[].name'`,
		Args: command.ExactArgs("server or release"),
		RunE: func(cmd *cobra.Command, args []string) error {
			use := ingot.KeyUse(args[0])
			if use != ingot.KeyServer && use != ingot.KeyRelease {
				return show.Usagef("%s takes server or release, got %q", cmd.CommandPath(), args[0])
			}
			if use == ingot.KeyRelease {
				if err := a.Here(cmd.CommandPath() + " release"); err != nil {
					return err
				}
			}
			old, err := a.rotate(asSelf(cmd.Context()), use, leaked)
			if err != nil {
				return err
			}
			return a.Show(old, func(w io.Writer) { rotated(w, old) })
		},
	}
	c.Flags().BoolVar(&leaked, "leaked", false, "others have the private half of the old key")
	return c
}

// rotate replaces a key. Only this host has the release key; the server need not.
func (a *Commands) rotate(ctx context.Context, use ingot.KeyUse, leaked bool) (api.SigningKey, error) {
	editor, done, err := a.editor(ctx)
	if err != nil {
		return api.SigningKey{}, err
	}
	defer done()
	q := api.RotateRequest{Use: use, Leaked: leaked}
	if use == ingot.KeyRelease {
		if q.Old, err = a.rotateRelease(ctx, leaked); err != nil {
			return api.SigningKey{}, err
		}
	}
	old, err := editor.RotateKey(ctx, q)
	if err != nil && q.Old != "" {
		return old, show.WithHint(fmt.Errorf("the key was replaced, but the server was not told: %w", err),
			"ingot key show %s", q.Old)
	}
	return old, err
}

func (a *Commands) rotateRelease(ctx context.Context, leaked bool) (id string, err error) {
	s, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return "", err
	}
	r := image.Rotation{Use: ingot.KeyRelease, Now: time.Now(), Leaked: leaked}
	keys, err := a.trustedKeys()
	if err != nil {
		return "", err
	}
	images, err := s.List(ctx)
	if err != nil {
		return "", err
	}
	for _, im := range images {
		if len(keys) > 0 && keys[0].Name == image.OwnKey && im.VerifySignature(keys[0].Key) == nil {
			r.Images = append(r.Images, im.Digest)
		}
	}
	old, _, err := image.Rotate(a.keyDir(), r)
	if errors.Is(err, image.ErrNoSecretKey) {
		return "", show.WithHint(err, "run it on the host that builds; then, on this one: ingot key trust FILE.pub")
	}
	return old.ID, err
}

// rotated says what follows from a rotation.
func rotated(w io.Writer, k api.SigningKey) {
	fmt.Fprintf(w, "%s key %s was replaced by %s\n", k.Use, show.Plain(k.ID), show.Plain(k.Successor))
	var stay []api.KeyImage
	for _, im := range k.Images {
		if im.Holds && !im.Follows {
			stay = append(stay, im)
		}
	}
	switch {
	case k.State == api.KeyLeaked && len(k.Images) > 0:
		fmt.Fprintf(w, "\nmachines that boot these images accept what the leaked key signs; build the images again:\n")
		keyImageTable(w, k.Images)
		fmt.Fprintf(w, "  → ingot build PROFILE, ingot assign MACHINE IMAGE; what is left: ingot key show %s\n",
			show.Plain(k.ID))
		fmt.Fprintf(w, "  → when nothing is left: ingot key distrust %s\n", show.Plain(k.Name))
		fmt.Fprintln(w, "  → revoke UKIs of these images that were signed for Secure Boot (dbx)")
	case k.Use == ingot.KeyServer && len(stay) > 0:
		fmt.Fprintf(w, "\nthese images are of an older ingot and cannot follow; the old key is kept for them:\n")
		keyImageTable(w, stay)
		fmt.Fprintf(w, "  → build and assign them again, and then: ingot key distrust %s\n", show.Plain(k.Name))
	case len(k.Images) > 0:
		fmt.Fprintf(w, "%s %s it; their machines go on\n", count.Of(len(k.Images), "image"),
			count.Verb(len(k.Images), "holds", "hold"))
	}
	if k.Use == ingot.KeyServer {
		fmt.Fprintln(w, "  → hosts that build with --server-key need the new keys/server.pub")
	} else {
		fmt.Fprintln(w, "  → hosts that pull these images need the new keys/release.pub: ingot key trust FILE.pub")
	}
	fmt.Fprintln(w, "  → back up the folder keys of the store")
}
