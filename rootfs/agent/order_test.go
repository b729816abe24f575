package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot"
	"ingot/rootfs"
)

// commander is a server that orders, with answers that may get lost, be forged or refuse.
type commander struct {
	secret  ingot.BootSecret
	mu      sync.Mutex
	order   *ingot.Order // in the answer to each report
	steps   []ingot.OrderStep
	reports int
	lose    int                         // answers to steps that still get lost, although they were recorded
	answers func(s ingot.OrderStep) int // status of the answer to a step; nil: 204
	forges  func(answer *ingot.BootSecret, body []byte) []byte
}

func (c *commander) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p, _ := ingot.ParseProof(r.Header.Get(ingot.HeaderAuth))
	m := ingot.Message{Method: r.Method, Path: r.URL.Path, Counter: p.Counter}
	c.mu.Lock()
	defer c.mu.Unlock()
	status, text := http.StatusNoContent, []byte(nil)
	var e ingot.Event
	switch {
	case m.Part() == "report":
		if c.reports++; c.order != nil && c.reports > 1 {
			status = http.StatusOK
			text, _ = json.Marshal(c.order)
		}
	case json.Unmarshal(body, &e) == nil && e.Order != nil:
		c.steps = append(c.steps, *e.Order)
		if c.answers != nil {
			status = c.answers(*e.Order)
		}
		if c.lose > 0 {
			c.lose--
			panic(http.ErrAbortHandler)
		}
	}
	secret := c.secret
	if c.forges != nil {
		text = c.forges(&secret, text)
	}
	w.Header().Set(ingot.HeaderAuth, secret.ProveAnswer(m.Part(), ingot.Answer{Status: status, Counter: m.Counter,
		Newest: m.Counter, Body: text}).String())
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// course is what the machine said, without repetitions: "received draining:a rebooting".
func (c *commander) course() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var words []string
	for _, s := range c.steps {
		word := string(s.State)
		if s.Hook != "" {
			word += ":" + s.Hook
		}
		if s.Error != "" {
			word += "!"
		}
		if n := len(words); n == 0 || words[n-1] != word {
			words = append(words, word)
		}
	}
	return strings.Join(words, " ")
}

func (c *commander) set(f func(c *commander)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c)
}

// obeying is an agent whose server gives orders.
type obeying struct {
	*commander
	t     *testing.T
	dir   string // of notes
	web   *httptest.Server
	hooks []ingot.Hook
}

func newObeying(t *testing.T, hooks ...ingot.Hook) *obeying {
	c := &commander{secret: bytes.Repeat([]byte{1}, 32)}
	o := &obeying{commander: c, t: t, dir: t.TempDir(), web: httptest.NewServer(c), hooks: hooks}
	t.Cleanup(o.web.Close)
	return o
}

// start runs the agent.
func (o *obeying) start() (s *system, end func()) {
	o.t.Helper()
	s = &system{}
	a := &Agent{Handover: handover(o.t, o.web.URL), System: s, Dir: o.dir, Console: io.Discard}
	a.Handover.Secret, a.Handover.Image.Drain = o.secret, o.hooks
	ctx, cancel := context.WithCancel(o.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			o.t.Error(err)
		}
	})
	o.t.Cleanup(end)
	return s, end
}

func (o *obeying) beats(n int) {
	o.t.Helper()
	o.mu.Lock()
	from := o.reports
	o.mu.Unlock()
	until(o.t, "heartbeats", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.reports >= from+n
	})
}

func shell(name, script string, within time.Duration) ingot.Hook {
	return ingot.Hook{Name: name, Command: []string{"/bin/sh", "-c", script}, Within: within}
}

func reboot(counter uint64, d ingot.Drain, hooks ...string) *ingot.Order {
	return &ingot.Order{Counter: counter, Kind: ingot.OrderReboot, Drain: d, Hooks: hooks, Within: time.Minute}
}

