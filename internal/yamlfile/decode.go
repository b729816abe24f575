// Package yamlfile reads YAML files that people write: profiles and the server's configuration. It
// is strict, and reports all unknown keys, wrong types and bad values together, each with its place
// and what to write instead. It reads one document per file and leaves out merge keys and custom
// tags.
package yamlfile

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Decoder decodes YAML into Go values. Unlike the decoder of the YAML library it continues after a
// fault, reports the column of each, and does not convert types: a version 1.10 stays the text
// "1.10".
type Decoder struct {
	File   string // for places
	What   string // the file is, for people: "the profile"
	Sample string // what to write into an empty file; empty: an empty file is fine
	Append bool   // lists of structs are appended to those of the value
	Plain  bool   // anchors and aliases are faults
	Faults Faults
	// Places maps the path of a value ("packages[2]") to its place.
	Places map[string]Place
}

// OneOrMore is a list that may be written as a single value.
type OneOrMore []string

// Decode decodes the content of a file into the struct that into points to. Fields are named by
// their yaml tags. A field At of type Place is set to the place of its struct. Faults are added to
// d.Faults.
//
// An item "-NAME" of a list of structs that have a field Minus sets that field to NAME: what has this
// name is not wanted.
func (d *Decoder) Decode(content []byte, into any) {
	if n := d.Parse(content); n != nil {
		d.DecodeNode(n, into)
	}
}

// Parse returns the content of a file as a node. It returns nil, and adds a fault, when it is not YAML
// or has nothing where something is needed.
func (d *Decoder) Parse(content []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(content))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		switch {
		case !errors.Is(err, io.EOF):
			d.syntax(content, err)
		case d.Sample != "":
			d.Faults.Add(Place{d.File, 1, 1}, "write at least: "+d.Sample, "the file is empty")
		}
		return nil
	}
	var second yaml.Node
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		at := Place{File: d.File}
		if second.Line > 0 {
			at = d.at(&second)
		}
		d.Faults.Add(at, "keep one document, without --- lines", "there is more than one YAML document")
	}
	if d.Plain {
		d.refuseAnchors(&doc)
	}
	return doc.Content[0]
}

// DecodeNode decodes what Parse returned.
func (d *Decoder) DecodeNode(n *yaml.Node, into any) {
	if d.Places == nil {
		d.Places = map[string]Place{}
	}
	d.decode(n, reflect.ValueOf(into).Elem(), "")
}

// syntax adds the fault of a text that is not YAML. Tabs that indent are the usual one: each is named.
func (d *Decoder) syntax(content []byte, err error) {
	tabs := false
	for i, line := range bytes.Split(content, []byte("\n")) {
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if at := bytes.IndexByte(indent, '\t'); at >= 0 && len(indent) < len(line) {
			d.Faults.Add(Place{d.File, i + 1, at + 1}, "indent with spaces", "a tab does not indent in YAML")
			tabs = true
		}
	}
	if tabs {
		return
	}
	var where *yaml.LoadError
	if errors.As(err, &where) && where.Mark.Line > 0 {
		d.Faults.Add(Place{d.File, where.Mark.Line, max(where.Mark.Column, 1)}, "correct the YAML", "%s", where.Message)
		return
	}
	d.Faults.Add(Place{File: d.File}, "correct the YAML", "%v", err)
}

// refuseAnchors adds a fault for each anchor and alias: a file that a program writes again would lose them.
func (d *Decoder) refuseAnchors(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.Faults.Add(d.at(n), "write the value", "an alias is not allowed: *%s", n.Value)
		return
	case n.Anchor != "":
		d.Faults.Add(d.at(n), "remove it, and write the value where it is used", "an anchor is not allowed: &%s", n.Anchor)
	}
	for _, part := range n.Content {
		d.refuseAnchors(part)
	}
}

func (d *Decoder) at(n *yaml.Node) Place { return Place{d.File, n.Line, n.Column} }

// decode fills v from n; path names the value in d.Places.
func (d *Decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		at := d.at(n)
		if n = n.Alias; d.Plain {
			if d.Places[path] = at; n.Kind != yaml.ScalarNode { // it could make a file of any size
				return
			}
		}
	}
	d.Places[path] = d.at(n)
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // "packages:" without a value
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.decodeText(n, u, path)
		return
	}
	if v.Type() == reflect.TypeFor[OneOrMore]() && n.Kind == yaml.ScalarNode {
		v.Set(reflect.ValueOf(OneOrMore{n.Value}))
		d.Places[path+"[0]"] = d.at(n)
		return
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d.decodeText(n, (*Duration)(v.Addr().Interface().(*time.Duration)), path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), path)
	case reflect.Struct:
		d.decodeStruct(n, v, path)
	case reflect.Slice:
		d.decodeSlice(n, v, path)
	case reflect.Map:
		d.decodeMap(n, v, path)
	default:
		d.decodeScalar(n, v, path)
	}
}

func (d *Decoder) decodeText(n *yaml.Node, u encoding.TextUnmarshaler, path string) {
	if n.Kind != yaml.ScalarNode {
		d.Faults.Add(d.at(n), "write one value", "%s is a %s", d.last(path), kindName(n))
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		what, fix, _ := strings.Cut(err.Error(), "; ")
		d.Faults.Add(d.at(n), fix, "%s: %s", d.last(path), what)
	}
}

