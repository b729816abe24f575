package images

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"ingot/cmd/ingot/show"
)

// settingLines says how a field of the manifest differs, for people. before and after are JSON, empty if
// the field was not set.
func settingLines(name string, before, after json.RawMessage) (lines []string) {
	var a, b any
	_, _ = json.Unmarshal(before, &a), json.Unmarshal(after, &b) // what is empty is nil
	was, wasList := elements(a)
	is, isList := elements(b)
	if !wasList || !isList || a == nil && b == nil {
		return []string{fmt.Sprintf("%s %s → %s", name, valueText(name, a), valueText(name, b))}
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if _, stays := is[key]; !stays {
			lines = append(lines, fmt.Sprintf("− %s %s", name, key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(is)) {
		old, known := was[key]
		switch text := valueText(name, is[key]); {
		case !known && text != key && text != "":
			lines = append(lines, fmt.Sprintf("+ %s %s (%s)", name, key, text))
		case !known:
			lines = append(lines, fmt.Sprintf("+ %s %s", name, key))
		case !reflect.DeepEqual(old, is[key]):
			lines = append(lines, fmt.Sprintf("%s %s %s", name, key, fieldsText(name, old, is[key])))
		}
	}
	if lines == nil {
		return []string{name + " in another order"}
	}
	return lines
}

// elements returns the elements of a list by their names, or as they are if they are texts, or those of an
// object. is reports whether a value is one of these; none is one that is empty.
func elements(v any) (list map[string]any, is bool) {
	if fields, isObject := v.(map[string]any); isObject {
		return fields, true
	}
	list = map[string]any{}
	values, isList := v.([]any)
	for _, e := range values {
		key, isText := e.(string)
		if fields, isObject := e.(map[string]any); isObject {
			for _, by := range []string{"name", "path", "mount"} {
				if key, isText = fields[by].(string); isText {
					break
				}
			}
		}
		if _, twice := list[key]; !isText || twice {
			return nil, false
		}
		list[key] = e
	}
	return list, isList || v == nil
}

// fieldsText says which fields of an element differ, or how the element does if it has none.
func fieldsText(name string, before, after any) string {
	a, hadFields := before.(map[string]any)
	b, hasFields := after.(map[string]any)
	if !hadFields || !hasFields {
		return valueText(name, before) + " → " + valueText(name, after)
	}
	var parts []string
	for _, field := range fieldsOf(a, b) {
		if !reflect.DeepEqual(a[field], b[field]) {
			parts = append(parts, fmt.Sprintf("%s %s → %s", field, valueText(field, a[field]), valueText(field, b[field])))
		}
	}
	return strings.Join(parts, ", ")
}

// fieldsOf returns the names of the fields of objects, sorted.
func fieldsOf(objects ...map[string]any) (names []string) {
	for _, o := range objects {
		names = slices.AppendSeq(names, maps.Keys(o))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// valueText prints a value of the manifest. Numbers of some fields are sizes in bytes or times in
// nanoseconds.
func valueText(field string, v any) string {
	switch v := v.(type) {
	case nil:
		return "none"
	case string:
		return v
	case bool:
		return map[bool]string{true: "yes", false: "no"}[v]
	case float64:
		switch field {
		case "overlay", "minRAM":
			return show.Size(int64(v))
		case "deadline", "timeout", "within", "interval":
			return time.Duration(v).String()
		}
		return fmt.Sprint(v)
	case []any:
		var parts []string
		for _, e := range v {
			parts = append(parts, valueText(field, e))
		}
		return strings.Join(parts, " ")
	case map[string]any:
		var parts []string
		for _, name := range fieldsOf(v) {
			switch text := valueText(name, v[name]); {
			case name == "name":
			case v[name] == true:
				parts = append(parts, name)
			default:
				parts = append(parts, name+" "+text)
			}
		}
		return strings.Join(parts, ", ")
	}
	return fmt.Sprint(v)
}
