package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// The measures. A tab counts as one column, as golangci-lint's lll counts it.
const (
	maxColumns  = 120 // of a line, in production code and tests
	maxFunction = 75  // lines of a function in production code, signature and closing brace included
	maxFiles    = 20  // non-test Go files in one folder
	maxChain    = 9   // packages in the longest chain of imports, main and root counted
)

func TestLineLength(t *testing.T) {
	total, files := 0, map[string]int{}
	for _, s := range sources(t) {
		for i, line := range bytes.Split(s.text, []byte("\n")) {
			if n := utf8.RuneCount(line); n > maxColumns {
				t.Logf("%s:%d has %d columns; want at most %d", s.path, i+1, n, maxColumns)
				total++
				files[s.path]++
			}
		}
	}
	if limit := exceptionNumber(t, "lines"); total > limit {
		t.Errorf("%d lines are too long; want at most %d; they are in %v", total, limit, files)
	}
}

func TestFunctionLength(t *testing.T) {
	v := newViolations("function")
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			from, to := s.fset.Position(f.Pos()), s.fset.Position(f.End())
			if n := to.Line - from.Line + 1; n > maxFunction {
				v.add(functionName(s, f), fmt.Sprintf("%s:%d has %d lines; want at most %d", s.path, from.Line, n, maxFunction))
			}
		}
	}
	v.report(t)
}

// TestDocsLineLength: tables cannot be wrapped, and what the program prints is quoted as it is.
func TestDocsLineLength(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", "bin", "dist", "testdata", "node_modules"}, d.Name()) {
			return filepath.SkipDir
		}
		if filepath.Ext(file) != ".md" {
			return nil
		}
		files++
		text, err := os.ReadFile(file)
		for i, line := range strings.Split(string(text), "\n") {
			quoted := strings.HasPrefix(line, "|") || strings.HasPrefix(line, "! ")
			if n := utf8.RuneCountInString(line); n > maxColumns && !quoted {
				t.Errorf("%s:%d has %d columns; want at most %d", file, i+1, n, maxColumns)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 30 {
		t.Fatalf("found %d documents; want all of them", files)
	}
}

// functionName is package.Function or package.Type.Method.
func functionName(s source, f *ast.FuncDecl) string {
	name := f.Name.Name
	if f.Recv != nil && len(f.Recv.List) == 1 {
		ast.Inspect(f.Recv.List[0].Type, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				name = id.Name + "." + name
				return false
			}
			return true
		})
	}
	return s.file.Name.Name + "." + name
}

func TestFilesInFolder(t *testing.T) {
	v := newViolations("folder")
	count := map[string]int{}
	for _, s := range sources(t) {
		if !s.isTest() {
			count[path.Dir(s.path)]++
		}
	}
	for dir, n := range count {
		if n > maxFiles {
			v.add(dir, fmt.Sprintf("%s has %d Go files; want at most %d", dir, n, maxFiles))
		}
	}
	v.report(t)
}

// TestChain measures the longest chain of imports inside this module. A long one means that a
// package knows too many layers below it.
func TestChain(t *testing.T) {
	g := packages(t)
	longest := map[string][]string{}
	var measure func(p string) []string
	measure = func(p string) []string {
		if chain, ok := longest[p]; ok {
			return chain
		}
		var best []string
		for _, next := range g[p].Imports {
			if !below(next, module) {
				continue
			}
			if chain := measure(next); len(chain) > len(best) {
				best = chain
			}
		}
		longest[p] = append([]string{p}, best...)
		return longest[p]
	}
	var worst []string
	for _, p := range g.own() {
		if chain := measure(p); len(chain) > len(worst) {
			worst = chain
		}
	}
	t.Logf("the longest chain has %d packages: %s", len(worst), strings.ReplaceAll(arrows(worst), module+"/", ""))
	if limit := max(maxChain, exceptionNumber(t, "chain")); len(worst) > limit {
		t.Errorf("the longest chain of imports has %d packages; want at most %d: %s", len(worst), limit, arrows(worst))
	}
}
