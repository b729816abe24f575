package archtest

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestAllIsPlayed: what is skipped or shorter without INGOT_TEST_ALL is played by make test-all.
func TestAllIsPlayed(t *testing.T) {
	played := playedInFull(t)
	for _, s := range sources(t) {
		if !s.isTest() || below(s.pkg(), module+"/internal/archtest") {
			continue
		}
		for _, d := range s.file.Decls {
			f, is := d.(*ast.FuncDecl)
			if !is || strings.EqualFold(f.Name.Name, "requireAll") || !asksForAll(f) {
				continue
			}
			if !slices.ContainsFunc(played, func(c command) bool { return c.has(s.pkg(), f.Name.Name) }) {
				t.Errorf("%s: no command of make test-all plays %s with INGOT_TEST_ALL=1", s.path, f.Name.Name)
			}
		}
	}
}

// asksForAll reports whether a function is another one with INGOT_TEST_ALL.
func asksForAll(f *ast.FuncDecl) (asks bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Ident:
			asks = asks || strings.EqualFold(n.Name, "requireAll")
		case *ast.BasicLit:
			asks = asks || n.Value == `"INGOT_TEST_ALL"`
		}
		return !asks
	})
	return asks
}

// command is one go test of the Makefile with INGOT_TEST_ALL=1.
type command struct {
	packages []string // as they are written
	run      *regexp.Regexp
}

// has reports whether it plays a test, or a function that tests of the package call.
func (p command) has(pkg, name string) bool {
	pkg = "." + strings.TrimPrefix(pkg, module)
	return p.run.MatchString(name) && slices.ContainsFunc(p.packages, func(pattern string) bool {
		if dir, all := strings.CutSuffix(pattern, "/..."); all {
			return below(pkg, dir)
		}
		return pkg == pattern
	})
}

func playedInFull(t *testing.T) (list []command) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	whole := strings.ReplaceAll(string(text), "\\\n", " ")
	if longer := regexp.MustCompile(`(?m)^LONGER *:= (.*)$`).FindStringSubmatch(whole); longer != nil {
		whole = strings.ReplaceAll(whole, "$(LONGER)", longer[1])
	}
	for line := range strings.Lines(whole) {
		if !strings.Contains(line, "INGOT_TEST_ALL=1 go test ") {
			continue
		}
		p := command{run: regexp.MustCompile("")}
		words := strings.Fields(line)
		for i, w := range words {
			if strings.HasPrefix(w, "./") {
				p.packages = append(p.packages, w)
			}
			if w == "-run" {
				p.run = regexp.MustCompile(strings.ReplaceAll(strings.Trim(words[i+1], "'"), "$$", "$"))
			}
		}
		list = append(list, p)
	}
	if len(list) < 3 {
		t.Fatalf("the Makefile has %d commands with INGOT_TEST_ALL=1; want several", len(list))
	}
	return list
}
