package guard

import (
	"context"
	"encoding/json"
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
	boot := ingot.NewBootID([16]byte{1})
	for _, c := range []struct {
		name    string
		file    string // verdict.json
		reboots bool
	}{
		{"nothing was decided", "", true},
		{"healthy", `{"boot":"` + string(boot) + `","verdict":"healthy","posted":true}`, false},
		{"healthy, and the server is away", `{"boot":"` + string(boot) + `","verdict":"healthy"}`, false},
		{"stays for inspection", `{"boot":"` + string(boot) + `","verdict":"stays"}`, false},
		{"reboots, and does not get to it", `{"boot":"` + string(boot) + `","verdict":"reboots"}`, true},
		{"of another boot", `{"boot":"00","verdict":"healthy"}`, true},
		{"half a file", `{"boot":"` + string(boot) + `","verd`, false},
		{"an empty file", "\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			over := rootfs.Handover{Server: srv.URL, Ticket: ingot.Ticket{Boot: boot}}
			if err := over.Write(dir); err != nil {
				t.Fatal(err)
			}
			if c.file != "" {
				if err := os.WriteFile(filepath.Join(dir, "verdict.json"), []byte(c.file), 0o600); err != nil {
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
			if (rebooted != 0) != c.reboots || c.reboots && rebooted < g.Limit {
				t.Errorf("rebooted after %s; want a reboot: %t", rebooted, c.reboots)
			}
		})
	}
	if len(h.events) != 3 || !strings.HasPrefix(h.events[0].Error, "not healthy within ") {
		t.Errorf("the server heard %+v; want three times that the machine was not healthy", h.events)
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
