package main

import (
	"context"
	"fmt"
	"io"
	"os"
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
	return command.Parent("token", "manage tokens and client certificates for remote access",
		"  ingot token create ci --scope operate", a.tokenCreateCommand(), ls,
		revoke)
}

func (a *app) sessionCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "list browsers that are logged in", Args: command.ExactArgs(), Example: "  ingot session ls",
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := a.Client().Sessions(cmd.Context())
			if err != nil {
				return err
			}
			return a.Show(list, func(w io.Writer) { sessionTable(w, list, time.Now()) })
		},
	}
	end := &cobra.Command{
		Use: "end SESSION|NAME", Short: "log browsers out", Args: command.ExactArgs("SESSION|NAME"),
		Long: `Log a browser out, by the ID of its session, or all browsers of a token or an account, by its
name. Their open pages close within seconds. Whoever has the token, or may log in at the provider,
can log in again: revoke the token as well, or disable the account there.`,
		Example: `  ingot session end 5f0c9d1e2a3b
  ingot session end alice@example.org`,
		RunE: func(cmd *cobra.Command, args []string) error {
			ended, err := a.Client().EndSessions(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.Show(ended, func(w io.Writer) {
				for _, s := range ended {
					fmt.Fprintf(w, "session %s of %s has ended\n", s.ID, show.Plain(s.Name))
				}
			})
		},
	}
	return command.Parent("session", "list and end sessions of browsers in the dashboard", "  ingot session ls", ls, end)
}

func sessionTable(w io.Writer, list []api.Session, now time.Time) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no browser is logged in")
		return
	}
	t := show.Table(w)
	show.Row(t, "SESSION", "OF", "KIND", "BEGAN", "USED", "ENDS", "GROUPS")
	for _, s := range list {
		show.Row(t, s.ID, s.Name, string(s.Kind), show.Ago(s.Began, now), show.Ago(s.Used, now),
			"in "+show.Brief(s.Until.Sub(now)), show.Dash(strings.Join(s.Groups, " ")))
	}
	t.Flush()
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
