package notify

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
)

// got is one request that a receiver got.
type got struct {
	id, kind string
	seq      uint64
	at       time.Time
	body     []byte
}

// receiver is a program that gets events. How it answers is up to answer; nil accepts.
type receiver struct {
	t      *testing.T
	web    *httptest.Server
	key    []byte
	former []byte                                         // by which requests are signed as well; nil: by none
	answer func(w http.ResponseWriter, g got, before int) // before: requests with the same id

	mu       sync.Mutex
	requests []got
	accepted []got
	seen     map[string]int
	news     chan struct{}
}

func newReceiver(t *testing.T, answer func(http.ResponseWriter, got, int)) *receiver {
	t.Helper()
	r := &receiver{t: t, key: bytes.Repeat([]byte{7}, webhook.NewSecret), answer: answer, seen: map[string]int{},
		news: make(chan struct{}, 1)}
	r.web = httptest.NewServer(r)
	t.Cleanup(r.web.CloseClientConnections)
	t.Cleanup(r.web.Close)
	return r
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) { r.status = status; r.ResponseWriter.WriteHeader(status) }

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return // it was cut off
	}
	var e api.WebhookEvent
	if err := json.Unmarshal(body, &e); err != nil {
		r.t.Errorf("a body that cannot be read: %v\n%s", err, body)
	}
	g := got{id: q.Header.Get("webhook-id"), kind: e.Type, seq: e.Data.Seq, at: time.Now(), body: body}
	r.verify(q, body)
	r.mu.Lock()
	before := r.seen[g.id]
	r.seen[g.id]++
	r.requests = append(r.requests, g)
	r.mu.Unlock()
	out := &recorder{ResponseWriter: w, status: 200}
	if r.answer != nil {
		r.answer(out, g, before)
	}
	if out.status >= 200 && out.status < 300 {
		r.mu.Lock()
		r.accepted = append(r.accepted, g)
		r.mu.Unlock()
	}
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// verify checks what Standard Webhooks asks a receiver to check.
func (r *receiver) verify(q *http.Request, body []byte) {
	var at int64
	if _, err := fmt.Sscan(q.Header.Get("webhook-timestamp"), &at); err != nil {
		r.t.Errorf("the timestamp %q: %v", q.Header.Get("webhook-timestamp"), err)
	}
	want := webhook.Sign(q.Header.Get("webhook-id"), time.Unix(at, 0), body, r.keys()...)
	if have := q.Header.Get("webhook-signature"); have != want {
		r.t.Errorf("the signature is %s; want %s", have, want)
	}
	if q.Method != http.MethodPost || q.Header.Get("Content-Type") != "application/json" {
		r.t.Errorf("%s of %s", q.Method, q.Header.Get("Content-Type"))
	}
}

// keys are those by which requests must be signed.
func (r *receiver) keys() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.former == nil {
		return [][]byte{r.key}
	}
	return [][]byte{r.key, r.former}
}

// list returns what was accepted, each event once, in the order in which it was accepted first.
func (r *receiver) list() (list []got) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	for _, g := range r.accepted {
		if !seen[g.id] {
			seen[g.id] = true
			list = append(list, g)
		}
	}
	return list
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.requests)
}

// until waits until something is so.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute it is still not so: %s", what)
		}
	}
}

// stage is a state, and a notifier that can be stopped and started.
type stage struct {
	t      *testing.T
	dir    string
	state  state.Store
	policy webhook.Policy
	limit  time.Duration
	log    *slog.Logger
	n      *Notifier
	stop   func()
}

// impatient is a policy for tests.
var impatient = webhook.Policy{First: time.Millisecond, Longest: 10 * time.Millisecond, Refused: 3,
	Patience: 200 * time.Millisecond, Report: 3}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, dir: t.TempDir(), policy: impatient, limit: 10 * time.Second, stop: func() {}}
	var err error
	if s.state, err = bolt.Open(t.Context(), filepath.Join(s.dir, "state")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(); s.state.Close() })
	s.n = s.notifier()
	return s
}