// TestOrders: what an order leads to, once, although the server sends it with every answer.
func TestOrders(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	hooks := []ingot.Hook{shell("good", "echo good >>"+ran, 0), shell("bad", "echo cannot >&2; exit 3", 0),
		shell("slow", "sleep 60 & sleep 60", 50*time.Millisecond)}
	other := reboot(1, ingot.DrainNone)
	other.Kind = "kexec"
	late := reboot(1, ingot.DrainNone)
	late.Within = 0
	for _, c := range []struct {
		name    string
		order   *ingot.Order
		course  string
		error   string // of the last step
		reboots int32
		ran     int // times of the good hook
	}{
		{"no drain", reboot(1, ingot.DrainNone), "received rebooting", "", 1, 0},
		{"a drain", reboot(1, ingot.DrainRequired, "good"), "received draining:good rebooting", "", 1, 1},
		{"a hook fails", reboot(1, ingot.DrainRequired, "bad", "good"), "received draining:bad drain-failed:bad!",
			"exit status 3: cannot", 0, 0},
		{"a hook hangs", reboot(1, ingot.DrainRequired, "good", "slow"),
			"received draining:good draining:slow drain-timed-out:slow!", "did not end within 50ms", 0, 1},
		{"a hook fails, and that is permitted", reboot(1, ingot.DrainBestEffort, "bad", "slow", "good"),
			"received draining:bad draining:bad! draining:slow draining:slow! draining:good rebooting", "", 1, 1},
		{"a hook that the image has not", reboot(1, ingot.DrainRequired, "good", "rm -rf /"), "refused!",
			`the image has no drain hook "rm -rf /"`, 0, 0},
		{"a kind of a later version", other, "refused!", `no orders of kind "kexec"`, 0, 0},
		{"too late", late, "", "", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newObeying(t, hooks...)
			o.order = c.order
			_ = os.Remove(ran)
			s, end := o.start()
			until(t, "the steps "+c.course, func() bool { return o.course() == c.course || len(o.course()) > len(c.course) })
			o.beats(4)
			until(t, "the reboot", func() bool { return s.reboots.Load() >= c.reboots })
			end()
			did, _ := os.ReadFile(ran)
			if got := o.course(); got != c.course || s.reboots.Load() != c.reboots || bytes.Count(did, []byte("good")) != c.ran {
				t.Errorf("it said %q, rebooted %d times and drained %q; want %q, %d and %d times", got, s.reboots.Load(), did,
					c.course, c.reboots, c.ran)
			}
			if n := len(o.steps); n > 0 && !strings.Contains(o.steps[n-1].Error, c.error) {
				t.Errorf("it said %q; want %q", o.steps[n-1].Error, c.error)
			}
		})
	}
}

// TestOrderIsConfirmed: a machine reboots only after its server confirmed that, also if answers get lost or
// the server is away for a moment; and not if the order was withdrawn.
func TestOrderIsConfirmed(t *testing.T) {
	t.Run("answers get lost", func(t *testing.T) {
		o := newObeying(t)
		o.order, o.lose = reboot(1, ingot.DrainNone), 2
		s, _ := o.start()
		until(t, "the reboot", func() bool { return s.reboots.Load() == 1 })
		if n := len(o.steps); n < 3 || o.steps[n-1].State != ingot.OrderRebooting {
			t.Errorf("it said %+v; want that it asks once more", o.steps)
		}
	})
	t.Run("the server is away", func(t *testing.T) {
		o := newObeying(t)
		o.order = reboot(1, ingot.DrainNone)
		o.answers = func(ingot.OrderStep) int { return http.StatusServiceUnavailable }
		s, _ := o.start()
		until(t, "the question", func() bool { return strings.HasSuffix(o.course(), "rebooting") })
		o.beats(3)
		if s.reboots.Load() != 0 {
			t.Fatal("it rebooted without its server's word")
		}
		o.set(func(c *commander) { c.answers = nil })
		until(t, "the reboot", func() bool { return s.reboots.Load() == 1 })
	})
	for _, at := range []ingot.OrderState{ingot.OrderReceived, ingot.OrderDraining, ingot.OrderRebooting} {
		t.Run("withdrawn when it is "+string(at), func(t *testing.T) {
			o := newObeying(t, shell("a", "exit 0", 0))
			o.order = reboot(1, ingot.DrainRequired, "a")
			o.answers = func(s ingot.OrderStep) int {
				if s.State == at {
					return http.StatusForbidden
				}
				return http.StatusNoContent
			}
			s, end := o.start()
			until(t, "the step", func() bool { return strings.Contains(o.course(), string(at)) })
			o.beats(4)
			end()
			if got := o.course(); s.reboots.Load() != 0 || !strings.HasPrefix(got[strings.Index(got, string(at)):], string(at)) {
				t.Errorf("it said %q and rebooted %d times; want no reboot", got, s.reboots.Load())
			}
		})
	}
}

