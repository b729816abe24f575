package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/builder/source"
)

// TestImportWrongUse: one line each, with the right exit code, and nothing is
// written.
func TestImportWrongUse(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	if err := os.WriteFile(filepath.Join(dir, "broken.tar"), []byte(strings.Repeat("no image ", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "ingot import needs IMAGE, FILE, FOLDER or ssh://HOST"},
		{"a b", 2, "takes at most 1 argument"},
		{"x --arch riscv64", 2, "want amd64 or arm64"},
		{"x --name Web_1", 2, "bad name"},
		{"x --sudo", 2, "go with ssh://HOST"},
		{"ssh://h --include srv", 2, "want an absolute one such as /srv/www"},
		{"ssh://h --exclude /a[", 2, "want an absolute one"},
		{"ssh://h/etc --name h", 2, "write ssh://[USER@]HOST[:PORT]"},
		{"./gone.tar", 1, "no such file"},
		{"broken.tar", 1, "the tarball cannot be read"},
		{"127.0.0.1:1/x:1 --offline", 1, "leave out --offline"},
	} {
		code, _, stderr := invoke(t, append([]string{"import"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("ingot import %s: exit code %d\n%s\nwant %d and %q", c.args, code, stderr, c.code, c.want)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestListExcluded(t *testing.T) {
	code, out, _ := invoke(t, "import", "--list-excluded", "--exclude", "/opt/cache")
	for _, want := range []string{"/etc/ssh/ssh_host_*", "identity of this machine", "/opt/cache",
		"excluded by --exclude", "--include PATH"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("import --list-excluded (exit code %d) does not say %q", code, want)
		}
	}
	code, out, _ = invoke(t, "import", "--list-excluded", "-o", "json")
	var rules []source.Rule
	if err := json.Unmarshal([]byte(out), &rules); code != 0 || err != nil || len(rules) != len(source.Excluded()) {
		t.Errorf("import --list-excluded -o json: %v, %d rules", err, len(rules))
	}
}
