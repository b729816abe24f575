// Package beneath opens files that a document names, such as the sources of a profile, without
// leaving the folder that the document may read: a symbolic link may point to another file below
// that folder, never out of it (os.Root).
package beneath

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrLeaves: a symbolic link of the path leads out of the folder.
var ErrLeaves = errors.New("a symbolic link leads out of the folder")

// Path is a file or folder below Root. With an empty Root, Name is a path that the operator chose,
// and its links are followed.
type Path struct{ Root, Name string }

// Split returns the path that a document in the folder dir calls ref. A ref that begins with ".."
// is visible to everybody who reads the document, so the folder that it climbs to becomes the Root.
// The same holds for an absolute ref, whose links are the operator's.
func Split(dir, ref string) Path {
	if filepath.IsAbs(ref) {
		return Path{Name: filepath.Clean(ref)}
	}
	if dir == "" {
		dir = "."
	}
	name := filepath.Clean(ref)
	for {
		rest, climbs := strings.CutPrefix(name, "..")
		if !climbs || rest != "" && rest[0] != filepath.Separator {
			return Path{Root: filepath.Clean(dir), Name: name}
		}
		dir, name = filepath.Join(dir, ".."), filepath.Clean(strings.TrimPrefix(rest, string(filepath.Separator)))
	}
}

// String returns the path for people.
func (p Path) String() string { return filepath.Join(p.Root, p.Name) }

// Join returns a path below p.
func (p Path) Join(name string) Path { return Path{p.Root, filepath.Join(p.Name, name)} }

// Stat describes the file. It follows links below Root.
func (p Path) Stat() (fs.FileInfo, error) {
	if p.Root == "" {
		return os.Stat(p.Name)
	}
	root, err := os.OpenRoot(p.Root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	st, err := root.Stat(p.Name)
	return st, explain(p, err)
}

// Open opens a regular file for reading. It does not wait for the other end of a FIFO.
func (p Path) Open() (*os.File, error) {
	var f *os.File
	var err error
	if p.Root == "" {
		f, err = os.OpenFile(p.Name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	} else {
		var root *os.Root
		if root, err = os.OpenRoot(p.Root); err != nil {
			return nil, err
		}
		defer root.Close()
		f, err = root.OpenFile(p.Name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, explain(p, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("opening %q: it is not a regular file", p.String())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ReadFile returns the content of a regular file.
func (p Path) ReadFile() ([]byte, error) {
	f, err := p.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// OpenRoot opens a folder, below which links may not lead out of it.
func (p Path) OpenRoot() (*os.Root, error) {
	if p.Root == "" {
		return os.OpenRoot(p.Name)
	}
	root, err := os.OpenRoot(p.Root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	folder, err := root.OpenRoot(p.Name)
	return folder, explain(p, err)
}

// explain adds ErrLeaves to the error of os.Root that has no number: its own, for links that lead
// out.
func explain(p Path, err error) error {
	var number syscall.Errno
	if err == nil || p.Root == "" || errors.As(err, &number) || errors.Is(err, fs.ErrInvalid) {
		return err
	}
	return fmt.Errorf("opening %q: %w %s", p.Name, ErrLeaves, p.Root)
}

// FS returns the files below a folder of this host. Its Open and Stat follow links below it only.
func FS(folder string) fs.FS { return folderFS(folder) }

type folderFS string

func (f folderFS) path(op, name string) (Path, error) {
	if !fs.ValidPath(name) {
		return Path{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return Path{string(f), filepath.FromSlash(name)}, nil
}

// Open implements fs.FS. It opens regular files only.
func (f folderFS) Open(name string) (fs.File, error) {
	p, err := f.path("open", name)
	if err != nil {
		return nil, err
	}
	return p.Open()
}

// Stat implements fs.StatFS.
func (f folderFS) Stat(name string) (fs.FileInfo, error) {
	p, err := f.path("stat", name)
	if err != nil {
		return nil, err
	}
	return p.Stat()
}
