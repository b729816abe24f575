package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet/webhook"
)

// documentedReceiver builds the receiver of docs/WEBHOOKS.md.
func documentedReceiver(t *testing.T, dir string) (program string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/WEBHOOKS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(page), "\n```go\n")
	code, _, ends := strings.Cut(rest, "\n```\n")
	if !begins || !ends {
		t.Fatal("docs/WEBHOOKS.md has no receiver in Go")
	}
	source := filepath.Join(dir, "receiver.go")
	if err := os.WriteFile(source, []byte(code+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "gofmt", "-l", source).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("the receiver of docs/WEBHOOKS.md is not formatted: %v %s", err, out)
	}
	program = filepath.Join(dir, "receiver")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, source)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the receiver of docs/WEBHOOKS.md: %v\n%s", err, out)
	}
	return program
}

// post is the receiver as a process on a host of its own.
type post struct {
	f       *field
	program string
	secret  string
	out     lines
	cmd     *exec.Cmd
}

func (p *post) start() {
	p.f.t.Helper()
	p.cmd = p.f.crowd.Command(p.f.ctx, p.program, "10.99.255.254:8080")
	p.cmd.Env = append(os.Environ(), "WEBHOOK_SECRET="+p.secret)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.f.lan.Start(p.cmd); err != nil {
		p.f.t.Fatal(err)
	}
}

func (p *post) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// got are the ids of the events that came, in their order, each once, and how many came again.
func (p *post) got() (ids []string, again int) {
	seen := map[string]bool{}
	for line := range strings.Lines(p.out.String()) {
		id, _, _ := strings.Cut(line, " ")
		if strings.HasSuffix(line, " came again\n") {
			again++
		}
		switch {
		case !strings.HasPrefix(id, "evt_"):
		case seen[id]:
			again++
		default:
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids, again
}

// labels changes labels of machines until it is stopped.
func (f *field) labels(t *testing.T, machines int) (stop func() (changed int)) {
	var done atomic.Bool
	ended := make(chan int)
	go func() {
		n := 0
		for !done.Load() {
			_, err := f.api().Label(f.ctx, fmt.Sprintf("node%d", n%machines), api.LabelRequest{
				Set: map[string]string{"n": fmt.Sprint(n)}})
			if err != nil {
				time.Sleep(20 * time.Millisecond) // the server is away
				continue
			}
			n++
			time.Sleep(10 * time.Millisecond)
		}
		ended <- n
	}()
	return func() int {
		t.Helper()
		done.Store(true)
		return <-ended
	}
}

// TestWebhooksSurviveKills: the server and the receiver, two programs, are killed again and again. Each
// event of the ledger comes, first in the order of the ledger, and under one id.
func TestWebhooksSurviveKills(t *testing.T) {
	f := newField(t, 1<<20)
	p := &post{f: f, program: documentedReceiver(t, f.dir)}
	f.serve()
	const machines = 5
	var list api.ImportRequest
	for i := range machines {
		list.Machines = append(list.Machines, api.Planned{Name: fmt.Sprintf("node%d", i),
			MACs: []string{fmt.Sprintf("52:54:00:00:00:%02x", i+1)}})
	}
	if _, err := f.api().Import(f.ctx, list); err != nil {
		t.Fatal(err)
	}
	hook, err := f.api().CreateWebhook(f.ctx, api.WebhookRequest{Name: "receiver", URL: "http://10.99.255.254:8080/"})
	if err != nil {
		t.Fatal(err)
	}
	p.secret = hook.Secret
	p.start()
	stop := f.labels(t, machines)
	f.until("events to come", func() bool { // else the first kill has none that come again
		ids, _ := p.got()
		return len(ids) > 20
	})
	for round := range 8 {
		time.Sleep(time.Duration(100+rand.IntN(1500)) * time.Millisecond)
		if round%3 == 1 {
			p.kill()
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
			p.start()
			continue
		}
		if err := f.server.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-f.ended
		f.serve()
	}
	changed := stop()
	if _, err := f.api().ResumeWebhook(f.ctx, hook.ID, api.ResumeWebhookRequest{}); err != nil { // do not wait for a pause
		t.Fatal(err)
	}
	want, seqs := f.expected(hook.ID)
	if len(want) < changed {
		t.Errorf("the ledger has %d events of %d changes", len(want), changed)
	}
	f.until("the last event", func() bool {
		ids, _ := p.got()
		return len(ids) > 0 && ids[len(ids)-1] == want[len(want)-1]
	})
	ids, again := p.got()
	for i, id := range ids {
		if seqs[id] == 0 {
			t.Errorf("the event %s came, which is not in the ledger", id)
		}
		if i > 0 && seqs[id] < seqs[ids[i-1]] {
			t.Errorf("entry %d came first after entry %d", seqs[id], seqs[ids[i-1]])
		}
	}
	if len(ids) != len(want) {
		t.Errorf("%d events came; want %d", len(ids), len(want))
	}
	f.until("the webhook to be well", func() bool { // the server hears of the last answer after the receiver
		w, err := f.api().Webhook(f.ctx, hook.ID)
		return err == nil && w.Dead == 0 && w.Last == nil && w.State == "ok"
	})
	if again == 0 {
		t.Error("no event came again: this test would not find ids that change")
	}
	t.Logf("%d changes; %d events came, %d of them again; output of the receiver %d bytes", changed, len(ids), again,
		len(p.out.String()))
}

// expected are the ids of the ledger's events for a webhook of all topics about machines, in their order, and
// their sequence numbers. The fleet changes no more.
func (f *field) expected(hook string) (ids []string, seqs map[string]uint64) {
	f.t.Helper()
	seqs = map[string]uint64{}
	var after uint64
	for {
		e, err := f.api().Events(f.ctx, api.EventsRequest{After: after, Limit: 1000})
		if err != nil {
			f.t.Fatal(err)
		}
		for _, x := range e.Events {
			if x.Code == "machine-labels" {
				id := webhook.EventID(hook, x.Seq, x.At, x.Code)
				ids, seqs[id] = append(ids, id), x.Seq
			}
		}
		if len(e.Events) == 0 {
			return ids, seqs
		}
		after = e.Last
	}
}
