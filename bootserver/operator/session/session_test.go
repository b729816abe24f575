package session

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/bootserver/state/memory"
	"ingot/bootserver/state/record"
)

// engines are the backends that keep sessions.
var engines = map[string]func(t *testing.T, dir string) state.Store{
	"bolt": func(t *testing.T, dir string) state.Store {
		s, err := bolt.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	},
	"memory": func(t *testing.T, dir string) state.Store {
		s, err := memory.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	},
}

// browsers is a store of sessions with a clock of its own.
type browsers struct {
	*Store
	t     *testing.T
	clock time.Time
	open  func() state.Store
}

func eachEngine(t *testing.T, f func(b *browsers)) {
	t.Helper()
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			b := &browsers{t: t, clock: time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC),
				open: func() state.Store { return open(t, dir) }}
			b.begin()
			t.Cleanup(func() { _ = b.State.Close() })
			f(b)
		})
	}
}

// begin is the start of a server.
func (b *browsers) begin() {
	b.Store = &Store{State: b.open(), Now: func() time.Time { return b.clock }}
}

// restart ends the server and starts it again.
func (b *browsers) restart() {
	b.t.Helper()
	if err := b.State.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.begin()
}

// token stores a token that lives a month.
func (b *browsers) token(id string) {
	b.t.Helper()
	if err := b.State.Update(func(tx state.Tx) error {
		tx.PutCredential(access.Credential{ID: id, Name: id, Kind: access.Token, Expires: b.clock.AddDate(0, 1, 0)})
		return nil
	}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browsers) login(credential string) (secret string) {
	b.t.Helper()
	secret, err := b.Begin(access.Session{Kind: access.Token, Credential: credential})
	if err != nil {
		b.t.Fatal(err)
	}
	return secret
}

func (b *browsers) wants(secret string, good bool, when string) {
	b.t.Helper()
	if _, ok := b.Use(secret); ok != good {
		b.t.Errorf("%s: the session is good: %v; want %v", when, ok, good)
	}
}

// TestSessionsOutliveARestart of the server, with their limits; one that ended does not come back. The
// state has hashes alone.
func TestSessionsOutliveARestart(t *testing.T) {
	eachEngine(t, func(b *browsers) {
		b.token("a")
		kept, left := b.login("a"), b.login("a")
		if err := b.End(left); err != nil {
			b.t.Fatal(err)
		}
		b.restart()
		b.wants(kept, true, "after a restart")
		b.wants(left, false, "one that was ended, after a restart")
		for _, s := range b.State.Sessions() {
			if text, err := record.Encode(s); err != nil || strings.Contains(string(text), kept) {
				b.t.Errorf("the record is %s, %v; want the hash of its secret", text, err)
			}
		}
		b.wants(access.SessionID(kept), false, "its id as a secret")
		b.clock = b.clock.Add(11 * time.Hour)
		b.wants(kept, true, "11 h later")
		b.restart()
		b.clock = b.clock.Add(11 * time.Hour)
		b.wants(kept, true, "11 h later, after a restart")
		b.clock = b.clock.Add(access.SessionIdle)
		b.wants(kept, false, "idle for 12 h")
		b.restart()
		b.wants(kept, false, "idle for 12 h, after a restart")
	})
}

// TestUseIsWrittenSeldom: a page that is open asks each second, and writes once in ten minutes.
func TestUseIsWrittenSeldom(t *testing.T) {
	eachEngine(t, func(b *browsers) {
		b.token("a")
		secret := b.login("a")
		writes, was := 0, b.State.Sessions()[0].Used
		for range 3 * 3600 {
			b.clock = b.clock.Add(time.Second)
			b.wants(secret, true, "in use")
			if now := b.State.Sessions()[0].Used; !now.Equal(was) {
				writes, was = writes+1, now
			}
		}
		if writes != 18 {
			b.t.Errorf("%d writes in 3 h; want 18", writes)
		}
	})
}

// TestSessionsAreBounded: of one token, those used longest ago end; when all places are taken, nobody
// else gets one, and sessions that are over leave theirs.
func TestSessionsAreBounded(t *testing.T) {
	eachEngine(t, func(b *browsers) {
		b.token("a")
		var secrets []string
		for range access.MaxSessionsEach {
			secrets = append(secrets, b.login("a"))
			b.clock = b.clock.Add(time.Second)
		}
		b.clock = b.clock.Add(usedEvery)
		b.wants(secrets[0], true, "the first one")
		latest := b.login("a")
		b.wants(latest, true, "one more")
		b.wants(secrets[0], true, "the first one, which was used since")
		b.wants(secrets[1], false, "the one used longest ago")
		if n := len(b.State.Sessions()); n != access.MaxSessionsEach {
			b.t.Errorf("%d sessions of one token; want %d", n, access.MaxSessionsEach)
		}
		b.token("t100")
		for first := access.MaxSessionsEach; first < access.MaxSessions; first += 64 {
			if err := b.State.Update(func(tx state.Tx) error {
				for i := first; i < first+64; i++ {
					tx.PutSession(access.Session{ID: fmt.Sprint("t", i), Kind: access.OIDC, Credential: fmt.Sprint("t", i),
						Used: b.clock, Until: b.clock.Add(access.SessionLife)})
				}
				return nil
			}); err != nil {
				b.t.Fatal(err)
			}
		}
		if _, err := b.Begin(access.Session{Kind: access.Token, Credential: "t100"}); !errors.Is(err, ErrSessions) {
			b.t.Errorf("with every place taken, Begin = %v; want ErrSessions", err)
		}
		b.clock = b.clock.Add(access.SessionIdle)
		b.wants(b.login("t100"), true, "when all others are over")
	})
}

// TestTidy removes the records of sessions that are over, and of those whose token is.
func TestTidy(t *testing.T) {
	eachEngine(t, func(b *browsers) {
		b.token("a")
		b.token("b")
		for range 40 {
			b.login("a")
		}
		secret := b.login("b")
		b.Tidy()
		if n := len(b.State.Sessions()); n != 41 {
			b.t.Errorf("%d sessions; want all 41", n)
		}
		if err := b.State.Update(func(tx state.Tx) error {
			c, _ := tx.Credential("a")
			c.Revoked = b.clock
			tx.PutCredential(c)
			return nil
		}); err != nil {
			b.t.Fatal(err)
		}
		b.wants(secret, true, "that of another token")
		b.Tidy()
		b.Tidy()
		if list := b.State.Sessions(); len(list) != 1 || list[0].Credential != "b" {
			b.t.Errorf("%d sessions are left; want that of b", len(list))
		}
		b.clock = b.clock.Add(access.SessionIdle)
		b.Tidy()
		if n := len(b.State.Sessions()); n != 0 || len(b.used) != 0 {
			b.t.Errorf("%d sessions are left, and %d in memory", n, len(b.used))
		}
	})
}
