package tftp

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot"
)

// TestLoadChecksContent: a loader that is not the one that was fetched is not served, and the log names it; an
// operator's own file is served, and the log names it, too.
func TestLoadChecksContent(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	if err := errors.Join(write("good.efi", "good"), write("cut.efi", "cu"), write("other.efi", "evil"),
		write("own.efi", "own"), os.Symlink("own.efi", filepath.Join(dir, "link.efi"))); err != nil {
		t.Fatal(err)
	}
	digest := func(text string) ingot.Digest { return ingot.DigestOf([]byte(text)) }
	var log bytes.Buffer
	files, err := Load(dir, map[string]ingot.Digest{"good.efi": digest("good"), "cut.efi": digest("cut"),
		"other.efi": digest("good"), "link.efi": digest("own")}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil || len(files) != 2 || string(files["good.efi"]) != "good" || string(files["own.efi"]) != "own" {
		t.Errorf("Load = %q, %v; want good.efi and own.efi", files, err)
	}
	for _, want := range []string{"file=cut.efi", "file=other.efi", "files=[own.efi]", "run: ingot loaders"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, log.String())
		}
	}
}
