package dhcp6

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"pgregory.net/rapid"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
	"ingot/bootserver/lease/leasetest"
)

// TestNoReplyWithoutDisk: what is not stored is not acknowledged.
func TestNoReplyWithoutDisk(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newServer(t, &leasetest.Store{Full: true}, &now)
	for _, m := range []*dhcpv6.Message{asks(dhcpv6.MessageTypeRequest, 1, us(), na("fd00:99::100"))} {
		if r, err := s.Handle(multicast(m, cardMAC(1))); r != nil || err == nil {
			t.Errorf("Handle = %v, %v with a full disk; want an error and no Reply", r, err)
		}
	}
}

// TestRestart: leases outlive the server, released and declined ones as such.
func TestRestart(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &leasetest.Store{}
	s := newServer(t, b, &now)
	for i := range byte(3) {
		leaseTo(t, s, i+1)
	}
	say(t, s, 2, asks(dhcpv6.MessageTypeRelease, 2, us(), na("fd00:99::101")))
	say(t, s, 3, asks(dhcpv6.MessageTypeDecline, 3, us(), na("fd00:99::102")))
	s = newServer(t, b, &now)
	if ip, _ := given(say(t, s, 1, asks(dhcpv6.MessageTypeRenew, 1, us(),
		na("fd00:99::100")))); ip.String() != "fd00:99::100" {
		t.Errorf("card 1 renews as %s after a restart", ip)
	}
	if ip := leaseTo(t, s, 3); ip.String() == "fd00:99::102" {
		t.Error("an address that was declined is assigned again at once")
	}
	if ip := leaseTo(t, s, 4); ip.String() != "fd00:99::101" {
		t.Errorf("card 4 gets %s; want fd00:99::101, which was released", ip)
	}
	if m := say(t, s, 5, asks(dhcpv6.MessageTypeSolicit, 5, na())); statusOf(m) != iana.StatusNoAddrsAvail {
		t.Errorf("the pool is full, and card 5 gets %s", m.Summary())
	}
}

// TestRapidCommit: a Reply at once where it is allowed, four messages elsewhere.
func TestRapidCommit(t *testing.T) {
	now := time.Unix(1000, 0)
	ask := asks(dhcpv6.MessageTypeSolicit, 1, na(), raw(dhcpv6.OptionRapidCommit, nil))
	if m := say(t, newServer(t, &leasetest.Store{}, &now), 1, ask); m.MessageType != dhcpv6.MessageTypeAdvertise {
		t.Errorf("without rapidCommit the answer is %s", m.MessageType)
	}
	c := testConfig()
	c.Interfaces[0].RapidCommit = true
	b := &leasetest.Store{}
	m := say(t, serverOf(t, c, b, scripted{}, &now), 1, ask)
	if m.MessageType != dhcpv6.MessageTypeReply || m.GetOneOption(dhcpv6.OptionRapidCommit) == nil || b.Len() != 1 {
		t.Errorf("with rapidCommit the answer is %s, and %d leases are stored", m.Summary(), b.Len())
	}
}

// TestReservations: by MAC, UUID, DUID and name; unknown machines do not get them, and
// a client that had another address is moved at its next renewal.
func TestReservations(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &leasetest.Store{}
	odd := &dhcpv6.DUIDEN{EnterpriseNumber: 9, EnterpriseIdentifier: []byte{1, 2}}
	leaseTo(t, newServer(t, b, &now), 1)
	c := testConfig()
	c.Machines = []Machine{{MAC: cardMAC(1).String(), Address: netip.MustParseAddr("fd00:99::11")},
		{UUID: houseUUID, Address: netip.MustParseAddr("fd00:99::12")},
		{DUID: "00:02:00:00:00:09:01:02", Address: netip.MustParseAddr("fd00:99::13")},
		{Name: "db1", Address: netip.MustParseAddr("fd00:99::14")}}
	s := serverOf(t, c, b, scripted{cardMAC(4).String(): {ID: "m-4", Name: "db1", Approved: true}}, &now)
	ip, over := given(say(t, s, 1, asks(dhcpv6.MessageTypeRenew, 1, us(), na("fd00:99::100"))))
	if ip.String() != "fd00:99::11" || len(over) != 1 || over[0] != "fd00:99::100" {
		t.Errorf("the renewal gives %s and ends %v; want the reservation, and the end of the old address", ip, over)
	}
	uuid := &dhcpv6.DUIDUUID{UUID: [16]byte([]byte(smbiosUUID))}
	for want, p := range map[string]Packet{
		"fd00:99::12": multicast(message(dhcpv6.MessageTypeSolicit, uuid,
			append(arch(iana.EFI_X86_64, "PXEClient:Arch:00007"), na())...), cardMAC(2)),
		"fd00:99::13":  multicast(message(dhcpv6.MessageTypeSolicit, odd, na()), cardMAC(3)),
		"fd00:99::14":  multicast(asks(dhcpv6.MessageTypeSolicit, 4, na()), cardMAC(4)),
		"fd00:99::101": multicast(asks(dhcpv6.MessageTypeSolicit, 5, na("fd00:99::11")), cardMAC(5)),
	} {
		if ip, _ := given(answerOf(t, s, p)); ip.String() != want {
			t.Errorf("got %s; want %s", ip, want)
		}
	}
}

