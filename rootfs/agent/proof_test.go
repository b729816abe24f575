package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"ingot"
)

// listener is a server that verifies messages and keeps them.
type listener struct {
	secret ingot.BootSecret
	mu     sync.Mutex
	events []ingot.Event
	proven int
	bad    int
	lost   bool // the first message that the system shuts down
	heard  chan string
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	m := ingot.Message{Method: r.Method, Path: r.URL.Path, Body: body}
	p, err := ingot.ParseProof(r.Header.Get(ingot.HeaderAuth))
	m.Counter = p.Counter
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || !l.secret.Proves(m, p.MAC) {
		l.bad++
	}
	l.proven++
	var e ingot.Event
	if m.Part() == "events" && json.Unmarshal(body, &e) == nil {
		if e.Down && !l.lost {
			l.lost = true
			panic(http.ErrAbortHandler)
		}
		l.events = append(l.events, e)
	}
	w.Header().Set(ingot.HeaderAuth, l.secret.ProveAnswer(m.Part(), ingot.Answer{Status: http.StatusNoContent,
		Counter: m.Counter, Newest: m.Counter}).String())
	w.WriteHeader(http.StatusNoContent)
	select {
	case l.heard <- m.Part():
	default:
	}
}

// TestShutDown: the agent says that the system shuts down, again if that got lost, and nothing if it alone is
// stopped. All that it sends is proven.
func TestShutDown(t *testing.T) {
	for _, stopping := range []bool{true, false} {
		l := &listener{secret: bytes.Repeat([]byte{1}, 32), heard: make(chan string, 100)}
		web := httptest.NewServer(l)
		s := &system{slow: 6 * time.Second} // as on a busy machine, where everything stops at once
		a := &Agent{Handover: handover(t, web.URL), System: s, Dir: t.TempDir(), Console: io.Discard}
		a.Handover.Secret = l.secret
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		for reports := 0; reports < 2; { // the second one is a heartbeat
			if <-l.heard == "report" {
				reports++
			}
		}
		s.stopping.Store(stopping)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		web.Close()
		last := l.events[len(l.events)-1]
		if last.Down != stopping || last.Stage != ingot.StageAgent || l.bad > 0 {
			t.Errorf("stopping %t: the last event is %+v, %d of %d messages are not proven; want Down %t and 0", stopping,
				last, l.bad, l.proven, stopping)
		}
	}
}
