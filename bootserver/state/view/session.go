package view

import (
	"maps"
	"slices"
	"strings"

	"ingot/bootserver/access"
)

// AddSession adds the session of a browser that is stored.
func (v *View) AddSession(s access.Session) { v.setSession(s.ID, &s) }

// setSession stores a session; nil removes it.
func (v *View) setSession(id string, s *access.Session) {
	if old, had := v.sessions[id]; had {
		relist(v.index.session, id, []string{old.Credential}, nil)
		delete(v.sessions, id)
	}
	if s != nil {
		relist(v.index.session, id, nil, []string{s.Credential})
		v.sessions[id] = *s
	}
}

// Session returns the session of a browser.
func (v *View) Session(id string) (access.Session, bool) {
	s, ok := v.sessions[id]
	return s, ok
}

// Sessions returns all sessions of browsers, the oldest first.
func (v *View) Sessions() []access.Session {
	return slices.SortedFunc(maps.Values(v.sessions), compareSessions)
}

func compareSessions(a, b access.Session) int {
	if c := a.Began.Compare(b.Began); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// Session implements state.Tx.
func (tx *Tx) Session(id string) (access.Session, bool) {
	tx.read(Key{Sessions, id})
	return tx.v.Session(id)
}

// SessionsOf implements state.Tx.
func (tx *Tx) SessionsOf(credential string) []access.Session {
	tx.read(Key{BySession, credential})
	list := make([]access.Session, 0, 1)
	for _, id := range tx.v.index.session[credential] {
		s, _ := tx.Session(id)
		list = append(list, s)
	}
	slices.SortFunc(list, compareSessions)
	return list
}

// SessionCount implements state.Tx.
func (tx *Tx) SessionCount() int {
	tx.read(Key{Numbers, SessionsKey})
	return len(tx.v.sessions)
}

// PutSession implements state.Tx.
func (tx *Tx) PutSession(s access.Session) { tx.replaceSession(s.ID, &s) }

// DropSession implements state.Tx.
func (tx *Tx) DropSession(id string) { tx.replaceSession(id, nil) }

func (tx *Tx) replaceSession(id string, s *access.Session) {
	replace(tx, Sessions, tx.v.sessions, tx.v.setSession, id, s)
}
