package yamlfile

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
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
