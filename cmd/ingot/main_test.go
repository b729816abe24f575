package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/fleet"
)

func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), append([]string{"--store", filepath.Join(t.TempDir(), "store")}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string // on standard error
	}{
		{[]string{"version"}, 0, ""},
		{[]string{"image", "ls"}, 0, ""},
		{[]string{"nonsense"}, 2, `unknown command "nonsense"`},
		{[]string{"image", "nonsense"}, 2, `unknown command "nonsense" for "ingot image"`},
		{[]string{"build"}, 2, "ingot build needs PROFILE"},
		{[]string{"build", "a", "b"}, 2, "takes 1 argument"},
		{[]string{"image", "ls", "--wrong"}, 2, "see: ingot image ls --help"},
		{[]string{"image", "ls", "-o", "xml"}, 2, "want table or json"},
		{[]string{"build", "lab", "--version", "a b"}, 2, "bad version"},
		{[]string{"grant", "m", "data"}, 2, "--disk SERIAL is needed"},
		{[]string{"serve", "--config="}, 2, "--interface is needed"},
		{[]string{"serve", "--config=", "--interface", "x", "--image", "lab"}, 2, "--image goes with --approve-all"},
		{[]string{"serve", "--config", "/nowhere/ingot.yaml"}, 1, "there is no configuration at /nowhere/ingot.yaml"},
		{[]string{"config", "check", "--config", "/nowhere/ingot.yaml"}, 1, "there is no configuration"},
		{[]string{"config", "reload"}, 1, "no server is running"},
		{[]string{"image", "inspect", "lab:v1"}, 1, "the store is empty, build one"},
		{[]string{"machine", "ls"}, 1, "→ ingot serve --interface IF"},
		{[]string{"lab", "ls"}, 1, "→ ingot lab up"},
	} {
		code, _, stderr := invoke(t, c.args...)
		if code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("ingot %s: exit code %d\n%s\nwant %d and %q", strings.Join(c.args, " "), code, stderr, c.code, c.want)
		}
	}
}

// TestEveryCommandHasAnExample: help ends with how it is used.
func TestEveryCommandHasAnExample(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Runnable() && c.Example == "" && !c.HasSubCommands() && c.Name() != "help" && c.Parent().Name() != "completion" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	a := &app{}
	walk(a.rootCommand())
	if _, out, _ := invoke(t, "build", "--help"); !strings.Contains(out, "Exit codes: 0 done, 1 failed, 2 wrong usage.") || !strings.Contains(out, "ingot build lab --version v1") {
		t.Errorf("ingot build --help =\n%s", out)
	}
}

func TestJSON(t *testing.T) {
	code, out, _ := invoke(t, "image", "ls", "-o", "json")
	var list []any
	if err := json.Unmarshal([]byte(out), &list); code != 0 || err != nil || list == nil {
		t.Errorf("image ls -o json of an empty store = %q (%v); want an empty list", out, err)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, _ := invoke(t, "completion", shell); code != 0 || !strings.Contains(out, "ingot") {
			t.Errorf("completion %s: exit code %d, %d bytes", shell, code, len(out))
		}
	}
}

// TestTables keeps what people see, control characters made harmless.
func TestTables(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	machineTable(&out, []fleet.Machine{
		{ID: "m-525400120001", Name: "node01", State: fleet.Approved, LastSeen: now.Add(-90 * time.Second),
			Assignment: fleet.Assignment{ImageRef: fleet.ImageRef{Image: "sha256:2", Name: "lab:v2"}}, LastHealthy: fleet.ImageRef{Image: "sha256:1", Name: "lab:v1"},
			Facts: ingot.Facts{Vendor: "Evil\x1b[2J", Product: "R\t1"}},
		{ID: "m-525400120002", State: fleet.Pending, LastSeen: now.Add(-50 * time.Hour)},
	}, now)
	want := `MACHINE         NAME    STATE     IMAGE   RUNS      LAST SEEN  ADDRESS  HARDWARE      LABELS
m-525400120001  node01  approved  lab:v2  lab:v1 *  1m ago     -        Evil·[2J R·1  -
m-525400120002  -       pending   -       -         2d ago     -        -             -
`
	if out.String() != want {
		t.Errorf("machine ls =\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	b := fleet.Boot{ID: ingot.NewBootID([16]byte{0xab}), Machine: "m-525400120001", Firmware: ingot.FirmwareBIOS, Started: now.Add(-time.Minute),
		Ended: now, Outcome: ingot.OutcomeFailed, Reason: "stage root: bad", Image: fleet.ImageRef{Name: "lab:v1"},
		Events: []fleet.Event{{Event: ingot.Event{Stage: ingot.StageDHCP}, At: now.Add(-time.Minute)}}}
	bootTable(&out, []fleet.Boot{b}, nil, now)
	want = `BOOT      MACHINE         FIRMWARE  IMAGE   STARTED  TOOK    STAGE  OUTCOME  REASON
ab000000  m-525400120001  bios      lab:v1  1m ago   60.0 s  dhcp   failed   stage root: bad
`
	if out.String() != want {
		t.Errorf("boots =\n%s\nwant\n%s", out.String(), want)
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 65 << 20: "65.0 MiB", 3 << 40: "3.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q; want %q", n, got, want)
		}
	}
}

func TestProgressInPlainLines(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.Step("fetch", 0, 10, "")
	p.Step("fetch", 10, 10, "10 MiB")
	p.Step("fetch", 10, 10, "again")
	p.Step("pack", 0, 0, "")
	p.Finish()
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 2 || !strings.HasSuffix(lines[0], "10 MiB") || !strings.HasPrefix(lines[1], "pack") {
		t.Errorf("progress =\n%s\nwant one line per step", out.String())
	}
}

func TestInitBinary(t *testing.T) {
	if _, err := initBinary(filepath.Join(t.TempDir(), "nothing")); err == nil {
		t.Error("a binary that is not there is taken")
	}
	p := filepath.Join(t.TempDir(), "ingot-init")
	if err := os.WriteFile(p, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := initBinary(p); err != nil || got != p {
		t.Errorf("initBinary(%q) = %q, %v", p, got, err)
	}
}