func (s *stage) notifier() *Notifier {
	return New(Config{State: s.state, Keys: s.dir, Data: dataOf, Version: "test", Now: time.Now, Policy: s.policy,
		Timeout: s.limit, Log: s.log})
}

// dataOf is what the server converts Changes by, as far as tests look at it.
func dataOf(c fleet.Change) api.WebhookData {
	return api.WebhookData{Entry: api.Entry{Seq: c.Seq, At: c.At, Code: string(c.Code), Machine: c.Machine, From: c.From,
		To: c.To, Text: c.String()}, Topics: c.Topics(), Subject: c.Subject, Name: c.Name, Detail: c.Detail}
}

// run starts a notifier; stop ends it and reports how long that took.
func (s *stage) run() {
	s.t.Helper()
	s.n = s.notifier()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	n := s.n
	go func() { done <- n.Run(ctx) }()
	s.stop = func() {
		cancel()
		began := time.Now()
		if err := <-done; err != nil {
			s.t.Errorf("Run = %v", err)
		}
		if d := time.Since(began); d > 5*time.Second {
			s.t.Errorf("the notifier took %s to end", d)
		}
		s.stop = func() {}
	}
}

// hook makes a webhook that begins now.
func (s *stage) hook(r *receiver, url string, change func(*webhook.Webhook)) webhook.Webhook {
	s.t.Helper()
	w := webhook.Webhook{ID: fmt.Sprintf("%016x", len(s.state.Webhooks())+1), Name: "hook", URL: url, Created: time.Now(),
		Events: []string{fleet.TopicBoot}, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	if change != nil {
		change(&w)
	}
	key := bytes.Repeat([]byte{7}, webhook.NewSecret)
	if r != nil {
		key = r.key
	}
	var err error
	if w.Secret, err = s.n.Seal(w.ID, key); err != nil {
		s.t.Fatal(err)
	}
	name, _ := s.state.LedgerName()
	_, last, err := s.state.Changes(state.Query{Newest: true, Limit: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	s.update(func(tx state.Tx) {
		tx.PutWebhook(w)
		tx.PutWebhookProgress(webhook.Progress{Webhook: w.ID, Ledger: name, Seq: last})
	})
	s.n.Wake()
	return w
}

func (s *stage) update(f func(tx state.Tx)) {
	s.t.Helper()
	if err := s.state.Update(func(tx state.Tx) error { f(tx); return nil }); err != nil {
		s.t.Fatal(err)
	}
}

// happens adds boots that ended to the ledger.
func (s *stage) happens(n int) {
	s.t.Helper()
	for n > 0 {
		list := make([]fleet.Change, min(n, 200))
		for i := range list {
			list[i] = fleet.Change{At: time.Now(), Code: fleet.CodeBootEnded, Machine: "m-1", Boot: "b",
				To: fleet.Values{"outcome": "healthy"}, Detail: fmt.Sprint(n - i)}
		}
		if err := s.state.Append(list...); err != nil {
			s.t.Fatal(err)
		}
		n -= len(list)
	}
}

// wantOrder checks that a receiver accepted events of the ledger in their order, and how many.
func wantOrder(t *testing.T, list []got, n int) {
	t.Helper()
	if len(list) != n {
		t.Errorf("%d events were accepted; want %d", len(list), n)
	}
	if !slices.IsSortedFunc(list, func(a, b got) int { return int(a.seq) - int(b.seq) }) {
		t.Error("events were not accepted in their order")
	}
}

// TestDelivered: what a webhook wants comes, signed, in order and once; what it does not want, or what was
// before it, does not. Nothing is sent again after a restart.
func TestDelivered(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, nil)
	s.happens(3)
	s.hook(r, r.web.URL, nil)
	s.run()
	s.happens(5)
	s.update(func(tx state.Tx) {
		tx.Record(fleet.Change{At: time.Now(), Code: fleet.CodeMachineNew, Machine: "m-1"},
			fleet.Change{At: time.Now(), Code: fleet.ActionImageBuild, Name: "lab:v1"})
	})
	s.happens(4)
	sent := func(n uint64) func() bool { // and noted: else it is sent again
		return func() bool {
			p, _ := s.state.WebhookProgress("0000000000000001")
			return p.Sent >= n
		}
	}
	until(t, "9 events are sent", sent(9))
	s.stop()
	s.run()
	s.happens(1)
	until(t, "one more is sent", sent(10))
	s.stop()
	wantOrder(t, r.list(), 10)
	if n := r.count(); n != 10 {
		t.Errorf("%d requests for 10 events", n)
	}
	for _, g := range r.list() {
		if g.kind != "boot-ended" || g.seq <= 3 {
			t.Errorf("the event %s of entry %d came", g.kind, g.seq)
		}
	}
	if p, _ := s.state.WebhookProgress("0000000000000001"); p.Sent != 10 || p.Last != nil {
		t.Errorf("progress %+v", p)
	}
}

// TestEdited: what an operator changes of a webhook holds for the next event: another receiver, other machines, a new
// secret, beside which the former one signs as well for a while. Nothing is lost or sent twice.
func TestEdited(t *testing.T) {
	s := newStage(t)
	first, second := newReceiver(t, nil), newReceiver(t, nil)
	w := s.hook(first, first.web.URL, func(w *webhook.Webhook) { w.Selector = "rack=r1" })
	s.update(func(tx state.Tx) {
		tx.StoreMachine(fleet.Machine{ID: "m-1", Labels: map[string]string{"rack": "r1"}})
	})
	s.run()
	edit := func(change func(w *webhook.Webhook)) {
		t.Helper()
		s.update(func(tx state.Tx) {
			w, _ := tx.Webhook(w.ID)
			change(&w)
			w.Edited++
			tx.PutWebhook(w)
		})
		s.n.Wake()
	}
	sent := func(n uint64) {
		t.Helper()
		until(t, fmt.Sprint(n, " events are sent"), func() bool {
			p, _ := s.state.WebhookProgress(w.ID)
			return p.Sent >= n
		})
	}
	s.happens(2)
	sent(2)
	second.key, second.former = bytes.Repeat([]byte{8}, webhook.NewSecret), first.key
	sealed, err := s.n.Seal(w.ID, second.key)
	if err != nil {
		t.Fatal(err)
	}
	edit(func(w *webhook.Webhook) {
		w.Former = []webhook.FormerSecret{{Secret: w.Secret, Until: time.Now().Add(time.Hour)}}
		w.URL, w.Secret = second.web.URL, sealed
	})
	s.happens(3)
	sent(5)
	second.mu.Lock()
	second.former = nil
	second.mu.Unlock()
	edit(func(w *webhook.Webhook) { w.Former[0].Until = time.Now() })
	s.happens(1)
	sent(6)
	edit(func(w *webhook.Webhook) { w.Selector = "rack=r2" })
	s.happens(4) // of a machine that it does not get any more
	edit(func(w *webhook.Webhook) { w.Selector = "" })
	s.happens(1)
	sent(7)
	s.stop()
	wantOrder(t, first.list(), 2)
	if n := len(second.list()); n < 5 || n > 9 { // when the selector is read is up to the notifier
		t.Errorf("the second receiver got %d events", n)
	}
}

// TestUnusable: a webhook whose record says nothing that can be used is logged once, says why, keeps no other from its
// events, and goes on when it is mended.
func TestUnusable(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, nil)
	bad := s.hook(r, r.web.URL, func(w *webhook.Webhook) { w.CA = "no certificate" })
	s.hook(r, r.web.URL, nil)
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	s.run()
	s.happens(1)
	until(t, "the other one is sent", func() bool { return len(r.list()) == 1 })
	until(t, "it says why", func() bool {
		p := s.n.Progress(bad.ID)
		return p.Last != nil && strings.Contains(p.Last.Why, "no certificate in PEM")
	})
	for range 3 {
		s.n.Wake()
		time.Sleep(20 * time.Millisecond)
	}
	s.update(func(tx state.Tx) {
		w, _ := tx.Webhook(bad.ID)
		w.CA = ""
		w.Edited++
		tx.PutWebhook(w)
	})
	s.n.Wake()
	until(t, "it is sent when it is mended", func() bool { return len(r.list()) == 2 })
	s.stop()
	if n := strings.Count(log.String(), "cannot be used"); n != 1 {
		t.Errorf("it is logged %d times; want once\n%s", n, log.String())
	}
}

// TestActions: operators' actions are in another log with the same numbers, and come in their place.
func TestActions(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, nil)
	s.hook(r, r.web.URL, func(w *webhook.Webhook) { w.Events = []string{fleet.TopicImage, fleet.TopicBoot} })
	for range 700 { // more than one part
		s.update(func(tx state.Tx) {
			tx.Record(fleet.Change{At: time.Now(), Code: fleet.CodeBootEnded, To: fleet.Values{"outcome": "healthy"}},
				fleet.Change{At: time.Now(), Code: fleet.ActionImageTag, Name: "lab:v1"},
				fleet.Change{At: time.Now(), Code: fleet.ActionApprove, Machine: "m-1"})
		})
	}
	s.run()
	until(t, "all come", func() bool { return len(r.list()) >= 1400 })
	wantOrder(t, r.list(), 1400)
}

