package yamlfile

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
	"pgregory.net/rapid"
)

// TestScalar: every text is read back as itself, by the strict decoder and by the library, from one
// line; words stay words.
func TestScalar(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, s string) {
		line := Scalar(s)
		if strings.ContainsAny(line, "\r\n\u0085\u2028\u2029") {
			t.Fatalf("Scalar(%+q) = %+q has several lines", s, line)
		}
		var v struct {
			A string   `yaml:"a"`
			B []string `yaml:"b"`
		}
		var d Decoder
		text := "a: " + line + "\nb: [" + line + ", x]\n"
		if d.Decode([]byte(text), &v); len(d.Faults) > 0 || v.A != s || len(v.B) != 2 || v.B[0] != s {
			t.Fatalf("%+q reads back as %+q; want %+q; %v", text, v, s, d.Faults)
		}
		var loose map[string]any
		if err := yaml.Unmarshal([]byte(text), &loose); err != nil || loose["a"] != s {
			t.Fatalf("%+q reads back as %#v, %v", text, loose, err)
		}
	}
	for _, s := range []string{"", "null", "Null", "~", "true", "yes", "on", "1", "1.10", ".5", ".inf", ".nan", "0x1f",
		"-", "- a",
		"a: b", "a #b", "#", "@boot", "%x", "&a", "*a", "!a", "'", `"`, `\`, "a\rb", "a\u0085b", "a\u2028b", "\ufffe",
		"\ufeff",
		"./root.tar.zst", "[a]", "{a}", "a,b", "?", "=", "<<", "2026-01-01", "---", "...", " a ", "\U0010ffff",
		"/", "//"} {
		check(t, s)
	}
	rapid.Check(t, func(r *rapid.T) { check(r, rapid.String().Draw(r, "text")) })
	if got := Scalar("console=ttyS0"); got != "console=ttyS0" {
		t.Errorf("Scalar = %s; want the word without quotes", got)
	}
}

// TestComment: a comment is one line for every reader of YAML, however odd its text.
func TestComment(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var n yaml.Node
		text := Comment(rapid.String().Draw(r, "text")+rapid.SampledFrom([]string{"\r", "\u0085", "\u2028", "\x00",
			"\xff", "\ufffe"}).Draw(r, "end")+"b: 1") + "\na: 1\n"
		if err := yaml.Unmarshal([]byte(text), &n); err != nil {
			r.Fatalf("%+q: %v", text, err)
		}
		if len(n.Content) != 1 || len(n.Content[0].Content) != 2 {
			r.Fatalf("%+q has other keys", text)
		}
	})
	if n := len([]rune(Comment(strings.Repeat("é", 1<<20)))); n > maxComment+2 {
		t.Errorf("a comment has %d characters", n)
	}
}
