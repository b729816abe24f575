package profiles

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/invopop/jsonschema"
)

// Schema returns the JSON schema (draft 2020-12) of a profile file, for the
// completion of editors. It is made from the Go types.
func Schema() ([]byte, error) {
	r := &jsonschema.Reflector{DoNotReference: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, Mapper: scalarSchema}
	s := r.Reflect(&Profile{})
	s.ID = ""
	s.Title = "ingot profile"
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the profile schema: %w", err)
	}
	return append(b, '\n'), nil
}

// scalarSchema describes the types that are written as one text.
func scalarSchema(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[Bytes]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "integer", Minimum: "0"}, {Type: "string", Pattern: `^[0-9.]+ *(KiB|MiB|GiB|TiB)$`}}}
	case reflect.TypeFor[Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: `^([0-9.]+(h|m|s|ms))+$`}
	case reflect.TypeFor[Mode]():
		return &jsonschema.Schema{Type: "string", Pattern: `^[0-7]{3,4}$`}
	case reflect.TypeFor[OneOrMore]():
		text := &jsonschema.Schema{Type: "string"}
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{text, {Type: "array", Items: text}}}
	}
	return nil
}
