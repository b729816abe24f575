// Package access controls access to the server's API: scopes, tokens, client certificates and the
// server's own certificate authority. It holds values and checks; package state stores them.
//
// Left out on purpose: users, passwords, groups and roles. The administrator's socket issues tokens
// to everybody else.
package access

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"
)

// Scope is how much may be asked. Each contains those before it.
type Scope string

// The scopes.
const (
	Read    Scope = "read"    // look at everything but tokens and the audit log
	Operate Scope = "operate" // and change machines, assignments and grants
	Admin   Scope = "admin"   // and tokens, configuration, backups
)

// Scopes lists them, the smallest first.
var Scopes = []Scope{Read, Operate, Admin}

// ErrScope: the text is not a scope.
var ErrScope = errors.New("not a scope")

// ParseScope accepts exactly the three words.
func ParseScope(s string) (Scope, error) {
	if Scope(s).rank() < 0 {
		return "", fmt.Errorf("%w: %q; choose read, operate or admin", ErrScope, s)
	}
	return Scope(s), nil
}

func (s Scope) rank() int {
	for i, t := range Scopes {
		if s == t {
			return i
		}
	}
	return -1
}

// Covers reports whether scope s includes scope want. A text that is not a scope covers nothing and
// is covered by nothing.
func (s Scope) Covers(want Scope) bool { return want.rank() >= 0 && s.rank() >= want.rank() }

// Least is the smaller of two scopes.
func Least(a, b Scope) Scope {
	if a.rank() < b.rank() {
		return a
	}
	return b
}

// Kind is how an operator was authenticated.
type Kind string

// The kinds of authentication.
const (
	Local       Kind = "local"       // opened the administrator's socket: the kernel tells user and process
	Token       Kind = "token"       // showed a token
	OIDC        Kind = "oidc"        // a browser that a login provider vouched for
	Certificate Kind = "certificate" // has the key of a certificate that the server's CA issued
	Server      Kind = "server"      // nobody: the server itself
)

// Who identifies an authenticated operator, or the server itself.
type Who struct {
	Kind  Kind   `json:"kind" enum:"local,token,certificate,oidc,server"`
	Name  string `json:"name"`            // of the token or certificate, or the user's
	ID    string `json:"id,omitempty"`    // of the token or certificate; of OIDC, issuer and subject
	UID   *int   `json:"uid,omitempty"`   // of a local user
	PID   int    `json:"pid,omitempty"`   // of a local user's program
	From  string `json:"from,omitempty"`  // address of a remote one
	Scope Scope  `json:"scope,omitempty"` // what he may ask
}

// String is "token ci", "local root".
func (w Who) String() string { return string(w.Kind) + " " + w.Name }

// LocalUser is a user of this host with every permission on the store: one that opened the
// administrator's socket, see Peers, or the store's files.
func LocalUser(uid, pid int) Who {
	name := strconv.Itoa(uid)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	return Who{Kind: Local, Name: name, UID: &uid, PID: pid, Scope: Admin}
}

type whoKey struct{}

// With returns a context of a request by an operator.
func With(ctx context.Context, w Who) context.Context { return context.WithValue(ctx, whoKey{}, w) }

// From returns the operator of a request. Without one it is the server itself, which has no scope.
func From(ctx context.Context) Who {
	if w, ok := ctx.Value(whoKey{}).(Who); ok {
		return w
	}
	return Who{Kind: Server, Name: "ingot"}
}