// TestSelector: of machines, only those with the labels.
func TestSelector(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, nil)
	s.hook(r, r.web.URL, func(w *webhook.Webhook) {
		w.Selector, w.Events = "rack=r1", []string{fleet.TopicBoot, fleet.TopicRollout}
	})
	s.update(func(tx state.Tx) {
		tx.StoreMachine(fleet.Machine{ID: "m-1", Name: "node01", Labels: map[string]string{"rack": "r1"}})
		tx.StoreMachine(fleet.Machine{ID: "m-2", Labels: map[string]string{"rack": "r2"}})
	})
	for _, m := range []fleet.Machine{{ID: "m-1"}, {ID: "m-2"}, {ID: "m-3"}} {
		if err := s.state.Append(fleet.Change{At: time.Now(), Code: fleet.CodeBootEnded, Machine: m.ID}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.state.Append(fleet.Change{At: time.Now(), Code: fleet.CodeRolloutState, Rollout: "r1"}); err != nil {
		t.Fatal(err)
	}
	s.run()
	until(t, "the rollout comes", func() bool {
		return slices.ContainsFunc(r.list(), func(g got) bool { return g.kind == "rollout-state" })
	})
	if list := r.list(); len(list) != 2 || !strings.Contains(string(list[0].body), `"machineName":"node01"`) {
		t.Errorf("%d events came, first %s", len(list), list[0].body)
	}
}

// TestFaults: whatever a receiver does, each event is accepted or becomes a dead letter, in their order,
// under an id that it keeps; and the letters come again when an operator wants it.
func TestFaults(t *testing.T) {
	s := newStage(t)
	s.limit = 100 * time.Millisecond
	var healed sync.Map
	bad := func(g got) bool { // refused until it is healed
		_, is := healed.Load("all")
		return g.seq%17 == 0 && !is
	}
	r := newReceiver(t, func(w http.ResponseWriter, g got, before int) {
		if bad(g) {
			w.WriteHeader(422)
			_, _ = w.Write([]byte("from inside"))
			return
		}
		if before > 0 {
			return
		}
		switch g.seq % 11 { // at the first attempt
		case 1:
			w.WriteHeader(500)
		case 2:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(429)
		case 3:
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(302)
		case 4:
			time.Sleep(2 * s.limit)
			w.WriteHeader(599) // nobody waits for it any more
		case 5:
			panic(http.ErrAbortHandler)
		}
	})
	hook := s.hook(r, r.web.URL, nil)
	s.run()
	const n = 150
	for i := range 5 {
		s.happens(n / 5)
		if i%2 == 0 {
			time.Sleep(50 * time.Millisecond)
			s.stop()
			s.run()
		}
	}
	whole := func() int { return len(r.list()) + len(s.state.DeadLetters(hook.ID)) }
	until(t, "each event is accepted or a dead letter", func() bool { return whole() >= n })
	letters := s.state.DeadLetters(hook.ID)
	if len(letters) == 0 || whole() != n {
		t.Fatalf("%d were accepted, and %d are dead letters; want some, and %d together", len(r.list()), len(letters), n)
	}
	for _, l := range letters {
		if l.Seq%17 != 0 || l.Failure.Status != 422 ||
			l.Failure.Why != "answer 422: from inside" || l.Attempts != impatient.Refused {
			t.Errorf("dead letter %+v", l)
		}
	}
	wantOrder(t, r.list(), n-len(letters))
	dead := 0
	list, _, err := s.state.Changes(state.Query{Limit: 10_000})
	for _, c := range list {
		if c.Code == fleet.CodeWebhookDead && c.Subject == hook.ID {
			dead++
		}
		if strings.Contains(c.String(), "from inside") {
			t.Errorf("everybody can read what the receiver answered: %s", c)
		}
	}
	if err != nil || dead != len(letters) {
		t.Errorf("the ledger has %d dead letters of %d, %v", dead, len(letters), err)
	}
	healed.Store("all", true)
	s.update(func(tx state.Tx) {
		for _, l := range tx.DeadLetters(hook.ID) {
			l.Again = true
			tx.PutDeadLetter(l)
		}
	})
	s.n.Wake()
	until(t, "no dead letter is left", func() bool { return len(s.state.DeadLetters(hook.ID)) == 0 })
	if got := len(r.list()); got != n {
		t.Errorf("%d events were accepted in the end; want %d", got, n)
	}
}

// TestDeadReceiver: one that does not answer gets no storm, keeps nobody from ending, and gets all of its
// events when it is back.
func TestDeadReceiver(t *testing.T) {
	s := newStage(t)
	s.policy = webhook.Policy{First: 50 * time.Millisecond, Longest: time.Second}
	var alive sync.Map
	r := newReceiver(t, func(w http.ResponseWriter, _ got, _ int) {
		if _, is := alive.Load("alive"); !is {
			w.WriteHeader(503)
		}
	})
	hook := s.hook(r, r.web.URL, nil)
	s.run()
	s.happens(100)
	until(t, "it was tried", func() bool { p, _ := s.state.WebhookProgress(hook.ID); return p.Failures >= 3 })
	for range 3 { // restarts do not begin anew
		s.stop()
		s.run()
	}
	p, _ := s.state.WebhookProgress(hook.ID)
	if p.Failures < 3 || p.Next.IsZero() {
		t.Errorf("after restarts the progress is %+v; want the failures from before", p)
	}
	time.Sleep(300 * time.Millisecond)
	if n := r.count(); n > 8 {
		t.Errorf("%d attempts; want few", n)
	}
	alive.Store("alive", true)
	s.update(func(tx state.Tx) { w, _ := tx.Webhook(hook.ID); w.Retry++; tx.PutWebhook(w) })
	s.n.Wake()
	until(t, "all come", func() bool { return len(r.list()) >= 100 })
	wantOrder(t, r.list(), 100)
}

// TestAbsentReceiver: one that is away, overloaded, behind a proxy that refuses, or whose URL or credentials are wrong
// loses no event, however long that takes; of one that fails at all events, one is given up.
func TestAbsentReceiver(t *testing.T) {
	for _, c := range []struct {
		status  int // 0: it refuses connections
		letters int
	}{{0, 0}, {401, 0}, {404, 0}, {429, 0}, {302, 0}, {503, 0}, {500, 1}} {
		t.Run(fmt.Sprint(c.status), func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.policy.Patience = 20 * time.Millisecond
			var alive sync.Map
			r := newReceiver(t, func(w http.ResponseWriter, _ got, _ int) {
				if _, is := alive.Load("alive"); !is {
					w.WriteHeader(c.status)
				}
			})
			url := r.web.URL
			if c.status == 0 {
				url = "http://127.0.0.1:1"
			}
			hook := s.hook(r, url, nil)
			s.run()
			s.happens(5)
			until(t, "it was tried often", func() bool { return s.n.Counts().Failed >= 100 })
			if n := len(s.state.DeadLetters(hook.ID)); n != c.letters {
				t.Errorf("%d events were given up; want %d", n, c.letters)
			}
			alive.Store("alive", true)
			s.update(func(tx state.Tx) {
				w, _ := tx.Webhook(hook.ID)
				w.URL = r.web.URL
				w.Edited++
				w.Retry++
				tx.PutWebhook(w)
			})
			s.n.Wake()
			until(t, "the others come", func() bool { return len(r.list()) == 5-c.letters })
			wantOrder(t, r.list(), 5-c.letters)
		})
	}
}

