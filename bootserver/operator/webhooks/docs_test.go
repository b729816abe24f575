package webhooks

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/operator"
	"ingot/internal/wire"
)

var update = flag.Bool("update", false, "write the generated parts of docs/WEBHOOKS.md anew")

const page = "../../../docs/WEBHOOKS.md"

// TestDocs: the list of events and the sample of docs/WEBHOOKS.md are those of the code.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	want := between(t, between(t, string(text), "events", eventTable(t)), "sample", sampleEvent(t))
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(text) {
		t.Errorf("%s is not as generated; run: go test ./bootserver/operator/webhooks -run TestDocs -update", page)
	}
}

// between replaces what is between two comments of a page.
func between(t *testing.T, text, name, with string) string {
	t.Helper()
	before, rest, begins := strings.Cut(text, "<!-- "+name+" -->\n")
	_, after, ends := strings.Cut(rest, "<!-- end of "+name+" -->")
	if !begins || !ends {
		t.Fatalf("%s has no part %q", page, name)
	}
	return before + "<!-- " + name + " -->\n" + with + "<!-- end of " + name + " -->" + after
}

// eventTable lists all codes with their topics and, from the comments of the code, their fields.
func eventTable(t *testing.T) string {
	t.Helper()
	about := comments(t)
	var b strings.Builder
	b.WriteString("| code | topics | what happened; fields in `from` and `to` |\n|---|---|---|\n")
	for _, topic := range fleet.Topics() {
		for _, code := range fleet.Codes() {
			c := fleet.Change{Code: code}
			if c.Topics()[0] != topic || code == fleet.CodeText {
				continue
			}
			text := about[code]
			if c.Audit() {
				text = c.String()
			}
			if text == "" {
				t.Errorf("the constant of code %s has no comment", code)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", code, strings.Join(c.Topics(), ", "), text)
		}
	}
	return b.String()
}

// comments returns the comments of the constants of codes.
func comments(t *testing.T) map[fleet.Code]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../fleet/codes.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	about := map[fleet.Code]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		s, is := n.(*ast.ValueSpec)
		if !is || len(s.Values) != 1 || s.Comment == nil {
			return true
		}
		if l, is := s.Values[0].(*ast.BasicLit); is {
			if code, err := strconv.Unquote(l.Value); err == nil {
				about[fleet.Code(code)] = strings.TrimSpace(s.Comment.Text())
			}
		}
		return true
	})
	return about
}

// sampleEvent is the body of a request, as it is sent but for its white space.
func sampleEvent(t *testing.T) string {
	t.Helper()
	c := fleet.Change{Seq: 4711, At: time.Date(2026, 12, 1, 3, 4, 5, 0, time.UTC), Code: fleet.CodeBootEnded,
		Machine: "m-525400120001", Boot: ingot.NewBootID([16]byte{1}), Detail: "no report within 15m0s",
		Image: fleet.ImageRef{Image: ingot.DigestOf([]byte("v1")), Name: "node:8"}, To: fleet.Values{"outcome": "silent"}}
	d := operator.EventOf(c)
	d.MachineName = "node01"
	text, err := json.MarshalIndent(api.WebhookEvent{Type: string(c.Code), Timestamp: c.At, Data: d}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return "```json\n" + string(text) + "\n```\n"
}

// block returns a block of code of the page, by its language.
func block(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(text), "\n```"+language+"\n")
	code, _, ends := strings.Cut(rest, "\n```\n")
	if !begins || !ends {
		t.Fatalf("%s has no block of %s", page, language)
	}
	return code + "\n"
}

// TestShellVerifies: the lines of docs/WEBHOOKS.md that verify a signature by hand do, and refuse others.
func TestShellVerifies(t *testing.T) {
	wire.Need(t, "sh", "openssl", "base64", "od")
	script := filepath.Join(t.TempDir(), "verify.sh")
	if err := os.WriteFile(script, []byte(block(t, "sh")), 0o755); err != nil {
		t.Fatal(err)
	}
	key, body, at := bytes.Repeat([]byte{0xfe}, webhook.NewSecret), []byte("{\"a\":\n1}"), time.Unix(1796094245, 0)
	signature := webhook.Sign("evt_1", at, body, key)
	for _, c := range []struct {
		id, signature string
		body          []byte
		ok            bool
	}{{"evt_1", signature, body, true}, {"evt_2", signature, body, false}, {"evt_1", signature, body[1:], false},
		{"evt_1", "v1,AAAA", body, false}} {
		cmd := exec.CommandContext(t.Context(), "sh", script, webhook.FormatSecret(key), c.id, "1796094245", c.signature)
		cmd.Stdin = bytes.NewReader(c.body)
		if out, err := cmd.CombinedOutput(); (err == nil) != c.ok {
			t.Errorf("verifying %s of %q: %v, %s; want %v", c.id, c.body, err, out, c.ok)
		}
	}
}
