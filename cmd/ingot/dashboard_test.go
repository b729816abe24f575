package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"strings"
	"testing"

	"ingot/bootserver/access"
)

// TestDashboard: the link of ingot dashboard opens the pages of a real server, and what their forms do
// is done by the user of the command.
func TestDashboard(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	f.serve()
	ctx, cancel := context.WithCancel(f.ctx)
	out, stdout := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"--store", f.store, "dashboard"}, strings.NewReader(""), stdout, io.Discard)
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	link := strings.TrimSpace(line)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(link)
	if err != nil || !strings.HasSuffix(at.Hostname(), ".localhost") {
		t.Fatalf("the link is %q, %v; want a name of its own", link, err)
	}
	near := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+at.Port()) // as browsers resolve it
	}}
	browser := &http.Client{Jar: jar, Transport: near}
	answer := func(resp *http.Response, err error) (int, string) {
		t.Helper()
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
	if status, text := answer(browser.Get(link)); status != 200 || !strings.Contains(text, "<h1>Fleet</h1>") ||
		!strings.Contains(text, "The server answers on br0") {
		t.Fatalf("GET %s = %d\n%s", link, status, text)
	}
	if status, text := answer((&http.Client{Transport: near}).Get(link)); status != 403 {
		t.Errorf("the link works twice: %d %s", status, text)
	}
	base := link[:strings.Index(link, "/once")]
	if status, _ := answer(browser.Get(base + "/v1/machines")); status != 404 {
		t.Errorf("the API through the port = %d; want 404", status)
	}
	if status, text := answer(browser.PostForm(base+"/settings/reload", url.Values{})); status != 200 ||
		!strings.Contains(text, "The configuration was read again") {
		t.Errorf("reload = %d\n%s", status, text)
	}
	audit, err := f.api().Audit(f.ctx, 0, true, 1)
	if err != nil || len(audit) != 1 || audit[0].Action != "server.reload" || audit[0].Who.Kind != access.Local ||
		*audit[0].Who.UID != os.Getuid() {
		t.Errorf("the audit log has %+v, %v; want the reload by this user", audit, err)
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("ingot dashboard, interrupted, ends with %d", code)
	}
	if code, _, stderr := invoke(t, "dashboard", "--port", "70000"); code != 2 || !strings.Contains(stderr, "65535") {
		t.Errorf("a wrong port: %d %s", code, stderr)
	}
	if code, _, stderr := invoke(t, "dashboard"); code != 1 || !strings.Contains(stderr, "no server is running") {
		t.Errorf("without a server: %d %s", code, stderr)
	}
}
