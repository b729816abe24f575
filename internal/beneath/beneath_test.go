package beneath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		dir, ref string
		want     Path
	}{
		{"/p/web", "www", Path{"/p/web", "www"}},
		{"/p/web", "./a/../b", Path{"/p/web", "b"}},
		{"/p/web", "../os", Path{"/p", "os"}},
		{"/p/web", "../../os/x", Path{"/", "os/x"}},
		{"/p/web", "a/../../os", Path{"/p", "os"}},
		{"/p/web", "..", Path{"/p", "."}},
		{"/p/web", "..hidden", Path{"/p/web", "..hidden"}},
		{"web", "../os", Path{".", "os"}},
		{"", "../os", Path{"..", "os"}},
		{"/p/web", "/srv/../srv/www", Path{"", "/srv/www"}},
	} {
		if got := Split(c.dir, c.ref); got != c.want {
			t.Errorf("Split(%q, %q) = %+v; want %+v", c.dir, c.ref, got, c.want)
		}
	}
}

// TestLinks: a link may lead to another file of the folder; by no way does one lead out of it.
func TestLinks(t *testing.T) {
	top := t.TempDir()
	secret := filepath.Join(top, "secret")
	dir := filepath.Join(top, "dir")
	if err := errors.Join(os.WriteFile(secret, []byte("secret"), 0o600), os.MkdirAll(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub/file"), []byte("mine"), 0o644),
		os.Symlink("sub/file", filepath.Join(dir, "inside")), os.Symlink("../sub/file", filepath.Join(dir, "sub/up")),
		os.Symlink(secret, filepath.Join(dir, "absolute")), os.Symlink("../secret", filepath.Join(dir, "relative")),
		os.Symlink("..", filepath.Join(dir, "parent")), os.Symlink("absolute", filepath.Join(dir, "chain")),
		os.Symlink("sub/../../secret", filepath.Join(dir, "winding")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sub/file", "inside", "sub/up"} {
		if b, err := (Path{dir, name}).ReadFile(); err != nil || string(b) != "mine" {
			t.Errorf("reading %s = %q, %v; want the file", name, b, err)
		}
		if b, err := fs.ReadFile(FS(dir), name); err != nil || string(b) != "mine" {
			t.Errorf("reading %s by fs.FS = %q, %v; want the file", name, b, err)
		}
	}
	for _, name := range []string{"absolute", "relative", "parent/secret", "chain", "winding", "../secret"} {
		if b, err := (Path{dir, name}).ReadFile(); !errors.Is(err, ErrLeaves) {
			t.Errorf("reading %s = %q, %v; want ErrLeaves", name, b, err)
		}
		if _, err := (Path{dir, name}).Stat(); !errors.Is(err, ErrLeaves) {
			t.Errorf("Stat of %s = %v; want ErrLeaves", name, err)
		}
		if _, err := fs.Stat(FS(dir), name); err == nil {
			t.Errorf("fs.Stat of %s succeeds", name)
		}
	}
	if _, err := (Path{dir, "parent"}).OpenRoot(); !errors.Is(err, ErrLeaves) {
		t.Errorf("OpenRoot of a link to the parent = %v; want ErrLeaves", err)
	}
	if _, err := (Path{dir, "gone"}).Stat(); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrLeaves) {
		t.Errorf("Stat of nothing = %v; want fs.ErrNotExist alone", err)
	}
	if _, err := (Path{dir, "fifo"}).Open(); err == nil {
		t.Error("a FIFO is opened")
	}
	if b, err := (Path{"", filepath.Join(dir, "absolute")}).ReadFile(); err != nil || string(b) != "secret" {
		t.Errorf("a path of the operator's = %q, %v; want its links followed", b, err)
	}
}
