package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/internal/harmless"
)

// spite is what a machine may call itself, and what its cards, disks and
// messages may say.
const spite = "\x1b[2J\x1b]0;owned\a\u009b31m\r\n\t\b\x00\x7f\u202etxt.exe\u2066\u200b\u2028" +
	"<script>alert(1)</script>\U000e0041"

// fill puts spite into every text of a value that is not of a closed set, and
// one element into every list and map.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(spite)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0))
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		switch v.Type() {
		case reflect.TypeFor[time.Time](), reflect.TypeFor[netip.Addr]():
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Interface:
		v.Set(reflect.ValueOf(spite))
	case reflect.Int64, reflect.Int:
		v.SetInt(1)
	}
}

// spiteful is a server all of whose machines are out to harm who looks at them.
type spiteful struct{ api.Backend }

func filled[T any]() (v T) {
	fill(reflect.ValueOf(&v).Elem())
	return v
}

func (spiteful) Version() string                     { return spite }
func (spiteful) Machines() []api.Machine             { return []api.Machine{filled[api.Machine]()} }
func (spiteful) Machine(string) (api.Machine, error) { return filled[api.Machine](), nil }
func (spiteful) Boots(api.BootsRequest) ([]api.Boot, string, error) {
	return []api.Boot{filled[api.Boot]()}, "", nil
}
func (spiteful) Credentials() []access.Credential {
	return []access.Credential{filled[access.Credential]()}
}
func (spiteful) Network() api.Network {
	return filled[api.Network]()
}
func (spiteful) Audit(uint64, bool, int) ([]api.AuditEntry, error) {
	return []api.AuditEntry{filled[api.AuditEntry]()}, nil
}
func (spiteful) Authority() api.Authority {
	return api.Authority{Listens: []string{"127.0.0.1:7443"}}
}
func (spiteful) Reload(context.Context) (api.Reloaded, error) { return filled[api.Reloaded](), nil }
func (spiteful) Approve(context.Context, string, api.ApproveRequest) (api.Machine, error) {
	return filled[api.Machine](), nil
}
func (spiteful) Events(context.Context, api.EventsRequest) (api.Events, error) {
	return filled[api.Events](), nil
}
func (spiteful) Console(string, string) (api.Console, error) { return filled[api.Console](), nil }
func (spiteful) Why(string) (api.Why, error)                 { return filled[api.Why](), nil }
func (spiteful) LatestBoots() []api.Boot                     { return []api.Boot{filled[api.Boot]()} }
func (spiteful) Resume(context.Context, string) (api.Machine, error) {
	return filled[api.Machine](), nil
}
func (spiteful) Label(context.Context, string, api.LabelRequest) (api.Machine, error) {
	return filled[api.Machine](), nil
}
func (spiteful) Rename(context.Context, string, string) (api.Machine, error) {
	return filled[api.Machine](), nil
}
func (spiteful) Retire(context.Context, string) (api.Machine, error) {
	return filled[api.Machine](), nil
}
func (spiteful) Forget(context.Context, string, bool) (api.Machine, error) {
	return filled[api.Machine](), nil
}
func (spiteful) Merge(context.Context, string, string, bool) (api.Machine, error) {
	return filled[api.Machine](), nil
}
func (spiteful) Rollback(context.Context, string, bool) (api.Machine, error) {
	return api.Machine{}, api.NewProblem(api.CodeNoRollback, spite, "machine", spite)
}
func (spiteful) Assign(context.Context, string, api.AssignRequest) (api.Machine, error) {
	return filled[api.Machine](), nil
}
func (spiteful) Grant(context.Context, string, api.GrantRequest) (api.Machine, error) {
	return filled[api.Machine](), nil
}

// listen answers at l until the test ends.
func listen(t *testing.T, l net.Listener, b api.Backend, gate api.Gate) {
	t.Helper()
	s := &http.Server{Handler: api.Handler(b, gate, nil), ConnContext: access.Peers{}.ConnContext,
		ErrorLog: log.New(io.Discard,
			"", 0)}
	go func() { _ = s.Serve(l) }() // it ends with the test
	t.Cleanup(func() { _ = s.Close() })
}

func nobody(string) (access.Credential, bool) { return access.Credential{}, false }

// TestWhatMachinesSayIsHarmless: no command lets a machine's words do anything
// to the terminal, in tables, in JSON and in errors; and JSON keeps them.
func TestWhatMachinesSayIsHarmless(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	listen(t, l, spiteful{}, &access.Keeper{Find: nobody, Now: time.Now})
	for _, args := range [][]string{
		{"machine", "ls"}, {"machine", "show", "x"}, {"machine", "approve", "x"}, {"assign", "x", "y"}, {"rollback", "x"},
		{"grant", "x", "y", "--disk", "z"},
		{"boots"}, {"boots", "x", "--timeline"}, {"network"}, {"audit"}, {"token", "ls"}, {"config", "reload"}, {"events"},
		{"console", "x"}, {"why", "x"}, {"resume", "x"}, {"machine", "label", "x", "a=b"}, {"machine", "rename", "x",
			"node02"}, {"machine", "retire", "x"}, {"machine", "forget", "x"}, {"machine", "merge", "x", "y"},
	} {
		for _, form := range []string{"table", "json"} {
			_, stdout, stderr := invoke(t, append(args, "--server", "unix://"+socket, "-o", form)...)
			// Errors of several lines and tabs are ours; a table has no tab.
			text := stdout + strings.ReplaceAll(stderr, "\t", "")
			if at := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && harmless.Harms(r) }); at >= 0 {
				t.Errorf("ingot %s -o %s writes %q", strings.Join(args, " "), form, text[at:min(len(text), at+30)])
			}
			if form == "json" && args[0] != "rollback" {
				if strings.Contains(text, "<script>") {
					t.Errorf("ingot %s -o json writes markup", strings.Join(args, " "))
				}
				var v any
				if err := json.NewDecoder(strings.NewReader(stdout)).Decode(&v); err != nil || !says(v, spite) {
					t.Errorf("ingot %s -o json: %v; want what the machine said, in %s", strings.Join(args, " "), err, stdout)
				}
			}
		}
	}
}

