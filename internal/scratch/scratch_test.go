package scratch

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDeadFoldersAreRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dead, err := New("test-")
	if err != nil {
		t.Fatal(err)
	}
	dead.lock.Close() // as if its process had been killed
	living, err := New("test-")
	if err != nil {
		t.Fatal(err)
	}
	defer living.Remove()
	another, err := New("test-")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead.Path); err == nil {
		t.Error("the scratch folder of a dead process stays")
	}
	if _, err := os.Stat(living.Path); err != nil {
		t.Error("the scratch folder of a living process is removed")
	}
	another.Remove()
	if _, err := os.Stat(another.Path); err == nil {
		t.Error("Remove leaves the folder")
	}
}

// TestKilledWhileRemoving: the rest of a folder is removed by the next process.
func TestKilledWhileRemoving(t *testing.T) {
	parent := t.TempDir()
	dead, err := In(parent, "test-")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "z"} { // on both sides of the lock
		if err := os.WriteFile(filepath.Join(dead.Path, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dead.Path, "a")); err != nil {
		t.Fatal(err)
	}
	dead.lock.Close()
	next, err := In(parent, "test-")
	if err != nil {
		t.Fatal(err)
	}
	next.Remove()
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Errorf("%v stay; want nothing", left)
	}
}
