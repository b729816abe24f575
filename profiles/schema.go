package profiles

import (
	_ "embed"
	"reflect"

	"github.com/invopop/jsonschema"

	"ingot/internal/yamlfile"
)

// source is the Go source of the types, whose comments describe the keys of a profile.
//
//go:embed profile.go
var source string

// Schema returns the JSON schema (draft 2020-12) of a profile file, for the completion of editors.
// It is made from the Go types and their comments.
func Schema() ([]byte, error) {
	return yamlfile.Schema(&Profile{}, "ingot profile", func(t reflect.Type) *jsonschema.Schema {
		switch t {
		case reflect.TypeFor[Mode]():
			return &jsonschema.Schema{Type: "string", Pattern: `^[0-7]{3,4}$`}
		case reflect.TypeFor[Compression]():
			return &jsonschema.Schema{Type: "string", Enum: []any{CompressFast, CompressBalanced, CompressSmall}}
		}
		return nil
	}, source)
}
