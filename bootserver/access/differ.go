package access

import (
	"encoding/json"
	"reflect"
	"strings"
)

// maxText bounds one text of a change in bytes: what machines say of
// themselves may be long.
const maxText = 300

// Differ returns the fields, by their JSON names, in which two values differ.
// Fields of objects are compared one by one, under names like
// "assignment.name". Either value may be nil: all of the other differs.
func Differ(before, after any) (from, to map[string]any) {
	from, to = map[string]any{}, map[string]any{}
	a, b := fields(before), fields(after)
	for name, v := range a {
		if w, has := b[name]; !has || !reflect.DeepEqual(v, w) {
			from[name] = clip(v)
		}
	}
	for name, w := range b {
		if v, has := a[name]; !has || !reflect.DeepEqual(v, w) {
			to[name] = clip(w)
		}
	}
	return from, to
}

// fields are the fields of a value, those inside objects with the object's name.
func fields(v any) map[string]any {
	flat := map[string]any{}
	text, err := json.Marshal(v)
	if err != nil {
		return map[string]any{"unreadable": err.Error()}
	}
	var object map[string]any
	if json.Unmarshal(text, &object) == nil {
		flatten("", object, flat)
	}
	return flat
}

func flatten(prefix string, object, into map[string]any) {
	for k, v := range object {
		if inner, is := v.(map[string]any); is {
			flatten(prefix+k+".", inner, into)
		} else {
			into[prefix+k] = v
		}
	}
}

func clip(v any) any {
	switch v := v.(type) {
	case string:
		if len(v) > maxText {
			return strings.ToValidUTF8(v[:maxText], "") + "…"
		}
	case []any:
		if text, err := json.Marshal(v); err == nil && len(text) > 8*maxText {
			return clip(string(text))
		}
	}
	return v
}
