package harmless

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// spite is text that does something where it is shown.
var spite = []string{
	"\x1b[2J\x1b[31mred", "\x1b]0;title\a", "\u009b31m", "a\rb", "a\nb", "a\tb", "\b\b\b", "\x00", "\x7f",
	"\u202eesrever", "\u2066x\u2069", "zero\u200bwidth", "\ufeff", "line\u2028break\u2029", "\U000e0041", "\xff\xfe",
	"<script>alert(1)</script>",
}

func TestText(t *testing.T) {
	for _, s := range spite {
		for name, got := range map[string]string{"Text": Text(s),
			"Lines": strings.NewReplacer("\n", "", "\t", "").Replace(Lines(s))} {
			if strings.ContainsFunc(got, Harms) || !utf8.ValidString(got) {
				t.Errorf("%s(%q) = %q; it still harms", name, s, got)
			}
		}
	}
	for _, s := range []string{"", "node01", "Größe 5 µm — „ok“", "日本 🖥"} {
		if got := Text(s); got != s {
			t.Errorf("Text(%q) = %q; want it unchanged", s, got)
		}
	}
}

func TestJSON(t *testing.T) {
	for _, s := range append([]string{"", "plain", "\ufffd"}, spite...) {
		text, err := json.MarshalIndent(map[string]string{"k" + s: s}, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		var want, got map[string]string
		out := JSON(text)
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("JSON(%s) = %s: %v", text, out, err)
		}
		for k, v := range want {
			if got[k] != v {
				t.Errorf("JSON(%s) reads back as %q; want %q", text, got[k], v)
			}
		}
		if strings.ContainsFunc(strings.NewReplacer("\n", "", "\t", "").Replace(string(out)), Harms) {
			t.Errorf("JSON(%q) = %q; it still harms", text, out)
		}
	}
}

// BenchmarkJSON is a list of ten thousand machines, as a server answers it.
func BenchmarkJSON(b *testing.B) {
	text := []byte("[" + strings.Repeat(
		`{"id":"m-525400120001","name":"node00001","state":"approved","macs":["52:54:00:12:00:01"],`+
			`"facts":{"vendor":"Example","product":"Server"}},`+"\n", 10_000) + "{}]")
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		JSON(text)
	}
}
