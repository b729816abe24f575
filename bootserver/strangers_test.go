package bootserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/bootserver/access"
)

// hold opens connections from an address, sends a text over each, and leaves them open.
func hold(t *testing.T, from, to, text string, secure bool, n int) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	var g errgroup.Group
	g.SetLimit(16)
	for range n {
		g.Go(func() error {
			c, err := d.DialContext(t.Context(), "tcp", to)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			_ = c.SetDeadline(time.Now().Add(5 * time.Second)) // a server may also leave it unanswered
			if secure {
				c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			}
			if _, err := io.WriteString(c, text); err == nil && text != "" {
				_, _ = c.Read(make([]byte, 1))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestStrangersKeepNobodyOut: hosts without a credential that hold connections open, silent ones or
// such that sent a request, keep no operator from the API, and no monitoring from the metrics. The
// connection of an operator stays.
func TestStrangersKeepNobodyOut(t *testing.T) {
	s := newStreet(t)
	conf := &s.server.conf.Settings
	conf.Socket, conf.SocketGroup = filepath.Join(t.TempDir(), "s"), ""
	conf.API.Listen, conf.API.Metrics = []string{"127.0.0.1:0"}, "127.0.0.1:0"
	d, err := s.server.openListeners(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g, ctx := errgroup.WithContext(ctx)
	s.server.answer(ctx, g, d)
	t.Cleanup(func() { cancel(); _ = g.Wait() })
	remote, metrics := d.remote[0].Addr().String(), d.metrics.Addr().String()
	ask := func(c *http.Client, url, token string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s, %w", resp.Status, err)
		}
		return nil
	}
	token := s.token("operator", access.Read)
	before := s.caller("operator", token, "")
	before.http.Timeout = 0
	if err := ask(before.http, "https://"+remote+"/v1/machines", token); err != nil {
		t.Fatal(err)
	}
	var dialled int
	before.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, n, at string) (net.Conn, error) {
		dialled++
		return (&net.Dialer{}).DialContext(ctx, n, at)
	}
	hosts := []string{"127.0.0.2"}
	for i := range 4 {
		hosts = append(hosts, fmt.Sprintf("127.0.0.%d", 10+i))
	}
	request := "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
	for i, host := range hosts {
		hold(t, host, remote, request, true, 120)
		hold(t, host, remote, "", false, 120)
		hold(t, host, metrics, request, false, 120)
		hold(t, host, metrics, "", false, 120)
		if err := ask(s.caller("new", token, "").http, "https://"+remote+"/v1/machines", token); err != nil {
			t.Errorf("after %d hosts, a new connection to the API: %v", i+1, err)
		}
		if err := ask(&http.Client{Transport: &http.Transport{}}, "http://"+metrics+"/metrics", ""); err != nil {
			t.Errorf("after %d hosts, the metrics: %v", i+1, err)
		}
		if t.Failed() {
			return
		}
	}
	if err := ask(before.http, "https://"+remote+"/v1/machines", token); err != nil || dialled != 0 {
		t.Errorf("the operator's connection from before: %v, after %d new ones", err, dialled)
	}
	hold(t, "127.0.0.1", remote, "", false, 200) // from the operator's own address
	if err := ask(s.caller("new", token, "").http, "https://"+remote+"/v1/machines", token); err != nil {
		t.Errorf("beside strangers of the same address: %v", err)
	}
}