// house is a server with ten cards that ask, and what each believes to hold.
type house struct {
	t      *rapid.T
	real   testing.TB
	server *Server
	store  *leasetest.Store
	now    time.Time
	holds  leasetest.Holders
}

func (h *house) boot() {
	c := testConfig()
	c.Networks[0].Subnets = append(c.Networks[0].Subnets, Subnet{Prefix: netip.MustParsePrefix("fd00:98::/64"),
		Pools: []lease.Range{{First: netip.MustParseAddr("fd00:98::10"), Last: netip.MustParseAddr("fd00:98::12")}}})
	c.Interfaces[0].RapidCommit = true
	c.Machines = []Machine{{MAC: cardMAC(1).String(), Address: netip.MustParseAddr("fd00:99::50")},
		{MAC: cardMAC(2).String(), Address: netip.MustParseAddr("fd00:98::50")}}
	h.server = serverOf(h.real, c, h.store, scripted{cardMAC(3).String(): client.Identity{ID: "m-3",
		Approved: true}}, &h.now)
	h.store.Dies = false
}

// send lets the server handle a message, and notes what the client then holds.
func (h *house) send(i byte, m *dhcpv6.Message) {
	r, err := h.server.Handle(multicast(m, cardMAC(i)))
	if errors.Is(err, leasetest.ErrDied) {
		h.boot()
	}
	if err != nil || r == nil {
		return
	}
	a, ok := r.Message.(*dhcpv6.Message)
	if !ok || a.MessageType != dhcpv6.MessageTypeReply || a.Options.OneIANA() == nil {
		return
	}
	ip, over := given(a)
	for _, o := range over {
		if h.holds[i].Address.String() == o {
			delete(h.holds, i)
		}
	}
	if ip.IsValid() {
		h.holds[i] = leasetest.Holder{Address: ip, Until: h.now.Add(a.Options.OneIANA().Options.OneAddress().ValidLifetime)}
	}
}

func (h *house) anAddress() string {
	list := []string{"fd00:99::50", "fd00:98::50", "fd00:98::10", "fd00:98::13", "fd01::1", "fd00:99::ff", "fd00:99::104"}
	for i := range 4 {
		list = append(list, fmt.Sprintf("fd00:99::10%d", i))
	}
	return rapid.SampledFrom(list).Draw(h.t, "address")
}

