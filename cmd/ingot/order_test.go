package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"ingot"
	"ingot/bootserver/api"
	"ingot/testvm"
)

// orderly is the version of the image that takes orders. Simulated machines obey none.
const orderly = "orderly"

// ordered is the number of the order that the latest answer brought.
func (v *victim) ordered() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.order
}

// says posts a message from a host, and returns the status and what the server answered.
func (f *field) says(from *testvm.Host, url, auth, token string, body []byte) (status, text string) {
	f.t.Helper()
	args := []string{"--silent", "--max-time", "20", "--write-out", "\n%{http_code}", "--data-binary", "@-"}
	if auth != "" {
		args = append(args, "--header", ingot.HeaderAuth+": "+auth, "--header", ingot.HeaderToken+": "+token)
	}
	cmd := from.Command(f.ctx, "curl", append(args, url)...)
	cmd.Stdin = bytes.NewReader(body)
	out, err := cmd.Output()
	if err != nil {
		f.t.Errorf("posting to %s: %v", ingot.HideBootKeys(url), err)
	}
	at := bytes.LastIndexByte(out, '\n')
	return string(out[at+1:]), string(out[:max(at, 0)])
}

// TestOrderAttacks: an order waits for a machine at the server as it is run. A host on its segment that has
// the key of its boot and all that it sent gets no order, acknowledges none and ends none; the machine gets
// it with each of its own reports, also after the server was killed, and not any more when it is withdrawn.
func TestOrderAttacks(t *testing.T) {
	f := newField(t, 1<<20)
	f.fill(sizes{loader: 300_000, kernel: 1 << 20, initramfs: 2 << 20, root: 1 << 20}, orderly)
	f.write(strings.ReplaceAll(settings, "storm:v1", "storm:"+orderly))
	f.serve()
	near, err := f.lan.NewHost(f.ctx, "near0", netip.MustParsePrefix("10.99.255.253/16"))
	if err != nil {
		t.Fatal(err)
	}
	v := f.startVictim()
	v.goesOn(f)
	m := f.machine()
	given, err := f.api().Reboot(f.ctx, string(m.ID), api.RebootRequest{Why: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	f.until("the order to reach the machine", func() bool { return v.ordered() == given.Ordered.Counter })
	f.forgeOrders(near, v, given.Ordered.Counter)
	if err := f.server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-f.ended
	f.serve()
	v.goesOn(f)
	f.until("the order to reach the machine again", func() bool { return v.ordered() == given.Ordered.Counter })
	f.forgeOrders(near, v, given.Ordered.Counter)
	boots, err := f.api().Boots(f.ctx, string(m.ID), 1)
	if err != nil || boots[0].Ordered == nil || boots[0].Ordered.State != ingot.OrderGiven {
		t.Fatalf("after all that the order is %+v, %v", boots[0].Ordered, err)
	}
	if _, err := f.api().CancelReboot(f.ctx, string(m.ID)); err != nil {
		t.Fatal(err)
	}
	f.until("the order to be gone", func() bool { return v.ordered() == 0 })
}

// forgeOrders sends what a host can make of a machine's key and of what it sent; nothing may be accepted, and nothing
// may bring an order.
func (f *field) forgeOrders(from *testvm.Host, v *victim, counter uint64) {
	f.t.Helper()
	v.mu.Lock()
	first, latest := v.sent[0], v.sent[len(v.sent)-1]
	v.mu.Unlock()
	step := func(s ingot.OrderState) []byte {
		body, err := json.Marshal(ingot.Event{Stage: ingot.StageAgent, Order: &ingot.OrderStep{Counter: counter, State: s}})
		if err != nil {
			f.t.Fatal(err)
		}
		return body
	}
	events := strings.TrimSuffix(latest.URL, "report") + "events"
	for name, c := range map[string]struct {
		url, auth, token string
		body             []byte
	}{
		"a report, with the key alone":           {latest.URL, "", "", latest.Body},
		"a report that was sent":                 {first.URL, first.Auth, first.Token, first.Body},
		"the latest report once more":            {latest.URL, latest.Auth, latest.Token, latest.Body},
		"an acknowledgement, with the key alone": {events, "", "", step(ingot.OrderReceived)},
		"a failed drain, with a report's proof":  {events, latest.Auth, latest.Token, step(ingot.OrderDrainFailed)},
		"a reboot, with a report's proof":        {events, latest.Auth, latest.Token, step(ingot.OrderRebooting)},
	} {
		status, text := f.says(from, c.url, c.auth, c.token, c.body)
		if status == "" || status[0] != '4' || strings.Contains(text, `"counter"`) {
			f.t.Errorf("%s: %s %s; want it refused, and no order", name, status, text)
		}
	}
}
