package statetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// testLedger: Changes come in their order, of one machine or of all, and a change that is
// refused leaves none.
func testLedger(t *testing.T, b Backend) {
	s := b.fresh(t)
	refused := func() {
		err := s.Update(func(tx state.Tx) error { tx.Record(note("m-0", "refused")); return errRefused })
		if !errors.Is(err, errRefused) {
			t.Fatal(err)
		}
	}
	refused() // it takes no number, either
	for i := range 10 {
		c := note(ingot.MachineID(fmt.Sprint("m-", i%2)), fmt.Sprint(i))
		c.At = time.Unix(int64(i), 0)
		if err := s.Append(c); err != nil {
			t.Fatal(err)
		}
	}
	refused()
	for _, c := range []struct {
		q    state.Query
		want string
	}{
		{state.Query{}, "0123456789"},
		{state.Query{Limit: 3}, "012"},
		{state.Query{After: 8}, "89"},
		{state.Query{Newest: true, Limit: 3}, "789"},
		{state.Query{Machine: "m-1"}, "13579"},
		{state.Query{Machine: "m-1", Newest: true, Limit: 2}, "79"},
		{state.Query{Machines: []ingot.MachineID{"m-0", "m-1"}, Limit: 2}, "01"},
		{state.Query{Machine: "m-"}, ""},
		{state.Query{Audit: true}, ""},
	} {
		list, last, err := s.Changes(c.q)
		got := ""
		for _, e := range list {
			got += e.Text
		}
		if err != nil || got != c.want || last != 10 {
			t.Errorf("Changes(%+v) = %s, last %d, %v; want %s", c.q, got, last, err, c.want)
		}
	}
	now := time.Unix(10, 0)
	for _, c := range []struct {
		most int
		age  time.Duration
		want int
	}{{100, time.Hour, 10}, {100, 7 * time.Second, 7}, {3, time.Hour, 3}} {
		if err := s.Trim(now, c.most, c.age); err != nil {
			t.Fatal(err)
		}
		if list := changes(t, s, state.Query{}); len(list) != c.want || list[len(list)-1].Text != "9" {
			t.Errorf("after Trim(%d, %s): %d Changes; want the newest %d", c.most, c.age, len(list), c.want)
		}
	}
}

