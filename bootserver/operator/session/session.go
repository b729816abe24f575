// Package session remembers which browsers are logged in to the dashboard: a record in the state for
// each, which has the hash of the secret in its cookie.
package session

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/state"
)

// usedEvery is how often the record of a session says when it was used last: the writes of a session
// are bounded by it, however many requests there are.
const usedEvery = 10 * time.Minute

// ErrSessions is returned for a login while access.MaxSessions are in use.
var ErrSessions = errors.New("too many browsers are logged in")

// Store has the browsers that are logged in. State and Now are required.
type Store struct {
	State state.Store
	Now   func() time.Time
	Log   *slog.Logger // nil is quiet

	mu   sync.Mutex
	used map[string]time.Time // by session, since its record was written
}

// Begin stores a session of a credential that was verified, and returns the secret for its cookie. Of
// too many sessions of the credential, those used longest ago end.
func (l *Store) Begin(s access.Session) (secret string, err error) {
	secret, s.ID = access.NewSecret()
	now := l.Now()
	s.Began, s.Used = now, now
	if most := now.Add(access.SessionLife); s.Until.IsZero() || s.Until.After(most) {
		s.Until = most
	}
	over := l.over(now)
	return secret, l.State.Update(func(tx state.Tx) error {
		for _, id := range over {
			tx.DropSession(id)
		}
		own := slices.DeleteFunc(tx.SessionsOf(s.Credential), func(o access.Session) bool {
			return slices.Contains(over,
				o.ID)
		})
		slices.SortStableFunc(own, func(a, b access.Session) int { return a.Used.Compare(b.Used) })
		for _, o := range own[:max(0, len(own)-access.MaxSessionsEach+1)] {
			tx.DropSession(o.ID)
		}
		if tx.SessionCount() >= access.MaxSessions {
			return ErrSessions
		}
		tx.PutSession(s)
		return nil
	})
}

// Use returns the session with a secret, which is in use now.
func (l *Store) Use(secret string) (access.Session, bool) {
	s, known := l.State.Session(access.SessionID(secret))
	if !known {
		return s, false
	}
	now := l.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	stored := s.Used
	if at := l.used[s.ID]; at.After(s.Used) {
		s.Used = at
	}
	if s.Over(now) {
		return s, false
	}
	s.Used = now
	if l.used == nil {
		l.used = map[string]time.Time{}
	}
	l.used[s.ID] = now
	if now.Sub(stored) >= usedEvery || stored.After(now) { // a clock was set back
		l.write(s.ID, now)
	}
	return s, true
}

// write says in the record of a session when it was used last. Nobody waits until that is durable.
func (l *Store) write(id string, now time.Time) {
	l.State.Begin(func(tx state.Tx) error {
		if s, known := tx.Session(id); known {
			s.Used = now
			tx.PutSession(s)
		}
		return nil
	})
}

// End ends the session with a secret.
func (l *Store) End(secret string) error { return l.drop([]string{access.SessionID(secret)}) }

func (l *Store) drop(ids []string) error {
	l.mu.Lock()
	for _, id := range ids {
		delete(l.used, id)
	}
	l.mu.Unlock()
	return l.State.Update(func(tx state.Tx) error {
		for _, id := range ids {
			if _, known := tx.Session(id); known {
				tx.DropSession(id)
			}
		}
		return nil
	})
}

// atOnce is how many sessions are removed by one transaction, which is bounded.
const atOnce = 32

// over returns the ids of sessions that are over, or whose token is; the first of many.
func (l *Store) over(now time.Time) (ids []string) {
	all := l.State.Sessions()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range all {
		if at := l.used[s.ID]; at.After(s.Used) {
			s.Used = at
		}
		over := s.Over(now)
		if s.Kind == access.Token {
			c, known := l.State.Credential(s.Credential)
			over = over || !known || !c.Live(now)
		}
		if over {
			ids = append(ids, s.ID)
		}
		if len(ids) == atOnce {
			break
		}
	}
	return ids
}

// Tidy removes the records of sessions that are over, some at each call.
func (l *Store) Tidy() {
	l.mu.Lock()
	for id := range l.used {
		if _, known := l.State.Session(id); !known {
			delete(l.used, id)
		}
	}
	l.mu.Unlock()
	if ids := l.over(l.Now()); len(ids) > 0 {
		if err := l.drop(ids); err != nil && l.Log != nil {
			l.Log.Error("removing sessions that are over", "err", err)
		}
	}
}
