package yamlfile

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	"github.com/invopop/jsonschema"
)

// Schema returns the JSON schema (draft 2020-12) of files that Decode reads
// into v, for the completion of editors. scalars describes further types that
// are written as one text; nil is fine.
func Schema(v any, title string, scalars func(reflect.Type) *jsonschema.Schema) ([]byte, error) {
	r := &jsonschema.Reflector{DoNotReference: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true,
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
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the schema of %s: %w", title, err)
	}
	return append(b, '\n'), nil
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
