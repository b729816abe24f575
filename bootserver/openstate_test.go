package bootserver

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/config"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/image"
)

// usedStore returns a store that a server has used: it has a CA and a state with one machine.
func usedStore(t *testing.T) (root, file string) {
	t.Helper()
	if onMemory {
		t.Skip("the state is not in a file")
	}
	root = t.TempDir()
	_, stop := startServerIn(t, root, config.Config{}, "", nil)
	stop()
	st, err := OpenState(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	err = st.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: "m-1"}); return nil })
	if err := errors.Join(err, st.Close()); err != nil {
		t.Fatal(err)
	}
	return root, filepath.Join(root, state.Folder, "ingot.db")
}

// TestLostState: a server does not start as a new one where a server ran before and the state is
// empty, missing or damaged, and leaves what is there as it is.
func TestLostState(t *testing.T) {
	for _, c := range []struct {
		name string
		lose func(file string) error
		want error
	}{
		{"empty", func(f string) error { return os.Truncate(f, 0) }, state.ErrLost},
		{"missing", os.Remove, state.ErrLost},
		{"missing with its folder", func(f string) error { return os.RemoveAll(filepath.Dir(f)) }, state.ErrLost},
		{"text", func(f string) error { return os.WriteFile(f, []byte("hello"), 0o600) }, state.ErrDamaged},
		{"zeros", func(f string) error { return os.WriteFile(f, make([]byte, 1<<16), 0o600) }, state.ErrDamaged},
		{"cut off", func(f string) error { return os.Truncate(f, 3*4096) }, state.ErrDamaged},
	} {
		root, file := usedStore(t)
		if err := c.lose(file); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(file)
		store, err := image.Open(t.Context(), root)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err = New(Config{Store: store, Loaders: filepath.Join(root, "loaders")}).Run(ctx)
		cancel()
		if !errors.Is(err, c.want) {
			t.Errorf("%s: a server starts with %v; want %v", c.name, err, c.want)
		}
		if after, _ := os.ReadFile(file); !bytes.Equal(before, after) {
			t.Errorf("%s: the state file was changed: %d bytes, before %d", c.name, len(after), len(before))
		}
	}
}

// TestFirstStartWasInterrupted: an empty file is no lost state where no server has run yet.
func TestFirstStartWasInterrupted(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, state.Folder)
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "ingot.db"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	st, err := OpenState(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if how := bolt.Absent(dir); how != "" {
		t.Errorf("the state is %s after it was opened", how)
	}
	st.Close()
}

// TestRestoreWithoutAServer: it names the machines that the backup does not have, and records what it
// takes to let them come back: when the backup was taken, and whether the audit log went on.
func TestRestoreWithoutAServer(t *testing.T) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		lose     func(file string) error
		missing  string
		complete bool
	}{
		"an older backup":    {nil, "node02", true},
		"the state is lost":  {os.Remove, "", false},
		"another server's":   {func(f string) error { return anotherState(t, f) }, "node09", false},
		"it cannot be read":  {func(f string) error { return os.Truncate(f, 3*4096) }, "", false},
		"it was lost before": {func(f string) error { return os.Truncate(f, 0) }, "", false},
	} {
		root, file := usedStore(t)
		edit := func(f func(tx state.Tx) error, backup *bytes.Buffer) {
			t.Helper()
			st, err := OpenState(t.Context(), root)
			if err != nil {
				t.Fatal(err)
			}
			err = st.Update(f)
			if backup != nil {
				err = errors.Join(err, st.Backup(backup))
			}
			if err := errors.Join(err, st.Close()); err != nil {
				t.Fatal(err)
			}
		}
		var backup bytes.Buffer
		edit(func(tx state.Tx) error { tx.Record(fleet.Restored(1, at)); return nil }, &backup)
		edit(func(tx state.Tx) error {
			tx.StoreMachine(fleet.Machine{ID: "m-2", Name: "node02", State: fleet.Approved})
			tx.StoreMachine(fleet.Machine{ID: "m-3", Name: "node03", State: fleet.Pending})
			tx.Record(fleet.Change{At: at.Add(time.Hour), Code: fleet.ActionForget, Machine: "m-4"})
			return nil
		}, nil)
		if c.lose != nil {
			if err := c.lose(file); err != nil {
				t.Fatal(err)
			}
		}
		done, err := RestoreState(t.Context(), root, &backup, at.Add(2*time.Hour))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := strings.Join(done.Missing, " "); got != c.missing {
			t.Errorf("%s: the backup lacks %q; want %q", name, got, c.missing)
		}
		st, err := OpenState(t.Context(), root)
		if err != nil {
			t.Fatal(err)
		}
		list, _, err := st.Changes(state.Query{Audit: true, Newest: true, Limit: 1})
		if err != nil || len(list) != 1 || list[0].Code != fleet.ActionServerRestore ||
			list[0].To.Bool(fleet.RestoreComplete) != c.complete ||
			list[0].To.Text(fleet.RestoreTaken) != at.Format(time.RFC3339Nano) {
			t.Errorf("%s: recorded %+v, %v; want complete %t, taken %s", name, list, err, c.complete, at)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// anotherState puts the state of another installation in the place of a file.
func anotherState(t *testing.T, file string) error {
	dir := t.TempDir()
	st, err := bolt.Open(t.Context(), dir)
	if err != nil {
		return err
	}
	err = st.Update(func(tx state.Tx) error {
		tx.StoreMachine(fleet.Machine{ID: "m-9", Name: "node09", State: fleet.Approved})
		return nil
	})
	return errors.Join(err, st.Close(), os.Rename(filepath.Join(dir, "ingot.db"), file))
}
