package archtest

import (
	"bytes"
	"go/ast"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
)

// TestHabits: every package says what it is, only main exits, no package is a drawer for things
// without a place.
func TestHabits(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.isTest() || !slices.Contains(packages(t).own(), s.pkg()) {
			continue
		}
		if name := path.Base(s.pkg()); slices.Contains([]string{"util", "utils", "helpers", "common", "misc"}, name) {
			t.Errorf("%s: name the noun instead", s.pkg())
		}
		documented[s.pkg()] = documented[s.pkg()] || s.file.Doc != nil
		if !below(s.pkg(), "ingot/cmd") && s.file.Name.Name != "main" {
			forbidCalls(t, s)
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", pkg)
		}
	}
}

func forbidCalls(t *testing.T, s source) {
	t.Helper()
	if below(s.pkg(), "ingot/internal/wire") {
		return // of tests alone, which are their own main; a wall keeps it there
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := call.X.(*ast.Ident)
		if !ok || pkg.Name != "os" {
			return true
		}
		at := s.fset.Position(call.Pos())
		switch call.Sel.Name {
		case "Exit", "Getenv", "Setenv", "LookupEnv":
			t.Errorf("%s calls os.%s; only main may", at, call.Sel.Name)
		case "Chdir":
			if !below(s.pkg(), "ingot/rootfs/initrd") { // switching the root is what it is for
				t.Errorf("%s calls os.Chdir; only main may", at)
			}
		}
		return true
	})
}

// clockReaders are the files of what builds images that may read the clock: to decide what a cache
// removes first, never for what is in an image.
var clockReaders = []string{"/layercache.go", "source/blobs.go", "squashfs/cache.go"}

// TestClock: the same plan gives the same bits on any day, because nothing that builds reads the
// clock. A static program cannot be shown another clock by faketime(1), so this is checked here.
func TestClock(t *testing.T) {
	for _, s := range sources(t) {
		if s.isTest() || !below(s.pkg(), "ingot/builder") && !below(s.pkg(), "ingot/profiles") {
			continue
		}
		for call, at := range timeCalls(s) {
			if slices.Contains([]string{"Now", "Since", "Until"}, call) && !slices.ContainsFunc(clockReaders, s.endsIn) {
				t.Errorf("%s calls time.%s; take times from the plan", at, call)
			}
		}
	}
}

// TestNoHosts: the tree names no package mirror or module proxy; tools use their own defaults or
// the host's settings.
func TestNoHosts(t *testing.T) {
	hosts := []string{"deb." + "debian.org", "security." + "debian.org/debian", "ftp." + "debian.org",
		"proxy." + "golang.org", "registry." + "npmjs.org"}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "bin", "node_modules"}, d.Name()) {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, host := range hosts {
			if bytes.Contains(text, []byte(host)) {
				t.Errorf("%s names a registry's host, %s", path, host)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
