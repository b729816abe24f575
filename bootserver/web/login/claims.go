package login

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/oauth2"

	"ingot/internal/harmless"
)

// claims are what the provider says of an operator.
type claims struct {
	subject string
	until   time.Time
	all     map[string]any
}

// verify checks an ID token (OpenID Connect Core 1.0, section 3.1.3.7): who issued it, for whom, in
// answer to what, and when.
func (d *discovered) verify(ctx context.Context, o *OIDC, raw, nonce string, now time.Time) (*claims, error) {
	wrong := func(err error) error {
		return refuse(http.StatusForbidden, err, "The answer of %s could not be verified; the server's log says why.",
			hostOf(o.Issuer))
	}
	if raw == "" {
		return nil, wrong(errors.New("it has no ID token"))
	}
	token, err := d.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, wrong(err)
	}
	c := &claims{subject: token.Subject, until: token.Expiry.Add(clockSkew)}
	if err := token.Claims(&c.all); err != nil {
		return nil, wrong(err)
	}
	if token.Nonce != nonce || nonce == "" {
		return nil, wrong(errors.New("the nonce is that of another login"))
	}
	if party, has := c.all["azp"]; has && party != o.ClientID || len(token.Audience) > 1 && !has {
		return nil, wrong(fmt.Errorf("it is for %q, by %v", token.Audience, party))
	}
	starts := token.IssuedAt
	if at, ok := c.all["nbf"].(float64); ok && time.Unix(int64(at), 0).After(starts) {
		starts = time.Unix(int64(at), 0)
	}
	if !now.Before(c.until) || now.Before(starts.Add(-clockSkew)) {
		return nil, refuse(http.StatusForbidden, fmt.Errorf("its ID token is valid from %s to %s, and here it is %s", starts,
			token.Expiry, now), "The clocks of this server and %s differ: here it is %s.", hostOf(o.Issuer),
			now.Format(time.DateTime))
	}
	return c, nil
}

// addUserInfo adds what the provider says of the operator when it is asked (OpenID Connect Core 1.0,
// section 5.3): some put groups there alone. It changes nothing of the ID token.
func (c *claims) addUserInfo(ctx context.Context, d *discovered, tokens *oauth2.Token) error {
	if d.UserInfoEndpoint() == "" {
		return nil
	}
	info, err := d.UserInfo(ctx, oauth2.StaticTokenSource(tokens))
	if err != nil {
		return fmt.Errorf("asking the login provider about its user: %w", err)
	}
	if info.Subject != c.subject {
		return errors.New("asking the login provider about its user: the answer is about another one")
	}
	var more map[string]any
	if err := info.Claims(&more); err != nil {
		return err
	}
	for name, v := range more {
		if _, has := c.all[name]; !has {
			c.all[name] = v
		}
	}
	return nil
}

// lookup returns a claim. A dot leads into an object, unless there is a claim of that name.
func (c *claims) lookup(name string) (any, bool) {
	if v, has := c.all[name]; has {
		return v, true
	}
	var at any = c.all
	for part := range strings.SplitSeq(name, ".") {
		object, is := at.(map[string]any)
		if !is {
			return nil, false
		}
		if at, is = object[part]; !is {
			return nil, false
		}
	}
	return at, true
}

// subjectRE is what a subject may be: up to 255 ASCII characters (OpenID Connect Core 1.0, section 2).
var subjectRE = regexp.MustCompile(`^[!-~]{1,255}$`)

// identity is that of an operator, with those groups that the configuration knows.
func (c *claims) identity(o *OIDC) (id identity, err error) {
	if !subjectRE.MatchString(c.subject) {
		return id, refuse(http.StatusForbidden, fmt.Errorf("its subject is %q", clip(c.subject, 300)),
			"The answer of %s could not be verified; the server's log says why.", hostOf(o.Issuer))
	}
	id = identity{subject: c.subject, name: c.name(), until: c.until}
	groups, _ := c.lookup(o.GroupsClaim)
	switch groups := groups.(type) {
	case string:
		groups = strings.TrimSpace(groups)
		if _, known := o.Groups[groups]; known {
			id.groups = []string{groups}
		}
	case []any:
		for _, g := range groups {
			text, _ := g.(string)
			if _, known := o.Groups[text]; known && !slices.Contains(id.groups, text) {
				id.groups = append(id.groups, text)
			}
		}
	}
	return id, nil
}

// maxName bounds the name of an operator in characters.
const maxName = 64

// name is how the operator is called in the audit log: by the address that the provider verified, or by
// the name of the account. Whoever it is exactly, the subject says.
func (c *claims) name() string {
	text := func(claim string) string {
		s, _ := c.all[claim].(string)
		s = strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) || unicode.IsControl(r) {
				return -1
			}
			return r
		}, harmless.Text(s))
		if list := []rune(s); len(list) > maxName {
			s = string(list[:maxName])
		}
		return s
	}
	verified := c.all["email_verified"]
	if email := text("email"); email != "" && (verified == true || verified == "true") {
		return email
	}
	for _, claim := range []string{"preferred_username", "email", "name"} {
		if s := text(claim); s != "" {
			return s
		}
	}
	if list := []rune(c.subject); len(list) > maxName {
		return string(list[:maxName])
	}
	return c.subject
}