// fullDisk is a state that stores no dead letters.
type fullDisk struct {
	state.Store
	full sync.Map
}

type fullTx struct {
	state.Tx
	err error
}

func (x *fullTx) PutDeadLetter(webhook.Letter) { x.err = syscall.ENOSPC }

func (f *fullDisk) Update(change func(state.Tx) error) error {
	if _, is := f.full.Load("full"); !is {
		return f.Store.Update(change)
	}
	return f.Store.Update(func(tx state.Tx) error {
		x := &fullTx{Tx: tx}
		if err := change(x); err != nil {
			return err
		}
		return x.err
	})
}

// TestFullDisk: an event that is to become a dead letter stays next until that is stored.
func TestFullDisk(t *testing.T) {
	s := newStage(t)
	disk := &fullDisk{Store: s.state}
	disk.full.Store("full", true)
	s.state = disk
	s.n = s.notifier()
	r := newReceiver(t, func(w http.ResponseWriter, g got, _ int) {
		if g.seq == 1 {
			w.WriteHeader(422)
		}
	})
	hook := s.hook(r, r.web.URL, nil)
	x := &worker{n: s.n, id: hook.ID}
	x.p, _ = s.state.WebhookProgress(hook.ID)
	s.happens(2)
	steps := func(n int) {
		for range n {
			w, _ := s.state.Webhook(hook.ID)
			x.step(t.Context(), w)
			time.Sleep(impatient.Longest)
		}
	}
	steps(10)
	if n := len(r.list()); n != 0 || x.p.Seq != 0 || s.n.Counts().Dead != 0 {
		t.Errorf("%d events were accepted, the progress is %+v; want it to stay", n, x.p)
	}
	disk.full.Delete("full")
	steps(4)
	if l := s.state.DeadLetters(hook.ID); len(l) != 1 || l[0].Seq != 1 || len(r.list()) != 1 {
		t.Errorf("dead letters are %+v, and %d events were accepted; want one each", l, len(r.list()))
	}
}

