package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func invoke(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(context.Background(), append([]string{"--store", filepath.Join(t.TempDir(), "store")}, args...),
		strings.NewReader(""), &out, &errs)
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
		{[]string{"merge", "m-1", "m-2"}, 2, "did you mean: ingot machine merge\n"},
		{[]string{"-o", "json", "merge", "a"}, 2, "did you mean: ingot machine merge\n"},
		{[]string{"inspect", "lab:v1"}, 2, "did you mean: ingot image inspect\n"},
		{[]string{"machin", "ls"}, 2, "did you mean: ingot machine\n"},
		{[]string{"machine", "aprove", "m-1"}, 2, "did you mean: ingot machine approve\n"},
		{[]string{"machine", "assign", "m-1"}, 2, "did you mean: ingot assign\n"},
		{[]string{"build"}, 2, "ingot build needs PROFILE"},
		{[]string{"build", "a", "b"}, 2, "takes 1 argument"},
		{[]string{"image", "ls", "--wrong"}, 2, "see: ingot image ls --help"},
		{[]string{"image", "ls", "-o", "xml"}, 2, "want table or json"},
		{[]string{"build", "lab", "--version", "a b"}, 2, "bad version"},
		{[]string{"grant", "m", "data"}, 2, "--disk SERIAL is needed"},
		{[]string{"grant", "m", "data", "--withdraw", "--disk", "x"}, 2, "give it without --disk"},
		{[]string{"serve", "--config="}, 2, "--interface is needed"},
		{[]string{"serve", "--config=", "--interface", "x", "--image", "lab"}, 2, "--image needs --approve-all"},
		{[]string{"serve", "--config", "/nowhere/ingot.yaml"}, 1, "there is no configuration at /nowhere/ingot.yaml"},
		{[]string{"config", "check", "--config", "/nowhere/ingot.yaml"}, 1, "there is no configuration"},
		{[]string{"config", "reload"}, 1, "no server is running"},
		{[]string{"image", "inspect", "lab:v1"}, 1, "the store is empty; to build an image: ingot build lab"},
		{[]string{"machine", "ls"}, 1, "→ run: ingot serve --interface IF"},
		{[]string{"lab", "ls"}, 1, "→ run: ingot lab up"},
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
		if c.Runnable() && c.Example == "" && c.Name() != "help" && c.Parent().Name() != "completion" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if c.Short == "" {
			t.Errorf("%s has no description", c.CommandPath())
		}
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	a := newApp(nil, nil, nil)
	walk(a.rootCommand())
	if _, out, _ := invoke(t, "build", "--help"); !strings.Contains(out,
		"Exit codes: 0 done, 1 failed, 2 wrong usage.") || !strings.Contains(out, "ingot build lab --version v1") {
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
