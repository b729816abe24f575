package operator

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

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
	over := o.overdue(now)
	var action fleet.Change
	err = o.state.Update(func(tx state.Tx) error {
		for _, other := range tx.CredentialsNamed(c.Name) {
			if other.Live(now) {
				return api.NewProblem(api.CodeCredentialTaken,
					fmt.Sprintf("the name %q belongs to %s %s, which is in use", c.Name, other.Kind,
						other.ID), "name", c.Name)
			}
		}
		for _, id := range over {
			if old, known := tx.Credential(id); known && forgotten(old, now) {
				tx.DropCredential(id)
			}
		}
		if n := tx.CredentialCount(); n >= access.MaxCredentials {
			return api.NewProblem(api.CodeTooManyCredentials,
				fmt.Sprintf("there are %d tokens and certificates already", n))
		}
		action = credentialAction(ctx, now, fleet.ActionTokenCreate, nil, &c)
		tx.PutCredential(c)
		tx.Record(action)
		return nil
	})
	if err != nil {
		return api.NewCredential{}, err
	}
	logActions(o.log, action)
	c.Hash = ""
	made.Credential = c
	return made, nil
}

// forgotten reports whether a credential ended so long ago that its record goes.
func forgotten(c access.Credential, now time.Time) bool {
	return !c.Live(now) && c.Expires.Add(access.Remembered).Before(now)
}

// overdue returns the ids of credentials whose records go; the first of many.
func (o *Operator) overdue(now time.Time) (ids []string) {
	const most = 32 // a transaction is bounded
	for _, c := range o.state.Credentials() {
		if forgotten(c, now) && len(ids) < most {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// credentialAction is an action on a credential, without its hash.
func credentialAction(ctx context.Context, now time.Time, code fleet.Code, before,
	after *access.Credential) fleet.Change {
	public := func(c *access.Credential) any {
		if c == nil {
			return nil
		}
		copied := *c
		copied.Hash = ""
		return copied
	}
	c := Action(ctx, now, code, public(before), public(after))
	c.Subject, c.Name = after.ID, after.Name
	return c
}

// RevokeCredential implements api.Backend.
func (o *Operator) RevokeCredential(ctx context.Context, ref string) (c access.Credential, err error) {
	now := o.now()
	all := o.state.Credentials()
	i := slices.IndexFunc(all, func(c access.Credential) bool { return c.ID == ref })
	if i < 0 { // of several with a name, at most one is live
		i = slices.IndexFunc(all, func(c access.Credential) bool { return c.Name == ref && c.Live(now) })
	}
	missing := api.NewProblem(api.CodeCredentialNotFound, fmt.Sprintf("no live token or certificate is called %q", ref))
	if i < 0 {
		return c, missing
	}
	var changes []fleet.Change
	err = o.state.Update(func(tx state.Tx) error {
		before, known := tx.Credential(all[i].ID)
		if !known {
			return missing
		}
		c, changes = before, nil
		if !c.Live(now) {
			return nil // as was wanted
		}
		c.Revoked = now
		changes = []fleet.Change{credentialAction(ctx, now, fleet.ActionTokenRevoke, &before, &c)}
		tx.PutCredential(c)
		for _, s := range tx.SessionsOf(c.ID) {
			tx.DropSession(s.ID)
		}
		tx.Record(changes...)
		return nil
	})
	if err == nil {
		logActions(o.log, changes...)
	}
	c.Hash = ""
	return c, err
}

// sessionDigits is how many digits of a session's id are shown.
const sessionDigits = 12

// Sessions implements api.Backend. Hashes of secrets are shown in part: that is enough to name them.
func (o *Operator) Sessions() []api.Session {
	list := []api.Session{}
	for _, s := range o.liveSessions() {
		list = append(list, o.sessionOf(s))
	}
	return list
}

// liveSessions are the sessions that are not over, used last first.
func (o *Operator) liveSessions() []access.Session {
	now := o.now()
	list := slices.DeleteFunc(o.state.Sessions(), func(s access.Session) bool { return s.Over(now) })
	slices.SortStableFunc(list, func(a, b access.Session) int { return b.Used.Compare(a.Used) })
	return list
}

func (o *Operator) sessionOf(s access.Session) api.Session {
	name := s.Name
	if c, known := o.state.Credential(s.Credential); name == "" && known {
		name = c.Name
	}
	return api.Session{ID: s.ID[:min(len(s.ID), sessionDigits)], Kind: s.Kind, Credential: s.Credential, Name: name,
		Groups: s.Groups, Began: s.Began, Used: s.Used, Until: s.Until}
}

// EndSessions implements api.Backend. An open page of an ended session closes within seconds.
func (o *Operator) EndSessions(ctx context.Context, ref string) ([]api.Session, error) {
	const atOnce = 32 // a transaction is bounded
	now, ended, ids := o.now(), []api.Session{}, []string{}
	for _, s := range o.liveSessions() {
		if one := o.sessionOf(s); ref != "" && (ref == one.ID || ref == s.ID || ref == one.Name || ref == s.Credential) {
			ended, ids = append(ended, one), append(ids, s.ID)
		}
	}
	if len(ids) == 0 {
		return nil, api.NewProblem(api.CodeSessionNotFound, fmt.Sprintf("no session is %q, or is of it", ref))
	}
	for first := 0; first < len(ids); first += atOnce {
		var changes []fleet.Change
		err := o.state.Update(func(tx state.Tx) error {
			changes = nil
			for i := first; i < min(first+atOnce, len(ids)); i++ {
				if _, known := tx.Session(ids[i]); !known {
					continue
				}
				c := Action(ctx, now, fleet.ActionSessionEnd, ended[i], nil)
				c.Subject, c.Name = ended[i].ID, ended[i].Name
				changes = append(changes, c)
				tx.DropSession(ids[i])
			}
			tx.Record(changes...)
			return nil
		})
		if err != nil {
			return nil, err
		}
		logActions(o.log, changes...)
	}
	return ended, nil
}

// Audit implements api.Backend.
func (o *Operator) Audit(after uint64, last bool, limit int) ([]api.AuditEntry, error) {
	list, _, err := o.state.Changes(state.Query{Audit: true, After: after, Newest: last, Limit: limit})
	if err != nil {
		return nil, err
	}
	return append([]api.AuditEntry{}, each(list, auditOf)...), nil // none is an empty list
}