// TestRedeliverWhileAway: dead letters that are to be sent again wait for a receiver that is away, and hold up nothing
// new; one that is refused again stays a dead letter.
func TestRedeliverWhileAway(t *testing.T) {
	s := newStage(t)
	var phase atomic.Int32
	r := newReceiver(t, func(w http.ResponseWriter, g got, _ int) {
		switch is := phase.Load(); {
		case g.seq <= 3 && is == 0, g.seq == 2 && is == 2:
			w.WriteHeader(422)
		case g.seq <= 3 && is == 1:
			w.WriteHeader(503)
		}
	})
	hook := s.hook(r, r.web.URL, nil)
	s.run()
	s.happens(3)
	until(t, "all are dead letters", func() bool { return len(s.state.DeadLetters(hook.ID)) == 3 })
	phase.Store(1)
	s.update(func(tx state.Tx) {
		for _, l := range tx.DeadLetters(hook.ID) {
			l.Again = true
			tx.PutDeadLetter(l)
		}
	})
	s.n.Wake()
	until(t, "it was tried", func() bool { return r.count() >= 12 })
	s.happens(20)
	until(t, "what is new comes", func() bool { return len(r.list()) == 20 })
	for _, l := range s.state.DeadLetters(hook.ID) {
		if !l.Again {
			t.Errorf("dead letter %d is not sent again any more", l.Seq)
		}
	}
	phase.Store(2)
	until(t, "two come", func() bool { return len(r.list()) == 22 })
	until(t, "one stays", func() bool {
		l := s.state.DeadLetters(hook.ID)
		return len(l) == 1 && l[0].Seq == 2 && !l[0].Again
	})
}

