package httpboot

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// shared is a log that a server writes while a test reads it.
type shared struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shared) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestPanicsAreErrors: a panic of a handler is logged as an error, with its stack;
// an answer that a handler aborts, and a malformed request, are not.
func TestPanicsAreErrors(t *testing.T) {
	var log shared
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	handler := func(_ http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bug":
			panic("a bug")
		case "/half":
			panic(http.ErrAbortHandler)
		}
	}
	s := &http.Server{ErrorLog: ErrorLog(slog.New(slog.NewTextHandler(&log, nil))), Handler: http.HandlerFunc(handler)}
	go func() { _ = s.Serve(l) }() // it ends with the test
	defer func() { _ = s.Close() }()
	get := func(path string) {
		if resp, err := http.Get("http://" + l.Addr().String() + path); err == nil {
			resp.Body.Close()
		}
	}
	get("/half")
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("\x16\x03\x01 nonsense\r\n\r\n"))
	c.Close()
	if text := log.String(); text != "" {
		t.Errorf("the log has %s; want nothing at Info and above", text)
	}
	get("/bug")
	text := log.String() // it was written before the connection was closed
	for _, want := range []string{"level=ERROR", "a bug", "serve_test.go"} {
		if !strings.Contains(text, want) || strings.Count(text, "level=") != 1 {
			t.Errorf("a panic is logged as\n%s\nwant one error with its stack", text)
		}
	}
}
