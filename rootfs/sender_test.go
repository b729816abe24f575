package rootfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"ingot"
)

var (
	testKey    = ingot.NewBootKey(ingot.NewBootID([16]byte{1}), [16]byte{2})
	testSecret = ingot.BootSecret(bytes.Repeat([]byte{5}, 32))
)

// provingServer accepts messages as a server does: proven ones with counters that grow.
type provingServer struct {
	t      *testing.T
	mu     sync.Mutex
	newest map[string]uint64
	seen   int // messages, also refused ones
	forges bool
}

func (s *provingServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	m := ingot.Message{Method: r.Method, Path: r.URL.Path, Body: body}
	p, err := ingot.ParseProof(r.Header.Get(ingot.HeaderAuth))
	if m.Counter = p.Counter; err != nil || !testSecret.Proves(m, p.MAC) || r.Header.Get(ingot.HeaderToken) != "token" {
		s.t.Errorf("a message without a proof: %v, %q", err, r.Header)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen++
	status, part := http.StatusNoContent, m.Part()
	if m.Counter <= s.newest[part] {
		status = http.StatusConflict
	}
	s.newest[part] = max(s.newest[part], m.Counter)
	if !s.forges {
		w.Header().Set(ingot.HeaderAuth, testSecret.ProveAnswer(part, ingot.Answer{Status: status, Counter: m.Counter,
			Newest: s.newest[part]}).String())
	}
	w.WriteHeader(status)
}

func startServer(t *testing.T) (*provingServer, string) {
	t.Helper()
	s := &provingServer{t: t, newest: map[string]uint64{}}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return s, web.URL
}

// TestCounters: whatever programs of one machine send, in whatever order they start, end and start again,
// counters only grow.
func TestCounters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := uint64(0)
		senders := []*Sender{NewSender("", testKey, testSecret, "")}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch i := rapid.IntRange(0, len(senders)-1).Draw(t, "program"); rapid.IntRange(0, 3).Draw(t, "what") {
			case 0: // it starts again: what it had in memory is gone
				senders[i] = NewSender("", testKey, testSecret, "")
			case 1:
				senders = append(senders, NewSender("", testKey, testSecret, ""))
			default:
				if n := senders[i].counter(); n <= last {
					t.Fatalf("counter %d after %d", n, last)
				} else {
					last = n
				}
			}
		}
	})
}

// TestCountersAtOnce: goroutines of one program never use a counter twice.
func TestCountersAtOnce(t *testing.T) {
	s := NewSender("", testKey, testSecret, "")
	var mu sync.Mutex
	used := map[uint64]bool{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				n := s.counter()
				mu.Lock()
				if used[n] {
					t.Errorf("counter %d is used twice", n)
				}
				used[n] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

// TestOvertaken: a message that another program overtook, or whose clock was set back with a virtual
// machine, is sent again with a counter that the server accepts; later ones at once.
func TestOvertaken(t *testing.T) {
	server, url := startServer(t)
	s := NewSender(url, testKey, testSecret, "token")
	server.newest["report"] = 1 << 62
	for i, seen := range []int{2, 3} {
		a, err := s.Post(t.Context(), http.DefaultClient, "report", "application/json", []byte("{}"))
		if err != nil || a.Status != http.StatusNoContent || server.seen != seen {
			t.Errorf("message %d: %d after %d requests, %v; want 204 after %d", i, a.Status, server.seen, err, seen)
		}
	}
}

// TestForgedAnswer: an answer without a proof is an error, whatever it says, and can be tried again.
func TestForgedAnswer(t *testing.T) {
	server, url := startServer(t)
	server.forges = true
	s := NewSender(url, testKey, testSecret, "token")
	if _, err := s.Post(context.Background(), http.DefaultClient, "report", "application/json", nil); !errors.Is(err,
		ErrForged) {
		t.Errorf("an answer without a proof: %v; want ErrForged", err)
	}
}

// TestHandoverIsSecret: the file with the boot's secret can be read by root alone, also if it was there
// before with another mode.
func TestHandoverIsSecret(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, handoverFile)
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	h := &Handover{Key: testKey, Secret: testSecret, Ticket: ingot.Ticket{Token: "token"}}
	if err := h.Write(dir); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode() != 0o600 {
		t.Errorf("the file is %v, %v; want mode 0600", st, err)
	}
	read, err := ReadHandover(dir)
	if err != nil || !bytes.Equal(read.Secret, testSecret) || !read.NewSender().Authenticates() {
		t.Errorf("the handover is %+v, %v", read, err)
	}
}
