package agent

import (
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
	"ingot/rootfs"
	"ingot/rootfs/guard"
)

// reportServer is a server that may be away.
type reportServer struct {
	*httptest.Server
	mu      sync.Mutex
	away    bool
	missed  int // requests while it was away
	reports []ingot.Report
}

func newReportServer(t *testing.T) *reportServer {
	s := &reportServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *reportServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		s.missed++
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	var p ingot.Report
	if strings.HasSuffix(r.URL.Path, "/report") && json.NewDecoder(r.Body).Decode(&p) == nil {
		s.reports = append(s.reports, p)
	}
}

// waitMissed waits until an agent's event and first report did not get through.
func (s *reportServer) waitMissed(t *testing.T) {
	t.Helper()
	until(t, "two requests to a server that is away", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.missed > 1
	})
}

func (s *reportServer) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// health returns what the reports said, in order: H healthy, U unhealthy.
func (s *reportServer) health() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := ""
	for _, r := range s.reports {
		if r.Healthy {
			text += "H"
		} else {
			text += "U"
		}
	}
	return text
}

// life is one run of the agent of a machine whose folder for verdicts is dir.
type life struct {
	system *system
	end    func()
}

func live(t *testing.T, url, dir string, restart bool, failed ...string) life {
	t.Helper()
	s := &system{failed: failed}
	a := &Agent{
		Handover: handover(t, url, ingot.Check{Name: "system", Units: []string{"@system"}, Within: time.Millisecond}),
		System:   s,
		Dir:      dir,
		Console:  io.Discard,
		pause:    time.Millisecond,
	}
	a.Handover.Ticket.Restart = restart
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	l := life{s, sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})}
	t.Cleanup(l.end)
	return l
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s timed out", what)
		}
	}
}

func verdictOf(dir string) rootfs.Verdict {
	d, _ := rootfs.ReadDecided(dir, ingot.NewBootID([16]byte{1}))
	return d.Verdict
}

// TestVerdicts: the first report decides what the guard reads and whether the machine
// reboots.
func TestVerdicts(t *testing.T) {
	srv := newReportServer(t)
	for _, c := range []struct {
		name    string
		failed  []string
		restart bool
		want    rootfs.Verdict
		reboots int32
	}{
		{"healthy", nil, true, rootfs.VerdictHealthy, 0},
		{"unwell, and something else is tried next", []string{"db.service"}, true, rootfs.VerdictReboots, 1},
		{"unwell, and nothing else is there", []string{"db.service"}, false, rootfs.VerdictStays, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l := live(t, srv.URL, dir, c.restart, c.failed...)
			until(t, "the verdict", func() bool { return verdictOf(dir) == c.want })
			until(t, "the reboots", func() bool { return l.system.reboots.Load() == c.reboots })
			if info, err := os.Stat(filepath.Join(dir, "verdict.json")); err != nil || info.Mode() != 0o600 {
				t.Errorf("verdict.json = %v, %v; want mode 0600", info, err)
			}
		})
	}
}

// TestRestartedAgentOnlyReports: a machine that was healthy is not rebooted by an agent that
// is started again while a unit has failed.
func TestRestartedAgentOnlyReports(t *testing.T) {
	srv, dir := newReportServer(t), t.TempDir()
	first := live(t, srv.URL, dir, true)
	until(t, "the healthy report", func() bool { return strings.HasPrefix(srv.health(), "HH") })
	first.end()
	again := live(t, srv.URL, dir, true, "cron.service")
	until(t, "heartbeats of the second agent", func() bool { return strings.HasSuffix(srv.health(), "UUU") })
	if n := again.system.reboots.Load(); n != 0 || verdictOf(dir) != rootfs.VerdictHealthy {
		t.Errorf("the restarted agent rebooted %d times, verdict %q; want none, healthy", n, verdictOf(dir))
	}
}

// TestHealthyWhileServerIsAway: the guard leaves a healthy machine alone although the server
// does not have its report. Over a restart of the agent, the report that counts stays the first.
func TestHealthyWhileServerIsAway(t *testing.T) {
	srv, dir := newReportServer(t), t.TempDir()
	srv.setAway(true)
	if err := handover(t, srv.URL).Write(dir); err != nil {
		t.Fatal(err)
	}
	guarded, rebooted := make(chan error, 1), make(chan struct{}, 1)
	g := &guard.Guard{Dir: dir, Limit: 2 * time.Second, Reboot: func() { rebooted <- struct{}{} }}
	first := live(t, srv.URL, dir, true)
	go func() { guarded <- g.Run(t.Context()) }()
	until(t, "the verdict", func() bool { return verdictOf(dir) == rootfs.VerdictHealthy })
	srv.waitMissed(t)
	first.end()
	again := live(t, srv.URL, dir, true, "cron.service")
	if err := <-guarded; err != nil {
		t.Fatal(err)
	}
	srv.setAway(false)
	until(t, "reports", func() bool { return len(srv.health()) > 2 })
	if got := srv.health(); !strings.HasPrefix(got, "HUU") {
		t.Errorf("reports = %s; want the healthy one first, then what is now", got)
	}
	if n := again.system.reboots.Load() + int32(len(rebooted)); n != 0 {
		t.Errorf("%d reboots; want none", n)
	}
}

// TestDecisionIsCarriedOut: an agent that is killed between its verdict and the reboot does
// not change its mind.
func TestDecisionIsCarriedOut(t *testing.T) {
	srv, dir := newReportServer(t), t.TempDir()
	srv.setAway(true)
	first := live(t, srv.URL, dir, true, "db.service")
	until(t, "the verdict", func() bool { return verdictOf(dir) == rootfs.VerdictReboots })
	srv.waitMissed(t)
	first.end()
	again := live(t, srv.URL, dir, true)
	srv.setAway(false)
	until(t, "the reboot", func() bool { return again.system.reboots.Load() == 1 })
	if got := srv.health(); got != "U" {
		t.Errorf("reports = %s; want the one that led to the reboot", got)
	}
}

// TestStoppedAgentDecidesNothing: checks that end because the agent is stopped have no result.
func TestStoppedAgentDecidesNothing(t *testing.T) {
	srv, dir := newReportServer(t), t.TempDir()
	for _, restart := range []bool{true, false} {
		a := &Agent{Dir: dir, System: &system{}, Console: io.Discard, pause: time.Millisecond,
			Handover: handover(t, srv.URL, ingot.Check{Name: "slow", Command: []string{"sleep", "60"}, Timeout: time.Minute})}
		a.Handover.Ticket.Restart = restart
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
		cancel()
		if got := verdictOf(dir); got != "" {
			t.Errorf("the stopped agent decided %q; want nothing", got)
		}
	}
}
