package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *app) apiCommand() *cobra.Command {
	openapi := &cobra.Command{
		Use: "openapi", Short: "print the API's description (OpenAPI 3.1)", Args: command.ExactArgs(),
		Long: `Print the OpenAPI document of this version's API, the same that a server has at
/v1/openapi.json. No server is contacted. The output is JSON, with or without -o json.`,
		Example: "  ingot api openapi > ingot.openapi.json",
		RunE: func(*cobra.Command, []string) error {
			text, err := api.OpenAPI(version)
			if err != nil {
				return err
			}
			_, err = a.Stdout.Write(append(text, '\n'))
			return err
		},
	}
	routes := &cobra.Command{
		Use: "routes", Short: "list the routes of the API and their scopes", Args: command.ExactArgs(),
		Example: "  ingot api routes",
		RunE: func(*cobra.Command, []string) error {
			list := api.Routes()
			return a.Show(list, func(w io.Writer) {
				t := show.Table(w)
				show.Row(t, "METHOD", "PATH", "SCOPE", "DESCRIPTION")
				for _, r := range list {
					show.Row(t, r.Method, r.Path, show.Dash(string(r.Scope)), r.Summary)
				}
				t.Flush()
			})
		},
	}
	fingerprint := &cobra.Command{
		Use: "fingerprint", Short: "print the fingerprint of the server's CA, which clients pin", Args: command.ExactArgs(),
		Long: `Print the SHA-256 of the CA's certificate, for ingot context add --ca-fingerprint. It is read
from the store, or else from the running server.`,
		Example: "  ingot api fingerprint",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.fingerprint(cmd.Context()) },
	}
	return command.Parent("api", "show the API of the server: routes, OpenAPI document, CA", "  ingot api routes", routes,
		openapi, fingerprint)
}

func (a *app) fingerprint(ctx context.Context) error {
	print := func(f string) error {
		return a.Show(map[string]string{"fingerprint": f}, func(w io.Writer) { fmt.Fprintln(w, f) })
	}
	if text, err := os.ReadFile(filepath.Join(a.StoreRoot(), "keys", "ca.crt")); err == nil && a.Context == "" &&
		a.Server == "" {
		cert, err := access.ParseCertificate(text)
		if err != nil {
			return fmt.Errorf("reading the CA's certificate: %w", err)
		}
		return print(access.Fingerprint(cert.Raw))
	}
	at, err := a.Client().Authority(ctx)
	if err != nil {
		return err
	}
	return print(at.Fingerprint)
}
