package tftp

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestForeignClients: the clients that people use judge the server.
func TestForeignClients(t *testing.T) {
	loader := make([]byte, 300_123)
	_, _ = rand.NewChaCha8([32]byte{}).Read(loader)
	var mu sync.Mutex
	served := map[string]int64{}
	s := &Server{Files: map[string][]byte{"undionly.kpxe": loader, "empty": {}}, Log: slog.New(slog.DiscardHandler),
		Served: func(_ netip.Addr, file string, n int64) { mu.Lock(); defer mu.Unlock(); served[file] += n }}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(conn.LocalAddr().(*net.UDPAddr).Port)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, conn) }()
	dir := t.TempDir()
	out := filepath.Join(dir, "got")
	for _, c := range []struct {
		name string
		argv []string
		dir  bool
	}{
		{"curl", []string{"curl", "-sf", "-o", out, "tftp://127.0.0.1:" + port + "/undionly.kpxe"}, false},
		{"curl, with a path", []string{"curl", "-sf", "-o", out, "tftp://127.0.0.1:" + port + "//boot/../undionly.kpxe"}, false},
		{"atftp, large blocks", []string{"atftp", "--option", "blksize 1428", "--option", "tsize 0", "-g", "-r", "undionly.kpxe", "-l", out, "127.0.0.1", port}, false},
		{"atftp, small blocks", []string{"atftp", "-g", "-r", "undionly.kpxe", "-l", out, "127.0.0.1", port}, false},
		{"atftp, windows", []string{"atftp", "--option", "blksize 1024", "--option", "windowsize 8", "-g", "-r", "undionly.kpxe", "-l", out, "127.0.0.1", port}, false},
		{"busybox", []string{"busybox", "tftp", "-g", "-b", "1400", "-r", "undionly.kpxe", "-l", out, "127.0.0.1", port}, false},
		{"busybox, without options", []string{"busybox", "tftp", "-g", "-r", "undionly.kpxe", "-l", out, "127.0.0.1", port}, false},
		{"tftp-hpa", []string{"tftp", "-m", "binary", "127.0.0.1", port, "-c", "get", "undionly.kpxe", out}, false},
	} {
		if _, err := exec.LookPath(c.argv[0]); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed; run scripts/setup test", c.argv[0])
			}
			continue
		}
		if text, _ := exec.Command(c.argv[0], c.argv[1]).CombinedOutput(); c.argv[0] == "busybox" && strings.Contains(string(text), "applet not found") {
			if os.Getenv("CI") != "" {
				t.Fatalf("this busybox is built without tftp: %s", text)
			}
			continue // there are several builds of it
		}
		_ = os.Remove(out)
		run, stop := context.WithTimeout(ctx, 20*time.Second)
		text, err := exec.CommandContext(run, c.argv[0], c.argv[1:]...).CombinedOutput()
		stop()
		got, _ := os.ReadFile(out)
		if err != nil || !bytes.Equal(got, loader) {
			t.Errorf("%s: %v, %d bytes; want the loader's %d\n%s", c.name, err, len(got), len(loader), text)
		}
	}
	run, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := exec.CommandContext(run, "curl", "-sf", "-o", out, "tftp://127.0.0.1:"+port+"//etc/passwd").Run(); err == nil {
		t.Error("a file that is not ours is served")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Serve = %v; want nil after its context ended", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if served["undionly.kpxe"] < int64(len(loader)) {
		t.Errorf("served %v; want the loader counted", served)
	}
}
