package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// testBlock is the comment above the modules in go.mod that tests alone import.
const testBlock = "// Imported by tests alone."

// directModules reads the direct dependencies from go.mod: those of production code and those of
// tests alone.
func directModules(t *testing.T) (production, tests []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	into := &production
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch fields := strings.Fields(line); {
		case line == testBlock:
			into = &tests
		case line == ")":
			into = &production
		case len(fields) == 2 && strings.HasPrefix(fields[1], "v"):
			*into = append(*into, fields[0])
		}
	}
	if len(production) < 10 || len(tests) == 0 {
		t.Fatalf("go.mod has %d direct dependencies and %d of tests alone, below %q", len(production), len(tests), testBlock)
	}
	return production, tests
}

// TestDependenciesAreDescribed: docs/DEPENDENCIES.md has a row for each direct dependency.
func TestDependenciesAreDescribed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/DEPENDENCIES.md"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllSubmatch(text, -1) {
		rows = append(rows, string(m[1]))
	}
	production, tests := directModules(t)
	modules := append(production, tests...)
	for _, m := range modules {
		if !slices.Contains(rows, m) {
			t.Errorf("docs/DEPENDENCIES.md has no row for %s; say what it is used for and what it saves", m)
		}
	}
	for _, m := range rows {
		if !slices.Contains(modules, m) {
			t.Errorf("docs/DEPENDENCIES.md describes %s, which is not a direct dependency", m)
		}
	}
}

// TestModulesOfTests: a module is in the block of tests exactly if no production code imports it.
func TestModulesOfTests(t *testing.T) {
	g := packages(t)
	production, tests := directModules(t)
	imported := func(module string) string {
		for _, p := range g.own() {
			if isTestHelper(p) {
				continue
			}
			for _, i := range g[p].Imports {
				if below(i, module) {
					return p
				}
			}
		}
		return ""
	}
	for _, m := range tests {
		if p := imported(m); p != "" {
			t.Errorf("go.mod lists %s among the modules of tests, but %s imports it", m, p)
		}
	}
	for _, m := range production {
		if imported(m) == "" {
			t.Errorf("no production code imports %s; move it below %q in go.mod", m, testBlock)
		}
	}
}

// isTestHelper reports whether a package exists for tests alone: its name ends in test, or it is
// internal/wire.
func isTestHelper(pkg string) bool {
	for part := range strings.SplitSeq(pkg, "/") {
		if strings.HasSuffix(part, "test") {
			return true
		}
	}
	return below(pkg, "ingot/internal/wire")
}

// TestHelpersStayInTests: production code does not import what is for tests alone.
func TestHelpersStayInTests(t *testing.T) {
	g := packages(t)
	for _, p := range g.own() {
		if isTestHelper(p) {
			continue
		}
		for _, i := range g[p].Imports {
			if below(i, module) && isTestHelper(i) {
				t.Errorf("%s -> %s: production code must not import helpers of tests", p, i)
			}
		}
	}
}
