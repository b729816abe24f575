package initrd

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"aead.dev/minisign"

	"ingot"
)

// partner is a server that gives tickets and verifies messages.
type partner struct {
	t      *testing.T
	own    *ecdh.PrivateKey // nil: it is older and agrees on no secret
	sign   minisign.PrivateKey
	change func(*ingot.Ticket) // before the ticket is signed
	mu     sync.Mutex
	halves []ingot.Half
	proven map[string]int // messages by part
	bare   map[string]int
	refuse int           // tickets to refuse with 503
	slow   time.Duration // from a ticket to its arrival
	late   int           // messages without a proof after the ticket
}

func (p *partner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "/ticket") {
		p.ticket(w, body)
		return
	}
	m := ingot.Message{Method: r.Method, Path: r.URL.Path, Body: body}
	if r.Header.Get(ingot.HeaderAuth) == "" {
		p.bare[m.Part()]++
		if p.own != nil && len(p.halves) > p.refuse {
			p.late++
			http.Error(w, "not authenticated", http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	}
	proof, err := ingot.ParseProof(r.Header.Get(ingot.HeaderAuth))
	secret, failed := ingot.NewBootSecret(p.own, testBoot.ID(), p.halves[0], p.own.PublicKey().Bytes())
	if m.Counter = proof.Counter; err != nil || failed != nil || !secret.Proves(m, proof.MAC) ||
		r.Header.Get(ingot.HeaderToken) != "token" {
		p.t.Errorf("%s is not proven: %v, %v", m.Part(), err, failed)
	}
	p.proven[m.Part()]++
	w.Header().Set(ingot.HeaderAuth, secret.ProveAnswer(m.Part(), ingot.Answer{Status: 204, Counter: m.Counter,
		Newest: m.Counter}).String())
	w.WriteHeader(http.StatusNoContent)
}

func (p *partner) ticket(w http.ResponseWriter, body []byte) {
	var q ingot.TicketRequest
	if err := json.Unmarshal(body, &q); err != nil {
		p.t.Error(err)
	}
	p.halves = append(p.halves, q.Half)
	if len(p.halves) <= p.refuse {
		http.Error(w, "later", http.StatusServiceUnavailable)
		return
	}
	now := time.Now()
	t := ingot.Ticket{Boot: testBoot.ID(), Nonce: q.Nonce, Issued: now, Expires: now.Add(time.Minute)}
	if p.own != nil {
		t.MachineHalf, t.ServerHalf, t.Token = q.Half, p.own.PublicKey().Bytes(), "token"
	}
	if p.change != nil {
		p.change(&t)
	}
	text, err := json.Marshal(t)
	if err != nil {
		p.t.Error(err)
	}
	time.Sleep(p.slow)
	_ = json.NewEncoder(w).Encode(ingot.SignedTicket{Ticket: text, Signature: string(minisign.Sign(p.sign, text))})
}

var testBoot = ingot.NewBootKey(ingot.NewBootID([16]byte{7}), [16]byte{8})

// bootWith is ingot-init of a boot that has a network, and its server.
func bootWith(t *testing.T, p *partner) *boot {
	t.Helper()
	public, private := newKey(t)
	p.t, p.sign, p.proven, p.bare = t, private, map[string]int{}, map[string]int{}
	web := httptest.NewServer(p)
	t.Cleanup(web.Close)
	return &boot{args: Arguments{Server: web.URL, Boot: testBoot}, console: &console{}, server: public,
		remote: newRemote(web.URL, testBoot)}
}

// TestOneHalf: the half is drawn once and repeated in every request of the boot, also in a later try, and
// from the first ticket on everything is proven.
func TestOneHalf(t *testing.T) {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &partner{own: own, refuse: 1}
	b := bootWith(t, p)
	b.report(t.Context(), ingot.Event{Stage: ingot.StageInit})
	for range 2 {
		if _, _, err := b.getTicket(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.report(t.Context(), ingot.Event{Stage: ingot.StageTicket})
		if err := b.remote.text(t.Context(), "console", "a line"); err != nil {
			t.Error(err)
		}
	}
	for _, h := range p.halves {
		if len(p.halves) != 3 || !h.Same(p.halves[0]) {
			t.Errorf("%d requests with halves %x; want 3 with one half", len(p.halves), p.halves)
		}
	}
	if p.bare["events"] != 1 || p.proven["events"] != 2 || p.proven["console"] != 2 {
		t.Errorf("without a proof %v, with one %v; want the first event without, all others with one", p.bare, p.proven)
	}
}

// TestTextsWaitForTheTicket: while a ticket is on its way, no text is sent that the server would refuse,
// because it is not proven. While the server has no ticket to give, texts reach it.
func TestTextsWaitForTheTicket(t *testing.T) {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &partner{own: own, refuse: 1, slow: 100 * time.Millisecond}
	b := bootWith(t, p)
	over, ended := make(chan struct{}), make(chan struct{})
	go func() { // as the relay of the kernel's log does
		defer close(ended)
		for {
			select {
			case <-over:
				return
			default:
				_ = b.remote.text(t.Context(), "console", "a line") // the server counts
			}
		}
	}()
	_, _, err = b.getTicket(t.Context())
	close(over)
	<-ended
	if err != nil {
		t.Fatal(err)
	}
	if err := b.remote.text(t.Context(), "console", "a line"); err != nil {
		t.Error(err)
	}
	if p.late != 0 || p.bare["console"] == 0 || p.proven["console"] == 0 {
		t.Errorf("%d texts without a proof came after the ticket, %v before it, and %v were proven", p.late, p.bare, p.proven)
	}
}

// TestRefusedTickets: the server that issued a ticket believes only proven messages. The report that the
// ticket is refused is proven, and the boot has no secret by it.
func TestRefusedTickets(t *testing.T) {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range map[error]func(*partner){
		ErrTicketKey:      func(p *partner) { _, p.sign = newKey(t) },
		ErrTicketReplayed: func(p *partner) { p.change = func(t *ingot.Ticket) { t.Nonce = "another" } },
		ErrTicketExpired:  func(p *partner) { p.change = func(t *ingot.Ticket) { t.Expires = t.Issued } },
	} {
		p := &partner{own: own}
		b := bootWith(t, p)
		change(p)
		_, _, err := b.getTicket(t.Context())
		if !errors.Is(err, want) {
			t.Errorf("getTicket: %v; want %v", err, want)
			continue
		}
		b.report(t.Context(), b.failure(err))
		if p.proven["events"] != 1 || p.bare["events"] != 0 || b.secret != nil {
			t.Errorf("%v: proven %v, without a proof %v, secret of the boot %x", want, p.proven, p.bare, b.secret)
		}
	}
}

// TestHalvesOfTickets: a ticket with another half of the machine is refused, and so is a half of the
// server that gives no secret; a server without one is older.
func TestHalvesOfTickets(t *testing.T) {
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		own    *ecdh.PrivateKey
		change func(*ingot.Ticket)
		fails  bool
	}{
		"an older server":         {nil, nil, false},
		"another machine's half":  {own, func(t *ingot.Ticket) { t.MachineHalf = make(ingot.Half, 32) }, true},
		"a server half of zeros":  {own, func(t *ingot.Ticket) { t.ServerHalf = make(ingot.Half, 32) }, true},
		"a short half":            {own, func(t *ingot.Ticket) { t.ServerHalf = t.ServerHalf[:31] }, true},
		"the halves as they were": {own, nil, false},
	} {
		p := &partner{own: c.own, change: c.change}
		b := bootWith(t, p)
		_, _, err := b.getTicket(t.Context())
		if (err != nil) != c.fails || (b.secret != nil) != (c.own != nil && !c.fails) {
			t.Errorf("%s: %v, secret %t; want an error: %t", name, err, b.secret != nil, c.fails)
		}
		if err == nil && c.own == nil {
			b.report(t.Context(), ingot.Event{Stage: ingot.StageTicket})
			if p.bare["events"] != 1 {
				t.Errorf("%s: %v and %v", name, p.bare, p.proven)
			}
		}
	}
}
