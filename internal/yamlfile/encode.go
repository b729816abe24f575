package yamlfile

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v4"

	"ingot/internal/harmless"
)

// Encode encodes a struct as a file that Decode decodes to the same. Zero values are left out; an
// empty list is kept, because it can mean "none".
func Encode(v any) ([]byte, error) {
	n, err := encode(reflect.ValueOf(v))
	if err != nil {
		return nil, err
	}
	return yaml.Dump(n, yaml.WithIndent(2))
}

func encode(v reflect.Value) (*yaml.Node, error) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if d, ok := v.Interface().(time.Duration); ok {
		return scalar("!!str", d.String()), nil
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		return scalar("!!str", string(text)), err
	}
	switch v.Kind() {
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		return n, encodeFields(n, v)
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			item, err := encode(v.Index(i))
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		return n, nil
	case reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			value, err := encode(v.MapIndex(k))
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, scalar("!!str", k.String()), value)
		}
		return n, nil
	case reflect.String:
		return scalar("!!str", v.String()), nil
	case reflect.Bool:
		return scalar("!!bool", strconv.FormatBool(v.Bool())), nil
	}
	return scalar("!!int", fmt.Sprint(v.Interface())), nil
}

// Scalar encodes a text as a value on one line, which Decode decodes to the same text. A word that
// cannot be mistaken is written as it is, everything else in double quotes.
func Scalar(text string) string {
	if word.MatchString(text) && !notText.MatchString(text) {
		return text
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case printable(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

var (
	// word is what needs no quotes anywhere, YAML 1.2 section 7.3.3.
	word = regexp.MustCompile(`^[A-Za-z./][A-Za-z0-9._/=-]*$`)
	// notText is what some reader takes for null, a boolean or a number (YAML 1.1 and 1.2).
	notText = regexp.MustCompile(`(?i)^(null|true|false|yes|no|on|off|y|n|[.].*[0-9]|[.](inf|nan)|[.]+|/+)$`)
)

// maxComment is the number of characters of a comment.
const maxComment = 1000

// Comment returns a text as a comment of one line. Each character that ends a line for YAML (1.1, too:
// CR, NEL, LS and PS), that it does not allow, or that does something when it is shown becomes a dot.
func Comment(text string) string {
	list := []rune(text)
	if len(list) > maxComment {
		list = append(list[:maxComment-1:maxComment-1], '…')
	}
	for i, r := range list {
		if !printable(r) {
			list[i] = '·'
		}
	}
	return strings.TrimRight("# "+string(list), " ")
}

func printable(r rune) bool { return !harmless.Harms(r) && unicode.IsGraphic(r) }

func scalar(tag, text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
}

func encodeFields(n *yaml.Node, v reflect.Value) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if inline(field) {
			if err := encodeFields(n, v.Field(i)); err != nil {
				return err
			}
			continue
		}
		key := yamlKey(field)
		if key == "" || v.Field(i).IsZero() {
			continue
		}
		value, err := encode(v.Field(i))
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		n.Content = append(n.Content, scalar("!!str", key), value)
	}
	return nil
}
