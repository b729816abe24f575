package bootserver

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/bootserver/state/memory"
)

// onMemory runs the tests of this package on a state that is only in memory, runs every
// transaction twice, and aborts one commit in five.
var onMemory = os.Getenv("INGOT_TEST_STATE") == "memory"

// openState opens a state on the backend that is tested.
func openState(dir string) (state.Store, error) { return openStateIn(context.Background(), dir) }

// openStateIn is openState for Config.OpenState.
func openStateIn(ctx context.Context, dir string) (state.Store, error) {
	if onMemory {
		return memory.Open(ctx, dir)
	}
	return bolt.Open(ctx, dir)
}

// openCopy opens a state that is what a backup holds, in an empty folder.
func openCopy(dir string, backup []byte) (state.Store, error) {
	if onMemory {
		return memory.OpenCopy(dir, bytes.NewReader(backup))
	}
	if err := os.WriteFile(filepath.Join(dir, "ingot.db"), backup, 0o600); err != nil {
		return nil, err
	}
	return openState(dir)
}

// checkBackup reads a backup from end to end.
func checkBackup(t *testing.T, path string) error {
	t.Helper()
	if !onMemory {
		return bolt.CheckFile(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := memory.OpenCopy(filepath.Join(t.TempDir(), "copy"), f)
	if err != nil {
		return err
	}
	return st.Close()
}

// inParts calls f for 0 to n-1, in transactions that are within their bound.
func inParts(t testing.TB, st state.Store, n int, f func(tx state.Tx, i int)) {
	t.Helper()
	const part = state.MaxRecords / 4
	for from := 0; from < n; from += part {
		err := st.Update(func(tx state.Tx) error {
			for i := from; i < min(from+part, n); i++ {
				f(tx, i)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
