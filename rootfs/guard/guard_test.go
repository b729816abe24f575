package guard

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot"
	"ingot/rootfs"
)

// heard is a server that remembers what it is told.
type heard struct {
	mu     sync.Mutex
	events []ingot.Event
}

func (h *heard) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var e ingot.Event
	if strings.HasSuffix(r.URL.Path, "/events") && json.NewDecoder(r.Body).Decode(&e) == nil {
		h.mu.Lock()
		h.events = append(h.events, e)
		h.mu.Unlock()
	}
}

func TestGuard(t *testing.T) {
	h := &heard{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	for _, c := range []struct {
		name    string
		verdict rootfs.Verdict
		after   time.Duration // least time until the machine is rebooted; 0: it is not
	}{
		{"nothing is heard", "", 300 * time.Millisecond},
		{"healthy", rootfs.VerdictHealthy, 0},
		{"left for a person", rootfs.VerdictStays, 0},
		{"well, and the server is away", rootfs.VerdictWell, 900 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			over := rootfs.Handover{Server: srv.URL, Ticket: ingot.Ticket{Boot: ingot.NewBootID([16]byte{1})}}
			if err := over.Write(dir); err != nil {
				t.Fatal(err)
			}
			if c.verdict != "" {
				if err := rootfs.WriteVerdict(dir, c.verdict); err != nil {
					t.Fatal(err)
				}
			}
			start, rebooted := time.Now(), time.Duration(0)
			g := &Guard{Dir: dir, Limit: 300 * time.Millisecond, Reboot: func() { rebooted = time.Since(start) }}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := g.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if (rebooted == 0) != (c.after == 0) || rebooted < c.after {
				t.Errorf("rebooted after %s; want at least %s", rebooted, c.after)
			}
		})
	}
	if len(h.events) != 2 || !strings.HasPrefix(h.events[0].Error, "not healthy within ") {
		t.Errorf("the server heard %+v; want twice that the machine was not healthy", h.events)
	}
}

func TestParseRecord(t *testing.T) {
	line, seq := rootfs.ParseRecord("6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=net\n")
	if line != "[    5.140900] NET: Registered protocol family 10\n" || seq != 339 {
		t.Errorf("ParseRecord = %q, %d", line, seq)
	}
	if line, _ := rootfs.ParseRecord("nonsense"); line != "" {
		t.Errorf("ParseRecord(nonsense) = %q", line)
	}
}
