package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// privateWords are words that this project once used for things that have a usual name. They are
// not in any identifier, alone or as a part of it.
var privateWords = []string{
	"tell", "tells", "telling", "told",
	"settle", "settles", "settled", "settling",
	"shelf", "shelve", "shelved", "shelves",
	"stock", "stocked", "stocks", "storeroom", "storerooms",
	"door", "doors", "lender", "lenders", "moot",
}

func TestIdentifiers(t *testing.T) {
	v := newViolations("identifier")
	for _, s := range sources(t) {
		for _, word := range words(strings.TrimSuffix(path.Base(s.path), ".go")) {
			if slices.Contains(privateWords, word) {
				v.add(path.Base(s.path), s.path+": rename the file; the word "+word+" is not used here")
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			id, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			for _, word := range words(id.Name) {
				if slices.Contains(privateWords, word) {
					v.add(id.Name, fmt.Sprintf("%s: the word %q is not used in identifiers", s.fset.Position(id.Pos()), word))
				}
			}
			return true
		})
	}
	v.report(t)
}

// words splits an identifier: toldCards, told_cards and ToldCards are told and cards.
func words(name string) []string {
	var list []string
	start := 0
	runes := []rune(name)
	flush := func(end int) {
		if word := strings.ToLower(string(runes[start:end])); word != "" {
			list = append(list, word)
		}
	}
	for i, r := range runes {
		switch {
		case !unicode.IsLetter(r):
			flush(i)
			start = i + 1
		case i > start && unicode.IsUpper(r) &&
			(unicode.IsLower(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])):
			flush(i)
			start = i
		}
	}
	flush(len(runes))
	return list
}

func TestWords(t *testing.T) {
	for name, want := range map[string]string{
		"told": "told", "toldCards": "told cards", "settleHealthy": "settle healthy", "MACShelf": "mac shelf", "a_b": "a b",
		"Stock2x": "stock x", "": "", "blockSize": "block size", "HTTP": "http",
	} {
		if got := strings.Join(words(name), " "); got != want {
			t.Errorf("words(%q) = %q; want %q", name, got, want)
		}
	}
}

// whoPhrase finds "who" where it is likely to mean a program: clients that ask, whoever boots.
var whoPhrase = regexp.MustCompile(`(?i)\bwho (asks|is|has|may|boots)\b`)

// TestWho looks at the lines of production code and of what is shipped beside it. "Who" means a
// person; a line that means one is an exception by its text.
func TestWho(t *testing.T) {
	v := newViolations("who")
	files := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "testdata", "node_modules", "docs", "archtest"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		kinds := []string{".go", ".sh", ".html", ".service", ".socket", ".yaml", ".json", ".ipxe"}
		if strings.HasSuffix(file, "_test.go") || !slices.Contains(kinds, filepath.Ext(file)) {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		files++
		for i, line := range bytes.Split(text, []byte("\n")) {
			if whoPhrase.Match(line) {
				v.add(strings.TrimSpace(string(line)), fmt.Sprintf("%s:%d", file, i+1))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Fatalf("found %d files; want all of production code", files)
	}
	v.report(t)
}
