package yamlfile

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/invopop/jsonschema"
)

// Schema returns the JSON schema (draft 2020-12) of files that Decode reads into v, for the
// completion of editors. A key is described by its field's tag jsonschema_description, or by its
// field's comment in one of sources, which are texts of Go files. scalars describes further types
// that are written as one text; nil is fine.
func Schema(v any, title string, scalars func(reflect.Type) *jsonschema.Schema, sources ...string) ([]byte, error) {
	s, err := Reflect(v, title, scalars, sources...)
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the schema of %s: %w", title, err)
	}
	return append(b, '\n'), nil
}

// Reflect returns what Schema encodes.
func Reflect(v any, title string, scalars func(reflect.Type) *jsonschema.Schema, sources ...string) (
	*jsonschema.Schema, error) {
	comments, err := fieldComments(sources)
	if err != nil {
		return nil, fmt.Errorf("reading the comments of %s: %w", title, err)
	}
	r := &jsonschema.Reflector{DoNotReference: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true,
		LookupComment: func(t reflect.Type, field string) string { return comments[t.Name()+"."+field] },
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			if scalars != nil {
				if s := scalars(t); s != nil {
					return s
				}
			}
			return scalarSchema(t)
		}}
	s := r.Reflect(v)
	s.ID = ""
	s.Title = title
	return s, nil
}

// fieldComments returns the comments above the fields of struct types, as one line each, by
// "Type.Field".
func fieldComments(sources []string) (map[string]string, error) {
	comments := map[string]string{}
	for _, text := range sources {
		file, err := parser.ParseFile(token.NewFileSet(), "", text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range s.Fields.List {
					for _, name := range f.Names {
						comments[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
					}
				}
			}
			return false
		})
	}
	return comments, nil
}

// scalarSchema describes the types that are written as one text.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[Bytes]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "integer", Minimum: "0"},
			{Type: "string", Pattern: `^[0-9.]+ *(KiB|MiB|GiB|TiB)$`}}}
	case reflect.TypeFor[Duration](), reflect.TypeFor[time.Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: `^([0-9.]+(h|m|s|ms))+$`}
	case reflect.TypeFor[OneOrMore]():
		text := &jsonschema.Schema{Type: "string"}
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{text, {Type: "array", Items: text}}}
	case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix]():
		return &jsonschema.Schema{Type: "string"}
	}
	return nil
}
