package bolt

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
