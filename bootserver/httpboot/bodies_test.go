package httpboot

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ingot"
)

// TestBodiesAreBounded: large bodies that one address sends, and does not end, are refused beyond a
// bound with 503; small ones of the same address are still read, and the memory is given back.
func TestBodiesAreBounded(t *testing.T) {
	s := New(&oneBoot{dir: t.TempDir()}, slog.New(slog.DiscardHandler))
	addr := start(t, s)
	path := ingot.BootPath(testKey, "ticket")
	const clients, most = 40, 1 << 20
	refused, conns := make(chan bool, clients), []net.Conn{}
	for range clients {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		go func() {
			fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, most,
				strings.Repeat(" ", most-1))
			_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			refused <- err == nil && resp.StatusCode == http.StatusServiceUnavailable
		}()
	}
	n := 0
	for range clients {
		if <-refused {
			n++
		}
	}
	if n < clients/2 {
		t.Errorf("%d of %d unfinished bodies of 1 MiB from one address were refused; want most of them", n, clients)
	}
	small := strings.NewReader(`{"nonce":"` + strings.Repeat("n", 32) + `"}`)
	resp, err := http.Post("http://"+addr+path, "application/json", small)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("a small body: status %d; want 200", resp.StatusCode)
	}
	for _, c := range conns {
		c.Close()
	}
}

// TestBodyMemoryIsGivenBack: after its message, nothing of a body is counted, nor if it is refused.
func TestBodyMemoryIsGivenBack(t *testing.T) {
	s := New(&oneBoot{dir: t.TempDir()}, slog.New(slog.DiscardHandler))
	post := func(part string, size int) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, ingot.BootPath(testKey, part),
			io.LimitReader(strings.NewReader(`{"stage":"init"}`+strings.Repeat(" ", size)), int64(size))))
		return w
	}
	for _, size := range []int{16, 5000, smallBody, smallBody + 1, 100_000, maxMessage} {
		if w := post("events", size); w.Code != http.StatusNoContent {
			t.Errorf("a body of %d bytes: status %d, %s; want 204", size, w.Code, w.Body)
		}
	}
	w := post("events", maxMessage+1)
	if w.Code != http.StatusRequestEntityTooLarge || !strings.Contains(w.Body.String(), "256 KiB") {
		t.Errorf("a larger body: status %d, %q; want 413 and the limit", w.Code, w.Body)
	}
	if s.bodies.bytes != 0 || len(s.bodies.clients) != 0 {
		t.Errorf("%d bytes of %d clients are still counted", s.bodies.bytes, len(s.bodies.clients))
	}
}

// TestElementsAreBounded: a body whose values would take far more memory than itself is refused, and
// what a log line repeats of one is short.
func TestElementsAreBounded(t *testing.T) {
	var log strings.Builder
	s := New(&oneBoot{dir: t.TempDir()}, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for _, body := range []string{`{"stage":"volumes","results":[{}` + strings.Repeat(",{}", 60_000) + `]}`,
		`{"stage":"init","bytes":` + strings.Repeat("9", 200_000) + `}`} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, ingot.BootPath(testKey, "events"), strings.NewReader(body)))
		if w.Code != http.StatusBadRequest {
			t.Errorf("status %d, %s; want 400", w.Code, w.Body)
		}
	}
	if n := log.Len(); n > 4000 {
		t.Errorf("two refused bodies are %d bytes of the log", n)
	}
}
