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
	return command.Parent("key", "whose images this store takes from elsewhere", a.keyLsCommand(), a.keyTrustCommand(), a.keyDistrustCommand())
}

func (a *Commands) keyTrustCommand() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "trust FILE.pub", Short: "take images that another release key signed",
		Long: `Take images, by pull and import, that this release key signed: the one of a build
host, keys/release.pub in its store. Compare its ID with what that host shows.
` + whoseStore,
		Example: "  ingot key trust build1.pub\n  ingot key trust release.pub --name build1", Args: command.ExactArgs("FILE.pub"),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("reading a public key: %w", err)
			}
			if _, err := image.ParsePublicKey(b); err != nil {
				return show.WithHint(fmt.Errorf("reading %q: %w", args[0], err), "name a minisign public key, such as keys/release.pub of another store")
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
			return a.Show(key, func(w io.Writer) {
				fmt.Fprintf(w, "images signed by %s (key %s) are taken from now on\n", show.Plain(key.Name), show.Plain(key.ID))
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "what to call it (default: the file's name)")
	return c
}

func (a *Commands) keyLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "whose images this store takes",
		Long:    "List the release keys whose images this store takes from registries and archives.",
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
					fmt.Fprintln(w, "the store has no keys yet; ingot build and ingot serve make them\n  → ingot key trust FILE.pub")
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
	return &cobra.Command{
		Use: "distrust NAME", Short: "take no more images of a key",
		Long:    "Forget a trusted key. Images that are in the store already stay there, and no machine\nboots one that only this key signed.\n" + whoseStore,
		Example: "  ingot key distrust build1", Args: command.ExactArgs("NAME"),
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
			return a.Show(map[string]string{"distrusted": key.Name, "id": key.ID}, func(w io.Writer) { fmt.Fprintf(w, "%s is not trusted any more\n", args[0]) })
		},
	}
}
