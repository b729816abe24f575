package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *app) tokenCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "list tokens and client certificates", Args: command.ExactArgs(), Example: "  ingot token ls",
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := a.Client().Credentials(cmd.Context())
			if err != nil {
				return err
			}
			return a.Show(list, func(w io.Writer) { credentialTable(w, list, time.Now()) })
		},
	}
	revoke := &cobra.Command{
		Use: "revoke NAME", Short: "revoke a token or client certificate", Args: command.ExactArgs("NAME"),
		Long:    `Revoke a token or client certificate, by its name or ID. The next request with it is refused.`,
		Example: "  ingot token revoke ci",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.Client().RevokeCredential(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.Show(c, func(w io.Writer) { fmt.Fprintf(w, "%s %s is revoked\n", c.Kind, show.Plain(c.Name)) })
		},
	}
	return command.Parent("token", "manage tokens and client certificates for remote access", a.tokenCreateCommand(), ls,
		revoke)
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var scope, cert string
	var life time.Duration
	c := &cobra.Command{
		Use: "create NAME", Short: "create a token or client certificate",
		Long: `Create a token and print it once; the server keeps only its hash. Scopes: read shows machines
and boots, operate changes them, admin also manages tokens and reads the audit log. Tokens are
accepted only over TLS (api.listen in the server's configuration).

With --cert FILE, a key is generated on this host, and the server's CA issues a certificate for
it. FILE contains both; the key is not sent.`,
		Example: `  ingot token create ci --scope operate --for 720h
  ingot token create prometheus > /etc/prometheus/ingot.token
  ingot token create alice --scope admin --cert alice.pem`,
		Args: command.ExactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := access.ParseScope(scope)
			if err != nil {
				return show.UsageError{Err: err}
			}
			q := api.CredentialRequest{Name: args[0], Scope: s, For: life}
			if cert != "" {
				return a.certificateCreate(cmd.Context(), q, cert)
			}
			return a.tokenCreate(cmd.Context(), q)
		},
	}
	c.Flags().StringVar(&scope, "scope", string(access.Read), "read, operate or admin")
	c.Flags().DurationVar(&life, "for", 90*24*time.Hour, "lifetime of the credential")
	c.Flags().StringVar(&cert, "cert", "", "create a client certificate, and write it with its key to this file")
	return c
}

// tokenCreate prints the token alone on standard output, for a pipe, and
// everything else on standard error.
func (a *app) tokenCreate(ctx context.Context, q api.CredentialRequest) error {
	c := a.Client()
	made, err := c.CreateCredential(ctx, q)
	if err != nil {
		return err
	}
	if err := a.Show(made, func(w io.Writer) { fmt.Fprintln(w, made.Token) }); err != nil {
		return err
	}
	fmt.Fprintf(a.Stderr, "scope %s, valid until %s; it is not shown again\n", made.Scope,
		made.Expires.Local().Format("2006-01-02 15:04"))
	a.howToUse(ctx, c, "--token-file FILE")
	return nil
}

// howToUse prints how to use the credential on another host. A failure is
// ignored: the credential is valid all the same.
func (a *app) howToUse(ctx context.Context, c *api.Client, proof string) {
	at, err := c.Authority(ctx)
	switch {
	case err != nil:
	case len(at.Listens) == 0:
		fmt.Fprintln(a.Stderr,
			"  → the server has no remote API yet: add api: {listen: [\":7443\"]} to its configuration, and restart it")
	default:
		_, port, _ := strings.Cut(at.Listens[0][strings.LastIndex(at.Listens[0], "]")+1:], ":")
		fmt.Fprintf(a.Stderr, "  → on the other host, run: ingot context add NAME https://HOST:%s --ca-fingerprint %s %s\n",
			port, at.Fingerprint, proof)
	}
}

