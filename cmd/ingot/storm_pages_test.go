package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/testvm/storm"
)

// readers are open pages of the dashboard, in a process of their own: what they cost is the server's side alone.
type readers struct {
	Base  string   `json:"base"`
	Token string   `json:"token"`
	CA    string   `json:"ca"` // its file
	Pages []string `json:"pages"`
}

// openPages are the twenty that a storm is watched by.
func openPages(machines []api.Machine) (pages []string) {
	for i := range 20 {
		switch {
		case i < 10:
			pages = append(pages, "/")
		case i < 14:
			pages = append(pages, "/events")
		case i < 18:
			pages = append(pages, "/machines/"+string(machines[i*len(machines)/20].ID))
		case i == 18:
			pages = append(pages, "/trends")
		default:
			pages = append(pages, "/images")
		}
	}
	return pages
}

// runReaders is the process of readers: it prints a line when all pages are open, and at the end of its input
// how many bytes of changes they got.
func runReaders(ctx context.Context, text string, in io.Reader, out io.Writer) error {
	var r readers
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	pem, err := os.ReadFile(r.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	jar, err := cookiejar.New(nil)
	if err != nil {
		return err
	}
	c := &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool,
		ServerName: access.ServerName}}}
	if err := r.get(ctx, c, http.MethodPost, "/login", url.Values{"token": {r.Token}}, io.Discard); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sums, early := make(chan int64), make(chan error, len(r.Pages))
	for _, page := range r.Pages {
		query, err := r.open(ctx, c, page)
		if err != nil {
			return err
		}
		go func() {
			var n counter
			if err := r.get(ctx, c, http.MethodGet, "/live?"+query, nil, &n); ctx.Err() == nil {
				early <- fmt.Errorf("the stream of %s ended: %w", page, cmp.Or(err, io.EOF))
			}
			sums <- int64(n)
		}()
	}
	fmt.Fprintln(out, "ready")
	_, _ = io.Copy(io.Discard, in) // until it is closed
	stop()
	var all int64
	for range r.Pages {
		all += <-sums
	}
	fmt.Fprintln(out, all)
	close(early)
	return <-early
}

// counter counts what is written.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// get sends a request as a page would, and copies what is answered.
func (r readers) get(ctx context.Context, c *http.Client, method, path string, form url.Values, into io.Writer) error {
	q, err := http.NewRequestWithContext(ctx, method, r.Base+path, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	q.Header.Set("Sec-Fetch-Site", "same-origin")
	answer, err := c.Do(q)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", method, path, answer.Status)
	}
	_, err = io.Copy(into, answer.Body)
	return err
}

var viewRE = regexp.MustCompile(`data-view="([^"]*)" data-order="([^"]*)" data-cursor="([^"]*)"`)

// open gets a page, and returns what its stream is asked with.
func (r readers) open(ctx context.Context, c *http.Client, page string) (query string, err error) {
	var text bytes.Buffer
	if err := r.get(ctx, c, http.MethodGet, page, nil, &text); err != nil {
		return "", err
	}
	m := viewRE.FindStringSubmatch(text.String())
	if m == nil {
		return "", fmt.Errorf("%s names no stream", page)
	}
	return url.Values{"of": {html.UnescapeString(m[1])}, "order": {m[2]}, "cursor": {m[3]}}.Encode(), nil
}

// watch opens pages; stop closes them, and returns how many bytes of changes they got.
func (f *field) watch(r readers) (stop func() int64) {
	f.t.Helper()
	conf, err := json.Marshal(r)
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := f.crowd.Command(f.ctx, os.Args[0], string(conf))
	cmd.Env = append(os.Environ(), "INGOT_TEST_IS=readers")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	in, err := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err, err2, f.lan.Start(cmd)); err != nil {
		f.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		f.t.Fatalf("opening pages: %q, %v: %s", lines.Text(), cmd.Wait(), errs.String())
	}
	return func() (bytes int64) {
		f.t.Helper()
		in.Close()
		if _, err := fmt.Sscan(scanned(lines), &bytes); err != nil || bytes == 0 {
			f.t.Errorf("the pages got %d bytes of changes: %v: %s", bytes, err, errs.String())
		}
		if err := cmd.Wait(); err != nil {
			f.t.Errorf("closing pages: %v: %s", err, errs.String())
		}
		return bytes
	}
}

// scanned is the next line.
func scanned(lines *bufio.Scanner) string {
	lines.Scan()
	return lines.Text()
}

// BenchmarkStormWatched is a storm of 1,000 machines with and without twenty open pages, over TLS, in turns against
// one server: the processor time of the server per boot, and the median of the ratios of pairs. Of the pairs,
// every second one begins with the pages.
func BenchmarkStormWatched(b *testing.B) {
	const machines, pairs = 1000, 4
	f := newFieldOf(b, sizes{loader: 300_000, kernel: 1 << 20, initramfs: 2 << 20, root: 4 << 20}, 25*time.Minute)
	f.write(settings + "api: {listen: [':7443']}\n")
	f.serve()
	made, err := f.api().CreateCredential(f.ctx, api.CredentialRequest{Name: "wall", Scope: access.Read, For: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	round := func() float64 {
		before := f.usage().cpu
		f.startStorm(storm.Config{Machines: machines, Spread: time.Second, Timeout: 4 * time.Minute})()
		return (f.usage().cpu - before).Seconds() * 1000 / machines
	}
	round() // machines become known
	list, err := f.api().MachinesBrief(f.ctx)
	if err != nil || len(list) != machines {
		b.Fatalf("%d machines, %v", len(list), err)
	}
	r := readers{Base: "https://10.99.0.1:7443", Token: made.Token, CA: filepath.Join(f.store, "keys", "ca.crt"),
		Pages: openPages(list)}
	for b.Loop() {
		var alone, watched, ratios []float64
		var bytes int64
		for i := range pairs {
			var without, with float64
			for k := range 2 {
				if (i+k)%2 == 0 {
					without = round()
					continue
				}
				stop := f.watch(r)
				with = round()
				bytes += stop()
			}
			b.Logf("round %d: %.2f ms without pages, %.2f ms with", i+1, without, with)
			alone, watched, ratios = append(alone, without), append(watched, with), append(ratios, with/without)
		}
		slices.Sort(ratios)
		slices.Sort(alone)
		slices.Sort(watched)
		b.ReportMetric((ratios[pairs/2-1]+ratios[pairs/2])/2, "cpu-x-watched")
		b.ReportMetric((alone[pairs/2-1]+alone[pairs/2])/2, "cpu-ms/machine")
		b.ReportMetric((watched[pairs/2-1]+watched[pairs/2])/2, "cpu-ms/machine-watched")
		b.ReportMetric(float64(bytes)/pairs/(1<<20), "MiB-sent")
	}
	b.ReportMetric(0, "ns/op") // the metrics above are what is measured
}
