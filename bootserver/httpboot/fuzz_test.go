package httpboot

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// FuzzBodies: any posted body is accepted or refused, and never breaks the server.
func FuzzBodies(f *testing.F) {
	for _, s := range []string{
		`{"stage":"root","bytes":1}`, `{"nonce":"0123456789abcdef0123456789abcdef","facts":{"ram":1}}`,
		`{"boot":"01000000000000000000000000000000","healthy":true,"checks":[{"name":"a","ok":true}]}`,
		`{`, `[[[[`, `{"stage":1e400}`, "{}{}", "null",
	} {
		f.Add([]byte(s))
	}
	server := New(&oneBoot{dir: f.TempDir()}, quiet())
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, part := range []string{"ticket", "events", "report"} {
			w := httptest.NewRecorder()
			server.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path(part), bytes.NewReader(body)))
			if !slices.Contains([]int{200, 204, 400, 413}, w.Code) {
				t.Errorf("%s: %d; want 200, 204, 400 or 413", part, w.Code)
			}
		}
	})
}

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// FuzzRequest: any bytes get answers that can be parsed, none of which is a
// redirect, chunked or a server error.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET " + path("script") + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"HEAD " + part("root") + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET " + part("root") + " HTTP/1.1\r\nHost: x\r\nRange: bytes=1-2\r\n\r\n",
		"GET " + part("root") + " HTTP/1.1\r\nHost: x\r\nRange: bytes=1-2,5-\r\nIf-Range: \"x\"\r\n\r\n",
		"GET //b/../x HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\nHost: y\r\n\r\n",
		"POST " + path("events") + " HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{\"stage\":\"root\"}",
		"POST " + path("report") + " HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	s := &oneBoot{dir: f.TempDir()}
	s.random(f, "root", 5000)
	server := New(s, quiet())
	server.timeout = 50 * time.Millisecond
	l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	ctx := f.Context()
	go func() { _ = server.Serve(ctx, l) }() // ends with the test
	f.Fuzz(func(t *testing.T, request []byte) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		l.conns <- theirs
		go func() {
			_, _ = ours.Write(request)                            // the server may stop reading
			_, _ = io.WriteString(ours, "\r\n\r\n")               // ends a header that has no end
			_ = ours.SetReadDeadline(time.Now().Add(time.Second)) // nothing more comes
		}()
		r := bufio.NewReader(ours)
		method := ""
		if bytes.HasPrefix(request, []byte("HEAD ")) {
			method = http.MethodHead
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return // not even a request
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 == 3 && resp.StatusCode != http.StatusNotModified || resp.Header.Get("Location") != "" {
			t.Errorf("%q is redirected: %s %q", request, resp.Status, resp.Header.Get("Location"))
		}
		if len(resp.TransferEncoding) > 0 {
			t.Errorf("%q is answered in chunks", request)
		}
		unsupported := []int{http.StatusHTTPVersionNotSupported, http.StatusNotImplemented}
		if resp.StatusCode >= 500 && !slices.Contains(unsupported, resp.StatusCode) {
			t.Errorf("%q: %s", request, resp.Status)
		}
	})
}
