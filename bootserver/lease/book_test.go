package lease

import (
	"net/netip"
	"testing"
	"time"

	"ingot/bootserver/fleet"
)

// empty is a store that has nothing and forgets everything.
type empty struct{}

func (empty) Leases() ([]fleet.Lease, error)    { return nil, nil }
func (empty) PutLease(fleet.Lease) func() error { return func() error { return nil } }

// TestWithoutAnOffer: clients name an address without an offer if they
// had one before the server restarted; they get it as if they had asked for it.
func TestWithoutAnOffer(t *testing.T) {
	now := time.Unix(1000, 0)
	first := netip.MustParseAddr("10.99.0.64")
	layout := Layout{Pools: []Pool{{Range{first, netip.MustParseAddr("10.99.0.95")}, "lab"}},
		Of: func(netip.Addr) string { return "lab" }}
	ask := func(client string, known bool) Request { return Request{Card: Card{"lab", client}, Known: known} }
	b, err := Open(empty{}, layout)
	if err != nil {
		t.Fatal(err)
	}
	take := func(a Request, n uint64, machine string) bool {
		l := fleet.LeaseOf(a.Client, Plus(first, n))
		l.Expires = now.Add(time.Hour)
		if machine != "" {
			l.Machine = "m-1"
		}
		_, ok := b.Take(a, l, now)
		return ok
	}
	ours, theirs, other := ask("52:54:00:00:00:01", true), ask("52:54:00:00:00:02", false), ask("52:54:00:00:00:03", false)
	for n := range uint64(30) { // one unknown machine takes what it can: 32 less a sixteenth
		if !take(theirs, n, "") {
			t.Fatalf("address %d of a pool that has room is refused", n)
		}
	}
	for what, c := range map[string]struct {
		a    Request
		n    uint64
		want bool
	}{
		"an unknown machine, of the reserve":      {theirs, 30, false},
		"another unknown machine, of the reserve": {other, 31, false},
		"an unknown machine, of what it has":      {theirs, 3, true},
		"an unknown machine, of what another has": {other, 3, false},
		"a known machine, of what another has":    {ours, 3, false},
		"a known machine, of the reserve":         {ours, 30, true},
		"a known machine, of what is no pool's":   {ours, 200, false},
	} {
		if got := b.Status(c.a, Plus(first, c.n), now).Allowed; got != c.want {
			t.Errorf("%s: may = %v; want %v", what, got, c.want)
		}
	}
	if !take(ours, 31, "m-1") {
		t.Fatal("a known machine gets nothing")
	}
	now = now.Add(2 * time.Hour)
	if b.Status(other, Plus(first, 31), now).Allowed {
		t.Error("an unknown machine may have what a known machine had")
	}
	if !b.Status(other, Plus(first, 3), now).Allowed || !b.Status(ours, Plus(first, 31), now).Allowed {
		t.Error("an address that an unknown machine had is refused to all, or a machine does not get its own")
	}
}