// TestReplacedLetterIsCounted: after a restore another event has the place of a dead letter in the ledger.
func TestReplacedLetterIsCounted(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, func(w http.ResponseWriter, _ got, _ int) { w.WriteHeader(422) })
	hook := s.hook(r, r.web.URL, nil)
	s.update(func(tx state.Tx) { tx.PutDeadLetter(webhook.Letter{Webhook: hook.ID, Seq: 1, Event: "evt_before"}) })
	s.run()
	s.happens(1)
	until(t, "it is replaced, and counted", func() bool {
		p, _ := s.state.WebhookProgress(hook.ID)
		l := s.state.DeadLetters(hook.ID)
		return p.Dropped == 1 && len(l) == 1 && l[0].Event != "evt_before"
	})
}

// TestReported: the ledger says once that a webhook fails, and that it does not any more; the webhook does
// not get that itself.
func TestReported(t *testing.T) {
	s := newStage(t)
	s.policy.Patience = time.Minute
	r := newReceiver(t, func(w http.ResponseWriter, _ got, before int) {
		if before < 8 {
			w.WriteHeader(500)
		}
	})
	hook := s.hook(r, r.web.URL, func(w *webhook.Webhook) { w.Events = []string{fleet.TopicBoot, fleet.TopicServer} })
	s.run()
	s.happens(1)
	states := func() (list []string) {
		all, _, err := s.state.Changes(state.Query{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if c.Code == fleet.CodeWebhookState && c.Subject == hook.ID {
				list = append(list, c.To.Text("state"))
			}
		}
		return list
	}
	until(t, "it is reported twice", func() bool { return len(states()) >= 2 })
	time.Sleep(3 * pause)
	if got := states(); !slices.Equal(got, []string{"failing", "ok"}) || len(r.list()) != 1 {
		t.Errorf("the ledger says %v; %d events came", got, len(r.list()))
	}
}

// TestGone: 410 pauses a webhook; resumed, it goes on with the same event.
func TestGone(t *testing.T) {
	s := newStage(t)
	r := newReceiver(t, func(w http.ResponseWriter, _ got, before int) {
		if before == 0 {
			w.WriteHeader(410)
		}
	})
	hook := s.hook(r, r.web.URL, nil)
	s.run()
	s.happens(1)
	until(t, "it is paused", func() bool { w, _ := s.state.Webhook(hook.ID); return w.Paused != nil })
	s.happens(1)
	time.Sleep(2 * pause)
	if n := r.count(); n != 1 {
		t.Errorf("%d requests; want one", n)
	}
	s.update(func(tx state.Tx) { w, _ := tx.Webhook(hook.ID); w.Paused = nil; w.Retry++; tx.PutWebhook(w) })
	s.n.Wake()
	until(t, "it is paused again, at the next event", func() bool {
		w, _ := s.state.Webhook(hook.ID)
		return w.Paused != nil && len(r.list()) == 1
	})
}

// TestRemoved: a webhook that is removed gets nothing more, and nothing of it comes back.
func TestRemoved(t *testing.T) {
	s := newStage(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	r := newReceiver(t, func(http.ResponseWriter, got, int) { entered <- struct{}{}; <-leave })
	hook := s.hook(r, r.web.URL, nil)
	s.run()
	s.happens(2)
	<-entered
	s.update(func(tx state.Tx) { tx.DropWebhook(hook.ID) })
	s.n.Wake()
	close(leave)
	s.stop()
	if _, known := s.state.WebhookProgress(hook.ID); known {
		t.Error("the progress of a webhook that was removed was stored")
	}
}

// secretText is how a signature or secret would look in a text.
func secretText(key []byte) string { return base64.StdEncoding.EncodeToString(key) }
