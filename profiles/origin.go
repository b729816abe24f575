package profiles

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"ingot/internal/yamlfile"
)

// Origin returns where a value of the profile is written, by its key: "kernel.package",
// "packages=nginx", "checks{ssh}.tcp". It is the zero Place for a default, and for a profile that was
// read from an image.
func (p *Profile) Origin(key string) Place { return p.origins[key] }

// recordOrigins adds where the values of a file are written.
func recordOrigins(origins map[string]Place, f *file) {
	walk(reflect.ValueOf(f.p).Elem(), "", "", func(key, path string, _ reflect.Value) {
		if at, ok := f.d.Places[path]; ok {
			origins[key] = at
		}
	})
}

// walk calls visit with each value that is set: its key, its path in the places of a decoder, and the
// value itself.
func walk(v reflect.Value, key, path string, visit func(key, path string, v reflect.Value)) {
	switch {
	case v.Kind() == reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), key, path, visit)
		}
	case yamlfile.IsScalar(v):
		visit(key, path, v)
	case v.Kind() == reflect.Struct:
		for name, field := range yamlfile.Fields(v) {
			if !field.IsZero() {
				walk(field, dotted(key, name), dotted(path, name), visit)
			}
		}
	case v.Kind() == reflect.Map:
		for _, k := range sortedKeys(v) {
			walk(v.MapIndex(k), dotted(key, k.String()), dotted(path, k.String()), visit)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			item := v.Index(i)
			walk(item, key+itemKey(item), fmt.Sprintf("%s[%d]", path, i), visit)
		}
	}
}

func sortedKeys(v reflect.Value) []reflect.Value {
	return slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int {
		return strings.Compare(a.String(), b.String())
	})
}

func dotted(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// itemKey is the part of a key that stands for an item of a list: its value, or its name.
func itemKey(item reflect.Value) string {
	if item.Kind() != reflect.Struct {
		return fmt.Sprintf("=%v", item)
	}
	if s, ok := item.Interface().(fmt.Stringer); ok {
		return fmt.Sprintf("{%s}", s)
	}
	for _, name := range []string{"Name", "Path"} {
		if f := item.FieldByName(name); f.IsValid() {
			return fmt.Sprintf("{%v}", f)
		}
	}
	return "{}"
}

// Text returns the merged profile as YAML. With origins, each value has a comment with the place that
// it is from.
func (p *Profile) Text(origins bool) ([]byte, error) {
	shown := *p
	shown.Vars = nil // its values are in the text already
	if !origins {
		return yamlfile.Encode(&shown)
	}
	comment := func(key string) string {
		if at := p.Origin(key); at.File != "" {
			return at.String()
		}
		return "default"
	}
	return yamlfile.EncodeWith(&shown, comment, itemKey)
}

// Origins returns the places of all values that are not defaults, by key.
func (p *Profile) Origins() map[string]Place {
	list := map[string]Place{}
	for _, v := range p.Values() {
		if at := p.Origin(v.Key); at.File != "" {
			list[v.Key] = at
		}
	}
	return list
}

// Value is one value of a merged profile.
type Value struct{ Key, Text string }

// Values returns all values that are set, in the order of the profile.
func (p *Profile) Values() []Value {
	var list []Value
	walk(reflect.ValueOf(p).Elem(), "", "", func(key, _ string, v reflect.Value) {
		list = append(list, Value{key, yamlfile.Text(v)})
	})
	return list
}

// Difference is a value that differs between two profiles.
type Difference struct {
	Key    string `json:"key"`
	Before string `json:"before,omitempty"` // empty: it is new
	After  string `json:"after,omitempty"`  // empty: it is gone
}

// Diff returns the values that differ between two profiles, by key. The name of the profile is not
// compared.
func Diff(before, after *Profile) []Difference {
	found := map[string]Difference{}
	for _, v := range before.Values() {
		found[v.Key] = Difference{Key: v.Key, Before: v.Text}
	}
	for _, v := range after.Values() {
		d := found[v.Key]
		d.Key, d.After = v.Key, v.Text
		found[v.Key] = d
	}
	var list []Difference
	for _, key := range slices.Sorted(maps.Keys(found)) {
		if d := found[key]; d.Before != d.After && key != "name" {
			list = append(list, d)
		}
	}
	return list
}
