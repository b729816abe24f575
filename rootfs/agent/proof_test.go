package agent

import (
	"bytes"
	"context"
	"encoding/json"
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

// killedManager is a service manager that stops; the first question about that is ended by the signal that
// ends the agent, as systemd's does when it finds that a new process is in the agent's control group.
const killedManager = `#!/bin/sh
[ "$1" = show ] || exit 0
[ -e STOPS ] || { echo running; exit 0; }
[ -e KILLED ] || { touch KILLED; kill -TERM $$; sleep 10; }
echo stopping
`

// TestShutDownQuestionKilled: the agent asks again whether the system shuts down when its question is killed.
func TestShutDownQuestionKilled(t *testing.T) {
	dir := t.TempDir()
	stops := filepath.Join(dir, "stops")
	script := strings.NewReplacer("STOPS", stops, "KILLED", filepath.Join(dir, "killed")).Replace(killedManager)
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	last, _ := stopAgent(t, systemctl{}, func() {
		if err := os.WriteFile(stops, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	})
	if !last.Down {
		t.Errorf("the last event is %+v; want that the system shuts down", last)
	}
}

// TestShutDown: the agent says that the system shuts down, again if that got lost, and nothing if it alone is
// stopped. All that it sends is proven.
func TestShutDown(t *testing.T) {
	for _, stopping := range []bool{true, false} {
		s := &system{slow: 6 * time.Second} // as on a busy machine, where everything stops at once
		last, l := stopAgent(t, s, func() { s.stopping.Store(stopping) })
		if last.Down != stopping || last.Stage != ingot.StageAgent || l.bad > 0 {
			t.Errorf("stopping %t: the last event is %+v, %d of %d messages are not proven; want Down %t and 0", stopping,
				last, l.bad, l.proven, stopping)
		}
	}
}

// stopAgent runs an agent until its first heartbeat, calls before and stops it; it returns the last event.
func stopAgent(t *testing.T, s System, before func()) (last ingot.Event, l *listener) {
	t.Helper()
	l = &listener{secret: bytes.Repeat([]byte{1}, 32), heard: make(chan string, 100)}
	web := httptest.NewServer(l)
	defer web.Close()
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
	before()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return l.events[len(l.events)-1], l
}
