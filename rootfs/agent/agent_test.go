package agent

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ingot"
	"ingot/rootfs"
)

// system is a service manager that gets ready after some questions.
type system struct {
	questions atomic.Int32
	readyAt   int32
	failed    []string
	reboots   atomic.Int32
	stopping  atomic.Bool
	slow      time.Duration // until it answers that it stops
}

func (s *system) State(ctx context.Context) (string, error) {
	if s.stopping.Load() {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(s.slow):
			return "stopping", nil
		}
	}
	if s.questions.Add(1) < s.readyAt {
		return "starting", nil
	}
	if len(s.failed) > 0 {
		return "degraded", nil
	}
	return "running", nil
}
func (s *system) Failed(context.Context) []string { return s.failed }
func (s *system) Reboot(context.Context) error    { s.reboots.Add(1); return nil }
func (s *system) Outside(argv []string) []string  { return argv }
func (s *system) Active(_ context.Context, unit string) (string, error) {
	if unit == "ssh.service" {
		return "active", nil
	}
	return "inactive", nil
}

func handover(t *testing.T, server string, checks ...ingot.Check) *rootfs.Handover {
	t.Helper()
	device := filepath.Join(t.TempDir(), "loop0")
	if err := os.WriteFile(device, []byte("the root, and what is behind it"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &rootfs.Handover{Server: server, RootDevice: device,
		Ticket: ingot.Ticket{Boot: ingot.NewBootID([16]byte{1}), Heartbeat: 20 * time.Millisecond},
		Image:  ingot.ImageManifest{Root: ingot.Artifact{Size: 8}, Checks: checks}}
}

// TestReports: the first report is sent until it is taken, then come heartbeats.
func TestReports(t *testing.T) {
	reports := make(chan ingot.Report, 100)
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/report") {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if asked.Add(1) == 1 {
			http.Error(w, "restarting", http.StatusServiceUnavailable)
			return
		}
		var p ingot.Report
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			t.Error(err)
		}
		reports <- p
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	a := &Agent{
		Handover: handover(t, srv.URL, ingot.Check{Name: "system", Units: []string{"@system"}}),
		System:   &system{readyAt: 3},
	}
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	for i := range 3 {
		p := <-reports
		if !p.Healthy || p.Root != ingot.DigestOf([]byte("the root")) || len(p.Checks) != 1 || p.RAMTotal == 0 {
			t.Errorf("report %d = %+v; want healthy, the measured root, memory", i, p)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestChecks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ok" {
			http.Error(w, "no", http.StatusTeapot)
		}
	}))
	defer web.Close()
	const soon = time.Millisecond
	for _, c := range []struct {
		check  ingot.Check
		ok     bool
		detail string
	}{
		{ingot.Check{TCP: l.Addr().String()}, true, ""},
		{ingot.Check{TCP: "127.0.0.1:1"}, false, "refused"},
		{ingot.Check{HTTP: web.URL + "/ok"}, true, ""},
		{ingot.Check{HTTP: web.URL + "/bad"}, false, "418"},
		{ingot.Check{Command: []string{"true"}}, true, ""},
		{ingot.Check{Command: []string{"sh", "-c", "echo why; exit 3"}}, false, "why"},
		{ingot.Check{Command: []string{"sleep", "60"}, Timeout: 20 * time.Millisecond}, false, "killed"},
		{ingot.Check{Units: []string{"ssh.service"}}, true, ""},
		{ingot.Check{Units: []string{"ssh.service", "web.service"}}, false, "web.service is inactive"},
		{ingot.Check{Units: []string{"@system"}}, false, "the system is degraded db.service"},
		{ingot.Check{}, false, "nothing to run"},
	} {
		c.check.Within = soon
		a := &Agent{Handover: handover(t, "", c.check), System: &system{failed: []string{"db.service"}}}
		got := a.checkUntilDecided(t.Context())[0]
		if got.OK != c.ok || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%+v = %t %q; want %t %q", c.check, got.OK, got.Detail, c.ok, c.detail)
		}
	}
}

func TestMeasureShortDevice(t *testing.T) {
	h := handover(t, "")
	if _, err := Measure(h.RootDevice, 1<<20); err == nil {
		t.Error("a device that is shorter than the root is measured without an error")
	}
}
