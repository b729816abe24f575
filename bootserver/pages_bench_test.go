package bootserver

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// BenchmarkDashboard measures what docs/BENCHMARKS.md promises of the dashboard, over TLS. Its machines are 40 to a
// rack.
//
//	go test ./bootserver -run '^$' -bench Dashboard -benchtime 1x -v
func BenchmarkDashboard(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint("page/", n), func(b *testing.B) { benchPage(b, n) })
	}
	b.Run("script", benchScript)
	b.Run("pixel/sparse", func(b *testing.B) { benchPixel(b, 150, 250*time.Millisecond) })
	b.Run("pixel/busy", func(b *testing.B) { benchPixel(b, 800, 20*time.Millisecond) })
	b.Run("open", func(b *testing.B) { benchOpen(b, 200) })
}

// benchStreet is a street whose machines run an image.
func benchStreet(b *testing.B, machines int) (*street, fleet.ImageRef) {
	b.Helper()
	s := newStreet(b)
	s.clock = time.Now()
	im := s.put("v1")
	ref := fleet.ImageRef{Image: im.Digest, Name: im.Name.String()}
	s.running(ref, 0, machines)
	return s, ref
}

// benchPage asks for the page Fleet, on one connection.
func benchPage(b *testing.B, machines int) {
	s, _ := benchStreet(b, machines)
	reader := s.loggedIn("reader", access.Read)
	plain := map[string]string{"Accept-Encoding": "identity"}
	for b.Loop() {
		var took []time.Duration
		var text string
		for range 20 {
			began := time.Now()
			_, _, text = reader.send("GET", "/", nil, plain)
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms-median")
		b.ReportMetric(took[len(took)-1].Seconds()*1000, "ms-most")
		b.ReportMetric(float64(len(text))/1000, "KB")
		b.ReportMetric(float64(zipped(text))/1000, "KB-compressed")
	}
	b.ReportMetric(0, "ns/op") // the metrics above are what is measured
}

// zipped is the size of a text that is compressed.
func zipped(text string) int {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write([]byte(text)) // a buffer takes all
	_ = z.Close()
	return out.Len()
}

// benchScript fetches all script that the page Fleet names.
func benchScript(b *testing.B) {
	s, _ := benchStreet(b, 1)
	reader := s.loggedIn("reader", access.Read)
	for b.Loop() {
		_, _, page := reader.send("GET", "/", nil, map[string]string{"Accept-Encoding": "identity"})
		all, files := 0, 0
		for _, part := range strings.Split(page, `<script src="`)[1:] {
			path, _, _ := strings.Cut(part, `"`)
			_, text := reader.get(path)
			all, files = all+zipped(text), files+1
		}
		if files == 0 {
			b.Fatal("the page names no script")
		}
		b.ReportMetric(float64(all)/1000, "KB-compressed")
	}
	b.ReportMetric(0, "ns/op")
}

// watching tells when the cells of machines that boot are in the picture: seen has the times, by id, of the frame
// in which each was drawn first, and when its element came.
const watching = `window.seen = {}; window.came = {};
new MutationObserver(list => {
	for (const m of list) for (const n of m.addedNodes) {
		if (n.nodeType != 1 || !n.id.startsWith("c-") || n.dataset.s != "booting" || n.id in came) continue;
		came[n.id] = Date.now();
		requestAnimationFrame(() => {
			const after = new MessageChannel();
			after.port1.onmessage = () => seen[n.id] = Date.now();
			after.port2.postMessage(0);
		});
	}
}).observe(document.body, {childList: true, subtree: true}); true`

// benchPixel measures the time from events of the ledger until Chromium has drawn what they change on the page
// Fleet of 1,000 machines: each event is the first of a boot. Times between two of them are random, with a mean.
func benchPixel(b *testing.B, events int, mean time.Duration) {
	s, ref := benchStreet(b, 1000)
	tab := newTab(b, s.tls)
	tab.do("log in", chromedp.Navigate(s.tls+"/login"), enter("#token", s.token("reader", access.Read)),
		click("form .btn.main"), visible("#sum"))
	tab.until("the page is live", `!document.querySelector("#live").hidden`)
	eval[bool](tab, watching)
	for b.Loop() {
		at := map[string]time.Time{}
		for i := range events {
			time.Sleep(time.Duration(rand.ExpFloat64() * float64(mean)))
			id, now := s.starts(ref, i)
			at["c-"+string(id)] = now
		}
		tab.until("all are drawn", fmt.Sprintf("Object.keys(seen).length == %d", events))
		report := func(times map[string]float64, unit string) {
			var took []float64
			for id, then := range at {
				took = append(took, times[id]-float64(then.UnixMicro())/1000)
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2], "ms-p50"+unit)
			b.ReportMetric(took[len(took)*95/100], "ms-p95"+unit)
			b.ReportMetric(took[len(took)-1], "ms-most"+unit)
		}
		report(eval[map[string]float64](tab, "seen"), "")
		report(eval[map[string]float64](tab, "came"), "-element")
	}
	b.ReportMetric(0, "ns/op")
	tab.calm()
}

// starts begins a boot of a machine, and returns the time of the event in the ledger.
func (s *street) starts(ref fleet.ImageRef, number int) (ingot.MachineID, time.Time) {
	s.t.Helper()
	id := ingot.MachineID(fmt.Sprintf("m-5254%08x", number))
	now := time.Now()
	err := s.state.Update(func(tx state.Tx) error {
		m, _ := tx.Machine(id)
		boot := fleet.Boot{ID: ingot.BootID(fmt.Sprintf("%032x", 1<<32+number)), Machine: id, Number: 2, Before: m.Boot,
			Image: ref, Started: now, Deadline: now.Add(time.Hour),
			Events: []fleet.Event{{At: now, Event: ingot.Event{Stage: ingot.StageDHCP}}}}
		m.Boot = boot.ID
		tx.StoreMachine(m)
		tx.StoreBoot(boot)
		tx.Record(fleet.Change{At: now, Code: fleet.CodeBootStage, Machine: id, Boot: boot.ID, Stage: ingot.StageDHCP})
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return id, now
}

// benchOpen measures the memory of open pages, with their clients, which are in the same process: half of them
// show Fleet, the others events and machines, and each gets what changes.
func benchOpen(b *testing.B, pages int) {
	s, ref := benchStreet(b, 1000)
	reader := s.loggedIn("reader", access.Read)
	used := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse+m.StackInuse) / (1 << 20)
	}
	for b.Loop() {
		reader.get("/") // what is made once
		before := used()
		var got atomic.Int64
		for i := range pages {
			path := "/"
			switch {
			case i%4 == 1:
				path = "/events"
			case i%4 == 3:
				path = fmt.Sprintf("/machines/m-5254%08x", i)
			}
			reader.follow(reader.open(path), &got)
		}
		for i := range 100 {
			s.starts(ref, i)
			time.Sleep(20 * time.Millisecond)
		}
		b.ReportMetric(used()-before, "MiB")
		b.ReportMetric(float64(got.Load())/(1<<20)/float64(pages), "MiB-sent/page")
		if got.Load() == 0 {
			b.Fatal("no page got a change")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// follow counts what the stream of a page brings, and keeps nothing of it.
func (b *browser) follow(query url.Values, got *atomic.Int64) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), "GET", b.base+"/live?"+query.Encode(), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r.AddCookie(b.cookie)
	resp, err := b.http.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("stream = %v, %v", resp, err)
	}
	b.t.Cleanup(func() { resp.Body.Close() })
	go func() {
		part := make([]byte, 1024)
		for {
			n, err := resp.Body.Read(part)
			got.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
}
