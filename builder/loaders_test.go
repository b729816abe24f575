package builder

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot"
)

// TestDamagedLoadersAreFetchedAgain: loaders are used without a network as long as they are what was fetched;
// otherwise they are fetched again, and if that fails, the error names the file, and the others can be used.
func TestDamagedLoadersAreFetchedAgain(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "loaders")
	lock := loaderLock{Files: map[string]ingot.Digest{"ipxe.efi": ingot.DigestOf([]byte("ipxe")),
		"snponly.efi": ingot.DigestOf([]byte("snponly"))}}
	text, err := json.Marshal(lock)
	write := func(name, text string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	if err := errors.Join(err, os.Mkdir(dir, 0o755), write("lock.json", string(text)), write("ipxe.efi", "ipxe"),
		write("snponly.efi", "snponly")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nothing can be fetched
	env := &Env{CacheDir: t.TempDir(), Mirror: "http://127.0.0.1:1"}
	if set, err := Loaders(ctx, env, root); err != nil || len(set.Damaged) != 0 || len(set.Files) != 2 {
		t.Errorf("with good files: %+v, %v", set, err)
	}
	if err := write("snponly.efi", "snp"); err != nil {
		t.Fatal(err)
	}
	set, err := Loaders(ctx, env, root)
	if !errors.Is(err, ErrLoaders) || !strings.Contains(err.Error(), "snponly.efi has 3 bytes") ||
		set.Damaged["snponly.efi"] == nil || set.Damaged["ipxe.efi"] != nil || set.Folder != dir {
		t.Errorf("with a file that was cut off, and no mirror: %+v, %v; want ErrLoaders with the file", set, err)
	}
}
