package network

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/lease"
)

func relaysOf(t testing.TB, list ...string) (relays []Relay) {
	t.Helper()
	for _, s := range list {
		r, err := ParseRelay(s)
		if err != nil {
			t.Fatal(err)
		}
		relays = append(relays, r)
	}
	return relays
}

// TestParseRelay: an address or a prefix, in the form in which it was written.
func TestParseRelay(t *testing.T) {
	for _, s := range []string{"10.7.0.1", "10.255.0.0/24", "fd00:7::1", "fd00:ff::/48", "fe80::1"} {
		if r, err := ParseRelay(s); err != nil || r.String() != s {
			t.Errorf("ParseRelay(%q) = %s, %v", s, r, err)
		}
	}
	for _, s := range []string{"", "router1", "10.7.0.1/24", "10.7.0.1-10.7.0.9", "::ffff:10.7.0.1", "fe80::1%eth0"} {
		if r, err := ParseRelay(s); err == nil {
			t.Errorf("ParseRelay(%q) = %s; want an error", s, r)
		}
	}
}

// TestRelayFaults: a relay's address must not be one that a client can get.
func TestRelayFaults(t *testing.T) {
	for _, c := range families {
		own := netip.MustParsePrefix(c.own)
		pool := lease.Range{First: lease.Plus(own.Addr(), 16), Last: lease.Plus(own.Addr(), 31)}
		for _, x := range []struct {
			relay, want string
		}{
			{pool.First.String(), "is inside the pool"},
			{c.near, "is inside the pool"},
			{lease.Plus(own.Addr(), 3).String(), "is reserved for"},
			{map[Family]string{IPv4: "fd00:99::fe", IPv6: "10.99.0.254"}[c.family], "address of a relay"},
			{netip.IPv6Unspecified().String(), "address of a relay"},
			{lease.Plus(own.Addr(), 9).String(), ""},
			{c.relay, ""},
		} {
			lab := subnet(c.near)
			lab.Pools = []lease.Range{pool}
			conf := configOf(c.family, Network[word]{Name: "lab", Interface: "eth0", Subnets: []Subnet[word]{lab}},
				Network[word]{Name: "far", Relays: relaysOf(t, x.relay), Subnets: []Subnet[word]{subnet(c.far)}})
			conf.Machines = []machine{{Reservation{Name: "a", Address: lease.Plus(own.Addr(), 3)}}}
			err := conf.Check()
			if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s, relay %s: Check = %v; want %q", c.family, x.relay, err, x.want)
			}
		}
	}
}

// TestRelayInDefaultPool: the pool of an interface without a network contains no relay.
func TestRelayInDefaultPool(t *testing.T) {
	for _, c := range families {
		own := netip.MustParsePrefix(c.own)
		pool, err := lease.Default(own, own.Addr())
		if err != nil {
			t.Fatal(err)
		}
		cards := map[string]Card{"eth0": {Prefixes: []netip.Prefix{own}}}
		for relay, want := range map[netip.Addr]bool{pool.First: false, pool.First.Prev(): true} {
			far := Network[word]{Name: "far", Relays: relaysOf(t, relay.String()), Subnets: []Subnet[word]{subnet(c.far)}}
			_, err := NewSite(configOf(c.family, far), cards)
			if (err == nil) != want || err != nil && !strings.Contains(err.Error(), `is inside the pool `+pool.String()) {
				t.Errorf("%s, relay %s: NewSite = %v; want accepted: %v", c.family, relay, err, want)
			}
		}
	}
}

// TestRefusalsAreBounded: hosts that invent relays fill neither memory nor log, and a
// relay that goes on sending is listed all the same.
func TestRefusalsAreBounded(t *testing.T) {
	var log bytes.Buffer
	o := NewObserver(slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Unix(1000, 0)
	o.ResetRefusals([]Refusal{{Code: RefusedPast, Relay: netip.MustParseAddr("10.8.0.1"), Network: "past"}}, now)
	invent := func(n int) {
		ip := lease.Plus(netip.MustParseAddr("192.168.0.0"), uint64(n))
		o.Refuse(Refusal{Interface: "eth0", Code: RefusedUnlisted, Relay: ip, From: ip}, now)
	}
	router := Refusal{Interface: "eth0", Code: RefusedUnlisted, Relay: netip.MustParseAddr("10.7.0.1"),
		From: netip.MustParseAddr("10.99.0.254"), Network: "far"}
	for n := range 5000 {
		invent(n)
		if n%10 == 0 {
			o.Refuse(router, now)
		}
		now = now.Add(100 * time.Millisecond)
	}
	same := netip.MustParseAddr("10.66.0.1")
	for n := range 100 {
		o.Refuse(Refusal{Interface: "eth0", Relay: lease.Plus(netip.MustParseAddr("172.16.0.0"), uint64(n)), From: same}, now)
	}
	var heard, past, fromSame bool
	list := o.Observations().Refusals
	count := 0
	for _, r := range list {
		heard = heard || r.Relay == router.Relay && r.Packets > 100
		past = past || r.Code == RefusedPast
		if r.From == same {
			fromSame, count = true, count+1
		}
	}
	if len(list) > MaxRefusals || !heard || !past || !fromSame || count > maxRefusalsFrom {
		t.Errorf("%d refused relays, the real one %v, the past one %v, %d of one source", len(list), heard, past, count)
	}
	if lines := strings.Count(log.String(), "\n"); lines > MaxRefusals+1 {
		t.Errorf("%d lines of log in %s", lines, 500*time.Second)
	}
	o.ResetRefusals(nil, now)
	if list := o.Observations().Refusals; len(list) > 0 {
		t.Errorf("with a new configuration, %v is still refused", list)
	}
}
