package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// TestRestoresOfOneSecond: what was there before each of them is kept, also
// when the clock was set back.
func TestRestoresOfOneSecond(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	for i := range 3 {
		name := string(rune('a' + i))
		if err := s.Update(func(tx state.Tx) error {
			tx.StoreMachine(fleet.Machine{ID: "m-1", Name: name})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		kept, err := s.Restore(bytes.NewReader(backup.Bytes()), time.Unix(5, 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckFile(kept); err != nil || files[kept] {
			t.Errorf("Restore keeps %s (%v), as one before it did: %t", kept, err, files[kept])
		}
		files[kept] = true
		if len(s.Machines()) != 0 {
			t.Errorf("after the restore there are %+v; want none", s.Machines())
		}
	}
}

// grow makes a state's file larger by some 20 MB.
func grow(s *Store) error {
	text := strings.Repeat("x", 3000)
	for range 20 {
		if err := s.Update(func(tx state.Tx) error {
			for range 300 {
				tx.Record(fleet.TextChange(fleet.KindMachine, text, false))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// TestSlowReader: while a client reads a backup and stops, changes
// that make the file grow, reads and a restore go on; no more than some read at
// once; what is read in the end is whole, and nothing stays beside the file.
func TestSlowReader(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	if err := s.Update(func(tx state.Tx) error {
		tx.StoreMachine(fleet.Machine{ID: "m-1", Name: "a"})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var whole bytes.Buffer
	if err := s.Backup(&whole); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, state.MaxBackups)
	var readers []*io.PipeReader
	for range state.MaxBackups {
		r, w := io.Pipe()
		readers = append(readers, r)
		go func() { ended <- errors.Join(s.Backup(w), w.Close()) }()
	}
	read := make([]byte, 1)
	for _, r := range readers {
		if _, err := io.ReadFull(r, read); err != nil { // it has begun, and now it stops
			t.Fatal(err)
		}
	}
	if err := s.Backup(io.Discard); !errors.Is(err, state.ErrBackups) {
		t.Errorf("one backup too many: %v; want ErrBackups", err)
	}
	done := make(chan error, 1)
	go func() {
		grown := grow(s)
		_, _, err := s.Changes(state.Query{Limit: 1})
		_, restored := s.Restore(bytes.NewReader(whole.Bytes()), time.Unix(5, 0))
		done <- errors.Join(grown, err, restored)
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("while backups are read: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("changes and a restore wait for readers that stopped")
	}
	rest, err := io.ReadAll(readers[0])
	if err != nil {
		t.Fatal(err)
	}
	late := filepath.Join(t.TempDir(), "late")
	if err := errors.Join(os.WriteFile(late, rest, 0o600), readers[1].Close()); err != nil {
		t.Fatal(err)
	}
	if len(rest) != whole.Len()-1 {
		t.Errorf("the slow reader got %d bytes; want %d", len(rest)+1, whole.Len())
	}
	var failed int
	for range state.MaxBackups {
		if err := <-ended; errors.Is(err, io.ErrClosedPipe) {
			failed++
		} else if err != nil {
			t.Error(err)
		}
	}
	if failed != 1 {
		t.Errorf("%d backups failed; want the one whose reader went away", failed)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, snapshotPrefix+"*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	if err := s.Backup(io.Discard); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// TestLeftByAKill: a start removes copies that a backup or a restore left, and
// nothing else.
func TestLeftByAKill(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	mine := []string{file + ".before-20261124T000000Z", "ingot.db.backup-mine"}
	for _, name := range append([]string{snapshotPrefix + "123", file + incomingSuffix, file + incomingSuffix + rawSuffix},
		mine...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir).Close()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if got, want := strings.Join(names, " "), "ingot.db ingot.db.backup-mine "+mine[0]+" lock"; got != want {
		t.Errorf("after a start there are %s; want %s", got, want)
	}
}

// TestRestoreWithoutServer: a backup is put in the place of a state that is missing, empty, damaged,
// whole or of a newer program. What was there is kept, and what can be read of it is carried over.
func TestRestoreWithoutServer(t *testing.T) {
	revoked := access.Credential{ID: "1", Name: "a", Revoked: time.Unix(9, 0).UTC()}
	lease := fleet.Lease{MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.9"),
		Expires: time.Unix(100, 0).UTC()}
	for _, c := range []struct {
		name    string
		change  func(file string) error
		kept    bool
		carried bool
	}{
		{"whole", func(string) error { return nil }, true, true},
		{"missing", os.Remove, false, false},
		{"empty", func(f string) error { return os.Truncate(f, 0) }, false, false},
		{"damaged", func(f string) error { return os.WriteFile(f, []byte("hello"), 0o600) }, true, false},
		{"newer", func(f string) error { return setSchema(f, "99") }, true, false},
	} {
		dir := t.TempDir()
		s := open(t, dir)
		put := func(x access.Credential) {
			t.Helper()
			if err := s.Update(func(tx state.Tx) error { tx.PutCredential(x); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		put(access.Credential{ID: "1", Name: "a"})
		var backup bytes.Buffer
		if err := s.Backup(&backup); err != nil {
			t.Fatal(err)
		}
		put(revoked)
		err := s.Update(func(tx state.Tx) error {
			tx.PutLease(lease)
			tx.StoreMachine(fleet.Machine{ID: "m-later"})
			return nil
		})
		path := filepath.Join(dir, file)
		if err := errors.Join(err, s.Close(), c.change(path)); err != nil {
			t.Fatal(err)
		}
		was, _ := os.ReadFile(path)
		damaged := bytes.NewReader(backup.Bytes()[:backup.Len()/2])
		if _, _, err := OpenRestored(t.Context(), dir, damaged, time.Unix(5, 0)); !errors.Is(err, state.ErrDamaged) {
			t.Errorf("%s: restoring half a backup: %v; want ErrDamaged", c.name, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, was) {
			t.Errorf("%s: a damaged backup changed the state", c.name)
		}
		s, done, err := OpenRestored(t.Context(), dir, &backup, time.Unix(5, 0))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		kept, _ := os.ReadFile(done.Before)
		if (done.Before != "") != c.kept || c.kept && !bytes.Equal(kept, was) {
			t.Errorf("%s: %d bytes are kept as %q; want %v", c.name, len(kept), done.Before, c.kept)
		}
		x, _ := s.Credential("1")
		if done.Carried != c.carried || x.Revoked.IsZero() == c.carried || (len(leases(t, s)) == 1) != c.carried {
			t.Errorf("%s: carried %v, credential %+v, leases %+v; want %v", c.name, done.Carried, x, leases(t, s), c.carried)
		}
		if len(s.Machines()) != 0 {
			t.Errorf("%s: after the restore there are %+v", c.name, s.Machines())
		}
		if _, _, err := OpenRestored(t.Context(), dir, nil, time.Unix(6, 0)); !errors.Is(err, state.ErrLocked) {
			t.Errorf("%s: restoring a state that is in use: %v; want ErrLocked", c.name, err)
		}
		identity := s.Identity()
		s.Close()
		if s, done, err = OpenRestored(t.Context(), dir, nil, time.Unix(6, 0)); err != nil {
			t.Fatalf("%s: making an empty state: %v", c.name, err)
		}
		if done.Before == "" || bytes.Equal(identity, s.Identity()) || len(s.Credentials()) != 0 {
			t.Errorf("%s: an empty state keeps %+v, and has %d credentials", c.name, done, len(s.Credentials()))
		}
		s.Close()
	}
}

// setSchema writes another schema into a state.
func setSchema(path, schema string) error {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keySchema, []byte(schema)) })
	return errors.Join(err, db.Close())
}

// TestCopiedBackup: a backup that was copied to where the state is serves as the state, and is no
// damaged backup when it has changed.
func TestCopiedBackup(t *testing.T) {
	there, dir := open(t, t.TempDir()), t.TempDir()
	var backup bytes.Buffer
	err := there.Backup(&backup)
	path := filepath.Join(dir, file)
	if err := errors.Join(err, there.Close(), os.WriteFile(path, backup.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s := open(t, dir)
		err := s.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: "m-1"}); return nil })
		if err := errors.Join(err, s.Close(), CheckFile(path)); err != nil {
			t.Error(err)
		}
	}
}

// TestCopyOfAState: a plain copy of a state file, as earlier versions wrote their backups, has no
// checksum and is restored.
func TestCopyOfAState(t *testing.T) {
	there := open(t, t.TempDir())
	err := there.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: "m-1"}); return nil })
	path := there.db.Path()
	text, read := []byte(nil), errors.Join(err, there.Close())
	if read == nil {
		text, read = os.ReadFile(path)
	}
	if read != nil {
		t.Fatal(read)
	}
	s := open(t, t.TempDir())
	defer s.Close()
	if _, err := s.Restore(bytes.NewReader(text), time.Unix(5, 0)); err != nil || len(s.Machines()) != 1 {
		t.Errorf("restoring a copy of a state file: %v, machines %+v", err, s.Machines())
	}
}

// TestKeptRestores: of the states from before restores the newest are kept, and nothing else is removed.
func TestKeptRestores(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var backup bytes.Buffer
	other := filepath.Join(dir, file+".before-schema-2")
	if err := errors.Join(s.Backup(&backup), os.WriteFile(other, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	var made []string
	restored := func(kept string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, kept)
	}
	for range 11 { // of one second
		restored(s.Restore(bytes.NewReader(backup.Bytes()), time.Unix(5, 0)))
	}
	for i := range 2 {
		s.Close()
		var done Restored
		var err error
		s, done, err = OpenRestored(t.Context(), dir, bytes.NewReader(backup.Bytes()), time.Unix(int64(9+i), 0))
		restored(done.Before, err)
	}
	restored(s.Restore(bytes.NewReader(backup.Bytes()), time.Unix(1, 0))) // the clock was set back
	s.Close()
	for i, name := range append(made, other) {
		_, err := os.Stat(name)
		if is, want := err == nil, i >= len(made)-state.KeptRestores; is != want {
			t.Errorf("%s (number %d) is there: %t; want %t", filepath.Base(name), i, is, want)
		}
	}
}

// TestDamagedWhileServing: a page of the ledger that points out of the file makes reading it an error,
// and not the end of the server; what is in memory is served, and changes go on.
func TestDamagedWhileServing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	err := s.Update(func(tx state.Tx) error {
		tx.StoreMachine(fleet.Machine{ID: "m-1"})
		for range 300 {
			tx.Record(fleet.TextChange(fleet.KindMachine, strings.Repeat("wrecked", 9), false))
		}
		return nil
	})
	path := s.db.Path()
	if err := errors.Join(err, s.Close(), wreck(path, "wrecked")); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if _, _, err := s.Changes(state.Query{Limit: 1000}); !errors.Is(err, state.ErrDamaged) ||
		!strings.Contains(err.Error(), "ingot restore FILE") {
		t.Errorf("reading a damaged page: %v; want ErrDamaged and what to do", err)
	}
	if err := s.Verify(); !errors.Is(err, state.ErrDamaged) {
		t.Errorf("Verify: %v; want ErrDamaged", err)
	}
	if _, known := s.Machine("m-1"); !known {
		t.Error("the machine in memory is gone")
	}
	err = s.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: "m-2"}); return nil })
	if err != nil {
		t.Errorf("a change elsewhere: %v", err)
	}
	if err := s.Trim(time.Unix(1<<40, 0), 1, time.Hour); !errors.Is(err, state.ErrDamaged) && err != nil {
		t.Errorf("Trim: %v", err)
	}
	err = s.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: "m-3"}); return nil })
	if err != nil {
		t.Errorf("a change after that: %v", err)
	}
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil && !errors.Is(err, state.ErrDamaged) {
		t.Errorf("Backup: %v", err)
	}
}

// wreck makes the records of the first leaf page that contains a text begin 1 GB behind it.
func wreck(path, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	size := os.Getpagesize()
	for at := 2 * size; at < len(b); at += size {
		const header, element, leaf = 16, 16, 2
		page := b[at : at+size]
		count := int(binary.NativeEndian.Uint16(page[10:]))
		if binary.NativeEndian.Uint16(page[8:]) != leaf || count == 0 || !bytes.Contains(page, []byte(text)) {
			continue
		}
		for i := range count {
			binary.NativeEndian.PutUint32(page[header+i*element+4:], 1<<30)
		}
		return os.WriteFile(path, b, 0o600)
	}
	return errors.New("no page contains the text")
}

// TestCopiedBackupEndsSessions: a backup that an operator copies to where the state is brings no sessions
// of browsers back.
func TestCopiedBackupEndsSessions(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(tx state.Tx) error {
		tx.PutSession(access.Session{ID: "1",
			Credential: "a"})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := errors.Join(s.Backup(&backup), s.Close()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), backup.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if list := s.Sessions(); len(list) != 0 {
		t.Errorf("a copied backup has the sessions %+v", list)
	}
}
