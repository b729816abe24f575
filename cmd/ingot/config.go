package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ingot/bootserver"
	"ingot/bootserver/access"
	"ingot/bootserver/config"
	"ingot/bootserver/fleet"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
)

// configFlag adds --config; given empty it means that no file is read.
func (a *app) configFlag(fl *pflag.FlagSet, into *string) {
	file, set := os.LookupEnv("INGOT_CONFIG")
	if !set {
		file = config.Default
	}
	fl.StringVar(into, "config", file,
		"configuration file, with drop-ins beside it: ingot.d/*.yaml for ingot.yaml; empty: none\n(or $INGOT_CONFIG)")
}

func (a *app) configCommand() *cobra.Command {
	var checked, shown string
	check := &cobra.Command{
		Use: "check", Short: "check the configuration and report all mistakes", Args: command.ExactArgs(),
		Long: `Check the configuration and its drop-ins. Every mistake is reported with file, line and what to
write instead; the exit code is then 1. The files of api.certificate, api.key and
api.oidc.clientSecretFile are read, too. Images that the configuration gives to new machines and
that the store of this host lacks are warned of.`,
		Example: `  ingot config check
  ingot config check --config ./ingot.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.configCheck(cmd.Context(), checked) },
	}
	a.configFlag(check.Flags(), &checked)
	show := &cobra.Command{
		Use: "show", Short: "print the merged configuration of file and drop-ins", Args: command.ExactArgs(),
		Example: `  ingot config show
  ingot config show -o json`,
		RunE: func(*cobra.Command, []string) error { return a.configShow(shown) },
	}
	a.configFlag(show.Flags(), &shown)
	schema := &cobra.Command{
		Use: "schema", Short: "print the JSON schema of the configuration, for editors", Args: command.ExactArgs(),
		Example: "  ingot config schema > server.schema.json",
		RunE: func(*cobra.Command, []string) error {
			b, err := config.Schema()
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(b)
			return err
		},
	}
	reload := &cobra.Command{
		Use: "reload", Short: "reload the configuration of the running server", Args: command.ExactArgs(),
		Long: `Make the running server read its configuration and its interfaces' addresses again. New
addresses are served, and removed ones no longer. Other sockets stay open, and transfers and
boots continue. Settings that need a restart are listed. A configuration with mistakes changes
nothing.`,
		Example: "  ingot config check && ingot config reload",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.configReload(cmd) },
	}
	return command.Parent("config", "check, show and reload the server's configuration",
		"  ingot config check && ingot config reload", check, show, schema, reload)
}

func (a *app) loadConfig(file string) (*config.Config, []string, error) {
	if file == "" {
		return nil, nil, show.Usagef("--config names no file")
	}
	c, err := config.Load(file)
	if err != nil {
		return nil, nil, err
	}
	files, err := config.Files(file)
	return c, files, err
}

func (a *app) configCheck(ctx context.Context, file string) error {
	c, files, err := a.loadConfig(file)
	if err != nil {
		return err
	}
	root := cmp.Or(c.Store, a.StoreRoot())
	missing, err := a.missing(ctx, c.Boots, root)
	if err != nil {
		return err
	}
	doubts, err := certificateDoubts(c.API, time.Now())
	if err != nil {
		return err
	}
	if o := bootserver.LoginProvider(c.API); o != nil {
		if _, err := o.Secret(); err != nil {
			return show.WithHint(err, "write the secret of the client into that file, mode 0600, for the server's user")
		}
	}
	view := map[string]any{"files": files}
	if len(doubts) > 0 {
		view["certificate"] = doubts
	}
	if len(missing) > 0 {
		view["missing"] = missing
	}
	return a.Show(view, func(w io.Writer) {
		fmt.Fprintf(w, "no mistakes in %s\n", strings.Join(files, ", "))
		for _, f := range missing {
			fmt.Fprintf(w, "warning: %s gives %s to new machines, which %s does not have\n  → build or pull it, or change "+
				"the configuration: ingot image ls\n", f.By, f.Image, root)
		}
		for _, d := range doubts {
			fmt.Fprintf(w, "warning: %s\n  → %s\n", show.Plain(d.Text), show.Plain(d.Fix))
		}
	})
}

// certificateDoubts examines the certificate for browsers. One that they refuse, or that no server can
// present, is an error.
func certificateDoubts(c config.API, now time.Time) (list []access.Doubt, err error) {
	if c.Certificate == "" {
		return nil, nil
	}
	_, list = access.ExaminePair(c.Certificate, c.Key, c.Names, now)
	for _, d := range list {
		if d.Broken {
			return nil, show.WithHint(fmt.Errorf("the certificate of the API (api.certificate): %s", d.Text), "%s", d.Fix)
		}
	}
	return list, nil
}

// missing returns the images that new machines get and that the store lacks. A host without the store
// cannot know.
func (a *app) missing(ctx context.Context, c config.Boots, root string) ([]fleet.First, error) {
	if _, err := os.Stat(filepath.Join(root, "images")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // opening a store makes it
	}
	s, err := image.Open(ctx, root)
	if err != nil {
		return nil, err
	}
	have, err := s.List(ctx)
	return bootserver.Missing(c, have), err
}

func (a *app) configShow(file string) error {
	c, _, err := a.loadConfig(file)
	if err != nil {
		return err
	}
	text, err := c.YAML()
	if err != nil {
		return err
	}
	return a.Show(c, func(w io.Writer) { fmt.Fprintf(w, "%s", text) })
}

func (a *app) configReload(cmd *cobra.Command) error {
	r, err := a.Client().Reload(cmd.Context())
	if err != nil {
		return err
	}
	return a.Show(r, func(w io.Writer) {
		switch {
		case len(r.Changed)+len(r.Restart) == 0:
			fmt.Fprintln(w, "nothing has changed")
		case len(r.Changed) > 0:
			fmt.Fprintf(w, "changed: %s\n", show.Plain(strings.Join(r.Changed, ", ")))
		}
		if len(r.Restart) > 0 {
			fmt.Fprintf(w, "needs a restart of the server: %s\n", show.Plain(strings.Join(r.Restart, ", ")))
		}
	})
}
