package agent

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/rootfs"
)

// consoleUntil is a console that ends the agent when it was told something.
type consoleUntil struct {
	said bytes.Buffer
	end  context.CancelFunc
}

func (c *consoleUntil) Write(p []byte) (int, error) {
	defer c.end()
	return c.said.Write(p)
}

// TestWithoutServer: the agent of a machine that asked no server tells the
// console, and talks to nobody.
func TestWithoutServer(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(root, []byte("the root and what follows it"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		command string
		content string
		want    string
	}{
		"healthy": {"true", "the root", "lab:v1 is healthy, 1 checks passed"}, "check fails": {"false", "the root",
			"works: false"},
		"another root": {"true", "tampered", "root: measured"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			console := &consoleUntil{end: cancel}
			a := &Agent{
				Console: console,
				Handover: &rootfs.Handover{RootDevice: root, Ticket: ingot.Ticket{Name: "lab:v1"}, Image: ingot.ImageManifest{
					Root:   ingot.Artifact{Digest: ingot.DigestOf([]byte(c.content)), Size: 8},
					Checks: []ingot.Check{{Name: "works", Command: []string{c.command}, Within: 1}},
				}},
			}
			if err := a.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if got := console.said.String(); !strings.Contains(got, c.want) ||
				strings.Contains(got, "is healthy") != (name == "healthy") {
				t.Errorf("the console says %q; want %q", got, c.want)
			}
		})
	}
}
