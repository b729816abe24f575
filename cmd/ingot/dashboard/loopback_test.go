package dashboard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLoopback: the link works once; nothing passes without its session, for another host name, or to
// the API; and neither cookie nor token of a browser reaches the server.
func TestLoopback(t *testing.T) {
	var got []*http.Request
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			got = append(got, r)
			fmt.Fprint(w, "the fleet")
		})}}
	server.Start()
	t.Cleanup(server.Close)
	p, err := Open(t.Context(), l.Addr().String(), 0)
	if err != nil {
		t.Fatal(err)
	}
	p.patience = 300 * time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(t.Context()) }()
	base := strings.TrimSuffix(p.Link[:strings.Index(p.Link, "/once")], "/")
	ask := func(c *http.Client, url, host string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			r.Host = host
		}
		r.Header.Set("Authorization", "Bearer secret")
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	near := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, p.listener.Addr().String()) // as browsers resolve it
	}}
	stranger := &http.Client{Transport: near}
	for _, path := range []string{"/", "/pending", "/v1/machines", "/static/app.js", "/once", "/once?key=",
		"/once?key=x"} {
		if status, text := ask(stranger, base+path, ""); status != 403 || strings.Contains(text, "fleet") {
			t.Errorf("without a session, GET %s = %d %s; want 403", path, status, text)
		}
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Transport: near}
	if status, text := ask(browser, p.Link, ""); status != 200 || text != "the fleet" {
		t.Fatalf("the link = %d %s; want the dashboard", status, text)
	}
	if status, _ := ask(stranger, p.Link, ""); status != 403 {
		t.Errorf("the link works twice: %d", status)
	}
	if status, _ := ask(browser, p.Link, ""); status != 200 {
		t.Errorf("the link again in the same browser = %d; want the dashboard", status)
	}
	port := base[strings.LastIndex(base, ":"):]
	for _, host := range []string{"evil.example", "evil.example" + port, "localhost" + port, "127.0.0.1",
		"ingot-aaaaaaaaaaaaaaaa.localhost" + port, "x." + strings.TrimPrefix(base, "http://")} {
		if status, _ := ask(browser, base+"/", host); status != http.StatusMisdirectedRequest {
			t.Errorf("for %s = %d; want 421", host, status)
		}
	}
	if status, _ := ask(browser, "http://127.0.0.1"+port+"/", ""); status != 403 {
		t.Errorf("by the address, where the browser has no session: %d; want 403", status)
	}
	// What another local user serves at another port gets no cookie of ours, by whatever address.
	other, _ := url.Parse("http://127.0.0.1:1/")
	named, _ := url.Parse("http://evil.localhost:1/")
	if stolen := append(jar.Cookies(other), jar.Cookies(named)...); len(stolen) != 0 {
		t.Errorf("another port is shown the cookies %v", stolen)
	}
	for _, path := range []string{"/v1/machines", "/metrics", "/healthz", "/%76%31/machines", "/v1/../v1/machines"} {
		if status, _ := ask(browser, base+path, ""); status != 404 {
			t.Errorf("GET %s = %d; want 404", path, status)
		}
	}
	if len(got) == 0 {
		t.Fatal("nothing reached the server")
	}
	for _, r := range got {
		if r.Header.Get("Cookie") != "" || r.Header.Get("Authorization") != "" || "http://"+r.Host != base {
			t.Errorf("the server got %v for %s; want no cookie, no token, and the host of the port", r.Header, r.Host)
		}
	}
	server.Close()
	if status, text := ask(browser, base+"/", ""); status != 502 || !strings.Contains(text, "does not answer") {
		t.Errorf("without a server = %d %s", status, text)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, ErrGone) {
			t.Errorf("Serve without a server = %v; want ErrGone", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the port stays open without a server")
	}
}
