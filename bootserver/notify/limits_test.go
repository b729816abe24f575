package notify

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
)

// try sends a test to a webhook.
func (s *stage) try(w webhook.Webhook) webhook.Result {
	s.t.Helper()
	r, _, err := s.n.Test(s.t.Context(), w)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// wantFailure checks that an attempt failed, and why.
func wantFailure(t *testing.T, what string, r webhook.Result, why string) {
	t.Helper()
	if r.OK() || !strings.Contains(r.Text(), why) {
		t.Errorf("%s: status %d, %q; want %q", what, r.Status, r.Why, why)
	}
}

// TestCertificate: the receiver's certificate must be issued by the system's CAs or the webhook's own, for
// the name in the URL.
func TestCertificate(t *testing.T) {
	s := newStage(t)
	requests := 0
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests++ }))
	web.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	web.StartTLS()
	defer web.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}))
	hook := s.hook(nil, web.URL, nil)
	wantFailure(t, "without its CA", s.try(hook), "certificate")
	hook.CA = ca
	if r := s.try(hook); !r.OK() || requests != 1 {
		t.Errorf("with its CA: %+v, %d requests", r, requests)
	}
	hook.URL = strings.Replace(web.URL, "127.0.0.1", "127.0.0.2", 1)
	wantFailure(t, "under another address", s.try(hook), "")
	hook.URL = strings.Replace(web.URL, "127.0.0.1", "localhost", 1)
	wantFailure(t, "under another name", s.try(hook), "localhost")
	hook.URL = strings.Replace(web.URL, "https", "http", 1)
	wantFailure(t, "without TLS", s.try(hook), "400")
	if requests != 1 {
		t.Errorf("%d requests got through; want one", requests)
	}
}

// TestAddresses: addresses that are not allowed get no packet, under whatever name, and no redirect or proxy
// leads anywhere.
func TestAddresses(t *testing.T) {
	s := newStage(t)
	inner := 0
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inner++ }))
	defer target.Close()
	t.Setenv("HTTP_PROXY", target.URL)
	t.Setenv("http_proxy", target.URL)
	hook := s.hook(nil, target.URL, func(w *webhook.Webhook) { w.Allow = nil })
	wantFailure(t, "loopback", s.try(hook), "loopback")
	hook.URL = strings.Replace(target.URL, "127.0.0.1", "localhost", 1)
	wantFailure(t, "a name for loopback", s.try(hook), "loopback")
	hook.URL = strings.Replace(target.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1)
	wantFailure(t, "loopback within IPv6", s.try(hook), "loopback")
	hook.URL = "http://169.254.169.254/latest/meta-data/"
	wantFailure(t, "metadata", s.try(hook), "link-local")
	hook.URL = "http://0.0.0.0:" + target.URL[strings.LastIndex(target.URL, ":")+1:]
	wantFailure(t, "unspecified", s.try(hook), "unspecified")

	redirects := 0
	from := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		redirects++
		http.Redirect(w, q, target.URL, http.StatusTemporaryRedirect)
	}))
	defer from.Close()
	hook.URL, hook.Allow = from.URL, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	wantFailure(t, "a redirect", s.try(hook), "redirects are not followed")

	hook.URL = "http://192.0.2.1:9/" // for documentation: nobody is there
	s.n.Timeout = 300 * time.Millisecond
	wantFailure(t, "beside a proxy", s.try(hook), "")
	if inner != 0 || redirects != 1 {
		t.Errorf("%d requests came where none may, and %d redirects were asked for; want one", inner, redirects)
	}
}

// TestAnswersAreBounded: an answer without end takes neither memory nor time, and its status counts.
func TestAnswersAreBounded(t *testing.T) {
	s := newStage(t)
	part := bytes.Repeat([]byte("x"), 64<<10)
	kind := ""
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch kind {
		case "header":
			for i := range 2000 {
				w.Header().Set(fmt.Sprint("X-", i), string(part[:1000]))
			}
		case "refusal":
			w.WriteHeader(400)
			_, _ = w.Write([]byte("no \x1b[31m\u202e" + string(part)))
		case "drip":
			for range 600 {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-q.Context().Done():
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		default:
			for range 10_000 {
				if _, err := w.Write(part); err != nil {
					return
				}
			}
		}
	}))
	defer web.Close()
	hook := s.hook(nil, web.URL, nil)
	began := time.Now()
	for _, kind = range []string{"endless", "drip"} {
		if r := s.try(hook); !r.OK() {
			t.Errorf("%s: %+v; want OK", kind, r)
		}
	}
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("two answers without end took %s", d)
	}
	kind = "header"
	wantFailure(t, "a header without end", s.try(hook), "header")
	kind = "refusal"
	if r := s.try(hook); r.Status != 400 || len(r.Said) < 10 || len(r.Text()) > 4*maxWhy ||
		strings.ContainsAny(r.Text(), "\x1b\u202e") {
		t.Errorf("a long refusal: %q", r.Text())
	}
}

