package operator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/state"
)

// noted is the line of the audit log for a change of something from before to after.
func (o *Operator) noted(ctx context.Context, action, on, name string, before, after any) access.Change {
	return access.NewChange(ctx, o.now(), action, on, name, before, after)
}

// Authority implements api.Backend.
func (o *Operator) Authority() api.Authority {
	return o.host.Authority()
}

// Credentials implements api.Backend. Hashes stay here: nobody needs them.
func (o *Operator) Credentials() []access.Credential {
	list := o.state.Credentials()
	for i := range list {
		list[i].Hash = ""
	}
	return list
}

// CreateCredential implements api.Backend.
func (o *Operator) CreateCredential(ctx context.Context, q api.CredentialRequest) (made api.NewCredential, err error) {
	kind := access.Token
	if q.Request != "" {
		kind = access.Certificate
	}
	by, now := access.From(ctx), o.now()
	c, err := access.NewCredential(q.Name, kind, q.Scope, q.For, by, now)
	if err != nil {
		return made, err
	}
	if kind == access.Certificate {
		var cert []byte
		if c, cert, err = o.host.Issue(c, []byte(q.Request)); err != nil {
			return made, err
		}
		made.Certificate = string(cert)
	} else {
		var random [28]byte
		_, _ = rand.Read(random[:]) // never fails, see crypto/rand
		c, made.Token = c.Secret(random)
	}
	err = o.state.Update(func(tx state.Tx) error {
		all := tx.Credentials()
		for _, o := range all {
			if o.Name == c.Name && o.Live(now) {
				return api.Problem{Status: 409, Detail: fmt.Sprintf("the name %q belongs to %s %s, which is in use", c.Name, o.Kind, o.ID), Next: "choose another name, or: ingot token revoke " + c.Name}
			}
			if !o.Live(now) && o.Expires.Add(access.Remembered).Before(now) {
				tx.DropCredential(o.ID)
			}
		}
		if len(all) >= access.MaxCredentials {
			return api.Problem{Status: 409, Detail: fmt.Sprintf("there are %d tokens and certificates already", len(all)), Next: "ended ones are forgotten after 90 days; give tokens longer lives instead of many"}
		}
		tx.PutCredential(c)
		public := c
		public.Hash = ""
		tx.Audit(o.noted(ctx, "token.create", c.ID, c.Name, nil, public))
		return nil
	})
	if err != nil {
		return api.NewCredential{}, err
	}
	o.log.Info("a credential was made", "by", by.String(), "kind", string(kind), "name", c.Name, "scope", string(c.Scope), "until", c.Expires)
	c.Hash = ""
	made.Credential = c
	return made, nil
}

// RevokeCredential implements api.Backend.
func (o *Operator) RevokeCredential(ctx context.Context, ref string) (access.Credential, error) {
	var c access.Credential
	now := o.now()
	err := o.state.Update(func(tx state.Tx) error {
		all := tx.Credentials()
		i := slices.IndexFunc(all, func(c access.Credential) bool { return c.ID == ref })
		if i < 0 { // of several with a name, at most one is live
			i = slices.IndexFunc(all, func(c access.Credential) bool { return c.Name == ref && c.Live(now) })
		}
		if i < 0 {
			return api.Problem{Status: 404, Detail: fmt.Sprintf("no live token or certificate is called %q", ref), Next: "ingot token ls"}
		}
		if c = all[i]; !c.Live(now) {
			return errEnded
		}
		before := c
		c.Revoked = now
		tx.PutCredential(c)
		tx.Audit(o.noted(ctx, "token.revoke", c.ID, c.Name, before, c))
		return nil
	})
	c.Hash = ""
	if errors.Is(err, errEnded) {
		return c, nil // as was wanted
	}
	if err == nil {
		o.log.Info("a credential was revoked", "by", access.From(ctx).String(), "kind", string(c.Kind), "name", c.Name)
	}
	return c, err
}

// errEnded: it was revoked or has expired already.
var errEnded = errors.New("ended already")

// Audit implements api.Backend.
func (o *Operator) Audit(after uint64, last bool, limit int) ([]access.Change, error) {
	return o.state.Audit(after, last, limit)
}
