package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// hostileServer answers at a socket with a handler until the test ends.
func hostileServer(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return Dial(path)
}

// endless writes a text until the client has enough.
func endless(w http.ResponseWriter, text string) {
	text = strings.Repeat(text, 1+(64<<10)/len(text))
	for {
		if _, err := io.WriteString(w, text); err != nil {
			return
		}
	}
}

// TestHostileServer: whatever a server answers, a client ends, and takes a bounded amount of it.
func TestHostileServer(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		call   func(context.Context, *Client) error
		want   string
	}{
		{"an endless answer", func(w http.ResponseWriter, _ *http.Request) { endless(w, " ") },
			func(ctx context.Context, c *Client) error { _, err := c.Version(ctx); return err }, "reading the server's answer"},
		{"an endless list", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `</v1/machines?cursor=1>; rel="next"`)
			_, _ = io.WriteString(w, "[]")
		}, func(ctx context.Context, c *Client) error { _, err := c.Machines(ctx); return err }, "more than 10000 pages"},
		{"endless headers", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 40 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 64<<10))
			}
		}, func(ctx context.Context, c *Client) error { _, err := c.Version(ctx); return err }, "header"},
		{"an endless error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); endless(w, "x") },
			func(ctx context.Context, c *Client) error { _, err := c.Version(ctx); return err }, "500"},
		{"an endless capture", func(w http.ResponseWriter, _ *http.Request) { endless(w, "x") },
			func(ctx context.Context, c *Client) error {
				return c.Capture(ctx, []string{"m"}, time.Minute, 1<<20, io.Discard)
			}, "sends more than"},
	} {
		client := hostileServer(t, c.answer)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := c.call(ctx, client)
		runtime.ReadMemStats(&after)
		if err == nil || !strings.Contains(err.Error(), c.want) || ctx.Err() != nil {
			t.Errorf("%s: %v; want an error with %q", c.name, err, c.want)
		}
		cancel()
		if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 8*maxAnswer {
			t.Errorf("%s: the heap grew by %d bytes", c.name, grown)
		}
	}
}

// TestSilentStream: a stream that stops is ended.
func TestSilentStream(t *testing.T) {
	r, w := io.Pipe()
	go func() { _, _ = io.WriteString(w, "some") }()
	n, err := receive(io.Discard, r, 1000, 50*time.Millisecond, func() { w.CloseWithError(context.Canceled) })
	if n != 4 || err == nil || !strings.Contains(err.Error(), "sent nothing for 50ms") {
		t.Errorf("receive = %d, %v; want 4 bytes, and that the server sent nothing", n, err)
	}
}