// TestSlowReceiver: a receiver that hangs delays neither another one nor the end of the server, and loses
// nothing by that.
func TestSlowReceiver(t *testing.T) {
	s := newStage(t)
	s.limit = time.Minute
	leave := make(chan struct{})
	slow := newReceiver(t, func(http.ResponseWriter, got, int) { <-leave })
	quick := newReceiver(t, nil)
	s.hook(slow, slow.web.URL, nil)
	s.hook(quick, quick.web.URL, nil)
	s.run()
	began := time.Now()
	s.happens(300)
	until(t, "the other one gets all", func() bool { return len(quick.list()) >= 300 })
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("the other receiver had all after %s", d)
	}
	s.stop() // reports if that takes long
	close(leave)
	s.run()
	until(t, "the slow one gets all", func() bool { return len(slow.list()) >= 300 })
	wantOrder(t, slow.list(), 300)
}

// TestBacklog: ten thousand events that happened while a receiver was away come in order, without taking
// memory for them.
func TestBacklog(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, nil)
	s.hook(r, r.web.URL, nil)
	const n = 10_000
	s.happens(n)
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s.run()
	began, most := time.Now(), uint64(0)
	for len(r.list()) < n && time.Since(began) < 5*time.Minute {
		time.Sleep(500 * time.Millisecond)
		s.n.feed.mu.Lock()
		most = max(most, uint64(len(s.n.feed.list)))
		s.n.feed.mu.Unlock()
	}
	took := time.Since(began)
	runtime.GC()
	runtime.ReadMemStats(&now)
	wantOrder(t, r.list(), n)
	if most > window {
		t.Errorf("%d entries were kept; want at most %d", most, window)
	}
	kept := 0
	for _, g := range r.requests {
		kept += len(g.body) + 200
	}
	if grown := int64(now.HeapAlloc) - int64(before.HeapAlloc) - int64(2*kept); grown > 16<<20 {
		t.Errorf("the heap grew by %d bytes beside what the receiver keeps", grown)
	}
	t.Logf("%d events in %s: %.0f per second", n, took.Round(time.Millisecond), n/took.Seconds())
}

// TestGap: entries that the ledger drops before they could be sent are said, before what comes after them.
func TestGap(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, nil)
	hook := s.hook(r, r.web.URL, func(w *webhook.Webhook) { w.Events = []string{fleet.TopicBoot, fleet.TopicAudit} })
	s.happens(50)
	s.update(func(tx state.Tx) { tx.Record(fleet.Change{At: time.Now(), Code: fleet.ActionApprove, Machine: "m-1"}) })
	s.happens(49)
	for range 3 {
		if err := s.state.Trim(time.Now(), 20, state.LedgerAge); err != nil {
			t.Fatal(err)
		}
	}
	left, _, err := s.state.Changes(state.Query{})
	if err != nil || len(left) == 0 || len(left) > 20 {
		t.Fatalf("the ledger has %d entries, %v", len(left), err)
	}
	s.run()
	until(t, "all come", func() bool { return len(r.list()) >= len(left)+2 })
	s.stop()
	list := r.list()
	want := fmt.Sprintf(`"entries":%d,"from":1,"reason":"retention","to":%d`, 99-len(left), left[0].Seq-1)
	if list[0].kind != string(fleet.CodeWebhookGap) || !strings.Contains(string(list[0].body), want) {
		t.Errorf("the first event is %s; want a gap with %s", list[0].body, want)
	}
	if list[1].kind != string(fleet.ActionApprove) || list[2].seq != left[0].Seq {
		t.Errorf("then come %s and entry %d; want the action, and entry %d", list[1].kind, list[2].seq, left[0].Seq)
	}
	s.run()
	s.happens(1)
	until(t, "one more comes", func() bool { return len(r.list()) > len(left)+2 })
	if n := len(r.list()); n != len(left)+3 {
		t.Errorf("%d events came in all; want %d: a gap is said once", n, len(left)+3)
	}
	all, _, err := s.state.Changes(state.Query{})
	gaps := slices.DeleteFunc(all, func(c fleet.Change) bool { return c.Code != fleet.CodeWebhookGap })
	if err != nil || len(gaps) != 1 || gaps[0].Subject != hook.ID {
		t.Errorf("the ledger says of gaps: %+v, %v", gaps, err)
	}
}

