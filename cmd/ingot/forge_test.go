package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/testvm"
	"ingot/testvm/storm"
)

// victim is a machine that runs and reports each second, and what crossed the wire of it.
type victim struct {
	cmd  *exec.Cmd
	errs bytes.Buffer
	mu   sync.Mutex
	sent []storm.Sent // its reports, all of which were accepted
	boot ingot.BootID
	// number of the order in the latest answer; 0: there was none
	order uint64
}

// startVictim boots a machine that stays until the end of the test, and waits until it is healthy.
func (f *field) startVictim() *victim {
	f.t.Helper()
	conf, err := json.Marshal(storm.Config{Machines: 1, Card: f.crowd.Card, Stay: time.Hour, Boots: 1, Timeout: time.Hour})
	if err != nil {
		f.t.Fatal(err)
	}
	v := &victim{cmd: asIngot(f.crowd.Command(f.ctx, os.Args[0], "lab", "storm-machines", "--acknowledged", string(conf)))}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		f.t.Fatal(err)
	}
	v.cmd.Stderr = &v.errs
	if err := f.lan.Start(v.cmd); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = v.cmd.Process.Kill() // it may have ended
		_ = v.cmd.Wait()
	})
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var a storm.Acknowledged
			v.mu.Lock()
			if err := json.Unmarshal(lines.Bytes(), &a); err == nil && a.Report != nil {
				v.sent, v.boot, v.order = append(v.sent, *a.Report), a.Boot, a.Order
			}
			v.mu.Unlock()
		}
	}()
	f.until("the machine to report", func() bool { return v.reports() > 0 })
	return v
}

func (v *victim) reports() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.sent)
}

// goesOn waits for more reports that are accepted. A machine whose report is refused sends no more.
func (v *victim) goesOn(f *field) {
	f.t.Helper()
	before := v.reports()
	f.until("the machine's reports to go on", func() bool { return v.reports() > before+1 })
}

// posts sends a message from a host, and returns the status.
func (f *field) posts(from *testvm.Host, url, auth, token string, body []byte) string {
	f.t.Helper()
	args := []string{"--silent", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}",
		"--data-binary", "@-"}
	if auth != "" {
		args = append(args, "--header", ingot.HeaderAuth+": "+auth, "--header", ingot.HeaderToken+": "+token)
	}
	cmd := from.Command(f.ctx, "curl", append(args, url)...)
	cmd.Stdin = bytes.NewReader(body)
	out, err := cmd.Output()
	if err != nil {
		f.t.Errorf("posting to %s: %v", ingot.HideBootKeys(url), err)
	}
	return string(out)
}

// TestAttacks: a host in another subnet that knows the key of a machine's boot and all that the machine
// sent, and a host on its segment that boots in its name, against the server as it is run. The machine
// reports on, stays healthy, and nothing counts against its image; the operator sees the conflict.
func TestAttacks(t *testing.T) {
	f := newField(t, 1<<20)
	f.serve()
	f.ip("address", "add", "192.0.2.1/24", "dev", "br0")
	far, err := f.lan.NewHost(f.ctx, "far0", netip.MustParsePrefix("192.0.2.9/24"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := far.Command(f.ctx, "ip", "route", "add", "default", "via", "192.0.2.1").CombinedOutput(); err != nil {
		t.Fatalf("adding a route: %v %s", err, out)
	}
	near, err := f.lan.NewHost(f.ctx, "near0", netip.MustParsePrefix("10.99.255.253/16"))
	if err != nil {
		t.Fatal(err)
	}
	v := f.startVictim()
	v.goesOn(f)
	f.forge(far, v)
	f.forge(near, v)
	f.bootInItsName(near)
	v.goesOn(f)
	if m := f.machine(); m.Setback != nil || len(m.Trial.Failures) != 0 {
		t.Errorf("what another host did counts against the image: %+v %+v", m.Trial, m.Setback)
	}
	m := f.machine()
	boots, err := f.api().Boots(f.ctx, string(m.ID), 10)
	if err != nil {
		t.Fatal(err)
	}
	var own, other *api.Boot
	for i := range boots {
		if boots[i].ID == v.boot {
			own = &boots[i]
		} else {
			other = &boots[i]
		}
	}
	if own == nil || own.Outcome != ingot.OutcomeHealthy || m.Boot != v.boot || !m.Authenticated {
		t.Errorf("the machine is %+v, its boot %+v; want its own boot, healthy", m, own)
	}
	if other == nil || own == nil || own.Conflict == nil || other.Outcome == ingot.OutcomeHealthy {
		t.Errorf("its boot is %+v, the other host's %+v; want a conflict, and nothing healthy", own, other)
	}
	why, err := f.api().Why(f.ctx, string(m.ID))
	if err != nil || !strings.Contains(why.Words, "another host had begun boot") {
		t.Errorf("why: %q, %v", why.Words, err)
	}
}

// machine is the one that the server knows.
func (f *field) machine() api.Machine {
	f.t.Helper()
	list, err := f.api().Machines(f.ctx)
	if err != nil || len(list) != 1 {
		f.t.Fatalf("%d machines, %v; want one", len(list), err)
	}
	m, err := f.api().Machine(f.ctx, string(list[0].ID))
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// forge sends what a host can make of a machine's key and of what it sent; nothing may be accepted.
func (f *field) forge(from *testvm.Host, v *victim) {
	f.t.Helper()
	v.mu.Lock()
	first, latest := v.sent[0], v.sent[len(v.sent)-1]
	v.mu.Unlock()
	ill := bytes.Replace(latest.Body, []byte(`"healthy":true`), []byte(`"healthy":false`), 1)
	failure, err := json.Marshal(ingot.Event{Stage: ingot.StageRoot, Error: "the disk is on fire"})
	if err != nil {
		f.t.Fatal(err)
	}
	events := strings.TrimSuffix(latest.URL, "report") + "events"
	for name, c := range map[string]struct {
		url, auth, token string
		body             []byte
	}{
		"a report, with the key alone":    {latest.URL, "", "", ill},
		"a failure, with the key alone":   {events, "", "", failure},
		"a report that was sent":          {first.URL, first.Auth, first.Token, first.Body},
		"another body for what was sent":  {latest.URL, latest.Auth, latest.Token, ill},
		"what was sent, as an event":      {events, latest.Auth, latest.Token, latest.Body},
		"a failure with a report's proof": {events, latest.Auth, latest.Token, failure},
	} {
		if status := f.posts(from, c.url, c.auth, c.token, c.body); status == "" || status[0] != '4' {
			f.t.Errorf("%s: %s; want it refused", name, status)
		}
	}
}

// bootInItsName boots from another host with the machine's MAC address and UUID, as far as that goes.
func (f *field) bootInItsName(from *testvm.Host) {
	f.t.Helper()
	conf, err := json.Marshal(storm.Config{Machines: 1, Card: from.Card, Boots: 1, Timeout: 30 * time.Second,
		Source: netip.MustParseAddr("10.99.255.253")})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.ctx, time.Minute)
	defer cancel()
	cmd := asIngot(from.Command(ctx, os.Args[0], "lab", "storm-machines", string(conf)))
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("booting in the machine's name: %v", err)
	}
	f.t.Logf("booting in the machine's name: %s", bytes.TrimSpace(out))
}
