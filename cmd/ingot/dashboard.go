package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/dashboard"
	"ingot/cmd/ingot/show"
)

func (a *app) dashboardCommand() *cobra.Command {
	var port int
	c := &cobra.Command{
		Use: "dashboard", Short: "open the dashboard of this host's server to a browser", Args: command.ExactArgs(),
		Long: `Open a port of the loopback address that leads to the server of the store, and print a link to it.
The link works once, for one browser, which can then do what the local administrator can. The
port answers until this command is interrupted, or the server has not answered for a minute.

From another host, set api.listen in the server's configuration and open that address with
https; the page asks for a token. docs/DASHBOARD.md describes both.`,
		Example: `  ingot dashboard
  ingot dashboard --port 8080           # to forward it: ssh -L 8080:127.0.0.1:8080 HOST`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !a.Local() {
				return show.WithHint(show.Usagef("ingot dashboard opens the server of this host alone"),
					"open the https address of the other server in a browser")
			}
			return a.openDashboard(cmd.Context(), port)
		},
	}
	c.Flags().IntVar(&port, "port", 0, "port of the loopback address (default: any that is free)")
	return c
}

// openDashboard serves the loopback port until ctx ends.
func (a *app) openDashboard(ctx context.Context, port int) error {
	if port < 0 || port > 65535 {
		return show.Usagef("--port %d: want 0 to 65535", port)
	}
	if _, err := a.Client().Version(ctx); err != nil {
		return err
	}
	p, err := dashboard.Open(ctx, a.Socket(a.StoreRoot()), port)
	if err != nil {
		return err
	}
	if err := a.Show(map[string]string{"link": p.Link}, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n", p.Link)
	}); err != nil {
		return err
	}
	fmt.Fprintln(a.Stderr, "The link works once. Ctrl-C closes the port.")
	return p.Serve(ctx)
}