func (a *app) certificateCreate(ctx context.Context, q api.CredentialRequest, file string) error {
	if _, err := os.Lstat(file); err == nil {
		return show.WithHint(fmt.Errorf("%s exists already", file), "choose another file, or remove it")
	}
	key, request, err := access.NewRequest(q.Name)
	if err != nil {
		return err
	}
	q.Request = string(request)
	c := a.Client()
	made, err := c.CreateCredential(ctx, q)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(file, slices.Concat([]byte(made.Certificate), key), 0o600); err != nil {
		return show.WithHint(fmt.Errorf("writing the certificate: %w", err), "ingot token revoke %s", q.Name)
	}
	if err := a.Show(made, func(w io.Writer) {
		fmt.Fprintf(w, "%s holds the certificate and key of %s: scope %s, valid until %s\n", file, show.Plain(made.Name),
			made.Scope, made.Expires.Local().Format("2006-01-02 15:04"))
	}); err != nil {
		return err
	}
	a.howToUse(ctx, c, "--cert "+file)
	return nil
}

func credentialTable(w io.Writer, list []access.Credential, now time.Time) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no tokens and no client certificates\n  → ingot token create NAME --scope read")
		return
	}
	t := show.Table(w)
	show.Row(t, "NAME", "KIND", "SCOPE", "STATE", "CREATED", "BY", "ID")
	for _, c := range list {
		state := "expires in " + show.Brief(c.Expires.Sub(now))
		switch {
		case !c.Revoked.IsZero():
			state = "revoked " + show.Ago(c.Revoked, now)
		case !c.Live(now):
			state = "expired " + show.Ago(c.Expires, now)
		}
		show.Row(t, c.Name, string(c.Kind), string(c.Scope), state, show.Ago(c.Created, now), c.By, c.ID)
	}
	t.Flush()
}

func (a *app) auditCommand() *cobra.Command {
	var follow bool
	var limit int
	c := &cobra.Command{
		Use: "audit", Short: "list changes by operators: time, actor, old and new values",
		Long: `Print the audit log: every change by an operator, who made it, and the old and new values. With
-o json, each line is one object. A change and its line are one transaction. The log keeps the
last 100,000 changes.`,
		Example: `  ingot audit
  ingot audit -f -o json | jq .who.name`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.audit(cmd.Context(), follow, limit) },
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "print new changes as they come, until interrupted")
	c.Flags().IntVarP(&limit, "lines", "n", 50, "number of latest changes to begin with (1 to 10000)")
	return c
}

func (a *app) audit(ctx context.Context, follow bool, limit int) error {
	if limit < 1 || limit > 10_000 {
		return show.Usagef("bad number of lines --lines %d: want 1 to 10000", limit)
	}
	c := a.Client()
	list, err := c.Audit(ctx, 0, true, limit)
	if err != nil {
		return err
	}
	var last uint64
	for {
		for _, e := range list {
			last = e.Seq
			if err := a.printChange(e); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
		if list, err = c.Audit(ctx, last, false, 1000); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // interrupted
			}
			return err
		}
	}
}

func (a *app) printChange(e access.Change) error {
	if a.JSON() {
		return a.ShowLine(e)
	}
	_, err := fmt.Fprintln(a.Stdout, show.Plain(changeLine(e)))
	return err
}

// changeLine is one change in one line: time, actor, action, and the differences.
func changeLine(e access.Change) string {
	line := fmt.Sprintf("%s  %s  %s", e.At.Local().Format("2006-01-02 15:04:05"), e.Who, e.Action)
	if on := e.Name; on != "" || e.On != "" {
		if on == "" {
			on = e.On
		}
		line += " " + on
	}
	names := map[string]bool{}
	for k := range e.From {
		names[k] = true
	}
	for k := range e.To {
		names[k] = true
	}
	for i, k := range sortedKeys(names) {
		if i == 0 {
			line += ":"
		}
		line += " " + k + " " + brieflyJSON(e.From[k]) + " → " + brieflyJSON(e.To[k])
	}
	return line
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func brieflyJSON(v any) string {
	if v == nil {
		return "-"
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(text)
}

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
	return command.Parent("api", "show the API of the server: routes, OpenAPI document, CA", routes, openapi, fingerprint)
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
