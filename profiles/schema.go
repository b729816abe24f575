package profiles

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/invopop/jsonschema"

	"ingot/internal/yamlfile"
)

// source is the Go source of the types, whose comments describe the keys of a profile.
//
//go:embed profile.go
var source string

//go:embed repository.go
var repositorySource string

//go:embed scripts.go
var scriptSource string

//go:embed vars.go
var variableSource string

// Schema returns the JSON schema (draft 2020-12) of a profile file, for the completion of editors.
// It is made from the Go types and their comments.
func Schema() ([]byte, error) {
	s, err := schema()
	if err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the schema of profiles: %w", err)
	}
	return append(b, '\n'), nil
}

// schema is Schema before it is encoded.
func schema() (*jsonschema.Schema, error) {
	s, err := yamlfile.Reflect(&Profile{}, "ingot profile", scalarSchema, source, variableSource,
		repositorySource, scriptSource)
	if err != nil {
		return nil, err
	}
	for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
		if pair.Key != "vars" {
			addConditions(pair.Value, pair.Key)
		}
	}
	return s, nil
}

// condition is the schema of the key when.
func condition() *jsonschema.Schema {
	text := &jsonschema.Schema{Type: "string"}
	return &jsonschema.Schema{Type: "object", Description: "Condition: this counts only if the architecture, or each " +
		"variable that is named, has this value or one of these.",
		AdditionalProperties: &jsonschema.Schema{OneOf: []*jsonschema.Schema{text, {Type: "boolean"}, {Type: "number"},
			{Type: "array", Items: text}}}}
}

// addConditions lets a value have conditions: groups, the items of lists, and words.
func addConditions(s *jsonschema.Schema, path string) {
	switch {
	case s.Items != nil && s.Items.Type == "string":
		word := *s.Items
		group := &jsonschema.Schema{Type: "object", Required: []string{"name", whenKey},
			AdditionalProperties: jsonschema.FalseSchema, Properties: jsonschema.NewProperties()}
		group.Properties.Set("name", &jsonschema.Schema{Description: "The word, or several.",
			OneOf: []*jsonschema.Schema{&word, {Type: "array", Items: &word}}})
		group.Properties.Set(whenKey, condition())
		s.Items = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{&word, group}}
		if len(word.Enum) > 0 {
			s.Items.AnyOf = append(s.Items.AnyOf, &jsonschema.Schema{Type: "string", Pattern: "^-."})
		}
	case s.Items != nil:
		addConditions(s.Items, path+"[]")
	case len(s.OneOf) > 0:
		addConditions(s.OneOf[0], path)
	case s.Properties.Len() > 0:
		for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
			if isWords(dotted(path, pair.Key)) || pair.Value.Items == nil || pair.Value.Items.Type != "string" {
				addConditions(pair.Value, dotted(path, pair.Key))
			}
		}
		s.Properties.Set(whenKey, condition())
		if slices.Contains(blocks, path) {
			one := *s
			one.Description = ""
			*s = jsonschema.Schema{Description: s.Description,
				OneOf: []*jsonschema.Schema{&one, {Type: "array", Items: &one}}}
		}
	}
}

func scalarSchema(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[Mode]():
		return &jsonschema.Schema{Type: "string", Pattern: `^[0-7]{3,4}$`}
	case reflect.TypeFor[Compression]():
		return &jsonschema.Schema{Type: "string", Enum: []any{CompressFast, CompressBalanced, CompressSmall}}
	}
	return nil
}

// orMinus lets a list have entries "-NAME", too.
func orMinus(s *jsonschema.Schema) {
	item := *s
	*s = jsonschema.Schema{OneOf: []*jsonschema.Schema{&item, {Type: "string", Pattern: "^-.",
		Description: "Takes back what has this name in a profile that this one extends."}}}
}

// JSONSchemaExtend adds the short form, a default alone.
func (Var) JSONSchemaExtend(s *jsonschema.Schema) {
	group := *s
	*s = jsonschema.Schema{OneOf: []*jsonschema.Schema{&group, {Type: "string"}, {Type: "number"}, {Type: "boolean"},
		{Type: "null"}}}
}

// JSONSchemaExtend adds entries that take back.
func (File) JSONSchemaExtend(s *jsonschema.Schema) { orMinus(s) }

// JSONSchemaExtend adds entries that take back.
func (Repository) JSONSchemaExtend(s *jsonschema.Schema) { orMinus(s) }

// JSONSchemaExtend adds entries that take back.
func (Script) JSONSchemaExtend(s *jsonschema.Schema) { orMinus(s) }

// JSONSchemaExtend adds entries that take back.
func (User) JSONSchemaExtend(s *jsonschema.Schema) { orMinus(s) }

// JSONSchemaExtend adds entries that take back.
func (Group) JSONSchemaExtend(s *jsonschema.Schema) { orMinus(s) }

// JSONSchemaExtend adds entries that take back.
func (Volume) JSONSchemaExtend(s *jsonschema.Schema) { orMinus(s) }

// JSONSchemaExtend adds entries that take back.
func (Check) JSONSchemaExtend(s *jsonschema.Schema) { orMinus(s) }

// JSONSchemaExtend adds entries that take back.
func (Hook) JSONSchemaExtend(s *jsonschema.Schema) { orMinus(s) }

// JSONSchemaExtend adds entries that take back.
func (AllowedSecret) JSONSchemaExtend(s *jsonschema.Schema) { orMinus(s) }
