package bootserver

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"ingot/bootserver/access"
	"ingot/bootserver/config"
	"ingot/bootserver/web/login"
)

// LoginProvider returns the login provider of a configuration; nil: there is none.
func LoginProvider(c config.API) *login.OIDC {
	o := c.OIDC
	if o == nil {
		return nil
	}
	p := &login.OIDC{Issuer: o.Issuer, ClientID: o.ClientID, Scopes: slices.Clone(o.Scopes), GroupsClaim: o.GroupsClaim,
		Groups: map[string]access.Scope{}, Origins: c.Origins(),
		Secret: func() (string, error) { return readSecret(o.ClientSecretFile) }}
	if p.Scopes == nil {
		p.Scopes = []string{"profile", "email"}
	}
	if p.GroupsClaim == "" {
		p.GroupsClaim = "groups"
	}
	for g, scope := range o.Groups {
		p.Groups[g] = access.Scope(scope)
	}
	return p
}

// maxSecret bounds the secret of a client in bytes.
const maxSecret = 4096

// readSecret reads the secret of a client from its file. Without a file it is empty.
func readSecret(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("reading the secret of the login provider (api.oidc.clientSecretFile): %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if secret := strings.TrimSpace(string(text)); err == nil && secret != "" && len(text) <= maxSecret {
		return secret, nil
	}
	if err == nil {
		err = fmt.Errorf("it has %d bytes; want a secret of up to %d", len(text), maxSecret)
	}
	return "", fmt.Errorf("reading the secret of the login provider (api.oidc.clientSecretFile), %s: %w", file, err)
}

// setProvider takes over the login provider of a configuration. What it said of itself is kept as long
// as the configuration is the same.
func (s *Server) setProvider(c config.API) {
	if s.provider.Now == nil {
		s.provider.Now, s.provider.Log = s.conf.Now, s.log
	} else if reflect.DeepEqual(s.conf.Settings.API.OIDC, c.OIDC) &&
		slices.Equal(s.conf.Settings.API.Origins(), c.Origins()) {
		return
	}
	s.provider.Set(LoginProvider(c))
}
