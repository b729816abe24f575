package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/cmd/ingot/client"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *app) contextCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "list contexts", Args: command.ExactArgs(), Example: "  ingot context ls",
		RunE: func(*cobra.Command, []string) error { return a.contextList() },
	}
	use := &cobra.Command{
		Use: "use NAME", Short: "choose the context that commands use", Args: command.ExactArgs("NAME"),
		Example: "  ingot context use berlin",
		RunE: func(_ *cobra.Command, args []string) error {
			return client.ChangeContexts(args[0], func(c *client.Contexts) { c.Current = args[0] })
		},
	}
	rm := &cobra.Command{
		Use: "rm NAME", Short: "remove a context with its token and certificate", Args: command.ExactArgs("NAME"),
		Long: `Remove a context. Its token stays valid until it expires or is revoked:
  ingot token revoke NAME`,
		Example: "  ingot context rm berlin",
		RunE: func(_ *cobra.Command, args []string) error {
			return client.ChangeContexts(args[0], func(c *client.Contexts) {
				delete(c.Contexts, args[0])
				if c.Current == args[0] {
					c.Current = ""
				}
			})
		},
	}
	return command.Parent("context", "manage connections to servers", "  ingot context ls\n  ingot context use berlin",
		a.contextAddCommand(), ls, use, rm)
}

type contextFlags struct{ fingerprint, tokenFile, cert string }

func (a *app) contextAddCommand() *cobra.Command {
	var f contextFlags
	c := &cobra.Command{
		Use: "add NAME SERVER", Short: "add a server: address, pinned CA, credentials",
		Long: `Save the address of a server with a token or client certificate under a name, and use it from
now on. SERVER is https://HOST:PORT (api.listen in the server's configuration) or
unix:///PATH.

The server's CA is pinned by its fingerprint; its administrator gets it with
"ingot api fingerprint". The token is read from a file or typed without echo, because other
users of the host can read command lines.`,
		Example: `  ingot context add berlin https://10.0.0.1:7443 --ca-fingerprint sha256:4f… --token-file token
  ingot context add berlin https://10.0.0.1:7443 --ca-fingerprint sha256:4f… --cert alice.pem
  ingot --context berlin machine ls`,
		Args: command.ExactArgs("NAME", "SERVER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.contextAdd(cmd.Context(), args[0], args[1], f)
		},
	}
	c.Flags().StringVar(&f.fingerprint, "ca-fingerprint", "", "fingerprint of the server's CA: sha256:…")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with the token; - is standard input")
	c.Flags().StringVar(&f.cert, "cert", "", "file with a client certificate and its key, from: ingot token create --cert")
	return c
}

var contextNameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (a *app) contextAdd(ctx context.Context, name, server string, f contextFlags) error {
	if !contextNameRE.MatchString(name) {
		return show.Usagef("bad context name %q: want letters, digits, dots, dashes and underscores, at most 64", name)
	}
	t := api.Target{Server: strings.TrimRight(server, "/")}
	if strings.HasPrefix(t.Server, "https://") {
		ca, fingerprint, err := api.Look(ctx, t.Server)
		if err != nil {
			return err
		}
		if f.fingerprint == "" {
			return show.WithHint(fmt.Errorf("%s has a CA with the fingerprint %s", t.Server, fingerprint),
				"compare it with the output of ingot api fingerprint on the server, then repeat with: --ca-fingerprint %s",
				fingerprint)
		}
		if !strings.EqualFold(strings.TrimSpace(f.fingerprint), fingerprint) {
			return show.WithHint(fmt.Errorf("%w: %s has a CA with the fingerprint %s", api.ErrStranger, t.Server, fingerprint),
				"the connection may be intercepted: ask the administrator of the server for the output of ingot api fingerprint")
		}
		t.CA = ca
		if err := a.proof(&t, f); err != nil {
			return err
		}
	}
	c, err := api.Connect(t)
	if err != nil {
		return err
	}
	version, err := c.Version(ctx)
	if err != nil {
		return err
	}
	all, err := client.LoadContexts()
	if err != nil {
		return err
	}
	all.Contexts[name], all.Current = t, name
	if err := all.Save(); err != nil {
		return err
	}
	return a.Show(map[string]string{"context": name, "server": t.Server, "version": version}, func(w io.Writer) {
		fmt.Fprintf(w, "context %s: %s, ingot %s; now in use\n", name, t.Server, show.Plain(version))
	})
}

// proof reads the token or the certificate.
func (a *app) proof(t *api.Target, f contextFlags) error {
	if f.cert != "" {
		text, err := os.ReadFile(f.cert)
		if err != nil {
			return fmt.Errorf("reading the certificate: %w", err)
		}
		t.Certificate, t.Key = string(text), string(text) // each use takes the part that it needs
		return nil
	}
	var text []byte
	var err error
	in, isFile := a.Stdin.(*os.File)
	switch {
	case f.tokenFile != "" && f.tokenFile != "-":
		text, err = os.ReadFile(f.tokenFile)
	case f.tokenFile == "" && isFile && term.IsTerminal(int(in.Fd())):
		fmt.Fprint(a.Stderr, "token: ")
		text, err = term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.Stderr)
	case f.tokenFile == "":
		return show.Usagef("--token-file FILE or --cert FILE is needed; --token-file - reads standard input")
	default:
		text, err = io.ReadAll(io.LimitReader(a.Stdin, 4096))
	}
	if err != nil {
		return fmt.Errorf("reading the token: %w", err)
	}
	t.Token = strings.TrimSpace(string(text))
	if !strings.HasPrefix(t.Token, access.Prefix) {
		return fmt.Errorf("this is not a token: tokens begin with %s", access.Prefix)
	}
	return nil
}

func (a *app) contextList() error {
	all, err := client.LoadContexts()
	if err != nil {
		return err
	}
	type line struct {
		Name    string `json:"name"`
		Server  string `json:"server"`
		Proof   string `json:"proof"` // never the secret itself
		Current bool   `json:"current"`
	}
	list := []line{}
	for name, t := range all.Contexts {
		proof := string(access.Local)
		if t.Token != "" {
			proof = string(access.Token)
		} else if t.Certificate != "" {
			proof = string(access.Certificate)
		}
		list = append(list, line{name, t.Server, proof, name == all.Current})
	}
	slices.SortFunc(list, func(a, b line) int { return strings.Compare(a.Name, b.Name) })
	return a.Show(list, func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "no contexts: commands use the server of this host")
			fmt.Fprintln(w, "  → ingot context add NAME https://HOST:PORT --ca-fingerprint sha256:…")
			return
		}
		t := show.Table(w)
		show.Row(t, "", "NAME", "SERVER", "BY")
		for _, l := range list {
			mark := ""
			if l.Current {
				mark = "*"
			}
			show.Row(t, mark, l.Name, l.Server, l.Proof)
		}
		t.Flush()
	})
}
