package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"ingot/bootserver/api"
	"ingot/cmd/ingot/show"
)

// Contexts are the servers that a user administers. The file holds tokens and
// keys: mode 0600.
type Contexts struct {
	Current  string                `json:"current,omitempty"`
	Contexts map[string]api.Target `json:"contexts"`
}

// contextsFile returns the path of the file of contexts.
func contextsFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("looking for the contexts: %w", err)
	}
	return filepath.Join(dir, "ingot", "contexts.json"), nil
}

// LoadContexts reads the file of contexts; without a file there are none.
func LoadContexts() (Contexts, error) {
	c := Contexts{Contexts: map[string]api.Target{}}
	file, err := contextsFile()
	if err != nil {
		return c, nil // a service may run without HOME: it has no contexts
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("reading the contexts: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
		return c, show.WithHint(fmt.Errorf("%s can be read by others (mode %04o), and it holds tokens", file,
			info.Mode().Perm()),
			"chmod 600 %s; revoke the tokens in it if somebody may have read them", file)
	}
	text, err := io.ReadAll(io.LimitReader(f, 4<<20))
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return c, fmt.Errorf("reading %s: %w", file, err)
	}
	if c.Contexts == nil {
		c.Contexts = map[string]api.Target{}
	}
	return c, nil
}

// Save replaces the file of contexts.
func (c Contexts) Save() error {
	file, err := contextsFile()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("saving the contexts: %w", err)
	}
	if err := renameio.WriteFile(file, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("saving the contexts: %w", err)
	}
	return nil
}

// ChangeContexts changes the file of contexts, which must have the named one.
func ChangeContexts(name string, change func(*Contexts)) error {
	c, err := LoadContexts()
	if err != nil {
		return err
	}
	if _, ok := c.Contexts[name]; !ok {
		return unknownContext(name)
	}
	change(&c)
	return c.Save()
}

func unknownContext(name string) error {
	return show.WithHint(fmt.Errorf("there is no context %q", name), "ingot context ls")
}
