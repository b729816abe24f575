package scratch

import (
	"os"
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
