package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
)

// contexts are the servers that a user speaks to. The file holds tokens and
// keys: mode 0600.
type contexts struct {
	Current  string                `json:"current,omitempty"`
	Contexts map[string]api.Target `json:"contexts"`
}

// contextsFile is where they are kept.
func contextsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("looking for the contexts: %w", err)
	}
	return filepath.Join(dir, "ingot", "contexts.json"), nil
}

func loadContexts() (contexts, error) {
	c := contexts{Contexts: map[string]api.Target{}}
	file, err := contextsFile()
	if err != nil {
		return c, nil // a service may run without HOME: it has no contexts
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("reading the contexts: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
		return c, withHint(fmt.Errorf("%s can be read by others (mode %04o), and it holds tokens", file, info.Mode().Perm()), "chmod 600 %s; revoke the tokens in it if somebody may have read them", file)
	}
	text, err := io.ReadAll(io.LimitReader(f, 4<<20))
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return c, fmt.Errorf("reading %s: %w", file, err)
	}
	if c.Contexts == nil {
		c.Contexts = map[string]api.Target{}
	}
	return c, nil
}

func (c contexts) save() error {
	file, err := contextsFile()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("keeping the contexts: %w", err)
	}
	if err := renameio.WriteFile(file, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("keeping the contexts: %w", err)
	}
	return nil
}

// socketOf is where the server of a store answers, or did when one ran last:
// its configuration may have put the socket elsewhere.
func socketOf(root string) string {
	if _, socket := bolt.Holder(filepath.Join(root, state.Folder)); socket != "" {
		return socket
	}
	return filepath.Join(root, "ingot.sock")
}

// client talks to the running server: the one that --server or --context
// names, or their variables; that of the store, when one is named; the context
// in use; the store's where nothing is said.
func (a *app) client() *api.Client {
	named := a.context
	if a.server == "" && a.context == "" {
		if s := os.Getenv("INGOT_SERVER"); s != "" {
			return connect(api.Target{Server: s, Token: os.Getenv("INGOT_TOKEN")})
		}
		named = os.Getenv("INGOT_CONTEXT")
	}
	if a.server != "" {
		return connect(api.Target{Server: a.server, Token: os.Getenv("INGOT_TOKEN")})
	}
	if named == "" && (a.store != "" || os.Getenv("INGOT_STORE") != "") {
		return api.Dial(socketOf(a.storeRoot()))
	}
	all, err := loadContexts()
	if err != nil {
		return api.Never(err)
	}
	if named == "" {
		named = all.Current
	}
	if named == "" {
		return api.Dial(socketOf(a.storeRoot()))
	}
	t, ok := all.Contexts[named]
	if !ok {
		return api.Never(withHint(fmt.Errorf("there is no context %q", named), "ingot context ls"))
	}
	return connect(t)
}

// connect is api.Connect; an https server of no context has been pinned when a
// context has the same address.
func connect(t api.Target) *api.Client {
	if t.CA == "" && strings.HasPrefix(t.Server, "https://") {
		all, err := loadContexts()
		if err != nil {
			return api.Never(err)
		}
		for _, o := range all.Contexts {
			if o.Server == t.Server {
				t.CA = o.CA
				if t.Token == "" {
					t.Token, t.Certificate, t.Key = o.Token, o.Certificate, o.Key
				}
			}
		}
	}
	c, err := api.Connect(t)
	if err != nil {
		return api.Never(err)
	}
	return c
}

func (a *app) contextCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "list the servers that you speak to", Args: exactArgs(), Example: "  ingot context ls",
		RunE: func(*cobra.Command, []string) error { return a.contextList() },
	}
	use := &cobra.Command{
		Use: "use NAME", Short: "speak to a server from now on", Args: exactArgs("NAME"), Example: "  ingot context use berlin",
		RunE: func(_ *cobra.Command, args []string) error {
			return changeContexts(args[0], func(c *contexts) { c.Current = args[0] })
		},
	}
	rm := &cobra.Command{
		Use: "rm NAME", Short: "forget a server, its token and its certificate", Args: exactArgs("NAME"),
		Long:    "Forget a server. Its token stays valid until it is revoked or expires:\n  ingot token revoke NAME",
		Example: "  ingot context rm berlin",
		RunE: func(_ *cobra.Command, args []string) error {
			return changeContexts(args[0], func(c *contexts) {
				delete(c.Contexts, args[0])
				if c.Current == args[0] {
					c.Current = ""
				}
			})
		},
	}
	return group("context", "speak to several servers, here and elsewhere", a.contextAddCommand(), ls, use, rm)
}

