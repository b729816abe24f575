package profiles

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decoder fills Go values from YAML nodes. Unlike the decoder of the YAML
// library it goes on after a fault, knows the column of each, and never
// converts: a version 1.10 stays the text "1.10".
type decoder struct {
	file   string
	faults Faults
	// places maps the path of a value ("packages[2]") to its place.
	places map[string]Place
}

func (d *decoder) at(n *yaml.Node) Place { return Place{d.file, n.Line, n.Column} }

// decode fills v from n; path names the value in d.places.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.places[path] = d.at(n)
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // "packages:" with nothing behind it
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.decodeText(n, u, path)
		return
	}
	if v.Type() == reflect.TypeFor[OneOrMore]() && n.Kind == yaml.ScalarNode {
		v.Set(reflect.ValueOf(OneOrMore{n.Value}))
		d.places[path+"[0]"] = d.at(n)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.decodeStruct(n, v, path)
	case reflect.Slice:
		d.decodeSlice(n, v, path)
	default:
		d.decodeScalar(n, v, path)
	}
}

func (d *decoder) decodeText(n *yaml.Node, u encoding.TextUnmarshaler, path string) {
	if n.Kind != yaml.ScalarNode {
		d.faults.add(d.at(n), "write one value", "%s is a %s", last(path), kindName(n))
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		what, fix, _ := strings.Cut(err.Error(), "; ")
		d.faults.add(d.at(n), fix, "%s: %s", last(path), what)
	}
}

func (d *decoder) decodeScalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.faults.add(d.at(n), "write one value", "%s is a %s", last(path), kindName(n))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if n.Tag == "!!bool" {
			d.faults.add(d.at(n), fmt.Sprintf("write %q in quotes if you mean the text", n.Value), "%s is true or false, not text", last(path))
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if err != nil || n.Tag != "!!bool" {
			d.faults.add(d.at(n), "write true or false", "%s is %q", last(path), n.Value)
			return
		}
		v.SetBool(b)
	case reflect.Int:
		i, err := strconv.ParseInt(n.Value, 10, 32)
		if err != nil || i < 0 {
			d.faults.add(d.at(n), "write a whole number from 0", "%s is %q", last(path), n.Value)
			return
		}
		v.SetInt(i)
	default:
		panic("profiles: no rule for " + v.Type().String()) // a field of Profile that this file forgot
	}
}

func (d *decoder) decodeSlice(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.faults.add(d.at(n), fmt.Sprintf("write a list: [%s]", strings.TrimSpace(n.Value)), "%s is a %s, not a list", last(path), kindName(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.decode(item, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(list)
}

func (d *decoder) decodeStruct(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.faults.add(d.at(n), "write its keys: "+strings.Join(keysOf(v.Type()), ", "), "%s is a %s, not a group of keys", last(path), kindName(n))
		return
	}
	if f := v.FieldByName("At"); f.IsValid() {
		f.Set(reflect.ValueOf(d.at(n)))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if seen[key.Value] {
			d.faults.add(d.at(key), "keep one of them", "the key %q is there twice", key.Value)
			continue
		}
		seen[key.Value] = true
		field := fieldByKey(v, key.Value)
		if !field.IsValid() {
			d.unknownKey(key, v.Type())
			continue
		}
		d.decode(value, field, join(path, key.Value))
	}
}

func (d *decoder) unknownKey(key *yaml.Node, t reflect.Type) {
	keys := keysOf(t)
	fix := "known keys: " + strings.Join(keys, ", ")
	if near := nearest(key.Value, keys); near != "" {
		fix = fmt.Sprintf("write %q", near)
	}
	d.faults.add(d.at(key), fix, "unknown key %q", key.Value)
}

func yamlKey(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if key == "-" {
		return ""
	}
	return key
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if k := yamlKey(t.Field(i)); k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

func fieldByKey(v reflect.Value, key string) reflect.Value {
	for i := range v.NumField() {
		if k := yamlKey(v.Type().Field(i)); k != "" && k == key {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// last is the part of a path that people see: "mode" of "files[3].mode".
func last(path string) string {
	if path == "" {
		return "the profile"
	}
	return path[strings.LastIndex(path, ".")+1:]
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "list"
	case yaml.MappingNode:
		return "group of keys"
	}
	return "single value"
}
