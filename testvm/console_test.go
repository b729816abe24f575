package testvm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// attached returns a console and the machine's end of its line.
func attached(t *testing.T) (*Console, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	c := newConsole()
	c.attach(ours)
	t.Cleanup(func() { theirs.Close() })
	return c, theirs
}

func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := fmt.Fprint(conn, text); err != nil {
		t.Error(err)
	}
}

func TestConsoleWaitFor(t *testing.T) {
	c, vm := attached(t)
	go func() {
		say(t, vm, "one tw") // a word may come in parts
		say(t, vm, "o=2 one\n")
	}()
	m, err := c.WaitFor(t.Context(), `two=(\d)(x)?`)
	if err != nil || len(m) != 3 || m[1] != "2" || m[2] != "" {
		t.Fatalf("WaitFor = %q, %v; want two=2, 2 and nothing", m, err)
	}
	if _, err := c.WaitFor(t.Context(), "one"); err != nil {
		t.Errorf("the one after the match: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.WaitFor(ctx, "one"); !errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), "two=2") {
		t.Errorf("what was found is found again, or the error shows no lines: %v", err)
	}
	vm.Close()
	if _, err := c.WaitFor(t.Context(), "never"); err == nil || !strings.Contains(err.Error(), "the machine ended") {
		t.Errorf("after the machine's end: %v", err)
	}
}

// TestConsoleRun: the echo of the typed line is not taken for its output.
func TestConsoleRun(t *testing.T) {
	c, vm := attached(t)
	go func() {
		line, err := bufio.NewReader(vm).ReadString('\n')
		if err != nil {
			t.Error(err)
		}
		say(t, vm, strings.TrimSpace(line)+"\r\n\x1b[0m@@begin\r\nhello\r\n\x1b[1mworld\x1b[0m\r\n@@end:3\r\n# ")
	}()
	out, code, err := c.Run(t.Context(), "true")
	if err != nil || code != 3 || out != "hello\nworld" {
		t.Errorf("Run = %q, %d, %v; want hello and world, 3", out, code, err)
	}
	if got, want := c.Tail(3), "    world\n    @@end:3\n    #"; got != want {
		t.Errorf("Tail = %q; want %q", got, want)
	}
}

// TestQMP plays QEMU's end: events between answers, and a refusal.
func TestQMP(t *testing.T) {
	socket := filepath.Join(shortDir(t), "qmp")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			say(t, c, `{"QMP": {}}`+"\n")
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					break
				}
				say(t, c, `{"event": "RESUME"}`+"\n")
				if strings.Contains(line, "explode") {
					say(t, c, `{"error": {"class": "CommandNotFound", "desc": "no such command"}}`+"\n")
				} else {
					say(t, c, `{"return": {}}`+"\n")
				}
			}
			c.Close()
		}
	}()
	if err := qmp(socket, "cont"); err != nil {
		t.Error(err)
	}
	if err := qmp(socket, "explode"); err == nil || !strings.Contains(err.Error(), "no such command") {
		t.Errorf("a refusal = %v", err)
	}
}

func TestNewDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.img")
	d, err := NewDisk(path, "S1", 64<<20)
	if err != nil || d.Serial != "S1" {
		t.Fatalf("NewDisk = %+v, %v", d, err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != 64<<20 {
		t.Errorf("size %v, %v; want 64 MiB", fi, err)
	}
	if _, err := NewDisk(path, "S1", 64<<20); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second disk at its place = %v; want %v", err, os.ErrExist)
	}
}

// TestLab goes through a lab as separate commands do, each opening it anew.
func TestLab(t *testing.T) {
	testLAN(t) // can one be made?
	ctx := t.Context()
	dir := filepath.Join(shortDir(t), "lab")
	if _, err := OpenLab(dir); !errors.Is(err, ErrNoLab) {
		t.Errorf("OpenLab of nothing = %v; want %v", err, ErrNoLab)
	}
	l, err := NewLab(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.lan.Close)
	ns := l.lan.ns
	if _, err := NewLab(ctx, dir); !errors.Is(err, ErrLabUp) {
		t.Errorf("a second lab = %v; want %v", err, ErrLabUp)
	}
	if err := l.Add(ctx, Config{Name: "b1", Firmware: BIOS, MAC: "52:54:00:88:00:01", RAM: 64}); err != nil {
		t.Fatal(err)
	}
	open := func() *Lab {
		l, err := OpenLab(dir)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	for _, step := range []struct {
		action  string
		running bool
	}{{"off", false}, {"off", false}, {"on", true}, {"on", true}, {"cycle", true}, {"reset", true}} {
		if err := open().Power(ctx, "b1", step.action); err != nil {
			t.Errorf("power %s: %v", step.action, err)
		}
		if got := open().Running("b1"); got != step.running {
			t.Errorf("after %s running = %v; want %v", step.action, got, step.running)
		}
	}
	if err := open().Power(ctx, "b2", "on"); !errors.Is(err, ErrNoVM) {
		t.Errorf("an unknown machine = %v; want %v", err, ErrNoVM)
	}
	if err := open().Power(ctx, "b1", "explode"); err == nil {
		t.Error("an unknown action is accepted")
	}
	if err := open().Down(ctx); err != nil {
		t.Fatal(err)
	}
	if left := inside(ns); len(left) > 0 {
		t.Errorf("after Down these processes hold the namespace: %v", left)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}
