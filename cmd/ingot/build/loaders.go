package build

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"ingot/builder"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *Commands) LoadersCommand() *cobra.Command {
	var mirror string
	c := &cobra.Command{
		Use: "loaders", Short: "fetch the boot loaders, or show them",
		Long: `The boot loaders are the iPXE of Debian 13, pinned by digest at the first use. "ingot serve"
fetches them if they are missing; a server that cannot reach a mirror needs them beforehand. Files
whose content is not the one that was fetched are fetched again, and are not served until then. Other
files in the folder are served as they are, by their names.`,
		Example: `  ingot loaders
  ingot loaders --store /srv/ingot -o json`, Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			env, err := a.env(buildFlags{mirror: mirror})
			if err != nil {
				return err
			}
			set, err := builder.Loaders(cmd.Context(), env, a.StoreRoot())
			if err != nil {
				return show.Explain(cmd.Context(), err)
			}
			answer := map[string]any{"folder": set.Folder, "package": set.Package, "files": set.Files}
			return a.Show(answer, func(w io.Writer) {
				fmt.Fprintf(w, "%s %s in %s\n", set.Package.Name, set.Package.Version, set.Folder)
			})
		},
	}
	c.Flags().StringVar(&mirror, "mirror", "", "Debian mirror URL (default: $INGOT_MIRROR, else this host's apt sources)")
	return c
}

// FetchLoaders fetches the loaders if the store has none yet.
func (a *Commands) FetchLoaders(ctx context.Context) error {
	_, err := a.Loaders(ctx, "")
	return err
}

// Loaders returns the boot loaders of the store, which are fetched from mirror if
// it has none yet. An empty mirror is the default one. See builder.Loaders.
func (a *Commands) Loaders(ctx context.Context, mirror string) (builder.LoaderSet, error) {
	env, err := a.env(buildFlags{mirror: mirror})
	if err != nil {
		return builder.LoaderSet{}, err
	}
	set, err := builder.Loaders(ctx, env, a.StoreRoot())
	return set, show.Explain(ctx, err)
}