func (d *Decoder) decodeScalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.Faults.Add(d.at(n), "write one value", "%s is a %s", d.last(path), kindName(n))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if n.Tag == "!!bool" {
			d.Faults.Add(d.at(n), fmt.Sprintf("write %q in quotes if you mean the text", n.Value), "%s is true or false, "+
				"not text", d.last(path))
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		b, err := strconv.ParseBool(n.Value)
		if err != nil || n.Tag != "!!bool" {
			d.Faults.Add(d.at(n), "write true or false", "%s is %q", d.last(path), n.Value)
			return
		}
		v.SetBool(b)
	case reflect.Int:
		i, err := strconv.ParseInt(n.Value, 10, 32)
		if err != nil || i < 0 {
			d.Faults.Add(d.at(n), "write a whole number from 0", "%s is %q", d.last(path), n.Value)
			return
		}
		v.SetInt(i)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		i, err := strconv.ParseUint(n.Value, 10, v.Type().Bits())
		if err != nil {
			d.Faults.Add(d.at(n), fmt.Sprintf("write a whole number from 0 to %d", uint64(1)<<v.Type().Bits()-1),
				"%s is %q", d.last(path), n.Value)
			return
		}
		v.SetUint(i)
	default:
		panic("yamlfile: no rule for " + v.Type().String()) // a field of a type that decode does not handle
	}
}

func (d *Decoder) decodeSlice(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.Faults.Add(d.at(n), fmt.Sprintf("write a list: [%s]", strings.TrimSpace(n.Value)),
			"%s is a %s, not a list", d.last(path), kindName(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), 0, len(n.Content))
	if _, scalar := reflect.New(v.Type().Elem()).Interface().(encoding.TextUnmarshaler); d.Append &&
		v.Type().Elem().Kind() == reflect.Struct && !scalar {
		list = reflect.AppendSlice(list, v)
	}
	for _, item := range n.Content {
		list = reflect.Append(list, reflect.Zero(v.Type().Elem()))
		i := list.Len() - 1
		d.decode(item, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(list)
}

// decodeMap decodes a map whose keys are free, such as labels.
func (d *Decoder) decodeMap(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.Faults.Add(d.at(n), "write keys with values: {key: value}", "%s is a %s, not a group of keys", d.last(path),
			kindName(n))
		return
	}
	m := reflect.MakeMap(v.Type())
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], reflect.New(v.Type().Elem()).Elem()
		name := reflect.ValueOf(key.Value).Convert(v.Type().Key())
		switch {
		case key.Kind != yaml.ScalarNode:
			d.Faults.Add(d.at(key), "write one word", "a key of %s is a %s", d.last(path), kindName(key))
			continue
		case m.MapIndex(name).IsValid():
			d.Faults.Add(d.at(key), "keep one of them", "the key %q is written twice", key.Value)
			continue
		}
		d.decode(n.Content[i+1], value, join(path, key.Value))
		m.SetMapIndex(name, value)
	}
	v.Set(m)
}

func (d *Decoder) decodeStruct(n *yaml.Node, v reflect.Value, path string) {
	if name, ok := strings.CutPrefix(n.Value, "-"); ok && n.Kind == yaml.ScalarNode && name != "" {
		if f := v.FieldByName("Minus"); f.IsValid() {
			f.SetString(name)
			v.FieldByName("At").Set(reflect.ValueOf(d.at(n)))
			return
		}
	}
	if n.Kind != yaml.MappingNode {
		d.Faults.Add(d.at(n), "write its keys: "+strings.Join(keysOf(v.Type()), ", "),
			"%s is a %s, not a group of keys", d.last(path), kindName(n))
		return
	}
	if f := v.FieldByName("At"); f.IsValid() {
		f.Set(reflect.ValueOf(d.at(n)))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if seen[key.Value] {
			d.Faults.Add(d.at(key), "keep one of them", "the key %q is written twice", key.Value)
			continue
		}
		seen[key.Value] = true
		if d.Plain && key.Value == "<<" && value.Kind == yaml.AliasNode {
			continue // a fault already
		}
		field := fieldByKey(v, key.Value)
		if !field.IsValid() {
			d.unknownKey(key, v.Type())
			continue
		}
		d.decode(value, field, join(path, key.Value))
	}
}

func (d *Decoder) unknownKey(key *yaml.Node, t reflect.Type) {
	keys := keysOf(t)
	fix := "known keys: " + strings.Join(keys, ", ")
	if near := Nearest(key.Value, keys); near != "" {
		fix = fmt.Sprintf("write %q", near)
	}
	d.Faults.Add(d.at(key), fix, "unknown key %q", key.Value)
}

func yamlKey(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if key == "-" {
		return ""
	}
	return key
}

func inline(f reflect.StructField) bool { return strings.HasSuffix(f.Tag.Get("yaml"), ",inline") }

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if inline(t.Field(i)) {
			keys = append(keys, keysOf(t.Field(i).Type)...)
		} else if k := yamlKey(t.Field(i)); k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

func fieldByKey(v reflect.Value, key string) reflect.Value {
	for i := range v.NumField() {
		if inline(v.Type().Field(i)) {
			if f := fieldByKey(v.Field(i), key); f.IsValid() {
				return f
			}
		} else if k := yamlKey(v.Type().Field(i)); k != "" && k == key {
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

// last returns the last part of a path: "mode" of "files[3].mode".
func (d *Decoder) last(path string) string {
	if path == "" {
		return d.What
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
