package profiles

import (
	"fmt"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"
)

// referenceHead begins the reference page.
const referenceHead = `# Keys of a profile

This page is made by ` + "`ingot profile reference`" + ` from the program; [Profiles](PROFILES.md) explains how to use
the keys. Editors show the same texts: ` + "`ingot profile schema > profile.schema.json`" + `.

Every list also takes entries ` + "`-NAME`" + `, which take back what a profile that this one extends has by that name.
Every group of keys and every item of a list may have the key ` + "`when`" + `, a condition: the name of a variable, or
` + "`arch`" + `, with the value or the list of values for which the group or item counts. Words of lists are written
` + "`{name: WORD, when: …}`" + ` then, and a group of keys may be a list of groups.
`

// pageWidth is the number of columns of the reference page.
const pageWidth = 120

// Reference returns the page that describes all keys of a profile, as Markdown.
func Reference() ([]byte, error) {
	s, err := schema()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString(referenceHead)
	for pair := s.Properties.Oldest(); pair != nil; pair = pair.Next() {
		key, value := pair.Key, pair.Value
		fmt.Fprintf(&b, "\n## %s\n\n", strings.TrimPrefix(key, "$"))
		writeWrapped(&b, "", "", fmt.Sprintf("`%s` (%s). %s", key, typeWords(value, slices.Contains(s.Required, key)),
			value.Description))
		if group := keysOf(value); group != nil {
			b.WriteString("\n")
			writeKeys(&b, group, "")
		}
	}
	return []byte(b.String()), nil
}

// writeKeys describes the keys of a group as a list.
func writeKeys(b *strings.Builder, group *jsonschema.Schema, indent string) {
	for pair := group.Properties.Oldest(); pair != nil; pair = pair.Next() {
		if pair.Key == whenKey {
			continue // at the beginning of the page
		}
		text := fmt.Sprintf("`%s` (%s). %s", pair.Key, typeWords(pair.Value, slices.Contains(group.Required, pair.Key)),
			pair.Value.Description)
		writeWrapped(b, indent+"- ", indent+"  ", text)
		if below := keysOf(pair.Value); below != nil {
			writeKeys(b, below, indent+"  ")
		}
	}
}

// keysOf returns the group of keys that a value has, or that its items have; nil: it has none.
func keysOf(s *jsonschema.Schema) *jsonschema.Schema {
	if s.Items != nil && len(s.Items.AnyOf) > 0 {
		return nil // words
	}
	if s.Items != nil {
		return keysOf(s.Items)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Type != "" {
		return keysOf(s.AdditionalProperties)
	}
	for _, one := range s.OneOf {
		if group := keysOf(one); group != nil {
			return group
		}
	}
	if s.Properties.Len() == 0 {
		return nil
	}
	return s
}

// typeWords describes the type of a value.
func typeWords(s *jsonschema.Schema, required bool) string {
	words := typeWord(s)
	if required {
		words += ", required"
	}
	return words
}

func typeWord(s *jsonschema.Schema) string {
	switch {
	case len(s.Enum) > 0:
		var words []string
		for _, w := range s.Enum {
			words = append(words, fmt.Sprint(w))
		}
		return strings.Join(words, ", ")
	case len(s.OneOf) > 0 && s.OneOf[0].Type == "integer":
		return "size"
	case len(s.OneOf) > 0 && s.OneOf[0].Type == "string":
		return "text, or list of texts"
	case len(s.OneOf) > 0:
		return typeWord(s.OneOf[0])
	case s.Items != nil && keysOf(s.Items) != nil:
		return "list"
	case s.Items != nil && len(s.Items.AnyOf) > 0 && len(s.Items.AnyOf[0].Enum) > 0:
		return "list of: " + typeWord(s.Items.AnyOf[0])
	case s.Items != nil && len(s.Items.AnyOf) > 0:
		return "list of " + typeWord(s.Items.AnyOf[0]) + "s"
	case s.Items != nil:
		return "list of " + typeWord(s.Items) + "s"
	case s.AdditionalProperties != nil && s.AdditionalProperties.Type == "string":
		return "names with texts"
	case s.AdditionalProperties != nil && s.AdditionalProperties.Type != "":
		return "names with values"
	case s.Type == "object":
		return "group"
	case s.Type == "boolean":
		return "true or false"
	case s.Type == "integer":
		return "number"
	case strings.Contains(s.Pattern, "(h|m|s|ms)"):
		return "duration"
	}
	return "text"
}

// writeWrapped writes a paragraph in lines of at most pageWidth columns.
func writeWrapped(b *strings.Builder, first, rest, text string) {
	line := first
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
			line += word
		case len([]rune(line))+1+len([]rune(word)) > pageWidth:
			b.WriteString(line + "\n")
			line = rest + word
		default:
			line += " " + word
		}
	}
	b.WriteString(line + "\n")
}
