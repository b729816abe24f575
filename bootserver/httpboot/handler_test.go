package httpboot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/internal/wire"
)

var (
	testBoot  = ingot.NewBootID([16]byte{1})
	testKey   = ingot.NewBootKey(testBoot, [16]byte{2})
	testImage = ingot.DigestOf([]byte("image"))
)

// oneBoot is a Booter with one boot and the files of one folder.
type oneBoot struct {
	dir    string
	served chan int64
}

func (s *oneBoot) Knows(k ingot.BootKey) bool { return k == testKey }

func (s *oneBoot) Admit(_ ingot.BootID, from netip.Addr) error {
	if from == netip.MustParseAddr("192.0.2.66") {
		return fmt.Errorf("%w: a stranger's address", ErrRefused)
	}
	return nil
}

func (s *oneBoot) Script(_ ingot.BootID, base string) (string, error) {
	return "#!ipxe\n# " + base + strings.Repeat("\n# long", 1000), nil // longer than what net/http buffers
}

func (s *oneBoot) Artifact(boot ingot.BootID, image ingot.Digest, part string) (Artifact, error) {
	if boot != testBoot || image != testImage || !slices.Contains([]string{"root", "kernel", "manifest", "gone"}, part) {
		return Artifact{}, fmt.Errorf("%w part %q", ErrUnknown, part)
	}
	if part == "manifest" {
		return Artifact{Bytes: []byte("manifest"), Digest: testImage}, nil
	}
	return Artifact{Open: func() (*os.File, error) { return os.Open(filepath.Join(s.dir, part)) }, Digest: testImage}, nil
}

func (s *oneBoot) Served(_ ingot.BootID, _ string, n int64, _ bool) {
	if s.served != nil {
		s.served <- n
	}
}

func (s *oneBoot) Ticket(ingot.BootID, ingot.TicketRequest) (ingot.SignedTicket, error) {
	return ingot.SignedTicket{Ticket: []byte("{}")}, nil
}
func (s *oneBoot) Waits(ingot.BootID, ingot.Facts) error { return nil }
func (s *oneBoot) Sender(ingot.BootID, ingot.Message, string, string) (Sender, error) {
	return anySender{}, nil
}

// anySender accepts every message.
type anySender struct{}

func (anySender) Event(ingot.Event) error                   { return nil }
func (anySender) Report(ingot.Report) (*ingot.Order, error) { return nil, nil }
func (anySender) Console(string) error                      { return nil }
func (anySender) Crash(string) error                        { return nil }
func (anySender) Prove(int, []byte) string                  { return "" }

// random makes a file of random bytes.
func (s *oneBoot) random(t testing.TB, name string, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(b)
	if err := os.WriteFile(filepath.Join(s.dir, name), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return b
}

// start serves on a port of the loopback interface and returns the address.
func start(t testing.TB, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve = %v; want nil after its end", err)
		}
	})
	return l.Addr().String()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// say sends raw bytes and reads the one answer to them.
func say(t *testing.T, at, request string) (*http.Response, []byte) {
	t.Helper()
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Logf("sending: %v", err) // the server may answer and close before all of it is sent
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Errorf("%.80q: %v; want an answer", request, err)
		return nil, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%.80q: reading: %v", request, err)
	}
	return resp, body
}

func path(part string) string { return ingot.BootPath(testKey, part) }

func part(name string) string { return path(testImage.Hex() + "/" + name) }

