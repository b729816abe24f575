package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// crash copies what is on the disk of a state that a server uses, as if it died at this moment.
func crash(t *testing.T, s *Store) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s.disk.Lock()
	defer s.disk.Unlock()
	for _, name := range []string{file, journalFile} {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(s.db.Path()), name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// round is a change of everything, as a machine that boots makes it.
func round(tx state.Tx, n int) error {
	id := ingot.MachineID(fmt.Sprintf("m-%03d", n%20))
	b := fleet.Boot{ID: ingot.NewBootID([16]byte{byte(n >> 8), byte(n)}), Machine: id, Number: n,
		Started: time.Unix(int64(n), 0), Outcome: ingot.OutcomeFailed}
	tx.StoreMachine(fleet.Machine{ID: id, Orders: n, Boot: b.ID})
	tx.StoreBoot(b)
	b, err := tx.KeepFacts(b, ingot.Facts{RAM: int64(n)})
	tx.StoreBoot(b)
	tx.PutLease(fleet.Lease{MAC: string(id), Address: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})})
	tx.AddConsole(b.ID, fmt.Sprintf("line %d\n", n))
	c := fleet.TextChange(fleet.KindMachine, fmt.Sprint("note ", n), false)
	c.Machine = id
	tx.Record(c, fleet.Change{Code: fleet.ActionApprove, Machine: id})
	tx.PutCredential(access.Credential{ID: fmt.Sprint(n % 7), Name: fmt.Sprint("n", n)})
	return err
}

func rounds(t *testing.T, s *Store, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := s.Update(func(tx state.Tx) error { return round(tx, n) }); err != nil {
			t.Fatal(err)
		}
	}
}

// wantRounds looks for what n rounds stored.
func wantRounds(t *testing.T, s *Store, n int) {
	t.Helper()
	boots, err := s.Boots("", 0)
	if err != nil || len(boots) != n || len(s.Machines()) != min(n, 20) || len(s.Credentials()) != min(n, 7) {
		t.Fatalf("%d boots, %d machines, %d credentials, %v; want those of %d rounds", len(boots), len(s.Machines()),
			len(s.Credentials()), err, n)
	}
	for i, b := range boots {
		f, _, err := s.Facts(b)
		text, err2 := s.Console(b.ID)
		kept := i >= n-20*state.ConsolesPerMachine
		if err := errors.Join(err, err2); err != nil || f.RAM != int64(i) || kept != (text == fmt.Sprintf("line %d\n", i)) {
			t.Errorf("boot %d of %d: RAM %d, console %q, %v", i, n, f.RAM, text, err)
		}
	}
	if l, err := s.Leases(); err != nil || len(l) != n {
		t.Errorf("%d leases, %v; want %d", len(l), err, n)
	}
	for _, q := range []state.Query{{Limit: 10000}, {Limit: 10000, Newest: true}, {Limit: 10000, Audit: true}} {
		list, last, err := s.Changes(q)
		if err != nil || len(list) != n || last != uint64(2*n) {
			t.Fatalf("%+v: %d Changes up to %d, %v; want %d up to %d", q, len(list), last, err, n, 2*n)
		}
	}
}

