package build

import (
	"os"
	"path/filepath"
	"testing"
)

func TestInitBinary(t *testing.T) {
	if _, err := initBinary(filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("a binary that is not there is taken")
	}
	p := filepath.Join(t.TempDir(), "ingot-init")
	if err := os.WriteFile(p, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := initBinary(p); err != nil || got != p {
		t.Errorf("initBinary(%q) = %q, %v", p, got, err)
	}
}

func TestNameOf(t *testing.T) {
	for ref, want := range map[string]string{
		"registry.example:5000/os/Web_Server:1.2": "web-server", "debian": "debian", "./images/web.tar.gz#x:1": "web",
		"web.tar.zst": "web", "x/y@sha256:12": "y",
		"ssh://root@db7.rack.example:22": "db7", "/srv/layout/": "layout",
	} {
		if got := nameOf(ref); got != want {
			t.Errorf("nameOf(%q) = %q; want %q", ref, got, want)
		}
	}
}
