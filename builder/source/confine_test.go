package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/builder/tree"
)

// hostile prepares what a package script could reach on the host, and returns the files that lay an
// attacker's program over the root's shell.
func hostile(t *testing.T) (extra []controlFile, canary string) {
	t.Helper()
	dir := t.TempDir()
	canary = filepath.Join(dir, "canary")
	sleep := exec.Command("sleep", "600")
	if err := errors.Join(os.WriteFile(canary, []byte("SECRET"), 0o644), sleep.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if sleep.Process.Signal(unix.Signal(0)) != nil {
			t.Error("a process of the host was ended")
		}
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
	})
	for up := dir; up != "/" && up != os.TempDir(); up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	abstract := fmt.Sprintf("ingot-attack-%d", os.Getpid())
	for _, l := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", "@" + abstract},
		{"unix", filepath.Join(dir, "socket")}} {
		listener, err := net.Listen(l[0], l[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		names = append(names, listener.Addr().String())
	}
	if err := os.Chmod(filepath.Join(dir, "socket"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.AddKey("user", "ingot-canary", []byte("SECRET"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
		t.Logf("no keyring here: %v", err)
	}
	program := filepath.Join(t.TempDir(), "attacker")
	build := exec.Command("go", "build", "-o", program, "./testdata/attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the attacker: %v\n%s", err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	target := fmt.Sprintf("%s %s %s %s %d\n", canary, names[0], abstract, filepath.Join(dir, "socket"), sleep.Process.Pid)
	return []controlFile{{"bin/sh", 0o755, content}, {".ingot/quirks", 0o644, nil},
		{".ingot/target", 0o644, []byte(target)}}, canary
}

// attack lets the attacker run as the scripts of packages do and returns what it said.
func attack(t *testing.T, onDisk bool) (said []string, root *tree.Tree) {
	t.Helper()
	extra, canary := hostile(t)
	u, err := layOut(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if onDisk {
		u.bytes = 1 << 50 // no memory is enough
	}
	work, err := os.MkdirTemp("", "ingot-attack-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out := filepath.Join(t.TempDir(), "out.tar")
	o := InstallOptions{Epoch: time.Unix(1, 0), Work: work, Progress: func(line string) { said = append(said, line) }}
	if err := o.run(ctx, u, extra, out); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(said, "\n"))
	}
	if b, err := os.ReadFile(canary); err != nil || string(b) != "SECRET" {
		t.Errorf("the canary of the host is %q, %v", b, err)
	}
	if root, err = tree.FromTar(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	return said, root
}

// TestHostileScript: package scripts do what they need, and reach nothing of the host.
func TestHostileScript(t *testing.T) {
	for name, onDisk := range map[string]bool{"in memory": false, "on a disk": true} {
		t.Run(name, func(t *testing.T) {
			said, root := attack(t, onDisk)
			text := strings.Join(said, "\n")
			attempts := 0
			for _, line := range said {
				switch {
				case strings.Contains(line, ": GOT ") || strings.Contains(line, ": NO: "):
					t.Error(line)
				case strings.Contains(line, ": refused: ") || strings.Contains(line, ": yes"):
					attempts++
				}
			}
			for _, want := range []string{"open_by_handle_at: refused", "kill: refused", "mknod disk: refused",
				"mount tmpfs: refused", "connect: refused", "write /sys/power/state: refused", "1/root: refused",
				"can become another user: yes"} {
				if !strings.Contains(text, want) {
					t.Errorf("the attacker did not say %q", want)
				}
			}
			if attempts < 60 {
				t.Errorf("%d attempts; want all:\n%s", attempts, text)
			}
			if e := root.Get("done"); e == nil || e.UID != 4321 || e.GID != 1234 || len(e.Xattrs["security.capability"]) != 20 {
				t.Errorf("/done = %+v; want the file that the script made, with owner and capability", e)
			}
			for _, p := range []string{".ingot", "dev/null", "proc/self"} {
				if root.Get(p) != nil {
					t.Errorf("/%s is in the tree", p)
				}
			}
			mapping := fmt.Sprintf("uid_map: 0 %d 65536", spareIDs)
			if os.Geteuid() == 0 && spareIDs.mapped() && !strings.Contains(text, mapping) {
				t.Errorf("root inside is not %d outside:\n%s", spareIDs, text)
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

// TestMapsIDs reads what user_namespaces(7) writes.
func TestMapsIDs(t *testing.T) {
	for text, want := range map[string]bool{
		"         0          0 4294967295\n":            true,
		"0 100000 65536\n":                              false,
		"0 1000 1\n1 100000 65536\n":                    false,
		"0 100000 65536\n1878982656 1878982656 65536\n": true,
		"0 100000 65536\n1878982656 1878982656 65535\n": false, "": false,
	} {
		if got := mapsIDs(text, int64(spareIDs), 1<<16); got != want {
			t.Errorf("mapsIDs(%q) = %v; want %v", text, got, want)
		}
	}
}
