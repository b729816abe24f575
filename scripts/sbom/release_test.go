package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReleaseRefuses runs scripts/release in a small repository, in which it must not build anything.
func TestReleaseRefuses(t *testing.T) {
	script, err := os.ReadFile("../release")
	if err != nil {
		t.Fatal(err)
	}
	repository := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(repository, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) {
		t.Helper()
		args = append([]string{"-C", repository, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	write("scripts/release", string(script), 0o755)
	write("CHANGELOG.md", "# Changelog\n\n## 1.2.0\n", 0o644)
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "one")
	refuses := func(want string, args ...string) {
		t.Helper()
		out, err := exec.Command(filepath.Join(repository, "scripts/release"), args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("release %q: %v, %q; want it to fail with %q", args, err, out, want)
		}
		if _, err := os.Stat(filepath.Join(repository, "dist")); err == nil {
			t.Errorf("release %q makes dist", args)
		}
	}
	refuses("no version given")
	refuses("is not a version such as 1.2.0", "latest")
	refuses(`CHANGELOG.md has no section "## 1.3.0"`, "1.3.0")
	git("tag", "v1.2.0")
	refuses("the tag v1.2.0 already exists", "1.2.0")
	write("new", "", 0o644)
	refuses("the work tree has changes", "1.3.0")
}
