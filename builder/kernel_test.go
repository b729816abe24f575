package builder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/builder/source"
	"ingot/builder/tree"
)

// TestKernelLinks: links in a kernel's package make depmod neither read nor write files of the host.
func TestKernelLinks(t *testing.T) {
	for _, lib := range []string{"lib", "usr/lib"} {
		dir := t.TempDir()
		secret, victim := filepath.Join(dir, "secret"), filepath.Join(dir, "victim")
		tr := tree.New()
		const release = "/modules/6.0.1/"
		if err := errors.Join(os.WriteFile(secret, []byte("SECRET"), 0o600), os.WriteFile(victim, []byte("mine"), 0o644),
			tr.PutFile(lib+release+"kernel/x.ko", 0o644, nil), tr.PutFile(lib+release+"modules.builtin", 0o644, nil),
			tr.PutLink(lib+release+"modules.order", secret), tr.PutLink(lib+release+"modules.alias", victim),
			tr.PutLink(lib+release+"build", "/usr/src/linux")); err != nil {
			t.Fatal(err)
		}
		b := &build{plan: &Plan{Kernel: source.Package{Name: "linux-image"}}}
		if err := b.indexModules(t.Context(), tr, filepath.Join(dir, "kernel.d")); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(victim); err != nil || string(text) != "mine" {
			t.Errorf("%s: a file of the host is now %q, %v", lib, text, err)
		}
		for _, e := range tr.Entries() {
			if e.Kind != tree.File {
				continue
			}
			if text := read(t, tr, e.Path); strings.Contains(text, "SECRET") {
				t.Errorf("%s: /%s has the secret of the host", lib, e.Path)
			}
		}
		if tr.Get("usr/lib/modules/6.0.1/modules.dep") == nil {
			t.Errorf("%s: the tree has no index", lib)
		}
	}
}
