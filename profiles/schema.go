package profiles

import (
	"reflect"

	"github.com/invopop/jsonschema"

	"ingot/internal/yamlfile"
)

// Schema returns the JSON schema (draft 2020-12) of a profile file, for the
// completion of editors. It is made from the Go types.
func Schema() ([]byte, error) {
	return yamlfile.Schema(&Profile{}, "ingot profile", func(t reflect.Type) *jsonschema.Schema {
		if t == reflect.TypeFor[Mode]() {
			return &jsonschema.Schema{Type: "string", Pattern: `^[0-7]{3,4}$`}
		}
		return nil
	})
}