// TestForgedOrders: an order in an answer that does not prove itself, or of an image without a secret, is
// none.
func TestForgedOrders(t *testing.T) {
	forged, _ := json.Marshal(reboot(9, ingot.DrainNone))
	for name, forge := range map[string]func(*ingot.BootSecret, []byte) []byte{
		"another secret": func(s *ingot.BootSecret, _ []byte) []byte {
			*s = bytes.Repeat([]byte{2}, 32)
			return forged
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newObeying(t)
			s, _ := o.start()
			o.beats(2)
			o.set(func(c *commander) { c.forges = forge })
			o.beats(5)
			if s.reboots.Load() != 0 || o.course() != "" {
				t.Errorf("it said %q and rebooted %d times", o.course(), s.reboots.Load())
			}
		})
	}
	t.Run("no secret", func(t *testing.T) {
		o := newObeying(t)
		o.order = reboot(1, ingot.DrainNone)
		s := &system{}
		a := &Agent{Handover: handover(t, o.web.URL), System: s, Dir: o.dir, Console: io.Discard}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		o.beats(5)
		cancel()
		if err := <-ended; err != nil || s.reboots.Load() != 0 || o.course() != "" {
			t.Errorf("it said %q and rebooted %d times (%v)", o.course(), s.reboots.Load(), err)
		}
	})
}

// TestRestartedAgentRepeatsNoOrder: an agent that is ended in the middle of an order, and started again, does not
// begin it anew; it says so. A newer order is carried out.
func TestRestartedAgentRepeatsNoOrder(t *testing.T) {
	dir := t.TempDir()
	ran, stop := filepath.Join(dir, "ran"), filepath.Join(dir, "stop")
	o := newObeying(t, shell("a", "echo once >>"+ran+"; while [ ! -e "+stop+" ]; do sleep 0.05; done", 0))
	o.order = reboot(5, ingot.DrainRequired, "a")
	s, end := o.start()
	until(t, "the hook", func() bool { text, _ := os.ReadFile(ran); return len(text) > 0 }) // the file alone is made first
	end()
	again, _ := o.start()
	until(t, "its word", func() bool { return strings.Contains(o.course(), "interrupted:a!") })
	o.beats(4)
	if did, _ := os.ReadFile(ran); string(did) != "once\n" || s.reboots.Load()+again.reboots.Load() != 0 {
		t.Errorf("the hook ran %q, %d reboots; want once and none", did, again.reboots.Load())
	}
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o.set(func(c *commander) { c.order = reboot(4, ingot.DrainNone) }) // an older one
	o.beats(4)
	if again.reboots.Load() != 0 {
		t.Error("an order that is older than the latest one was carried out")
	}
	o.set(func(c *commander) { c.order = reboot(6, ingot.DrainRequired, "a") })
	until(t, "the reboot", func() bool { return again.reboots.Load() == 1 })
}

// TestOrderNeedsANote: without knowing what was ordered before, or room to note it, nothing is carried out.
func TestOrderNeedsANote(t *testing.T) {
	o := newObeying(t)
	if err := os.WriteFile(filepath.Join(o.dir, "order.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.order = reboot(1, ingot.DrainNone)
	s, end := o.start()
	until(t, "its word", func() bool { return strings.Contains(o.course(), "refused!") })
	end()
	if s.reboots.Load() != 0 {
		t.Error("it rebooted although it cannot know whether it did that before")
	}
	full := newObeying(t)
	if err := os.MkdirAll(filepath.Join(full.dir, "order.json.new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	full.order = reboot(1, ingot.DrainNone)
	s, end = full.start()
	until(t, "its word", func() bool { return strings.Contains(full.course(), "refused!") })
	full.beats(2)
	end()
	if n, err := rootfs.ReadObeyed(full.dir, ingot.NewBootID([16]byte{1})); s.reboots.Load() != 0 || n.Step.Counter != 0 {
		t.Errorf("it rebooted %d times, noted %+v, %v", s.reboots.Load(), n, err)
	}
}
