package images

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

func (a *Commands) keyCommand() *cobra.Command {
	return command.Parent("key", "manage the keys that sign tickets and images",
		"  ingot key show\n  ingot key rotate server\n  ingot key trust build1.pub", a.keyLsCommand(), a.keyShowCommand(),
		a.keyRotateCommand(), a.keyTrustCommand(), a.keyDistrustCommand())
}

func (a *Commands) keyTrustCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "trust FILE.pub", Short: "trust another release key",
		Long: `Accept images that were signed by this release key, in pull and import. It is keys/release.pub
of a build host's store. Compare its ID with the one that ingot key ls shows on that host.
` + whoseStore,
		Example: `  ingot key trust build1.pub
  ingot key trust release.pub --name build1`, Args: command.ExactArgs("FILE.pub"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("reading a public key: %w", err)
			}
			if _, err := image.ParsePublicKey(b); err != nil {
				return show.WithHint(fmt.Errorf("reading %q: %w", args[0], err),
					"use a minisign public key, such as keys/release.pub of another store")
			}
			if name == "" {
				name = strings.TrimSuffix(filepath.Base(args[0]), ".pub")
			}
			editor, done, err := a.editor(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			key, err := editor.TrustKey(asSelf(cmd.Context()), api.KeyRequest{Name: name, Key: string(b)})
			if err != nil {
				return err
			}
			return a.Show(key, func(w io.Writer) {
				fmt.Fprintf(w, "images signed by %s (key %s) are accepted from now on\n", show.Plain(key.Name), show.Plain(key.ID))
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the key (default: the name of the file)")
	return c
}

func (a *Commands) keyLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "list the trusted release keys",
		Long:    "List the release keys whose images this store accepts from registries and archives.",
		Example: "  ingot key ls", Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.Here(cmd.CommandPath()); err != nil {
				return err
			}
			keys, err := a.trustedKeys()
			if err != nil {
				return err
			}
			if keys == nil {
				keys = []image.NamedKey{}
			}
			return a.Show(keys, func(w io.Writer) {
				if len(keys) == 0 {
					fmt.Fprintln(w, "the store has no keys yet; ingot build and ingot serve create them\n  → ingot key trust FILE.pub")
					return
				}
				t := show.Table(w)
				show.Row(t, "NAME", "ID")
				for _, k := range keys {
					show.Row(t, k.Name, k.ID)
				}
				t.Flush()
			})
		},
	}
}

func (a *Commands) keyDistrustCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "distrust NAME", Short: "remove a trusted release key, or withdraw a replaced key",
		Long: `Forget a trusted key. Images that are in the store already stay there, and no machine
boots one that only this key signed.

old-ID is a key of this store that ingot key rotate replaced. When it is withdrawn, no image that
holds it is served, and what is kept of it is removed. As long as machines need such images, that
takes --force.
` + whoseStore,
		Example: `  ingot key distrust build1
  ingot key show 4C0A5B7D19E2F386 && ingot key distrust old-4C0A5B7D19E2F386`, Args: command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			editor, done, err := a.editor(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			key, err := editor.DistrustKey(asSelf(cmd.Context()), args[0], force)
			if err != nil {
				return err
			}
			return a.Show(map[string]string{"distrusted": key.Name, "id": key.ID},
				func(w io.Writer) { fmt.Fprintf(w, "%s is no longer trusted\n", args[0]) })
		},
	}
	c.Flags().BoolVar(&force, "force", false, "withdraw a replaced key although machines need images that hold it")
	return c
}