// testAwait: Await returns with the next Change, and with a restore.
func testAwait(t *testing.T, b Backend) {
	s := b.fresh(t)
	if err := s.Append(note("", "1")); err != nil {
		t.Fatal(err)
	}
	s.Await(t.Context(), 0) // there is one
	waits := func() chan struct{} {
		woken := make(chan struct{})
		go func() {
			defer close(woken)
			s.Await(context.WithoutCancel(t.Context()), 1)
		}()
		select {
		case <-woken:
			t.Error("there is nothing to be woken for")
		case <-time.After(20 * time.Millisecond):
		}
		return woken
	}
	var backup strings.Builder
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	for what, wake := range map[string]func() error{
		"a restore": func() error { _, err := s.Restore(strings.NewReader(backup.String()), time.Unix(5, 0)); return err },
	} {
		woken := waits()
		if err := wake(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-woken:
		case <-time.After(10 * time.Second):
			t.Errorf("Await does not return after %s", what)
		}
	}
	woken := waits()
	if err := s.Append(note("", "2")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-woken:
	case <-time.After(10 * time.Second):
		t.Error("Await does not return after a Change")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Await(ctx, 100)
}

// testAudit: operators' actions are kept apart, share the numbers of the ledger, stay when
// that is trimmed, and a change that failed leaves none.
func testAudit(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	action := func(i int) fleet.Change {
		return fleet.Change{At: time.Unix(int64(i), 0), Code: fleet.ActionApprove,
			Machine: ingot.MachineID(fmt.Sprint("m-", i%2)), Name: fmt.Sprint(i),
			Actor: fleet.Actor{Kind: "local", Name: "root"}}
	}
	for i := range 6 {
		if err := s.Append(action(i), note("m-0", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		err := s.Update(func(tx state.Tx) error { tx.Record(action(100)); return errRefused })
		if !errors.Is(err, errRefused) {
			t.Fatal(err)
		}
	}
	if err := s.Trim(time.Unix(1000, 0), 1, time.Second); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		names := func(q state.Query) (got string) {
			q.Audit = true
			last := uint64(0)
			for _, c := range changes(t, s, q) {
				if got += c.Name; c.Seq <= last || c.Seq%2 != 1 || c.Actor.Name != "root" {
					t.Errorf("action %+v after number %d", c, last)
				}
				last = c.Seq
			}
			return got
		}
		for want, q := range map[string]state.Query{"012345": {}, "12": {After: 1, Limit: 2}, "45": {Newest: true, Limit: 2},
			"135": {Machine: "m-1"}} {
			if got := names(q); got != want {
				t.Errorf("actions of %+v: %s; want %s", q, got, want)
			}
		}
		if list := changes(t, s, state.Query{}); len(list) > 1 {
			t.Errorf("%d Changes are left in the ledger", len(list))
		}
		closeStore(t, s)
		s = b.open(t, dir)
	}
	closeStore(t, s)
}

// testSessions: they stay over a restart, are found by id and credential, and one whose change failed
// was never there. A restore ends them, those of the backup too.
func testSessions(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	session := func(id, credential string, began int64) access.Session {
		return access.Session{ID: id, Credential: credential, Began: time.Unix(began, 0).UTC()}
	}
	update(t, s, func(tx state.Tx) {
		for i := range 3 {
			tx.PutSession(session(fmt.Sprint(i), "a", int64(9-i)))
		}
		tx.DropSession("1")
	})
	err := s.Update(func(tx state.Tx) error {
		tx.PutSession(session("7", "b", 1))
		tx.DropSession("0")
		tx.PutSession(session("2", "b", 7))
		if tx.SessionCount() != 2 || len(tx.SessionsOf("a")) != 0 || len(tx.SessionsOf("b")) != 2 {
			t.Error("a change does not see itself")
		}
		return errRefused
	})
	if !errors.Is(err, errRefused) {
		t.Fatal(err)
	}
	for range 2 {
		if list := s.Sessions(); len(list) != 2 || list[0].ID != "2" || list[1].ID != "0" {
			t.Errorf("Sessions = %+v; want 2 and 0", list)
		}
		if _, there := s.Session("7"); there {
			t.Error("a change that failed left a session")
		}
		update(t, s, func(tx state.Tx) {
			_, there := tx.Session("0")
			if of := tx.SessionsOf("a"); !there || len(of) != 2 || of[0].ID != "2" || tx.SessionCount() != 2 ||
				len(tx.SessionsOf("b")) != 0 {
				t.Errorf("the sessions of a are %+v; want 2 and 0", of)
			}
		})
		closeStore(t, s)
		s = b.open(t, dir)
	}
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx state.Tx) { tx.PutSession(session("9", "a", 9)) })
	if _, err := s.Restore(bytes.NewReader(backup.Bytes()), time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	if list := s.Sessions(); len(list) != 0 {
		t.Errorf("after a restore there are the sessions %+v", list)
	}
	update(t, s, func(tx state.Tx) { tx.PutSession(session("0", "a", 9)) })
	if list := s.Sessions(); len(list) != 1 {
		t.Errorf("a session after a restore is not kept: %+v", list)
	}
	closeStore(t, s)
}

// testCredentials: they stay over a restart, are found by id and name, and one whose change
// failed was never there.
func testCredentials(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	update(t, s, func(tx state.Tx) {
		for i := range 3 {
			tx.PutCredential(access.Credential{ID: fmt.Sprint(i), Name: "a", Created: time.Unix(int64(9-i), 0).UTC()})
		}
		tx.DropCredential("1")
	})
	err := s.Update(func(tx state.Tx) error {
		tx.PutCredential(access.Credential{ID: "7", Name: "b"})
		tx.DropCredential("0")
		if tx.CredentialCount() != 2 || len(tx.CredentialsNamed("a")) != 1 || len(tx.CredentialsNamed("b")) != 1 {
			t.Error("a change does not see itself")
		}
		return errRefused
	})
	if !errors.Is(err, errRefused) {
		t.Fatal(err)
	}
	for range 2 {
		list := s.Credentials()
		if len(list) != 2 || list[0].ID != "2" || list[1].ID != "0" {
			t.Errorf("Credentials = %+v; want 2 and 0", list)
		}
		if _, there := s.Credential("7"); there {
			t.Error("a change that failed left a credential")
		}
		update(t, s, func(tx state.Tx) {
			_, there := tx.Credential("0")
			if named := tx.CredentialsNamed("a"); !there || len(named) != 2 || named[0].ID != "0" || tx.CredentialCount() != 2 ||
				len(tx.CredentialsNamed("b")) != 0 {
				t.Errorf("named a are %+v; want 0 and 2", named)
			}
		})
		closeStore(t, s)
		s = b.open(t, dir)
	}
	closeStore(t, s)
}

// testEndsAreCounted: each once, and not when the change fails.
func testEndsAreCounted(t *testing.T, b Backend) {
	s := b.fresh(t)
	for _, step := range []struct {
		outcome ingot.Outcome
		err     error
	}{{ingot.OutcomeOpen, nil}, {ingot.OutcomeHealthy, errRefused}, {ingot.OutcomeHealthy, nil},
		{ingot.OutcomeHealthy, nil}} {
		err := s.Update(func(tx state.Tx) error {
			tx.StoreBoot(fleet.Boot{ID: bootID(1), Machine: "m-1", Outcome: step.outcome})
			return step.err
		})
		if !errors.Is(err, step.err) {
			t.Fatal(err)
		}
	}
	if c := s.Counts(); c.Ended[ingot.OutcomeHealthy] != 1 || c.Open != 0 || c.FileBytes == 0 {
		t.Errorf("Counts = %+v; want one healthy end", c)
	}
}

// testConsole: the beginning and the end of a console are kept, and those of a few boots.
func testConsole(t *testing.T, b Backend) {
	s := b.fresh(t)
	for i := range state.ConsolesPerMachine + 2 {
		update(t, s, func(tx state.Tx) {
			x := fleet.Boot{ID: bootID(byte(i + 1)), Machine: "m-1", Number: i + 1}
			tx.StoreBoot(x)
			tx.AddConsole(x.ID, "first\n")
			tx.AddConsole(x.ID, "second\n")
		})
	}
	last := bootID(state.ConsolesPerMachine + 2)
	for i := range state.ConsolesPerMachine + 2 {
		text, err := s.Console(bootID(byte(i + 1)))
		want := "first\nsecond\n"
		if i < 2 {
			want = ""
		}
		if err != nil || text != want {
			t.Errorf("console of boot %d: %q, %v; want %q", i+1, text, err, want)
		}
	}
	for i := range 40 {
		update(t, s, func(tx state.Tx) { tx.AddConsole(last, strings.Repeat(fmt.Sprintf("line %d\n", i), 400)) })
	}
	text, err := s.Console(last)
	if err != nil || !strings.HasPrefix(text, "first\nsecond\nline 0\n") || !strings.HasSuffix(text, "line 39\n") ||
		!strings.Contains(text, "some of it was not kept") || len(text) > state.MaxConsole+100 {
		t.Errorf("a long console has %d bytes, %v, and begins with %.40q", len(text), err, text)
	}
}
