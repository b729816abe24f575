package api

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// declaredCodes are the constants of type Code that code.go declares.
func declaredCodes(t *testing.T) (list []Code) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "code.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		v, is := n.(*ast.ValueSpec)
		if !is {
			return true
		}
		if kind, is := v.Type.(*ast.Ident); !is || kind.Name != "Code" {
			return true
		}
		text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, Code(text))
		return true
	})
	return list
}

// TestEveryCodeIsExplained: each code has a status, a sentence and a hint, once; and what a hint needs
// is named in the sentence.
func TestEveryCodeIsExplained(t *testing.T) {
	declared := declaredCodes(t)
	if len(declared) < 40 || len(codes) != len(declared) {
		t.Errorf("%d codes are declared, %d explained", len(declared), len(codes))
	}
	for _, c := range declared {
		m, known := meaningOf(c)
		if !known || http.StatusText(m.status) == "" || m.status < 400 || m.hint == "" ||
			!strings.HasSuffix(m.explanation, ".") {
			t.Errorf("code %q is explained as %+v; want a status, a sentence and a hint", c, m)
		}
		for _, name := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(m.hint, -1) {
			if _, parameters, has := strings.Cut(m.explanation, "Parameter"); !has ||
				!strings.Contains(parameters, name[1]) {
				t.Errorf("the hint of %q needs %q, and its explanation does not name that parameter: %s", c, name[1],
					m.explanation)
			}
		}
	}
}

// TestHints: hints are made of a code and its parameters, whatever these hold.
func TestHints(t *testing.T) {
	for _, c := range []struct {
		p    Problem
		want string
	}{
		{NewProblem(CodeScope, "no", "scope", "operate"),
			"ask the administrator of the server: ingot token create NAME --scope operate"},
		{NewProblem(CodeMergeDirection, "no", "from", "a", "into", "b"), "ingot machine merge a b"},
		{NewProblem(CodeMergeDirection, "no", "from", "{into}"), "ingot machine merge into INTO"},
		{Problem{Status: 404, Code: "of-a-newer-server"}, ""},
		{Problem{Status: 503}.complete(), "run the same command again"},
	} {
		if got := c.p.Hint(); got != c.want {
			t.Errorf("the hint of %+v is %q; want %q", c.p, got, c.want)
		}
	}
}

// TestCodesAreInTheDocument: the OpenAPI document lists the codes with a sentence each.
func TestCodesAreInTheDocument(t *testing.T) {
	text, err := OpenAPI("test")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct {
					Enum        []Code
					Description string
				}
			}
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	is := doc.Components.Schemas["Problem"].Properties["code"]
	for _, c := range declaredCodes(t) {
		if m, _ := meaningOf(c); !slices.Contains(is.Enum, c) || !strings.Contains(is.Description, m.explanation) {
			t.Errorf("the document does not explain code %q", c)
		}
	}
	if _, has := doc.Components.Schemas["Problem"].Properties["next"]; has {
		t.Error("problems still have a command of the command line in them")
	}
}