// changeContexts changes a context that is there.
func changeContexts(name string, f func(*contexts)) error {
	c, err := loadContexts()
	if err != nil {
		return err
	}
	if _, ok := c.Contexts[name]; !ok {
		return withHint(fmt.Errorf("there is no context %q", name), "ingot context ls")
	}
	f(&c)
	return c.save()
}

type contextFlags struct{ fingerprint, tokenFile, cert string }

func (a *app) contextAddCommand() *cobra.Command {
	var f contextFlags
	c := &cobra.Command{
		Use: "add NAME SERVER", Short: "remember a server, pin its CA",
		Long: `Remember a server under a name, with the token or client certificate to speak to it, and
use it from now on. SERVER is https://HOST:PORT (api.listen in the server's configuration)
or unix:///PATH.

The server's CA is pinned by its fingerprint, which its administrator sees with
"ingot api fingerprint". The token is read from a file, or typed without being shown:
on a command line, other users of the host could read it.`,
		Example: `  ingot context add berlin https://10.0.0.1:7443 --ca-fingerprint sha256:4f… --token-file token
  ingot context add berlin https://10.0.0.1:7443 --ca-fingerprint sha256:4f… --cert alice.pem
  ingot --context berlin machine ls`,
		Args: exactArgs("NAME", "SERVER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.contextAdd(cmd.Context(), args[0], args[1], f)
		},
	}
	c.Flags().StringVar(&f.fingerprint, "ca-fingerprint", "", "fingerprint of the server's CA: sha256:…")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with the token; - is standard input")
	c.Flags().StringVar(&f.cert, "cert", "", "file with a client certificate and its key, as ingot token create --cert wrote it")
	return c
}

var contextNameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (a *app) contextAdd(ctx context.Context, name, server string, f contextFlags) error {
	if !contextNameRE.MatchString(name) {
		return usagef("%q cannot be the name of a context: use letters, digits, dots, dashes", name)
	}
	t := api.Target{Server: strings.TrimRight(server, "/")}
	if strings.HasPrefix(t.Server, "https://") {
		ca, fingerprint, err := api.Look(ctx, t.Server)
		if err != nil {
			return err
		}
		if f.fingerprint == "" {
			return withHint(fmt.Errorf("%s shows a CA with the fingerprint %s", t.Server, fingerprint),
				"compare it with what the server's administrator sees (ingot api fingerprint), and repeat with: --ca-fingerprint %s", fingerprint)
		}
		if !strings.EqualFold(strings.TrimSpace(f.fingerprint), fingerprint) {
			return withHint(fmt.Errorf("%w: %s shows a CA with the fingerprint %s", api.ErrStranger, t.Server, fingerprint),
				"somebody may be between you and the server: ask its administrator for the output of ingot api fingerprint")
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
	all, err := loadContexts()
	if err != nil {
		return err
	}
	all.Contexts[name], all.Current = t, name
	if err := all.save(); err != nil {
		return err
	}
	return a.show(map[string]string{"context": name, "server": t.Server, "version": version}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is %s, ingot %s; it is used from now on\n", name, t.Server, plain(version))
	})
}

// proof reads the token or the certificate.
func (a *app) proof(t *api.Target, f contextFlags) error {
	if f.cert != "" {
		text, err := os.ReadFile(f.cert)
		if err != nil {
			return fmt.Errorf("reading the certificate: %w", err)
		}
		t.Certificate, t.Key = string(text), string(text) // tls takes from each what it needs
		return nil
	}
	var text []byte
	var err error
	in, isFile := a.stdin.(*os.File)
	switch {
	case f.tokenFile != "" && f.tokenFile != "-":
		text, err = os.ReadFile(f.tokenFile)
	case f.tokenFile == "" && isFile && term.IsTerminal(int(in.Fd())):
		fmt.Fprint(a.stderr, "token: ")
		text, err = term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.stderr)
	case f.tokenFile == "":
		return usagef("--token-file FILE or --cert FILE is needed; with --token-file - the token is read from standard input")
	default:
		text, err = io.ReadAll(io.LimitReader(a.stdin, 4096))
	}
	if err != nil {
		return fmt.Errorf("reading the token: %w", err)
	}
	t.Token = strings.TrimSpace(string(text))
	if !strings.HasPrefix(t.Token, access.Prefix) {
		return fmt.Errorf("this is no token: one begins with %s", access.Prefix)
	}
	return nil
}

func (a *app) contextList() error {
	all, err := loadContexts()
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
	return a.show(list, func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "no context yet: commands speak to the server of this host\n  → ingot context add NAME https://HOST:PORT --ca-fingerprint sha256:…")
			return
		}
		t := tabs(w)
		row(t, "", "NAME", "SERVER", "BY")
		for _, l := range list {
			mark := ""
			if l.Current {
				mark = "*"
			}
			row(t, mark, l.Name, l.Server, l.Proof)
		}
		t.Flush()
	})
}
