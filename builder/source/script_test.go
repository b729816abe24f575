package source

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"ingot/builder/tree"
)

// netRaw is the capability CAP_NET_RAW of a file (linux/capability.h, struct vfs_cap_data of version 2).
const netRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// shellRoot is a root with the shell of this host and nothing else that runs.
func shellRoot(t *testing.T) *tree.Tree {
	t.Helper()
	sh, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ldd", sh).CombinedOutput()
	if err != nil {
		t.Fatalf("ldd: %v\n%s", err, out)
	}
	root := tree.New()
	for _, name := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := errors.Join(root.Put(tree.Entry{Path: "usr/" + name, Kind: tree.Dir, Mode: 0o755}),
			root.PutLink(name, "usr/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range append(regexp.MustCompile(`/\S+`).FindAllString(string(out), -1), sh) {
		content, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := root.PutFile(p, 0o755, content); err != nil {
			t.Fatal(err)
		}
	}
	if root.Find("bin/sh") == nil {
		if err := root.PutLink("usr/bin/sh", sh); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(root.Put(tree.Entry{Path: "tmp", Kind: tree.Dir, Mode: 0o1777}),
		root.PutFile("etc/a", 0o640, []byte("a\n")),
		root.Put(tree.Entry{Path: "etc/b", Kind: tree.File, Mode: 0o644, Hard: "etc/a"}),
		root.Put(tree.Entry{Path: "etc/owned", Kind: tree.File, Mode: 0o4755, UID: 123, GID: 456, Open: tree.Bytes(nil),
			Xattrs: map[string]string{"user.scene": "x"}}),
		root.Put(tree.Entry{Path: "usr/bin/ping", Kind: tree.File, Mode: 0o755, Open: tree.Bytes(nil),
			Xattrs: map[string]string{"security.capability": netRaw}})); err != nil {
		t.Fatal(err)
	}
	return root
}

// runIn runs scripts in a root and returns what they leave.
func runIn(t *testing.T, root *tree.Tree, list ...Script) (*tree.Tree, error) {
	t.Helper()
	work, err := os.MkdirTemp("", "ingot-script-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(work) })
	if err := os.Chmod(work, 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.tar")
	o := InstallOptions{Epoch: time.Unix(1700000000, 0), Work: work}
	if err := RunScripts(t.Context(), root, list, out, o); err != nil {
		return nil, err
	}
	return tree.FromTar(t.Context(), out)
}

// TestScripts: scripts run in order with their environment, see the root and no network, and everything that
// they leave alone stays as it was.
func TestScripts(t *testing.T) {
	first := Script{Name: "first", Env: []string{"WORD=it's $HOME", "N=2"}, Text: "echo \"$WORD $N " +
		"$SOURCE_DATE_EPOCH\" >/etc/c\n" +
		"lines=0; while read -r line; do lines=$((lines+1)); done </proc/net/dev\n[ $lines = 3 ] # two of the head, and " +
		"lo\n" +
		"[ ! -e /proc/1/root/etc/passwd ]\n"}
	second := Script{Name: "second", Text: "#!/bin/sh\nread -r line </etc/c\nfalse\necho \"again: $line\" >/etc/d\n"}
	var digests [2][32]byte
	for i := range digests {
		root := shellRoot(t)
		before := root.Len()
		got, err := runIn(t, root, first, second)
		if err != nil {
			t.Fatal(err)
		}
		if root.Len() != before || got.Get(".ingot") != nil {
			t.Errorf("%d entries in the root, %d before; .ingot is %+v", root.Len(), before, got.Get(".ingot"))
		}
		for p, want := range map[string]string{"etc/c": "it's $HOME 2 1700000000\n", "etc/d": "again: it's $HOME 2 " +
			"1700000000\n",
			"etc/a": "a\n"} {
			if text, err := got.ReadFile(p); err != nil || string(text) != want {
				t.Errorf("%s is %q, %v; want %q", p, text, err, want)
			}
		}
		if e := got.Get("etc/owned"); e == nil || e.UID != 123 || e.GID != 456 || e.Mode != 0o4755 ||
			e.Xattrs["user.scene"] != "x" {
			t.Errorf("etc/owned = %+v; want what it was", e)
		}
		if e := got.Get("usr/bin/ping"); e == nil || e.Xattrs["security.capability"] != netRaw {
			t.Errorf("usr/bin/ping = %+v; want its capability", e)
		}
		if e := got.Get("etc/b"); e == nil || e.Hard != "etc/a" || got.Get("etc/a").Mode != 0o640 {
			t.Errorf("etc/b = %+v; want a hard link to etc/a", e)
		}
		if digests[i], err = got.Digest(); err != nil {
			t.Fatal(err)
		}
	}
	if digests[0] != digests[1] {
		t.Error("two runs give different trees")
	}
}

// TestScriptFails: the error names the script and has its output, and later scripts do not run.
func TestScriptFails(t *testing.T) {
	_, err := runIn(t, shellRoot(t), Script{Name: "good", Text: "true\n"},
		Script{Name: "bad", Text: "echo before\n[ -e /nothing ]\necho after\n"}, Script{Name: "never", Text: "echo NEVER\n"})
	if !errors.Is(err, ErrProfileScript) || !strings.Contains(err.Error(), "a script of the profile failed: bad; its "+
		"output:") ||
		!strings.Contains(err.Error(), "before") || strings.Contains(err.Error(), "after") ||
		strings.Contains(err.Error(), "NEVER") {
		t.Errorf("a script that fails: %v", err)
	}
}
