// Package archtest holds the walls of docs/ARCHITECTURE.md. It has no code of
// its own; its test fails with the offending import path.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed is one package as `go list` tells it.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
	Standard   bool
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps,Standard", "ingot/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var list []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 10 {
		t.Fatalf("go list found %d packages; the walls would hold nothing", len(list))
	}
	return list
}

// below reports whether an import path is a package or inside it.
func below(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

// walls: what is below From must not depend, directly or not, on what is below
// any of Not.
var walls = []struct {
	from string
	not  []string
}{
	{"ingot/builder", []string{"ingot/bootserver", "ingot/rootfs/initrd", "ingot/rootfs/agent", "ingot/testvm", "ingot/cmd"}},
	{"ingot/bootserver", []string{"ingot/builder", "ingot/rootfs", "ingot/testvm", "ingot/cmd", "ingot/profiles"}},
	{"ingot/image", []string{"ingot/builder", "ingot/bootserver", "ingot/rootfs", "ingot/testvm", "ingot/profiles"}},
	{"ingot/profiles", []string{"ingot/builder", "ingot/bootserver", "ingot/rootfs", "ingot/image", "ingot/testvm"}},
	{"ingot/rootfs", []string{"ingot/builder", "ingot/bootserver", "ingot/image", "ingot/profiles", "ingot/testvm",
		"github.com/spf13", "go.etcd.io", "oras.land", "github.com/opencontainers", "github.com/prometheus", "go.yaml.in"}},
	{"ingot/cmd/ingot-init", []string{"ingot/builder", "ingot/bootserver", "ingot/image", "ingot/profiles", "ingot/testvm",
		"github.com/spf13", "go.etcd.io", "oras.land", "github.com/opencontainers", "github.com/prometheus", "go.yaml.in"}},
	{"ingot/builder/tree", []string{"ingot/image", "ingot/profiles", "ingot/rootfs", "ingot/builder/source"}},
	{"ingot/builder/squashfs", []string{"ingot/image", "ingot/profiles", "ingot/rootfs", "ingot/builder/tree"}},
	{"ingot/builder/initramfs", []string{"ingot/image", "ingot/profiles", "ingot/rootfs", "ingot/builder/source"}},
	{"ingot/builder/verity", []string{"ingot/image", "ingot/profiles", "ingot/rootfs", "ingot/builder/tree", "ingot/builder/squashfs"}},
	{"ingot/builder/uki", []string{"ingot/image", "ingot/profiles", "ingot/rootfs", "ingot/builder/tree", "ingot/builder/squashfs"}},
	{"ingot/bootserver", []string{"oras.land"}},
	{"ingot/bootserver/tftp", []string{"ingot/image", "ingot/bootserver/fleet", "ingot/bootserver/state", "ingot/bootserver/dhcp4"}},
	{"ingot/internal/yamlfile", []string{"ingot/image", "ingot/profiles", "ingot/builder", "ingot/bootserver"}},
	{"ingot/testvm", []string{"ingot/builder", "ingot/rootfs"}},
	{"ingot/bootserver", []string{"ingot/internal/wire"}},
	{"ingot/builder", []string{"ingot/internal/wire"}},
	{"ingot/rootfs", []string{"ingot/internal/wire"}},
	{"ingot/cmd", []string{"ingot/internal/wire"}},
}

func TestWalls(t *testing.T) {
	for _, p := range packages(t) {
		for _, w := range walls {
			if !below(p.ImportPath, w.from) {
				continue
			}
			for _, dep := range p.Deps {
				for _, not := range w.not {
					if below(dep, not) {
						t.Errorf("%s must not depend on %s, but does on %s", p.ImportPath, not, dep)
					}
				}
			}
		}
	}
}

// TestDictionary: the root package is for everybody, so it costs nothing.
func TestDictionary(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath != "ingot" {
			continue
		}
		for _, i := range p.Imports {
			if strings.Contains(i, ".") || below(i, "ingot") || slices.Contains([]string{"os", "net", "net/http", "io/fs", "os/exec", "syscall"}, i) {
				t.Errorf("the dictionary must do no I/O and import only the standard library, but imports %s", i)
			}
		}
	}
}

// TestHabits: every package says what it is, only main exits, no package is a
// drawer for things without a place.
func TestHabits(t *testing.T) {
	for _, p := range packages(t) {
		if name := filepath.Base(p.Dir); slices.Contains([]string{"util", "utils", "helpers", "common", "misc"}, name) {
			t.Errorf("%s: name the noun instead", p.ImportPath)
		}
		documented := false
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			documented = documented || f.Doc != nil
			if !below(p.ImportPath, "ingot/cmd") {
				forbidCalls(t, p.ImportPath+"/"+file, f)
			}
		}
		if !documented && len(p.GoFiles) > 0 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// clockReaders are the files of what builds images that may ask for the time:
// to decide what a cache removes first, never for what is in an image.
var clockReaders = []string{"ingot/builder/layercache.go", "ingot/builder/source/blobs.go", "ingot/builder/squashfs/cache.go"}

// TestClock: the same plan gives the same bits on any day, because nobody who
// builds looks at the clock. A static program cannot be shown another clock
// by faketime(1), so this is held here.
func TestClock(t *testing.T) {
	for _, p := range packages(t) {
		if !below(p.ImportPath, "ingot/builder") && !below(p.ImportPath, "ingot/profiles") {
			continue
		}
		for _, file := range p.GoFiles {
			where := p.ImportPath + "/" + file
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, ok := call.X.(*ast.Ident)
				if ok && pkg.Name == "time" && slices.Contains([]string{"Now", "Since", "Until"}, call.Sel.Name) && !slices.Contains(clockReaders, where) {
					t.Errorf("%s calls time.%s; take times from the plan", where, call.Sel.Name)
				}
				return true
			})
		}
	}
}

func forbidCalls(t *testing.T, where string, f *ast.File) {
	t.Helper()
	if strings.HasPrefix(where, "ingot/internal/wire/") {
		return // of tests alone, which are their own main; a wall keeps it there
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := call.X.(*ast.Ident)
		if !ok || pkg.Name != "os" {
			return true
		}
		switch call.Sel.Name {
		case "Exit", "Getenv", "Setenv", "LookupEnv":
			t.Errorf("%s calls os.%s; only main may", where, call.Sel.Name)
		case "Chdir":
			if !strings.HasPrefix(where, "ingot/rootfs/initrd/") { // switching the root is what it is for
				t.Errorf("%s calls os.Chdir; only main may", where)
			}
		}
		return true
	})
}

// TestNoHosts: the tree names no package mirror or module proxy; tools use
// their own defaults or the host's settings.
func TestNoHosts(t *testing.T) {
	root := ""
	for _, p := range packages(t) {
		if p.ImportPath == "ingot" {
			root = p.Dir
		}
	}
	hosts := []string{"deb." + "debian.org", "security." + "debian.org/debian", "proxy." + "golang.org", "registry." + "npmjs.org", "ftp." + "debian.org"}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && (d.Name() == ".git" || d.Name() == "bin") {
				return filepath.SkipDir
			}
			return err
		}
		out, err := exec.Command("grep", "-lF", "-e", strings.Join(hosts, "\n"), path).Output()
		if err == nil {
			t.Errorf("%s names a registry's host", strings.TrimSpace(string(out)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