// says reports whether a text is anywhere in a value.
func says(v any, text string) bool {
	switch v := v.(type) {
	case string:
		return v == text
	case []any:
		for _, e := range v {
			if says(e, text) {
				return true
			}
		}
	case map[string]any:
		for _, e := range v {
			if says(e, text) {
				return true
			}
		}
	}
	return false
}

// remote is a server that is reached over TLS, and one token of it.
func remote(t *testing.T) (url string, ca *access.CA, token string) {
	t.Helper()
	ca, err := access.OpenCA(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := access.NewCredential("ci", access.Token, access.Read, time.Hour, access.Who{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, token = c.Secret([28]byte{1})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen(t, tls.NewListener(l, ca.TLS()), spiteful{}, &access.Keeper{Now: time.Now,
		Find: func(id string) (access.Credential, bool) { return c, id == c.ID }})
	return "https://" + l.Addr().String(), ca, token
}

// call runs a command of a user with a configuration folder of his own.
func call(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// TestContexts: a server is remembered when its CA is the one that was named
// and takes the token; then commands go to it; the file is its owner's alone.
func TestContexts(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	for _, name := range []string{"INGOT_SERVER", "INGOT_CONTEXT", "INGOT_TOKEN", "INGOT_STORE"} {
		t.Setenv(name, "")
	}
	url, ca, token := remote(t)
	other, _, _ := remote(t)
	add := func(stdin string, more ...string) (int, string) {
		code, _, stderr := call(t, stdin, append([]string{"context", "add", "berlin", url}, more...)...)
		return code, stderr
	}
	for _, c := range []struct {
		stdin string
		args  []string
		want  string
	}{
		{"", nil, "repeat with: --ca-fingerprint " + ca.Fingerprint()},
		{token, []string{"--ca-fingerprint", "sha256:00", "--token-file", "-"}, "not the server that was pinned"},
		{"hunter2", []string{"--ca-fingerprint", ca.Fingerprint(), "--token-file", "-"}, "this is not a token"},
		{token[:len(token)-1] + "f", []string{"--ca-fingerprint", ca.Fingerprint(), "--token-file", "-"},
			"knows no such token"},
		{"", []string{"--ca-fingerprint", ca.Fingerprint()}, "--token-file FILE or --cert FILE is needed"},
	} {
		if code, stderr := add(c.stdin, c.args...); code == 0 || !strings.Contains(stderr, c.want) {
			t.Errorf("context add %v: %d\n%s\nwant %q", c.args, code, stderr, c.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ingot")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a server that was not taken is remembered (%v)", err)
	}
	if code, stderr := add(token+"\n", "--ca-fingerprint", ca.Fingerprint(), "--token-file", "-"); code != 0 {
		t.Fatalf("context add: %d\n%s", code, stderr)
	}
	file := filepath.Join(dir, "ingot", "contexts.json")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v; want mode 0600", file, info.Mode(), err)
	}
	for _, args := range [][]string{{"machine", "ls"}, {"--context", "berlin", "machine", "ls"},
		{"--server", url, "machine", "ls"}} {
		if code, _, stderr := call(t, "", args...); code != 0 {
			t.Errorf("ingot %v: %d %s", args, code, stderr)
		}
	}
	if code, stdout, _ := call(t, "", "context", "ls", "-o", "json"); code != 0 || strings.Contains(stdout, token) ||
		!strings.Contains(stdout, `"current": true`) {
		t.Errorf("context ls: %d\n%s\nwant berlin in use, and no token", code, stdout)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--context", "paris", "machine", "ls"}, "there is no context \"paris\""},
		{[]string{"--server", other, "machine", "ls"}, "its CA is not known"},
		{[]string{"--server", "http" + strings.TrimPrefix(url, "https"), "machine", "ls"}, "would travel in the clear"},
		{[]string{"rollback", "x"}, "this takes operate"},
	} {
		if code, _, stderr := call(t, "", c.args...); code != 1 || !strings.Contains(stderr, c.want) {
			t.Errorf("ingot %v: %d %s; want %q", c.args, code, stderr, c.want)
		}
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, "", "machine", "ls"); code != 1 || !strings.Contains(stderr, "chmod 600") {
		t.Errorf("with a file that others can read: %d %s; want it refused", code, stderr)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := call(t, "", "context", "rm", "berlin"); code != 0 {
		t.Fatal(stderr)
	}
	if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), token) {
		t.Errorf("after context rm the file still holds the token (%v)", err)
	}
}

// TestChangeLine is one change as a line.
func TestChangeLine(t *testing.T) {
	uid := 0
	at := time.Date(2026, 11, 24, 3, 4, 5, 0, time.Local)
	e := api.AuditEntry{At: at, Who: access.Who{Kind: access.Local, Name: "root", UID: &uid}, Action: "machine.assign",
		On: "m-1", Name: "node01",
		From: map[string]any{"assignment.name": "lab:v1"}, To: map[string]any{"assignment.name": "lab:v2",
			"assignment.why": "x"}}
	want := `2026-11-24 03:04:05  local root  machine.assign node01: ` +
		`assignment.name "lab:v1" → "lab:v2" assignment.why - → "x"`
	if got := changeLine(e); got != want {
		t.Errorf("changeLine =\n%s; want\n%s", got, want)
	}
}
