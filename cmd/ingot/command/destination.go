package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ingot/cmd/ingot/show"
)

// Destination returns where a file that replaces another one by a rename is to be written: at the end
// of links, so that they stay. It refuses what a rename would destroy: devices, pipes, sockets and
// folders.
func Destination(path string) (string, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return path, nil
	case err != nil:
		return "", err
	case st.IsDir():
		return "", show.WithHint(fmt.Errorf("%s is a folder", path), "name a file in it")
	case !st.Mode().IsRegular():
		return "", show.WithHint(fmt.Errorf("%s is not a regular file", path), "write to a file, and copy it from there")
	}
	return filepath.EvalSymlinks(path)
}
