package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/access"

	"github.com/spf13/cobra"
)

// commands are all commands below c that do something, by their path without "ingot".
func commands(c *cobra.Command) map[string]*cobra.Command {
	list := map[string]*cobra.Command{}
	for _, s := range c.Commands() {
		if !s.HasSubCommands() {
			list[strings.TrimPrefix(s.CommandPath(), "ingot ")] = s
		}
		for path, below := range commands(s) {
			list[path] = below
		}
	}
	return list
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if code, out, _ := invoke(t, "completion", shell); code != 0 || !strings.Contains(out, "ingot") {
			t.Errorf("completion %s: exit code %d, %d bytes", shell, code, len(out))
		}
	}
}

// TestEveryArgumentIsCompleted: a command that takes arguments says what they
// are, and the table of completions names no other.
func TestEveryArgumentIsCompleted(t *testing.T) {
	a := newApp(nil, nil, nil)
	all, table := commands(a.rootCommand()), a.arguments()
	takes := regexp.MustCompile(`^\S+ .*[A-Z]`)
	for path, c := range all {
		if takes.MatchString(c.Use) && table[path] == nil {
			t.Errorf("ingot %s: nothing completes the arguments of %q", path, c.Use)
		}
	}
	for path := range table {
		if all[path] == nil {
			t.Errorf("the table completes %q, which is no command", path)
		}
	}
}

// TestCompletion: names of machines and images come from the server, words and
// files from the command, and without a server there are none.
func TestCompletion(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	listen(t, l, &rack{}, &access.Keeper{Find: nobody, Now: time.Now})
	at := []string{"__complete", "--server", "unix://" + socket}
	nowhere := []string{"__complete", "--server", "unix:///nowhere"}
	for _, c := range []struct {
		args []string
		want []string // on standard output, without descriptions
	}{
		{append(slices.Clone(at), "machine", "show", "node"), []string{"node01", "node02", "node03", ":4"}},
		{append(slices.Clone(at), "machine", "show", "node01", "node"), []string{"node02", "node03", ":4"}},
		{append(slices.Clone(at), "machine", "rename", "node01", ""), []string{":4"}},
		{append(slices.Clone(at), "grant", "node03", ""), []string{"logs", ":4"}}, // what can be withdrawn
		{append(slices.Clone(nowhere), "machine", "show", ""), []string{":4"}},
		{[]string{"__complete", "build", "l"}, []string{"debian", "lab", "node", "rescue", ":0"}},
		{[]string{"__complete", "backup", ""}, []string{":0"}},
		{[]string{"__complete", "token", "create", "x", "--scope", "a"}, []string{"admin", ":4"}},
		{[]string{"__complete", "lab", "power", "bios1", "c"}, []string{"cycle", ":4"}},
	} {
		_, out, _ := invoke(t, c.args...)
		var got []string
		for line := range strings.Lines(out) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			got = append(got, word)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("ingot %s completes %q; want %q", strings.Join(c.args, " "), got, c.want)
		}
	}
}

// TestManualPages: there is a page for each command, the unit's man:ingot(1)
// among them, and man(1) has nothing to complain about.
func TestManualPages(t *testing.T) {
	dir := t.TempDir()
	if code, _, stderr := invoke(t, "man", dir); code != 0 {
		t.Fatalf("ingot man: exit code %d\n%s", code, stderr)
	}
	for path, c := range commands(newApp(nil, nil, nil).rootCommand()) {
		page := filepath.Join(dir, "ingot-"+strings.ReplaceAll(path, " ", "-")+".1")
		text, err := os.ReadFile(page)
		if c.Hidden || c.Name() == "help" {
			continue
		}
		if err != nil || !strings.Contains(string(text), "0 done, 1 failed, 2 wrong usage") {
			t.Errorf("%s: %v, or no exit codes in %d bytes", page, err, len(text))
		}
	}
	man, err := exec.LookPath("man")
	if err != nil {
		t.Skip("man is not installed")
	}
	out, err := exec.CommandContext(context.Background(), man, "--warnings", "--local-file",
		filepath.Join(dir, "ingot.1")).CombinedOutput()
	for _, want := range []string{"INGOT_STORE", "build an image from a profile", "EXIT STATUS"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("man ingot (%v) has no %q:\n%s", err, want, out)
		}
	}
}