// step is one thing that may happen.
func (h *house) step() {
	i := byte(rapid.IntRange(1, 10).Draw(h.t, "card"))
	held, has := h.holds[i]
	switch rapid.IntRange(0, 9).Draw(h.t, "what") {
	case 0:
		h.send(i, asks(dhcpv6.MessageTypeSolicit, i, na(h.anAddress())))
	case 1:
		h.send(i, asks(dhcpv6.MessageTypeSolicit, i, na(), raw(dhcpv6.OptionRapidCommit, nil)))
	case 2, 3:
		h.send(i, asks(dhcpv6.MessageTypeRequest, i, us(), na(h.anAddress())))
	case 4:
		if has {
			h.send(i, asks(dhcpv6.MessageTypeRenew, i, us(), na(held.Address.String())))
		}
	case 5:
		ip := h.anAddress()
		if has && rapid.Bool().Draw(h.t, "own") {
			ip = held.Address.String()
		}
		h.send(i, asks(dhcpv6.MessageTypeRebind, i, na(ip)))
	case 6:
		kind := rapid.SampledFrom([]dhcpv6.MessageType{dhcpv6.MessageTypeRelease,
			dhcpv6.MessageTypeDecline}).Draw(h.t, "kind")
		ip := h.anAddress()
		if has && rapid.Bool().Draw(h.t, "own") {
			ip = held.Address.String()
		}
		if has && ip == held.Address.String() {
			delete(h.holds, i)
		}
		h.send(i, asks(kind, i, us(), na(ip)))
	case 7:
		h.now = h.now.Add(time.Duration(rapid.SampledFrom([]int{1, 30, 61, 700, 1800, 3599, 3601}).Draw(h.t,
			"seconds")) * time.Second)
	case 8:
		h.store.Dies, h.store.Kept = true, rapid.Bool().Draw(h.t, "kept")
	case 9:
		if h.store.Full = rapid.Bool().Draw(h.t, "full"); rapid.Bool().Draw(h.t, "restart") {
			h.boot()
		}
	}
}

// TestNoAddressTwice: whatever clients ask in whatever order, and however often
// the server dies or its disk is full, no two hold one address at a time.
func TestNoAddressTwice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := &house{t: rt, real: t, now: time.Unix(1000, 0), store: &leasetest.Store{},
			holds: leasetest.Holders{}}
		h.boot()
		for range rapid.IntRange(1, 120).Draw(rt, "steps") {
			h.step()
			if err := h.holds.Check(h.now); err != nil {
				rt.Fatal(err)
			}
		}
		if err := h.server.Book.Check(); err != nil {
			rt.Fatal(err)
		}
	})
}

// TestStarvation: 100,000 unknown machines, half of them with an address that they
// wish, fill the pool and no more memory than that; known machines have
// the addresses that they had, and new ones of ours find room.
func TestStarvation(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Networks[0].Subnets[0].Pools = []lease.Range{{First: netip.MustParseAddr("fd00:99::1000"),
		Last: netip.MustParseAddr("fd00:99::13ff")}}
	known := scripted{}
	for i := range byte(40) {
		known[cardMAC(i).String()] = client.Identity{ID: "m", Approved: true}
	}
	s := serverOf(t, c, &leasetest.Store{}, known, &now)
	before := map[byte]netip.Addr{}
	for i := range byte(20) {
		before[i] = leaseTo(t, s, i)
	}
	now = now.Add(2 * time.Hour) // all of them are switched off
	refused := 0
	for i := range 100_000 {
		d := &dhcpv6.DUIDEN{EnterpriseNumber: 1, EnterpriseIdentifier: []byte{byte(i >> 16), byte(i >> 8), byte(i)}}
		ia := na()
		if i%2 == 0 {
			ia = na(fmt.Sprintf("fd00:99::%x", 0x1000+i/2%1024))
		}
		p := multicast(message(dhcpv6.MessageTypeRequest, d, us(), ia), cardMAC(1))
		p.From = netip.MustParseAddrPort("[fe80::1234%eth0]:546")
		if statusOf(answerOf(t, s, p)) == iana.StatusNoAddrsAvail {
			refused++
		}
	}
	if refused < 98_000 {
		t.Errorf("%d of 100,000 unknown machines were refused; the pool has 1024 addresses", refused)
	}
	for i, want := range before {
		if ip := leaseTo(t, s, i); ip != want {
			t.Errorf("card %d of a known machine gets %s; want its old address %s", i, ip, want)
		}
	}
	for i := byte(20); i < 40; i++ {
		if ip := leaseTo(t, s, i); !ip.IsValid() {
			t.Errorf("card %d of a known machine, which is new here, gets nothing", i)
		}
	}
	if n := s.Book.Size(); n > 1024 {
		t.Errorf("%d addresses are remembered", n)
	}
	if h := s.Observations(); len(h.Clients) > 4096 || len(h.Warnings) > 256 {
		t.Errorf("%d askers and %d warnings are remembered", len(h.Clients), len(h.Warnings))
	}
}
