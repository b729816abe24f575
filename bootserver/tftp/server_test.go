package tftp

import (
	"bytes"
	"context"
	"errors"
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

	"github.com/pin/tftp/v3"
)

// eachMode runs a test of ordinary transfers and of those from a single port.
func eachMode(t *testing.T, f func(t *testing.T, single bool)) {
	t.Run("ports", func(t *testing.T) { f(t, false) })
	t.Run("single port", func(t *testing.T) { f(t, true) })
}

// foreignClients are the commands that fetch undionly.kpxe to a file.
func foreignClients(port, out string) map[string][]string {
	url := "tftp://127.0.0.1:" + port
	get := []string{"-g", "-r", "undionly.kpxe", "-l", out, "127.0.0.1", port}
	with := func(options ...string) []string {
		argv := []string{"atftp"}
		for _, o := range options {
			argv = append(argv, "--option", o)
		}
		return append(argv, get...)
	}
	return map[string][]string{
		"curl":                     {"curl", "-sf", "-o", out, url + "/undionly.kpxe"},
		"curl, with a path":        {"curl", "-sf", "-o", out, url + "//boot/../undionly.kpxe"},
		"atftp, large blocks":      with("blksize 1428", "tsize 0"),
		"atftp, small blocks":      with(),
		"atftp, windows":           with("blksize 1024", "windowsize 8"),
		"busybox":                  append([]string{"busybox", "tftp", "-b", "1400"}, get...),
		"busybox, without options": append([]string{"busybox", "tftp"}, get...),
		"tftp-hpa":                 {"tftp", "-m", "binary", "127.0.0.1", port, "-c", "get", "undionly.kpxe", out},
	}
}

// installed reports whether a client is there; in CI it must be.
func installed(t *testing.T, argv []string) bool {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed; run scripts/setup test", argv[0])
		}
		return false
	}
	if argv[0] != "busybox" {
		return true
	}
	text, _ := exec.Command(argv[0], argv[1]).CombinedOutput()
	missing := strings.Contains(string(text), "applet not found") // there are several builds of it
	if missing && os.Getenv("CI") != "" {
		t.Fatalf("this busybox is built without tftp: %s", text)
	}
	return !missing
}

// TestForeignClients: the clients that people use judge the server.
func TestForeignClients(t *testing.T) { eachMode(t, testForeignClients) }

func testForeignClients(t *testing.T, single bool) {
	loader := make([]byte, 300_123)
	_, _ = rand.NewChaCha8([32]byte{}).Read(loader)
	var mu sync.Mutex
	served := map[string]int64{}
	s := &Server{
		Files: map[string][]byte{"undionly.kpxe": loader, "empty": {}}, SinglePort: single,
		Log:    slog.New(slog.DiscardHandler),
		Served: func(_ netip.Addr, file string, n int64) { mu.Lock(); defer mu.Unlock(); served[file] += n },
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(conn.LocalAddr().(*net.UDPAddr).Port)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, conn) }()
	out := filepath.Join(t.TempDir(), "got")
	for name, argv := range foreignClients(port, out) {
		if !installed(t, argv) {
			continue
		}
		_ = os.Remove(out)
		run, stop := context.WithTimeout(ctx, 20*time.Second)
		text, err := exec.CommandContext(run, argv[0], argv[1:]...).CombinedOutput()
		stop()
		got, _ := os.ReadFile(out)
		if err != nil || !bytes.Equal(got, loader) {
			t.Errorf("%s: %v, %d bytes; want the loader's %d\n%s", name, err, len(got), len(loader), text)
		}
	}
	run, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	passwd := "tftp://127.0.0.1:" + port + "//etc/passwd"
	if err := exec.CommandContext(run, "curl", "-sf", "-o", out, passwd).Run(); err == nil {
		t.Error("a file outside the list is served")
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

// fetch gets a file with the library's client.
func fetch(at, name string, options ...func(*tftp.Client)) ([]byte, error) {
	client, err := tftp.NewClient(at)
	if err != nil {
		return nil, err
	}
	client.SetTimeout(long)
	for _, o := range options {
		o(client)
	}
	r, err := client.Receive(name, "octet")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = r.WriteTo(&b)
	return b.Bytes(), err
}

// TestSizes: files around the edges of a block, with and without options.
func TestSizes(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		s := &Server{Files: map[string][]byte{}, SinglePort: single, Log: slog.New(slog.DiscardHandler)}
		sizes := []int{0, 1, 511, 512, 513, 1024, 1467, 1468, 1469, 2936, 100_000}
		for _, n := range sizes {
			content := make([]byte, n)
			_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(content)
			s.Files[strconv.Itoa(n)] = content
		}
		at := serveAt(t, s, net.IPv4(127, 0, 0, 1)).String()
		for _, n := range sizes {
			for _, block := range []int{0, 512, 1000, 1468, 9000} {
				got, err := fetch(at, strconv.Itoa(n), func(c *tftp.Client) { c.SetBlockSize(block); c.RequestTSize(true) })
				if err != nil || !bytes.Equal(got, s.Files[strconv.Itoa(n)]) {
					t.Errorf("blocks of %d: %d bytes, %v; want the file's %d", block, len(got), err, n)
				}
			}
		}
	})
}