// TestExact: what firmware relies on. A path exists or not, no answer is a
// redirect or chunked, and HEAD and ranges work as in RFC 9110.
func TestExact(t *testing.T) {
	s := &oneBoot{dir: t.TempDir()}
	root := s.random(t, "root", 2<<20)
	at := start(t, New(s, quiet()))
	etag := `"` + string(testImage) + `"`
	script := []byte("#!ipxe\n# http://" + at + strings.Repeat("\n# long", 1000))
	for _, c := range []struct {
		name, method, target, header string
		status                       int
		body                         []byte // nil: not compared
	}{
		{"whole", "GET", part("root"), "", 200, root},
		{"HEAD", "HEAD", part("root"), "", 200, []byte{}},
		{"from memory", "GET", part("manifest"), "", 200, []byte("manifest")},
		{"script", "GET", path("script"), "", 200, script},
		{"HEAD of the script", "HEAD", path("script"), "", 200, []byte{}},
		{"a foreign Host", "GET", path("script"), "Host: evil.example\r\n", 400, nil}, // two Host headers
		{"range", "GET", part("root"), "Range: bytes=1000000-\r\n", 206, root[1000000:]},
		{"last bytes", "GET", part("root"), "Range: bytes=-5\r\n", 206, root[len(root)-5:]},
		{"range past the end", "GET", part("root"), "Range: bytes=9999999-\r\n", 416, nil},
		{"many ranges", "GET", part("root"), "Range: bytes=0-1,3-4,6-7\r\n", 200, root},
		{"a range of another version", "GET", part("root"), "Range: bytes=5-\r\nIf-Range: \"sha256:0\"\r\n", 200, root},
		{"a range of this version", "GET", part("root"), "Range: bytes=5-\r\nIf-Range: " + etag + "\r\n", 206, root[5:]},
		{"known already", "GET", part("root"), "If-None-Match: " + etag + "\r\n", 304, []byte{}},
		{"double slash", "GET", "/" + part("root"), "", 404, nil},
		{"double slash inside", "GET", strings.Replace(part("root"), "/root", "//root", 1), "", 404, nil},
		{"dot", "GET", "/b/." + strings.TrimPrefix(part("root"), "/b"), "", 404, nil},
		{"dots", "GET", part("x/../root"), "", 404, nil},
		{"escaped slash", "GET", part("..%2froot"), "", 404, nil},
		{"escaped dots", "GET", part("%2e%2e/root"), "", 404, nil},
		{"out of the folder", "GET", part("../../../../../../etc/passwd"), "", 404, nil},
		{"backslashes", "GET", part("..\\..\\etc\\passwd"), "", 404, nil},
		{"trailing slash", "GET", part("root/"), "", 404, nil},
		{"folder", "GET", "/b", "", 404, nil},
		{"nothing", "GET", "/", "", 404, nil},
		{"upper case", "GET", strings.ToUpper(part("root")), "", 404, nil},
		{"absolute form", "GET", "http://" + at + part("manifest"), "", 200, []byte("manifest")},
		{"a part with a long name", "GET", part(strings.Repeat("x", 5000)), "", 404, nil},
		{"left the store", "GET", part("gone"), "", 404, nil},
		{"OPTIONS", "OPTIONS", "*", "", 404, nil},
		{"CONNECT", "CONNECT", "evil.example:80", "", 404, nil},
		{"POST to a file", "POST", part("root"), "Content-Length: 0\r\n", 405, nil},
		{"GET of a ticket", "GET", path("ticket"), "", 405, nil},
	} {
		const request = "%s %s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\n\r\n"
		resp, body := say(t, at, fmt.Sprintf(request, c.method, c.target, at, c.header))
		if resp == nil {
			continue
		}
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s; want %d", c.name, resp.Status, c.status)
		}
		if c.body != nil && !bytes.Equal(body, c.body) {
			t.Errorf("%s: %d bytes; want %d", c.name, len(body), len(c.body))
		}
		if to := resp.Header.Get("Location"); len(resp.TransferEncoding) != 0 || to != "" {
			t.Errorf("%s: Transfer-Encoding %v, Location %q; want neither", c.name, resp.TransferEncoding, to)
		}
		if c.status == 200 && resp.ContentLength <= 0 {
			t.Errorf("%s: Content-Length %d; want the size", c.name, resp.ContentLength)
		}
	}
}

// TestHostile: malformed, oversize and malicious requests are refused, and the
// server continues to answer.
func TestHostile(t *testing.T) {
	s := &oneBoot{dir: t.TempDir()}
	s.random(t, "root", 1<<20)
	server := New(s, quiet())
	server.timeout = 2 * time.Second
	at := start(t, server)
	post := func(part, header, body string) string {
		return "POST " + path(part) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + header + "\r\n" + body
	}
	event := `{"stage":"root"}`
	long := strings.Repeat("x", 2<<20)
	length := func(n int) string { return fmt.Sprintf("Content-Length: %d\r\n", n) }
	const chunked = "Transfer-Encoding: chunked\r\n"
	longChunk := fmt.Sprintf("%x\r\n{\"nonce\":\"%s\r\n0\r\n\r\n", len(long)+10, long)
	for _, c := range []struct {
		name, request string
		status        int
	}{
		{"an event", post("events", length(len(event)), event), 204},
		{"an event in chunks", post("events", chunked, fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(event), event)), 204},
		{"header of 64 KiB", "GET / HTTP/1.1\r\nHost: x\r\nX: " + long[:64<<10] + "\r\n\r\n", 431},
		{"path of 64 KiB", "GET /" + long[:64<<10] + " HTTP/1.1\r\nHost: x\r\n\r\n", 431},
		{"header injected by the path", "GET /b/x\r\nSet-Cookie:a HTTP/1.1\r\nHost: x\r\n\r\n", 400},
		{
			"header injected by an escape",
			"GET /b/x%0d%0aSet-Cookie:a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404,
		},
		{"two lengths", post("events", length(5)+length(6), event), 400},
		{"a length and chunks", post("events", length(5)+chunked, "0\r\n\r\n"), 400}, // RFC 9112 section 6.3: EOF, no body
		{"a negative length", post("events", "Content-Length: -1\r\n", ""), 400},
		{"a body of 2 MiB", post("ticket", length(2<<20+12), `{"nonce":"`+long+`"}`), 413},
		{"a body of 2 MiB in chunks", post("ticket", chunked, longChunk), 413},
		{"a body that never comes", post("events", length(500), "{"), 400},
		{"a body that nests", post("events", length(40000), strings.Repeat("[", 40000)), 400},
		{"two values", post("events", length(2*len(event)), event+event), 400},
		{"a GET with a body that never comes", "GET / HTTP/1.1\r\nHost: x\r\n" + length(500) + "\r\n{", 404},
		{"another type", post("events", length(4), "1234"), 400},
		{"no HTTP at all", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400},
	} {
		resp, _ := say(t, at, c.request)
		if resp != nil && (resp.StatusCode != c.status || resp.Header.Get("Set-Cookie") != "") {
			t.Errorf("%s: %s %v; want %d", c.name, resp.Status, resp.Header, c.status)
		}
	}
}