// TestReadsSeeTheJournal: readers find what only the journal has, and each thing once when some is in
// the file already.
func TestReadsSeeTheJournal(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	note := func(n int) string { return fmt.Sprint("note ", n) }
	rounds(t, s, 0, 6)
	if err := s.applyAll(); err != nil {
		t.Fatal(err)
	}
	rounds(t, s, 6, 12)
	if s.unapplied.size() == 0 {
		t.Fatal("everything is in the file; this test would prove nothing")
	}
	for _, c := range []struct {
		q    state.Query
		want []int
	}{
		{state.Query{}, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
		{state.Query{After: 9}, []int{5, 6, 7, 8, 9, 10, 11}},
		{state.Query{After: 9, Limit: 3}, []int{5, 6, 7}},
		{state.Query{After: 17}, []int{9, 10, 11}},
		{state.Query{After: 24}, nil},
		{state.Query{Newest: true, Limit: 2}, []int{10, 11}},
		{state.Query{Newest: true, Limit: 8}, []int{4, 5, 6, 7, 8, 9, 10, 11}},
		{state.Query{Newest: true, After: 15}, []int{8, 9, 10, 11}},
		{state.Query{Machines: []ingot.MachineID{"m-003", "m-009"}}, []int{3, 9}},
	} {
		list, last, err := s.Changes(c.q)
		if err != nil || last != 24 || len(list) != len(c.want) {
			t.Errorf("%+v: %d Changes up to %d, %v; want %v", c.q, len(list), last, err, c.want)
			continue
		}
		for i, n := range c.want {
			if !strings.Contains(list[i].String(), note(n)) {
				t.Errorf("%+v: %q; want %q", c.q, list[i].String(), note(n))
			}
		}
	}
	err := s.Update(func(tx state.Tx) error { // the facts of the boot before are not in the file
		before := ingot.NewBootID([16]byte{0, 11})
		b, err := tx.KeepFacts(fleet.Boot{ID: ingot.NewBootID([16]byte{1}), Machine: "m-011", Before: before},
			ingot.Facts{RAM: 11})
		if b.Facts != before {
			t.Errorf("facts that did not change are kept under %s; want the boot before", b.Facts)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.unapplied.size() == 0 {
		t.Error("a reader had all applied")
	}
	wantRounds(t, s, 12)
}

// TestJournalIsReplayed: a server that died has what it acknowledged, whether it was in the journal or in
// the file, and however often the journal began again.
func TestJournalIsReplayed(t *testing.T) {
	for _, size := range []int64{4 * journalPage, maxJournal} {
		s := open(t, t.TempDir())
		s.room = size
		path := filepath.Join(filepath.Dir(s.db.Path()), journalFile)
		for n := range 130 {
			rounds(t, s, n, n+1)
			if n%12 != 1 {
				continue
			}
			dir := crash(t, s)
			for range 2 { // and once more after it was stopped
				died := open(t, dir)
				wantRounds(t, died, n+1)
				if err := pagesOf(died); err != nil {
					t.Error(err)
				}
				if err := died.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if HasJournal(dir) {
				t.Error("a server that was stopped left a journal")
			}
		}
		if st, err := os.Stat(path); err != nil || st.Size() > max(firstSize, size) {
			t.Errorf("the journal has %d bytes, %v; want at most %d", st.Size(), err, size)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamagedJournal: what was acknowledged is never lost in silence: a journal that cannot be used is
// refused, and so is a state without the journal that it needs. The end of one that was being written was
// not acknowledged.
func TestDamagedJournal(t *testing.T) {
	other := open(t, t.TempDir())
	rounds(t, other, 0, 5)
	foreign, err := os.ReadFile(filepath.Join(crash(t, other), journalFile))
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	s := open(t, t.TempDir())
	defer s.Close()
	rounds(t, s, 0, 3)
	older, err := os.ReadFile(filepath.Join(crash(t, s), file))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.applyAll(); err != nil {
		t.Fatal(err)
	}
	rounds(t, s, 3, 10)
	edit := func(f func(b []byte) []byte) func(dir string) error {
		return func(dir string) error {
			path := filepath.Join(dir, journalFile)
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, f(b), 0o600)
		}
	}
	flip := func(at int) func(dir string) error {
		return edit(func(b []byte) []byte { b[at] ^= 1; return b })
	}
	remove := func(name string) func(dir string) error {
		return func(dir string) error { return os.Remove(filepath.Join(dir, name)) }
	}
	truncate := func(dir string) error { return os.Truncate(filepath.Join(dir, file), 0) }
	empty := edit(func([]byte) []byte { return nil })
	last, bad, lost := int(6*journalPage), state.ErrJournal, state.ErrLost
	for name, c := range map[string]struct {
		do   func(dir string) error
		want error
		says string
		left int // rounds
	}{
		"nothing":                   {do: func(string) error { return nil }, left: 10},
		"the last record is torn":   {do: flip(last + 700), left: 9},
		"the last record is absent": {do: edit(func(b []byte) []byte { clear(b[last:]); return b }), left: 9},
		"a record in the middle":    {flip(3*journalPage + 700), bad, "before number 8", 0},
		"the number of one":         {flip(3*journalPage + len(journalMagic) + idSize + 7), bad, "damaged", 0},
		"the first record":          {flip(700), bad, "before number 5", 0},
		"its beginning":             {flip(3), bad, "beginning", 0},
		"all is zero":               {edit(func(b []byte) []byte { clear(b); return b }), bad, "beginning", 0},
		"it is empty":               {empty, bad, "beginning", 0},
		"it is missing":             {remove(journalFile), bad, "missing", 0},
		"it is another's":           {edit(func([]byte) []byte { return foreign }), bad, "another state", 0},
		"the state is an older copy": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, file), older, 0o600)
		}, bad, "older copy", 0},
		"the state is missing": {remove(file), lost, "missing", 0},
		"the state is empty":   {truncate, lost, "empty", 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := crash(t, s)
			if err := c.do(dir); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(filepath.Join(dir, journalFile))
			if err := CheckJournal(dir); c.want == nil && err != nil || c.want == bad && !errors.Is(err, bad) {
				t.Errorf("CheckJournal = %v; want %v", err, c.want)
			}
			died, err := Open(t.Context(), dir)
			if c.want != nil {
				if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
					t.Errorf("Open = %v; want %v that says %q", err, c.want, c.says)
				}
				if after, _ := os.ReadFile(filepath.Join(dir, journalFile)); !bytes.Equal(before, after) {
					t.Error("a journal that was refused was changed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer died.Close()
			wantRounds(t, died, c.left)
		})
	}
}

// TestUnfinishedJournal: a server that died as it made its journal, or after it had applied all of it,
// starts again.
func TestUnfinishedJournal(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	rounds(t, s, 0, 3)
	if err := s.applyAll(); err != nil {
		t.Fatal(err)
	}
	applied, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	made := t.TempDir()
	j, err := createJournal(made)
	if err != nil {
		t.Fatal(err)
	}
	j.f.Close()
	fresh, err := os.ReadFile(filepath.Join(made, journalFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"applied": applied, "just made": fresh, "not yet written": nil,
		"partly written": fresh[:700], "zeros": make([]byte, firstSize)} {
		if err := os.WriteFile(filepath.Join(dir, journalFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantRounds(t, s, 3)
		s.Close()
	}
}

// schemaIn returns the schema that a file says it has.
func schemaIn(t *testing.T, path string) (schema string) {
	t.Helper()
	if err := readFile(path, func(tx *bbolt.Tx) error {
		schema = string(tx.Bucket(bucketMeta).Get(keySchema))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestOlderProgramRefusesAJournal: a program that knows nothing of journals refuses a state that was not
// closed by its schema, and takes one that was.
func TestOlderProgramRefusesAJournal(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	rounds(t, s, 0, 2)
	if got := schemaIn(t, filepath.Join(crash(t, s), file)); got != "3" {
		t.Errorf("a state that was not closed has schema %s; want 3, which older programs refuse", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := schemaIn(t, filepath.Join(dir, file)); got != "2" {
		t.Errorf("a state that was closed has schema %s; want 2", got)
	}
}

// TestBackupNeedsNoJournal: a backup of a running server has all that was acknowledged, also if an
// operator puts it where the state is.
func TestBackupNeedsNoJournal(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	rounds(t, s, 0, 4)
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), backup.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(CheckFile(filepath.Join(dir, file))); err != nil {
		t.Error(err)
	}
	copied := open(t, dir)
	wantRounds(t, copied, 4)
	copied.Close()
}

// TestRestoreAfterACrash: a restore takes over what only the journal of the state from before has, and
// keeps that state with it. If the journal cannot be used, it is kept beside, and the state file without
// it can be restored.
func TestRestoreAfterACrash(t *testing.T) {
	now := time.Unix(100, 0)
	old := open(t, t.TempDir())
	var backup bytes.Buffer
	if err := old.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	revoke := func(tx state.Tx) error {
		tx.PutCredential(access.Credential{ID: "1", Name: "a", Revoked: time.Unix(9, 0).UTC()})
		tx.Record(fleet.Change{Code: fleet.ActionTokenRevoke, Subject: "1"})
		return nil
	}
	rounds(t, old, 0, 1)
	if err := errors.Join(old.applyAll(), old.Update(revoke)); err != nil {
		t.Fatal(err)
	}
	good, bad := crash(t, old), crash(t, old)
	old.Close()

	s, done, err := OpenRestored(t.Context(), good, bytes.NewReader(backup.Bytes()), now)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := s.Credential("1"); !done.Carried || c.Revoked.IsZero() {
		t.Errorf("carried %t, credential %+v; want what the journal has", done.Carried, c)
	}
	s.Close()
	if CheckFile(done.Before) != nil || HasJournal(good) {
		t.Errorf("the state from before is not whole: %v, or its journal is left: %t", CheckFile(done.Before),
			HasJournal(good))
	}

	path := filepath.Join(bad, journalFile)
	b, err := os.ReadFile(path)
	if err == nil {
		b[0] ^= 1
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(bad, file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s, done, err = OpenRestored(t.Context(), bad, f, now); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if c, _ := s.Credential("1"); done.Carried || !c.Revoked.IsZero() || len(s.Machines()) != 1 {
		t.Errorf("carried %t, credential %+v, %d machines; want the file without its journal", done.Carried, c,
			len(s.Machines()))
	}
	if kept, err := os.ReadFile(done.Before + journalSuffix); err != nil || !bytes.Equal(kept, b) {
		t.Errorf("the journal is not kept beside the state: %v", err)
	}
}

// TestRestoreEndsTheJournal: a server that dies after a restore has the state of the backup, and nothing
// of a journal from before.
func TestRestoreEndsTheJournal(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	rounds(t, s, 0, 2)
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	rounds(t, s, 2, 5)
	kept, err := s.Restore(&backup, time.Unix(5, 0))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(s.db.Path())
	if HasJournal(dir) {
		t.Error("the journal of the state from before is left")
	}
	if len(s.Machines()) != 2 {
		t.Errorf("%d machines; want those of the backup", len(s.Machines()))
	}
	if schemaIn(t, kept) != "2" {
		t.Error("the state from before needs a journal")
	}
	err = s.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: "m-new"}); return nil })
	if err != nil {
		t.Fatal(err)
	}
	died := open(t, crash(t, s))
	defer died.Close()
	if len(died.Machines()) != 3 {
		t.Errorf("%d machines after a crash; want those of the backup and one", len(died.Machines()))
	}
}

// TestJournalCannotBeWritten: the change fails, and memory is what it was; the next one goes to the
// file, and the failed one is nowhere after a crash.
func TestJournalCannotBeWritten(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	rounds(t, s, 0, 3)
	f := s.journal.f
	readOnly, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	s.journal.f = readOnly
	if err := s.Update(func(tx state.Tx) error { return round(tx, 3) }); err == nil {
		t.Fatal("a change was acknowledged that is nowhere")
	}
	wantRounds(t, s, 3)
	s.journal.f = f
	rounds(t, s, 3, 5)
	died := open(t, crash(t, s))
	defer died.Close()
	wantRounds(t, died, 5)
}

// TestFileIsFull: what is in the journal stays, and changes fail, when the file has no room; all goes on
// when it has some again.
func TestFileIsFull(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	rounds(t, s, 0, 30)
	s.db.MaxSize = 1 // the file may not grow
	if err := s.applyAll(); err == nil {
		t.Fatal("there was room")
	}
	if err := s.Update(func(tx state.Tx) error { return round(tx, 30) }); err == nil {
		t.Error("a change is acknowledged although the file is full")
	}
	died := open(t, crash(t, s))
	wantRounds(t, died, 30)
	died.Close()
	s.db.MaxSize = 0
	rounds(t, s, 30, 32)
	wantRounds(t, s, 32)
}

// TestForgetKeepsWhatIsNotInTheFile: boots that only the journal has stay in memory, where alone they are
// found, and no tick of the server has the journal applied.
func TestForgetKeepsWhatIsNotInTheFile(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	rounds(t, s, 0, 40)
	if err := s.applyAll(); err != nil {
		t.Fatal(err)
	}
	rounds(t, s, 40, 60)
	want := func(n int) {
		t.Helper()
		s.Forget()
		if err := s.Trim(time.Time{}, 1000, time.Hour); err != nil {
			t.Fatal(err)
		}
		if got := len(s.view.BootsOf("")); got != n {
			t.Errorf("%d boots are in memory; want %d", got, n)
		}
	}
	want(20) // the latest of each machine
	rounds(t, s, 60, 80)
	want(40)
	if s.unapplied.size() == 0 {
		t.Error("the journal was applied")
	}
	wantRounds(t, s, 80)
	want(20)
}

// TestFollowerMissesNothing: while changes go to the journal and from there to the file, a reader that
// follows the ledger gets each one once and in order, the newest ones have no gap, and what was
// acknowledged is found.
func TestFollowerMissesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	s.room = 5 * journalPage
	const writers, each = 4, 60
	var g errgroup.Group
	for w := range writers {
		g.Go(func() error {
			for n := range each {
				id := ingot.NewBootID([16]byte{byte(w + 1), byte(n)})
				err := s.Update(func(tx state.Tx) error {
					b := fleet.Boot{ID: id, Machine: ingot.MachineID(fmt.Sprint("m-", w)), Number: n + 1}
					b, err := tx.KeepFacts(b, ingot.Facts{RAM: int64(n + 1)})
					tx.StoreBoot(b)
					tx.Record(fleet.TextChange(fleet.KindMachine, "note", false))
					return err
				})
				if err != nil {
					return err
				}
				if b, err := s.facts(id); err != nil || len(b) == 0 {
					return fmt.Errorf("facts that were acknowledged: %q, %w", b, err)
				}
			}
			return nil
		})
	}
	g.Go(func() error { // reads all the time
		for last := uint64(0); last < writers*each; {
			list, _, err := s.Changes(state.Query{Newest: true, Limit: 3})
			if n := len(list); err != nil || n < min(int(last), 3) || n > 0 && list[n-1].Seq < last {
				return fmt.Errorf("after Change %d was read, the newest are %d: %+v, error %v", last, n, list, err)
			} else if n > 0 {
				last = list[n-1].Seq
			}
		}
		return nil
	})
	for after := uint64(0); after < writers*each; {
		s.Await(t.Context(), after)
		list, last, err := s.Changes(state.Query{After: after, Limit: 7})
		if err != nil || len(list) == 0 || last < list[len(list)-1].Seq {
			t.Fatalf("after %d: %d Changes of %d, %v", after, len(list), last, err)
		}
		newest, _, err := s.Changes(state.Query{Newest: true, Limit: 9})
		if err != nil || newest[len(newest)-1].Seq < last {
			t.Fatalf("the newest of %d Changes are up to %d, %v", last, newest[len(newest)-1].Seq, err)
		}
		for _, l := range [][]fleet.Change{list, newest} {
			for i, c := range l {
				if c.Seq != l[0].Seq+uint64(i) {
					t.Fatalf("Change %d follows %d", c.Seq, l[0].Seq+uint64(i)-1)
				}
			}
		}
		if list[0].Seq != after+1 {
			t.Fatalf("after %d comes %d", after, list[0].Seq)
		}
		after = list[len(list)-1].Seq
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}
