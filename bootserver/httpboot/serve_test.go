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

// shared is a log that is written by a server and read by a test.
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

// TestPanicsAreErrors: a handler that panics is told at Error, with where it
// was; one that ends an answer on purpose is not, and neither are clients that
// speak nonsense.
func TestPanicsAreErrors(t *testing.T) {
	var said shared
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ErrorLog: ErrorLog(slog.New(slog.NewTextHandler(&said, nil))), Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bug":
			panic("a bug")
		case "/half":
			panic(http.ErrAbortHandler)
		}
	})}
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
	if text := said.String(); text != "" {
		t.Errorf("the log has %s; want nothing at Info and above", text)
	}
	get("/bug")
	text := said.String() // it was written before the connection was closed
	if !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "a bug") || !strings.Contains(text, "serve_test.go") || strings.Count(text, "level=") != 1 {
		t.Errorf("a panic is told as\n%s\nwant one error, with its stack", text)
	}
}