// TestServeEnds: Serve returns nil soon after its context ended or its socket
// was closed, also while a client is silent, and does not call Served later.
func TestServeEnds(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		for how, end := range map[string]func(context.CancelFunc, *net.UDPConn){
			"context": func(cancel context.CancelFunc, _ *net.UDPConn) { cancel() },
			"socket":  func(_ context.CancelFunc, c *net.UDPConn) { c.Close() },
		} {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			s := &Server{
				Files: map[string][]byte{"f": []byte("content")}, SinglePort: single, Log: slog.New(slog.DiscardHandler),
				Served: func(netip.Addr, string, int64) { t.Errorf("%s: Served was called after the end", how) },
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Serve(ctx, conn) }()
			p := newPeer(t, conn.LocalAddr().(*net.UDPAddr))
			p.send("\x00\x01f\x00octet\x00")
			_, transfer := p.receive(long)
			end(cancel, conn)
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("%s: Serve = %v; want nil", how, err)
				}
			case <-time.After(long):
				t.Fatalf("%s: Serve does not end", how)
			}
			if !single { // the transfer continues, but the server is gone
				p.to = net.UDPAddrFromAddrPort(transfer)
				p.send("\x00\x04\x00\x01")
				p.receive(short)
			}
			if _, err := conn.Write(nil); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: the socket is open after Serve ended: %v", how, err)
			}
			cancel()
		}
	})
}

// TestAbandoned: a client that breaks off, and one that goes silent, give their
// places back and are logged; neither counts as served.
func TestAbandoned(t *testing.T) {
	eachMode(t, func(t *testing.T, single bool) {
		var log syncBuffer
		s := &Server{
			Files: map[string][]byte{"f": make([]byte, 5000)}, SinglePort: single, timeout: 20 * time.Millisecond,
			Log:    slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Served: func(netip.Addr, string, int64) { t.Error("an abandoned transfer counts as served") },
		}
		at := serveAt(t, s, net.IPv4(127, 0, 0, 1))
		silent, rude := newPeer(t, at), newPeer(t, at)
		silent.send("\x00\x01f\x00octet\x00")
		blocks := 0
		for {
			got, _ := silent.receive(long)
			if strings.HasPrefix(got, "\x00\x05") {
				break
			}
			if !strings.HasPrefix(got, "\x00\x03\x00\x01") {
				t.Fatalf("a silent client receives %.20q; want block 1", got)
			}
			blocks++
		}
		if blocks != 1+retries {
			t.Errorf("a silent client receives block 1 %d times; want %d", blocks, 1+retries)
		}
		rude.send("\x00\x01f\x00octet\x00")
		_, from := rude.receive(long)
		rude.to = net.UDPAddrFromAddrPort(from)
		rude.send("\x00\x05\x00\x00no more\x00")
		for deadline := time.Now().Add(long); strings.Count(log.String(), "abandoned") < 2; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("two transfers were abandoned; the log is\n%s", log.String())
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.transfers != 0 || len(s.clients) != 0 {
			t.Errorf("%d transfers of %v are counted after all have ended", s.transfers, s.clients)
		}
	})
}

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *syncBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *syncBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestNamesWithRubbish: a name is cut where a ROM took the DHCP answer's next bytes for a part
// of it, and nothing else is guessed.
func TestNamesWithRubbish(t *testing.T) {
	s := &Server{Files: map[string][]byte{"undionly.kpxe": []byte("a"), "undionly.kpxe2": []byte("b")}}
	for name, want := range map[string]string{"undionly.kpxe\xff": "a", "undionly.kpxe\xff\x03abc": "a",
		"/boot\\undionly.kpxe\xff": "a", "undionly.kpxea\x11": "a", "undionly.kpxe2\xff": "b", "undionly.kpxe": "a"} {
		if got, ok := s.find(name); !ok || string(got) != want {
			t.Errorf("find(%q) = %q, %v; want %q", name, got, ok, want)
		}
	}
	for _, name := range []string{"undionly.kpx\xff", "undionly.kpxe3", "\xffundionly.kpxe", "\xff", ""} {
		if got, ok := s.find(name); ok {
			t.Errorf("find(%q) = %q; want nothing", name, got)
		}
	}
}
