package yamlfile

import (
	"encoding"
	"fmt"
	"iter"
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
func Encode(v any) ([]byte, error) { return EncodeWith(v, nil, nil) }

// EncodeWith is like Encode and adds to each value the comment of its key, such as "kernel.package".
// item returns what an item adds to the key of its list.
func EncodeWith(v any, comment func(key string) string, item func(reflect.Value) string) ([]byte, error) {
	e := encoder{comment: comment, item: item}
	n, err := e.encode(reflect.ValueOf(v), "")
	if err != nil {
		return nil, err
	}
	return yaml.Dump(n, yaml.WithIndent(2))
}

// encoder makes nodes of values.
type encoder struct {
	comment func(key string) string // nil: there are no comments
	item    func(reflect.Value) string
}

// IsScalar reports whether a value is written as one text.
func IsScalar(v reflect.Value) bool {
	switch v.Interface().(type) {
	case time.Duration, encoding.TextMarshaler:
		return true
	}
	switch v.Kind() {
	case reflect.Struct, reflect.Slice, reflect.Map, reflect.Pointer:
		return false
	}
	return true
}

// Text returns a scalar as it is written.
func Text(v reflect.Value) string {
	n, err := scalarNode(v)
	if err != nil {
		return ""
	}
	return n.Value
}

func scalarNode(v reflect.Value) (*yaml.Node, error) {
	if d, ok := v.Interface().(time.Duration); ok {
		return scalar("!!str", d.String()), nil
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		return scalar("!!str", string(text)), err
	}
	switch v.Kind() {
	case reflect.String:
		return scalar("!!str", v.String()), nil
	case reflect.Bool:
		return scalar("!!bool", strconv.FormatBool(v.Bool())), nil
	}
	return scalar("!!int", fmt.Sprint(v.Interface())), nil
}

func (e *encoder) encode(v reflect.Value, key string) (*yaml.Node, error) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if IsScalar(v) {
		n, err := scalarNode(v)
		if e.comment != nil && err == nil && !strings.Contains(n.Value, "\n") {
			n.LineComment = Comment(e.comment(key))
		}
		return n, err
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	switch v.Kind() {
	case reflect.Struct:
		return n, e.encodeFields(n, v, key)
	case reflect.Slice:
		n.Kind = yaml.SequenceNode
		for i := range v.Len() {
			at := ""
			if e.item != nil {
				at = key + e.item(v.Index(i))
			}
			item, err := e.encode(v.Index(i), at)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
	case reflect.Map:
		for _, k := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int {
			return strings.Compare(a.String(), b.String())
		}) {
			value, err := e.encode(v.MapIndex(k), join(key, k.String()))
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, scalar("!!str", k.String()), value)
		}
	}
	return n, nil
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

func (e *encoder) encodeFields(n *yaml.Node, v reflect.Value, key string) error {
	for name, field := range Fields(v) {
		if field.IsZero() {
			continue
		}
		value, err := e.encode(field, join(key, name))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		k := scalar("!!str", name)
		if e.comment != nil && strings.Contains(value.Value, "\n") { // a comment after | is not YAML for all readers
			k.HeadComment = Comment(e.comment(join(key, name)))
		}
		n.Content = append(n.Content, k, value)
	}
	return nil
}

// Fields returns the fields of a struct by their keys, those of inline structs as its own.
func Fields(v reflect.Value) iter.Seq2[string, reflect.Value] {
	return func(yield func(string, reflect.Value) bool) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if inline(f) {
				for name, field := range Fields(v.Field(i)) {
					if !yield(name, field) {
						return
					}
				}
			} else if name := yamlKey(f); name != "" && !yield(name, v.Field(i)) {
				return
			}
		}
	}
}
