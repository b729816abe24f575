package api

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
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

// repeat answers JSON whose middle is endless.
func repeat(start, middle string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if _, err := io.WriteString(w, start); err == nil {
			endless(w, middle)
		}
	}
}

// peak runs f and returns by how many bytes the heap grew meanwhile, at most.
func peak(f func()) int64 {
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // little of what is counted is garbage
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before, most := m.HeapAlloc, m.HeapAlloc
	done, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(end)
		for {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	f()
	close(done)
	<-end
	return int64(most - before)
}

// bomb answers a gzip bomb: many MB of spaces in a few KB.
func bomb(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	endless(writerOnly{z, w}, " ")
}

type writerOnly struct {
	io.Writer
	http.ResponseWriter
}

func (w writerOnly) Write(b []byte) (int, error) { return w.Writer.Write(b) }

// WriteString is not that of the answer.
func (w writerOnly) WriteString(s string) (int, error) { return w.Writer.Write([]byte(s)) }

// TestHostileServer: whatever a server answers, a client ends, takes a bounded amount of it, and says so in one
// sentence.
func TestHostileServer(t *testing.T) {
	version := func(ctx context.Context, c *Client) error { _, err := c.Version(ctx); return err }
	machines := func(ctx context.Context, c *Client) error { _, err := c.Machines(ctx); return err }
	boots := func(ctx context.Context, c *Client) error { _, err := c.Boots(ctx, "m", 10); return err }
	events := func(ctx context.Context, c *Client) error {
		_, err := c.Events(ctx, EventsRequest{Limit: 10_000})
		return err
	}
	audit := func(ctx context.Context, c *Client) error { _, err := c.Audit(ctx, 0, true, 100); return err }
	images := func(ctx context.Context, c *Client) error { _, err := c.Images(ctx); return err }
	console := func(ctx context.Context, c *Client) error { _, err := c.Console(ctx, "m", ""); return err }
	next := `</v1/machines?cursor=1>; rel="next"`
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		call   func(context.Context, *Client) error
		want   string
	}{
		{"an endless answer", repeat("", " "), version, "larger than any answer"},
		{"a line without end", repeat(`{"version":"`, "x"), version, "larger than any answer"},
		{"an endless list", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", next)
			_, _ = io.WriteString(w, "[]")
		}, machines, "more than 10000 pages"},
		{"many full pages", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", next)
			_, _ = io.WriteString(w, "["+strings.Repeat(`{"id":"m"},`, 1000)+"{}]")
		}, machines, "larger than any answer"},
		{"a page without end", repeat("[", `{"id":"m"},`), machines, "larger than any answer"},
		{"a page of null", repeat("[", "null,"), machines, "larger than any answer"},
		{"a page of boots", repeat("[", "{},"), boots, "larger than any answer"},
		{"a machine without end", repeat(`[{"id":"`, "x"), machines, "larger than any answer"},
		{"a list in a machine", repeat(`[{"macs":[`, `"",`), machines, "larger than any answer"},
		{"a machine with other types", repeat(`[`, `0,`), machines, "cannot unmarshal"},
		{"entries without end", repeat(`{"events":[`, `{},`), events, "larger than any answer"},
		{"entries of null", repeat(`{"events":[`, `null,`), events, "larger than any answer"},
		{"fields of an entry", repeat(`{"events":[{"to":{"a":[`, `{"a":{}},`), events, "larger than any answer"},
		{"an audit log", repeat("[", `{},`), audit, "larger than any answer"},
		{"images", repeat("[", `{},`), images, "larger than any answer"},
		{"a console", repeat(`{"text":"`, "x"), console, "larger than any answer"},
		{"deep JSON", repeat("", "["), version, "nests more than 64 levels"},
		{"deep fields of an entry", repeat(`{"events":[{"to":`, `{"a":`), events, "nests more than 64 levels"},
		{"a gzip bomb", bomb, version, "reading the server's answer"},
		{"a gzip bomb of machines", bomb, machines, "reading a list from the server"},
		{"endless headers", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 40 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 64<<10))
			}
		}, version, "header"},
		{"an endless error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); endless(w, "x") },
			version, "500"},
		{"a long error", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			_, _ = io.WriteString(w, `{"detail":"`+strings.Repeat("x", 60<<10)+`"}`)
		}, version, "x…"},
		{"an endless capture", repeat("", "x"), func(ctx context.Context, c *Client) error {
			return c.Capture(ctx, []string{"m"}, time.Minute, 1<<20, io.Discard)
		}, "sends more than"},
		{"an endless answer to a backup", repeat(`{"before":"`, "x"), func(ctx context.Context, c *Client) error {
			_, err := c.Restore(ctx, strings.NewReader("backup"))
			return err
		}, "larger than any answer"},
	} {
		client := hostileServer(t, c.answer)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		var err error
		grown := peak(func() { err = c.call(ctx, client) })
		if err == nil || !strings.Contains(err.Error(), c.want) || ctx.Err() != nil || len(err.Error()) > 10_000 {
			t.Errorf("%s: %.300v; want an error with %q", c.name, err, c.want)
		}
		cancel()
		if t.Logf("%s: %d KiB", c.name, grown>>10); grown > 80<<20 {
			t.Errorf("%s: the heap grew by %d MiB", c.name, grown>>20)
		}
	}
}