// TestSlowReaders: a client that reads slowly is served to the end; one that stops
// reading is cut off, and its place becomes free.
func TestSlowReaders(t *testing.T) {
	s := &oneBoot{dir: t.TempDir(), served: make(chan int64, 1)}
	root := s.random(t, "root", 32<<20)
	server := New(s, quiet())
	server.timeout = 2 * time.Second
	at := start(t, server)
	open := func() *net.TCPConn {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", part("root"))
		return c.(*net.TCPConn)
	}
	stopped := open()
	if n := <-s.served; n >= int64(len(root)) {
		t.Errorf("a client that stopped reading got %d bytes of %d", n, len(root))
	}
	wire.Eventually(t, "no transfer is under way after it was cut off", func() bool {
		return server.admission.inside() == 0
	})
	stopped.Close()
	// Five pauses of half a second: together longer than the timeout, each shorter.
	slow := open()
	_ = slow.SetReadDeadline(time.Now().Add(30 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReaderSize(slow, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for range 5 {
		if _, err := io.CopyN(io.Discard, resp.Body, int64(len(root)/5)); err != nil {
			t.Fatalf("a slow reader was cut off: %v", err)
		}
		time.Sleep(500 * time.Millisecond) // the test needs time to pass
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("a slow reader was cut off: %v", err)
	}
	if n := <-s.served; n != int64(len(root)) {
		t.Errorf("a slow reader got %d bytes; want %d", n, len(root))
	}
}

// TestSending: while an artifact is being sent, the server says of which boot, and how much it has sent.
func TestSending(t *testing.T) {
	s := &oneBoot{dir: t.TempDir(), served: make(chan int64, 1)}
	root := s.random(t, "root", 32<<20)
	server := New(s, quiet())
	at := start(t, server)
	if got := server.Sending(testBoot); got != nil {
		t.Errorf("before a request, the server sends %v", got)
	}
	resp, err := http.Get("http://" + at + part("root"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	before := int64(0)
	for _, read := range []int64{8 << 20, 8 << 20} { // more than sockets hold
		if _, err := io.CopyN(io.Discard, resp.Body, read); err != nil {
			t.Fatal(err)
		}
		got := server.Sending(testBoot)
		if len(got) != 1 || got["root"] <= before || got["root"] >= int64(len(root)) {
			t.Errorf("in a transfer, the server sends %v, after %d bytes; want more, and less than all", got, before)
		}
		before = got["root"]
	}
	if other := server.Sending(ingot.NewBootID([16]byte{9})); other != nil {
		t.Errorf("to another boot, the server sends %v", other)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	<-s.served
	for end := time.Now().Add(10 * time.Second); server.Sending(testBoot) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a transfer, the server sends %v", server.Sending(testBoot))
		}
	}
}

// TestCrowd: a client over the limit is asked to retry after a jittered time.
// Firmware is admitted when roots no longer are, and one boot cannot use all
// places.
func TestCrowd(t *testing.T) {
	s := &oneBoot{dir: t.TempDir()}
	s.random(t, "root", 16<<20)
	s.random(t, "kernel", 16<<20)
	server := New(s, quiet())
	server.SetLimits(Limits{Transfers: 2, PerBoot: 3})
	at := start(t, server)
	get := func(name string) *http.Response {
		t.Helper()
		tr := &http.Transport{DisableKeepAlives: true}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+part(name), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	for _, c := range []struct {
		part   string
		status int
	}{{"root", 200}, {"root", 200}, {"root", 503}, {"kernel", 200}, {"kernel", 503}, {"manifest", 200}} {
		resp := get(c.part) // its body stays unread, so the transfer stays under way
		if resp.StatusCode != c.status {
			t.Errorf("GET %s = %s; want %d", c.part, resp.Status, c.status)
		}
		header := resp.Header.Get("Retry-After")
		if after, err := strconv.Atoi(header); c.status == 503 && (err != nil || after < 2 || after > 8) {
			t.Errorf("GET %s: Retry-After %q; want 2 to 8 seconds", c.part, header)
		}
	}
	when := map[string]bool{}
	for range 30 { // all the same by chance: once in 10^24
		when[get("root").Header.Get("Retry-After")] = true
	}
	if len(when) < 2 {
		t.Errorf("30 machines are all asked to retry after %v seconds", slices.Collect(maps.Keys(when)))
	}
	server.SetLimits(Limits{Transfers: 20, PerBoot: 20})
	if resp := get("root"); resp.StatusCode != 200 {
		t.Errorf("GET root after the limits were raised = %s; want 200", resp.Status)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	server := New(&oneBoot{dir: t.TempDir()}, quiet())
	server.SetLimits(Limits{PerClient: 3})
	at := start(t, server)
	request := func(c net.Conn) error {
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", part("manifest"))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := io.ReadFull(c, make([]byte, 12))
		return err
	}
	var open []net.Conn
	for i := range 4 {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := request(c); (err != nil) != (i == 3) {
			t.Errorf("connection %d: %v; want three to work and the fourth to fail", i+1, err)
		}
		open = append(open, c)
	}
	open[0].Close()
	for range 100 { // until the server has noticed
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		err = request(c)
		c.Close()
		if err == nil {
			return
		}
	}
	t.Error("no connection is accepted after one was closed")
}

// TestShares: transfers share a rate equally, for any number of them and any rate.
func TestShares(t *testing.T) {
	for _, c := range []struct {
		rate      int64
		transfers int
	}{{1 << 30, 64}, {10 << 20, 7}, {1 << 20, 256}, {100 << 10, 3}} {
		var p pace
		p.set(c.rate)
		start := time.Unix(0, 0)
		ready, got, longest := make([]time.Time, c.transfers), make([]int64, c.transfers), time.Duration(0)
		for i := range ready {
			ready[i] = start
		}
		const seconds = 120
		for {
			next := 0 // the first to request a turn
			for i := range ready {
				if ready[i].Before(ready[next]) {
					next = i
				}
			}
			now := ready[next]
			if now.Sub(start) > seconds*time.Second {
				break
			}
			n, wait := p.reserve(now, 1<<40, c.transfers)
			got[next] += n
			longest = max(longest, wait)
			ready[next] = now.Add(wait + time.Nanosecond)
		}
		least, most, sum := got[0], got[0], int64(0)
		for _, n := range got {
			least, most, sum = min(least, n), max(most, n), sum+n
		}
		want := c.rate * seconds
		if sum < want*9/10 || sum > want*11/10+int64(c.transfers)*window {
			t.Errorf("%d B/s among %d: %d bytes in %d s; want %d", c.rate, c.transfers, sum, seconds, want)
		}
		if most-least > window {
			t.Errorf("%d B/s among %d: shares from %d to %d bytes; want them within a window", c.rate, c.transfers, least, most)
		}
		if longest > 2*round {
			t.Errorf("%d B/s among %d: the longest wait is %s; want at most %s", c.rate, c.transfers, longest, 2*round)
		}
	}
}

// TestSendfile: strace shows that the kernel copies the file. The test runs itself
// under strace, and an environment variable marks that run.
func TestSendfile(t *testing.T) {
	const size = 8 << 20
	if dir := os.Getenv("INGOT_TEST_SENDFILE"); dir != "" {
		at := start(t, New(&oneBoot{dir: dir}, quiet()))
		if _, body := say(t, at, "GET "+part("root")+" HTTP/1.0\r\n\r\n"); len(body) != size {
			t.Errorf("%d bytes; want %d", len(body), size)
		}
		return
	}
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("strace is not installed; run scripts/setup test")
		}
		t.Skip("strace is not installed")
	}
	s := &oneBoot{dir: t.TempDir()}
	s.random(t, "root", size)
	trace := filepath.Join(t.TempDir(), "trace")
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-qq", "-e", "trace=sendfile", "-o", trace,
		os.Args[0], "-test.run=^TestSendfile$")
	cmd.Env = append(os.Environ(), "INGOT_TEST_SENDFILE="+s.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	for _, m := range regexp.MustCompile(`sendfile.*= (\d+)\n`).FindAllStringSubmatch(string(text), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	if sent < size-512 { // net/http reads the first 512 bytes itself
		t.Errorf("%d of %d bytes went by sendfile(2); want all but the first 512\n%s", sent, size, text)
	}
}
