package owned

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOwner: what root makes in another user's folder belongs to that user.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 4321, 4322); err != nil {
		t.Fatal(err)
	}
	check := func(name string, err error) {
		t.Helper()
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(filepath.Join(dir, name), &st)
		}
		if err != nil || st.Uid != 4321 || st.Gid != 4322 {
			t.Errorf("%s belongs to %d:%d (%v); want 4321:4322", name, st.Uid, st.Gid, err)
		}
	}
	check("a/b/c", MkdirAll(filepath.Join(dir, "a/b/c"), 0o755))
	check("a/b", nil)
	check("a/file", WriteFile(filepath.Join(dir, "a/file"), []byte("x"), 0o600))
	f, err := CreateTemp(filepath.Join(dir, "a/b"), "tmp-")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	check("a/b/"+filepath.Base(f.Name()), nil)
	for range 2 {
		f, err = OpenFile(filepath.Join(dir, "lock"), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		check("lock", nil)
	}
	if err := os.Symlink("/dev/null", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(filepath.Join(dir, "link"), 0o600); err == nil {
		t.Error("a link of the folder's owner was followed")
	}
}
