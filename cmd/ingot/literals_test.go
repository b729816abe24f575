package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// literal is a string in production code.
type literal struct {
	where  string // file and line
	text   string
	call   string // the function whose first argument it is
	inHelp bool   // it is a text of a command, or of a flag
}

// literals are the strings of the Go files below folders of the module, tests
// and imports left out.
func literals(t *testing.T, folders ...string) (list []literal) {
	t.Helper()
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join("../..", folder), func(file string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
				return err
			}
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, file, nil, 0)
			if err != nil {
				return err
			}
			list = append(list, literalsOf(set, f)...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func literalsOf(set *token.FileSet, f *ast.File) (list []literal) {
	calls, help := map[ast.Node]string{}, map[ast.Node]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.KeyValueExpr:
			key, ok := n.Key.(*ast.Ident)
			if ok && (key.Name == "Use" || key.Name == "Short" || key.Name == "Long" || key.Name == "Example") {
				ast.Inspect(n.Value, func(below ast.Node) bool { help[below] = true; return true })
			}
		case *ast.CallExpr:
			if name, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 {
				calls[n.Args[0]] = name.Name
			}
		case *ast.BasicLit:
			if n.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(n.Value)
			if err == nil {
				at := set.Position(n.Pos())
				list = append(list, literal{fmt.Sprintf("%s:%d", strings.TrimPrefix(at.Filename, "../../"), at.Line), text,
					calls[n], help[n]})
			}
		}
		return true
	})
	return list
}
