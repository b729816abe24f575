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
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// module is the name of this Go module, which is the import path of the root package, too.
const module = "ingot"

// goPackage is what `go list` says about one package.
type goPackage struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Standard   bool
}

// graph holds the packages of this module and all that they depend on, by import path. The imports
// are those of production code on the host's platform, without build tags.
type graph map[string]goPackage

var loadGraph = sync.OnceValues(func() (graph, error) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Imports,Standard", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.New("go list: " + err.Error() + "\n" + stderr.String())
	}
	g := graph{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return g, nil
		} else if err != nil {
			return nil, err
		}
		g[p.ImportPath] = p
	}
})

func packages(t *testing.T) graph {
	t.Helper()
	g, err := loadGraph()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(g.own()); n < 10 {
		t.Fatalf("go list found %d packages of this module; want all", n)
	}
	return g
}

// own returns the import paths of this module's packages, sorted.
func (g graph) own() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(g)), func(path string) bool { return !below(path, module) })
}

// path returns the shortest chain of imports from a package to one that matches, both included; nil
// if there is none. It does not look into the standard library.
func (g graph) path(from string, match func(string) bool) []string {
	previous := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at != from && match(at) {
			var chain []string
			for ; at != ""; at = previous[at] {
				chain = append(chain, at)
			}
			slices.Reverse(chain)
			return chain
		}
		if g[at].Standard {
			continue
		}
		for _, next := range g[at].Imports {
			if _, seen := previous[next]; !seen {
				previous[next] = at
				queue = append(queue, next)
			}
		}
	}
	return nil
}

// below reports whether an import path is a package or inside it.
func below(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

// arrows prints a chain of imports.
func arrows(chain []string) string { return strings.Join(chain, " -> ") }

// source is one Go file of this module.
type source struct {
	path string // relative to the module's root, with slashes
	text []byte
	file *ast.File
	fset *token.FileSet
}

func (s source) endsIn(suffix string) bool { return strings.HasSuffix(s.path, suffix) }

func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// pkg is the import path of the file's package.
func (s source) pkg() string {
	if dir := filepath.ToSlash(filepath.Dir(s.path)); dir != "." {
		return module + "/" + dir
	}
	return module
}

// root is the module's folder, seen from this test's.
const root = "../.."

var loadSources = sync.OnceValues(func() ([]source, error) {
	var list []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "testdata", "node_modules", "vendor"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		list = append(list, source{filepath.ToSlash(relative), text, f, fset})
		return nil
	})
	return list, err
})

func sources(t *testing.T) []source {
	t.Helper()
	list, err := loadSources()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 100 {
		t.Fatalf("found %d Go files; want all of the module", len(list))
	}
	return list
}