// TestSkipped: an operator can let a webhook go on with what happens from now on.
func TestSkipped(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, nil)
	hook := s.hook(r, r.web.URL, func(w *webhook.Webhook) { w.Paused = &webhook.Pause{} })
	s.run()
	s.happens(10)
	s.update(func(tx state.Tx) {
		w, _ := tx.Webhook(hook.ID)
		w.Paused = nil
		w.Skip++
		w.Retry++
		tx.PutWebhook(w)
	})
	s.n.Wake()
	until(t, "the gap comes", func() bool { return len(r.list()) == 1 })
	s.happens(2)
	until(t, "what happens then comes", func() bool { return len(r.list()) == 3 })
	if list := r.list(); list[0].kind != string(fleet.CodeWebhookGap) || list[1].seq <= 10 {
		t.Errorf("events %s, %d", list[0].kind, list[1].seq)
	}
}

// TestRestore: after a restore, the receiver gets what the new ledger has, under ids that it knows for what
// it had, and is warned once.
func TestRestore(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, nil)
	s.hook(r, r.web.URL, nil)
	s.run()
	s.happens(10)
	until(t, "10 come", func() bool { return len(r.list()) == 10 })
	var backup bytes.Buffer
	if err := s.state.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	s.happens(10)
	until(t, "20 come", func() bool { return len(r.list()) == 20 })
	if _, err := s.state.Restore(bytes.NewReader(backup.Bytes()), time.Now()); err != nil {
		t.Fatal(err)
	}
	s.happens(10) // other events, with the numbers of those before
	until(t, "10 others and a warning come", func() bool { return len(r.list()) >= 31 })
	s.stop()
	s.run()
	s.happens(1)
	until(t, "one more comes", func() bool { return len(r.list()) >= 32 })
	gaps := 0
	for _, g := range r.list() {
		if g.kind == string(fleet.CodeWebhookGap) {
			gaps++
		}
	}
	if n := len(r.list()); n != 32 || gaps != 1 {
		t.Errorf("%d events came, %d of them about gaps; want 32 and one", n, gaps)
	}
}

// TestSecretsStayOut: neither the state nor a backup has a secret, and without the key nothing is sent.
func TestSecretsStayOut(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, nil)
	hook := s.hook(r, r.web.URL, nil)
	var backup bytes.Buffer
	if err := s.state.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{r.key, []byte(secretText(r.key)), []byte(webhook.FormatSecret(r.key))} {
		if bytes.Contains(backup.Bytes(), text) {
			t.Errorf("the backup has the secret: %q", text)
		}
	}
	if !bytes.Contains(backup.Bytes(), []byte(hook.ID)) {
		t.Error("the backup does not have the webhook: this test would find no secret in it")
	}
	path := filepath.Join(s.dir, KeyFile)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", st, err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	s.happens(1)
	s.run()
	until(t, "it says why", func() bool { l := s.n.Progress(hook.ID).Last; return l != nil && l.Why != "" })
	if s.n.CheckSecret(hook) == nil {
		t.Error("CheckSecret says nothing of a key that is missing")
	}
	if _, err := s.n.Seal("other", r.key); err != nil { // another key is made
		t.Fatal(err)
	}
	if s.n.CheckSecret(hook) == nil || r.count() != 0 {
		t.Errorf("another key opens the secret, or something was sent: %d requests", r.count())
	}
	s.stop()
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	s.run()
	until(t, "it comes when the key is back", func() bool { return len(r.list()) == 1 })
}

// TestLettersAreBounded: of many dead letters the oldest are removed, and counted.
func TestLettersAreBounded(t *testing.T) {
	s := newStage(t)
	s.policy.Refused = 1
	r := newReceiver(t, func(w http.ResponseWriter, _ got, _ int) { w.WriteHeader(400) })
	hook := s.hook(r, r.web.URL, nil)
	const more = 5
	s.happens(webhook.MaxLetters + more)
	s.run()
	until(t, "all were given up", func() bool {
		p, _ := s.state.WebhookProgress(hook.ID)
		return p.Dropped == more && len(s.state.DeadLetters(hook.ID)) == webhook.MaxLetters
	})
	if l := s.state.DeadLetters(hook.ID); l[0].Seq != more+1 {
		t.Errorf("the oldest dead letter is about entry %d; want %d", l[0].Seq, more+1)
	}
}

// TestBodyIsBounded: an event that is too large comes without what makes it so.
func TestBodyIsBounded(t *testing.T) {
	s := newStage(t)
	c := fleet.Change{At: time.Now(), Code: fleet.CodeBootEnded, Machine: "m-1", Detail: strings.Repeat("<\u2028", 50_000),
		To: fleet.Values{"outcome": strings.Repeat("x", 100_000)}}
	body, err := s.n.body(eventOf("w", c))
	if err != nil || len(body) > maxBody || !strings.Contains(string(body), `"truncated":true`) {
		t.Errorf("a body of %d bytes, %v: %.80s", len(body), err, body)
	}
}
