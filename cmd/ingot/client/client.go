// Package client finds the server and the store that a command works with: by
// flags, environment, contexts, and the socket of a running server. It knows no
// command.
package client

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ingot/bootserver/api"
	"ingot/bootserver/state"
	"ingot/cmd/ingot/show"
)

// Flags are the global flags that choose a store and a server.
type Flags struct {
	Store   string // --store
	Server  string // --server
	Context string // --context

	// Locate finds the running server of a store: its process and socket, empty if
	// none runs.
	Locate func(root string) (pid, socket string)
}

// StoreRoot is the folder of images, keys and state.
func (f *Flags) StoreRoot() string {
	for _, s := range []string{f.Store, os.Getenv("INGOT_STORE")} {
		if s == "" {
			continue
		}
		if abs, err := filepath.Abs(s); err == nil {
			return abs
		}
		return s
	}
	return DefaultStore()
}

// DefaultStore is the store of this user.
func DefaultStore() string {
	if os.Geteuid() == 0 {
		return "/var/lib/ingot"
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "ingot")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "ingot-store"
	}
	return filepath.Join(home, ".local", "share", "ingot")
}

// StoreNamed reports whether a store was named, by flag or environment.
func (f *Flags) StoreNamed() bool { return f.Store != "" || os.Getenv("INGOT_STORE") != "" }

// Elsewhere reports whether the store of another server is meant, because a
// server or a context was named. A current context alone does not count.
func (f *Flags) Elsewhere() bool { return f.Server != "" || f.Context != "" }

// Here refuses to run cmd, which works on files of this host, for another server.
func (f *Flags) Here(cmd string) error {
	if f.Elsewhere() {
		return show.Usagef("%s reads the store of this host: name it with --store, without --server and --context", cmd)
	}
	return nil
}

// Socket is the path of the socket of a store's server: as a running server
// recorded it, because its configuration may move it, or else the usual one.
func (f *Flags) Socket(root string) string {
	if _, socket := f.Locate(root); socket != "" {
		return socket
	}
	return filepath.Join(root, "ingot.sock")
}

// Local reports whether Client talks to the server of the store at StoreRoot.
func (f *Flags) Local() bool {
	if f.Elsewhere() || os.Getenv("INGOT_SERVER") != "" || os.Getenv("INGOT_CONTEXT") != "" {
		return false
	}
	all, err := LoadContexts()
	return f.StoreNamed() || err == nil && all.Current == ""
}

// Client returns a client of the server to talk to. The first of these decides:
// --server or --context; their environment variables; the server of the store,
// if one was named; the current context; the server of the default store.
func (f *Flags) Client() *api.Client {
	named := f.Context
	if f.Server == "" && f.Context == "" {
		if s := os.Getenv("INGOT_SERVER"); s != "" {
			return connect(api.Target{Server: s, Token: os.Getenv("INGOT_TOKEN")})
		}
		named = os.Getenv("INGOT_CONTEXT")
	}
	if f.Server != "" {
		return connect(api.Target{Server: f.Server, Token: os.Getenv("INGOT_TOKEN")})
	}
	if named == "" && f.StoreNamed() {
		return api.Dial(f.Socket(f.StoreRoot()))
	}
	all, err := LoadContexts()
	if err != nil {
		return api.Never(err)
	}
	if named == "" {
		named = all.Current
	}
	if named == "" {
		return api.Dial(f.Socket(f.StoreRoot()))
	}
	t, ok := all.Contexts[named]
	if !ok {
		return api.Never(unknownContext(named))
	}
	return connect(t)
}

// connect is api.Connect. For an https server without a pinned CA, the CA of a
// context with the same address is used, and its credentials if none were given.
func connect(t api.Target) *api.Client {
	if t.CA == "" && strings.HasPrefix(t.Server, "https://") {
		all, err := LoadContexts()
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

// NextStep is what to type after an error; empty when unknown.
func NextStep(err error) string {
	var hint show.HintError
	var problem api.Problem
	switch {
	case errors.As(err, &hint):
		return hint.Hint
	case errors.As(err, &problem):
		return problem.Hint()
	case errors.Is(err, api.ErrNoServer):
		return "ingot serve --interface IF, or name the server's store with --store or INGOT_STORE"
	case errors.Is(err, state.ErrLost), errors.Is(err, state.ErrDamaged):
		return "restore a backup: ingot restore FILE; if there is none, start with an empty state: ingot restore --empty"
	case errors.Is(err, state.ErrJournal):
		return "restore a backup: ingot restore FILE; or the state file itself, without what only its journal has: " +
			"ingot restore STORE/state/ingot.db"
	case errors.Is(err, api.ErrStranger):
		return "if the server was reinstalled, compare the output of ingot api fingerprint there, and run: ingot context add"
	case errors.Is(err, fs.ErrPermission):
		return "run it as root, or as the user that the store belongs to"
	}
	return ""
}
