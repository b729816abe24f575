package access

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestStrangersLeave: the connection of a stranger ends soon, whatever it does or does not; that of
// a client with a credential stays.
func TestStrangersLeave(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	places := &Places{Life: 300 * time.Millisecond}
	server := &http.Server{ConnContext: ConnContext, Handler: http.HandlerFunc(
		func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/known" {
				welcome(r.Context())
			}
		})}
	go func() { _ = server.Serve(places.Listen(l)) }()
	t.Cleanup(func() { _ = server.Close() })
	for _, c := range []struct {
		name, text string
		ends       bool
	}{
		{"silent", "", true},
		{"half a request", "GET / HT", true},
		{"a request", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"a credential", "GET /known HTTP/1.1\r\nHost: x\r\n\r\n", false},
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, c.text); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, err = io.Copy(io.Discard, conn)
		if ended := err == nil; ended != c.ends {
			t.Errorf("%s: the connection ended: %t (%v); want %t", c.name, ended, err, c.ends)
		}
	}
	places.mu.Lock()
	defer places.mu.Unlock()
	if places.strangers.Len() != 0 || places.known != 1 || len(places.sources) != 0 {
		t.Errorf("%d strangers of %v and %d known are counted; want one known", places.strangers.Len(), places.sources,
			places.known)
	}
}
