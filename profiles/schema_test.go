package profiles

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEveryKeyIsDescribed: the schema, and so every editor and the reference page, has a sentence about each
// key.
func TestEveryKeyIsDescribed(t *testing.T) {
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var schema any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	keys := 0
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			properties, _ := v["properties"].(map[string]any)
			for key, value := range properties {
				keys++
				described, _ := value.(map[string]any)["description"].(string)
				if !strings.HasSuffix(described, ".") && !strings.HasSuffix(described, "…") {
					t.Errorf("%s%s is described as %q; want a sentence: write a comment above the field", path, key, described)
				}
				walk(path+key+".", value)
			}
			for key, value := range v {
				if key != "properties" {
					walk(path, value)
				}
			}
		case []any:
			for _, item := range v {
				walk(path, item)
			}
		}
	}
	walk("", schema)
	if keys < 70 {
		t.Errorf("only %d keys were looked at", keys)
	}
}

// TestReferenceIsCurrent: the page of the documentation describes the keys that there are.
func TestReferenceIsCurrent(t *testing.T) {
	want, err := Reference()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../docs/PROFILE-KEYS.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("docs/PROFILE-KEYS.md is stale; run: bin/ingot profile reference > docs/PROFILE-KEYS.md\n%s", d)
	}
	for i, line := range strings.Split(string(want), "\n") {
		if len([]rune(line)) > pageWidth {
			t.Errorf("line %d has more than %d columns: %s", i+1, pageWidth, line)
		}
	}
}