// TestStalledUpload: a server that takes nothing of a backup does not hold the client.
func TestStalledUpload(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	c := hostileServer(t, func(http.ResponseWriter, *http.Request) { <-release })
	_, err := c.restore(t.Context(), io.LimitReader(zeros{}, 1<<40), 200*time.Millisecond)
	if err == nil || err.Error() != "sending the backup: the server took nothing of it for 200ms" {
		t.Errorf("Restore: %v; want that the server took nothing", err)
	}
}

// TestRestoreWithoutAnswer: a server that takes a whole backup and says nothing does not hold the client.
func TestRestoreWithoutAnswer(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	c := hostileServer(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-release
	})
	_, err := c.restore(t.Context(), strings.NewReader("backup"), 100*time.Millisecond)
	if err == nil || err.Error() != "sending the backup: the server has all of it, and did not answer for 500ms" {
		t.Errorf("Restore: %v; want that the server did not answer", err)
	}
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestBootsOfSeveralPages: pages are of ever older boots, each with the oldest first; so is the whole list.
func TestBootsOfSeveralPages(t *testing.T) {
	c := hostileServer(t, func(w http.ResponseWriter, r *http.Request) {
		page := `[{"number":1},{"number":2}]`
		if r.URL.Query().Get("before") == "" {
			w.Header().Set("Link", `</v1/boots?before=3>; rel="next"`)
			page = `[{"number":3},{"number":4}]`
		}
		_, _ = io.WriteString(w, page)
	})
	for limit, want := range map[int][]int{0: {1, 2, 3, 4}, 1: {4}, 2: {3, 4}, 3: {2, 3, 4}} {
		list, err := c.Boots(t.Context(), "m", limit)
		var got []int
		for _, b := range list {
			got = append(got, b.Number)
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("the latest %d boots: %v, %v; want %v", limit, got, err, want)
		}
	}
}

// TestLargeFleetFits: the lists of a large fleet are no attack.
func TestLargeFleetFits(t *testing.T) {
	m := Machine{ID: "4f1b2c3d", Name: "rack12-node34.example.com", State: Approved, UUID: strings.Repeat("4", 36),
		Serial: "CZJ12345678", MACs: []string{"52:54:00:12:00:01", "52:54:00:12:00:02", "52:54:00:12:00:03"},
		Labels: map[string]string{"rack": "r12", "role": "compute", "row": "7"}}
	m.Facts.Vendor, m.Facts.Product = "A Vendor of Servers Inc.", "Model 1234 Generation 11"
	m.Assignment.Image, m.Assignment.Name, m.Assignment.Why = ingot.DigestOf(nil), "node:2026.11.24-1", "ticket 1234"
	m.LastHealthy = m.Assignment.ImageRef
	one, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	all := "[" + strings.Repeat(string(one)+",", 9_999) + string(one) + "]"
	c := hostileServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, all) })
	if list, err := c.MachinesBrief(t.Context()); err != nil || len(list) != 10_000 {
		t.Errorf("a list of 10,000 machines, %d bytes each: %d, %v", len(one), len(list), err)
	}
	entry, err := json.Marshal(Entry{Seq: 1 << 40, At: time.Unix(1<<30, 1), Kind: "decision", Code: "image-assigned",
		Machine: m.ID, Image: m.LastHealthy, From: map[string]any{"image": m.LastHealthy}, To: map[string]any{"image": "x"},
		Text: strings.Repeat("text ", 30)})
	if err != nil {
		t.Fatal(err)
	}
	all = `{"events":[` + strings.Repeat(string(entry)+",", 9_999) + string(entry) + "]}"
	if e, err := c.Events(t.Context(), EventsRequest{Limit: 10_000}); err != nil || len(e.Events) != 10_000 {
		t.Errorf("10,000 entries, %d bytes each: %d, %v", len(entry), len(e.Events), err)
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
