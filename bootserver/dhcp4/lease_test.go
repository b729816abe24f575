package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
)

// house is clients and a server that may die, for TestNoAddressTwice. Cards 1
// and 2 are in one machine, which has a reserved address; card 3 has one of
// its own.
type house struct {
	t      *rapid.T
	real   *testing.T
	now    time.Time
	store  *leasetest.Store
	server *Server
	holds  leasetest.Holders
	offers map[byte]*dhcpv4.DHCPv4
}

const houseUUID = "d1b2c3a4-0000-4000-8000-525400120001"

func (h *house) boot() {
	c := testConfig()
	c.Networks[0].Subnets = append(c.Networks[0].Subnets, Subnet{Prefix: netip.MustParsePrefix("10.98.0.0/24"),
		Pools: []lease.Range{{First: netip.MustParseAddr("10.98.0.10"), Last: netip.MustParseAddr("10.98.0.12")}}})
	c.Machines = []Machine{{UUID: houseUUID, Address: netip.MustParseAddr("10.99.0.50")}, {MAC: cardMAC(3).String(),
		Address: netip.MustParseAddr("10.98.0.50")}}
	known := client.Identity{ID: "m-1", UUID: houseUUID, MACs: []string{cardMAC(1).String(), cardMAC(2).String()},
		Approved: true}
	h.server = serverOf(h.real, c, h.store, scripted{cardMAC(1).String(): known, cardMAC(2).String(): known}, &h.now)
	h.server.Probe = func(context.Context, Probe) (string, bool) { // an address is in use now and then
		return "MAC 00:11:22:33:44:55", rapid.IntRange(0, 9).Draw(h.t, "squatter") == 9
	}
	h.offers = map[byte]*dhcpv4.DHCPv4{}
	h.store.Dies = false
}

func cardMAC(i byte) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, i} }

func (h *house) packet(i byte, kind dhcpv4.MessageType, firmware bool, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(cardMAC(i)),
		dhcpv4.WithMessageType(kind)}, mods...)...)
	if err != nil {
		h.t.Fatal(err)
	}
	if firmware && i <= 2 { // firmware of the machine: it was reset, and uses nothing that it had
		arch(7)(p)
		delete(h.holds, 1)
		delete(h.holds, 2)
	}
	return p
}

// send lets the server handle a packet, and notes what the client then holds.
func (h *house) send(i byte, p *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	r, err := h.server.Handle(h.real.Context(), broadcast(p))
	if errors.Is(err, leasetest.ErrDied) {
		h.boot()
	}
	if err != nil || r == nil {
		return nil
	}
	switch a := r.Message; a.MessageType() {
	case dhcpv4.MessageTypeNak:
		delete(h.holds, i)
	case dhcpv4.MessageTypeAck:
		if ip := address(a.YourIPAddr); ip.IsValid() {
			h.holds[i] = leasetest.Holder{Address: ip, Until: h.now.Add(a.IPAddressLeaseTime(0))}
		}
	}
	return r.Message
}

func (h *house) anAddress() net.IP {
	list := []string{"10.99.0.50", "10.98.0.50", "10.98.0.10", "10.98.0.13", "192.168.1.5"}
	for i := 99; i < 106; i++ {
		list = append(list, fmt.Sprintf("10.99.0.%d", i))
	}
	return net.ParseIP(rapid.SampledFrom(list).Draw(h.t, "address")).To4()
}

// step is one thing that may happen.
func (h *house) step() {
	i := byte(rapid.IntRange(1, 10).Draw(h.t, "card"))
	what := rapid.IntRange(0, 10).Draw(h.t, "what")
	firmware := rapid.Bool().Draw(h.t, "firmware")
	held, has := h.holds[i]
	switch what {
	case 0, 1:
		if o := h.send(i, h.packet(i, dhcpv4.MessageTypeDiscover, firmware)); o != nil &&
			o.MessageType() == dhcpv4.MessageTypeOffer {
			h.offers[i] = o
		}
	case 2, 3:
		if o := h.offers[i]; o != nil {
			h.send(i, h.packet(i, dhcpv4.MessageTypeRequest, firmware,
				dhcpv4.WithOption(dhcpv4.OptServerIdentifier(o.ServerIdentifier())),
				dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(o.YourIPAddr))))
		}
	case 4: // INIT-REBOOT with an address that it made up
		h.send(i, h.packet(i, dhcpv4.MessageTypeRequest, firmware,
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(h.anAddress()))))
	case 5: // SELECTING one that it made up
		h.send(i, h.packet(i, dhcpv4.MessageTypeRequest, firmware, selects("10.99.0.1"),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(h.anAddress()))))
	case 6:
		if has {
			h.send(i, h.packet(i, dhcpv4.MessageTypeRequest, false, dhcpv4.WithClientIP(held.Address.AsSlice())))
		}
	case 7:
		kind := rapid.SampledFrom([]dhcpv4.MessageType{dhcpv4.MessageTypeRelease,
			dhcpv4.MessageTypeDecline}).Draw(h.t, "kind")
		ip := h.anAddress()
		if has && rapid.Bool().Draw(h.t, "own") {
			ip = held.Address.AsSlice()
			delete(h.holds, i)
		} else if has && address(ip) == held.Address {
			delete(h.holds, i)
		}
		h.send(i, h.packet(i, kind, false, dhcpv4.WithClientIP(ip), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip))))
	case 8:
		h.now = h.now.Add(time.Duration(rapid.SampledFrom([]int{1, 30, 61, 700, 1800, 3599, 3601}).Draw(h.t,
			"seconds")) * time.Second)
	case 9:
		h.store.Dies, h.store.Kept = true, rapid.Bool().Draw(h.t, "kept")
	case 10:
		if h.store.Full = rapid.Bool().Draw(h.t, "full"); rapid.Bool().Draw(h.t, "restart") {
			h.boot()
		}
	}
}

// TestNoAddressTwice: whatever clients ask in whatever order, and however often
// the server dies or its disk is full, no two hold one address at a time, and
// the client that has one may keep it.
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

// lend runs the four packets for a card and returns the address.
func leaseTo(t testing.TB, s *Server, mac net.HardwareAddr) (netip.Addr, error) {
	p, err := dhcpv4.NewDiscovery(mac)
	if err != nil {
		t.Fatal(err)
	}
	o, err := s.Handle(t.Context(), broadcast(p))
	if err != nil || o == nil {
		return netip.Addr{}, err
	}
	r, err := dhcpv4.NewRequestFromOffer(o.Message)
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Handle(t.Context(), broadcast(r))
	if err != nil || a == nil || a.Message.MessageType() != dhcpv4.MessageTypeAck {
		return netip.Addr{}, fmt.Errorf("no ACK: %w", err)
	}
	return address(a.Message.YourIPAddr), nil
}

// unknownCard is one of many cards of unknown machines.
func unknownCard(i int) net.HardwareAddr {
	return net.HardwareAddr{0x0a, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}

// TestStarvation: 100,000 unknown machines that want addresses fill the pool and no
// more memory than that; known machines have theirs, and new ones of
// ours find room. It does not matter in which way the unknown machines ask.
func TestStarvation(t *testing.T) {
	now := time.Unix(1000, 0)
	for what, gets := range map[string]func(s *Server, i int) bool{
		"with four packets, or with half of them": func(s *Server, i int) bool {
			if i%2 == 0 {
				_, err := leaseTo(t, s, unknownCard(i))
				return err == nil
			}
			p := discover(t)
			p.ClientHWAddr = unknownCard(i)
			_, err := s.Handle(t.Context(), broadcast(p))
			return !errors.Is(err, lease.ErrPoolFull)
		},
		"with offers that are not taken, and later with four packets": func(s *Server, i int) bool {
			if i == 2000 {
				now = now.Add(2 * time.Minute)
			}
			if i >= 2000 {
				_, err := leaseTo(t, s, unknownCard(i))
				return err == nil
			}
			p := discover(t)
			p.ClientHWAddr = unknownCard(i)
			_, err := s.Handle(t.Context(), broadcast(p))
			return err == nil
		},
		"with a DHCPREQUEST for any address": func(s *Server, i int) bool {
			p := requestFrom(t, 0, selects("10.99.0.1"), wants(fmt.Sprintf("10.99.%d.%d", i/250%4, 2+i%250)))
			p.ClientHWAddr = unknownCard(i)
			a := handle(t, s, p)
			return a != nil && a.MessageType() == dhcpv4.MessageTypeAck
		},
	} {
		t.Run(what, func(t *testing.T) { testStarvation(t, &now, gets) })
	}
}

func testStarvation(t *testing.T, now *time.Time, gets func(s *Server, i int) bool) {
	c := testConfig()
	c.Networks[0].Subnets = []Subnet{{Prefix: netip.MustParsePrefix("10.99.0.0/22"),
		Pools: []lease.Range{{First: netip.MustParseAddr("10.99.0.2"), Last: netip.MustParseAddr("10.99.3.254")}}}}
	known := scripted{}
	for i := range byte(40) {
		known[cardMAC(i).String()] = client.Identity{ID: "m", Approved: true}
	}
	s := serverOf(t, c, &leasetest.Store{}, known, now)
	before := map[byte]netip.Addr{}
	for i := range byte(20) {
		ip, err := leaseTo(t, s, cardMAC(i))
		if err != nil {
			t.Fatal(err)
		}
		before[i] = ip
	}
	*now = now.Add(2 * time.Hour) // all of them are switched off
	refused := 0
	for i := range 100_000 {
		if !gets(s, i) {
			refused++
		}
	}
	if refused < 98_000 {
		t.Errorf("%d of 100,000 unknown machines were refused; the pool has only about a thousand addresses", refused)
	}
	for i, want := range before {
		if ip, err := leaseTo(t, s, cardMAC(i)); err != nil || ip != want {
			t.Errorf("a known machine gets %s, %v; want its old address %s", ip, err, want)
		}
	}
	for i := byte(20); i < 40; i++ {
		if _, err := leaseTo(t, s, cardMAC(i)); err != nil {
			t.Errorf("a known machine that is new here gets nothing: %v", err)
		}
	}
	if n := s.Book.Size(); n > 1024 {
		t.Errorf("%d addresses are remembered; the pool has 1021", n)
	}
	if h := s.Observations(); len(h.Clients) > network.MaxClients || len(h.Warnings) > network.MaxWarnings {
		t.Errorf("%d askers and %d warnings are remembered", len(h.Clients), len(h.Warnings))
	}
}

// TestReservations: by MAC, UUID and name; and a machine that was reset boots
// from its other card with the same address.
func TestReservations(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Machines = []Machine{{MAC: cardMAC(1).String(), Address: netip.MustParseAddr("10.99.0.11")},
		{UUID: houseUUID, Address: netip.MustParseAddr("10.99.0.12")},
		{Name: "db1", Address: netip.MustParseAddr("10.99.0.13"), Hostname: "database"}}
	known := client.Identity{ID: "m-2", UUID: houseUUID, MACs: []string{cardMAC(2).String(), cardMAC(3).String()},
		Approved: true}
	s := serverOf(t, c, &leasetest.Store{}, scripted{cardMAC(2).String(): known, cardMAC(3).String(): known,
		cardMAC(4).String(): {ID: "m-4", Name: "db1", Approved: true}}, &now)
	get := func(i byte, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		t.Helper()
		p := discover(t, mods...)
		p.ClientHWAddr = cardMAC(i)
		o := handle(t, s, p)
		r, err := dhcpv4.NewRequestFromOffer(o, mods...)
		if err != nil {
			t.Fatal(err)
		}
		return handle(t, s, r)
	}
	for _, w := range []struct {
		what string
		card byte
		mods []dhcpv4.Modifier
		want string
	}{
		{"by MAC", 1, nil, "10.99.0.11"},
		{"by UUID, the system of the machine's first card", 2, nil, "10.99.0.12"},
		{"the running system's other card", 3, nil, "10.99.0.100"},
		{"firmware on the other card, after a reset", 3, []dhcpv4.Modifier{arch(7)}, "10.99.0.12"},
		{"by name", 4, []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionHostName)}, "10.99.0.13"},
		{"an unknown machine", 5, nil, "10.99.0.101"},
	} {
		a := get(w.card, w.mods...)
		if got := a.YourIPAddr.String(); got != w.want {
			t.Errorf("%s: %s; want %s", w.what, got, w.want)
		}
		if w.what == "by name" && a.HostName() != "database" {
			t.Errorf("host name %q; want database", a.HostName())
		}
	}
	if a := handle(t, s, requestFrom(t, 9, selects("10.99.0.1"),
		wants("10.99.0.11"))); a.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("a reserved address asked for by an unknown machine: %s; want NAK", a.MessageType())
	}
}

// TestProbe: an address that is in use without the server's knowledge is not
// offered, and known machines do not wait for the test.
func TestProbe(t *testing.T) {
	now := time.Unix(1000, 0)
	known := scripted{cardMAC(7).String(): {ID: "m-7", Approved: true}}
	s := serverOf(t, testConfig(), &leasetest.Store{}, known, &now)
	var tested []string
	s.Probe = func(_ context.Context, tr Probe) (string, bool) {
		tested = append(tested, tr.Address.String())
		return "MAC 00:11:22:33:44:55", tr.Address.String() == "10.99.0.100"
	}
	if o := handle(t, s, discover(t)); o.YourIPAddr.String() != "10.99.0.101" {
		t.Errorf("offered %s; want the first address that is not in use, 10.99.0.101", o.YourIPAddr)
	}
	handle(t, s, discover(t)) // its own offer again
	ours := discover(t)
	ours.ClientHWAddr = cardMAC(7)
	handle(t, s, ours)
	if want := []string{"10.99.0.100", "10.99.0.101"}; !slices.Equal(tested, want) {
		t.Errorf("tested %v; want %v: once each, and not for a known machine", tested, want)
	}
	if w := s.Observations().Warnings; len(w) != 1 || w[0].Times != 1 {
		t.Errorf("warnings %+v; want one, that names 10.99.0.100 and its holder", w)
	}
	now = now.Add(lease.DeclineTime + time.Second)
	if ip, _, err := s.Book.Choose(lease.Request{Card: lease.Card{Network: "lab", Client: "52:54:00:12:00:77"},
		Requested: netip.MustParseAddr("10.99.0.103")}, now); err != nil || ip.String() != "10.99.0.103" {
		t.Errorf("a free address that is asked for: %s, %v", ip, err)
	}
}

// TestProbeWithoutAnOffer: a client that sends a DHCPREQUEST for an address that it was
// not offered gets it only if it is not in use.
func TestProbeWithoutAnOffer(t *testing.T) {
	now := time.Unix(1000, 0)
	b := leasetest.NewStore(fleet.Lease{MAC: cardMAC(4).String(), Address: netip.MustParseAddr("10.99.0.102"),
		Expires: now.Add(time.Minute)})
	s := serverOf(t, testConfig(), b, scripted{cardMAC(7).String(): {ID: "m-7", Approved: true}}, &now)
	var tested string
	s.Probe = func(_ context.Context, tr Probe) (string, bool) {
		tested = tr.Address.String()
		return "MAC 00:11:22:33:44:55", tested == "10.99.0.100" || tested == "10.99.0.102"
	}
	const ack, nak = dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak
	for _, c := range []struct {
		what   string
		packet *dhcpv4.DHCPv4
		want   dhcpv4.MessageType
		tested bool
	}{
		{"one that is in use", requestFrom(t, 2, selects("10.99.0.1"), wants("10.99.0.100")), nak, true},
		{"the same, once more", requestFrom(t, 2, selects("10.99.0.1"), wants("10.99.0.100")), nak, false},
		{"one that is not in use", requestFrom(t, 2, selects("10.99.0.1"), wants("10.99.0.101")), ack, true},
		{"its own, from the beginning", requestFrom(t, 2, wants("10.99.0.101")), ack, false},
		{"its own, to renew it", requestFrom(t, 2, dhcpv4.WithClientIP(net.IPv4(10, 99, 0, 101).To4())), ack, false},
		{"its own of before we were restarted", requestFrom(t, 4, wants("10.99.0.102")), ack, false},
		{"a known machine, which does not wait", requestFrom(t, 7, selects("10.99.0.1"),
			wants("10.99.0.103")), ack, false},
	} {
		tested = ""
		a := handle(t, s, c.packet)
		if a == nil || a.MessageType() != c.want || (tested != "") != c.tested {
			t.Errorf("%s: %v, tested %q; want %s, tested: %v", c.what, a, tested, c.want, c.tested)
		}
	}
	now = now.Add(2 * time.Hour) // another card asks for the address of one that still uses it
	if a := handle(t, s, requestFrom(t, 3, selects("10.99.0.1"), wants("10.99.0.102"))); a.MessageType() != nak ||
		tested != "10.99.0.102" {
		t.Errorf("an earlier address that is in use: %s, tested %q; want a NAK", a.MessageType(), tested)
	}
	if w := s.Observations().Warnings; len(w) != 2 || !strings.Contains(w[0].Text,
		"10.99.0.100 of a pool is used by MAC 00:11:22:33:44:55") {
		t.Errorf("warnings %+v; want one of each address and its holder", w)
	}
}

func TestDeclineAndRelease(t *testing.T) {
	now := time.Unix(1000, 0)
	b := &leasetest.Store{}
	s := newServer(t, b, &now)
	handle(t, s, requestFrom(t, 1, selects("10.99.0.1"), wants("10.99.0.100")))
	is := dhcpv4.WithMessageType
	handle(t, s, requestFrom(t, 9, wants("10.99.0.100"), is(dhcpv4.MessageTypeDecline)))
	if b.Lease("10.99.0.100").Declined {
		t.Error("a client declined the address of another")
	}
	handle(t, s, requestFrom(t, 9, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.IPv4(10, 99, 0, 100).To4() },
		is(dhcpv4.MessageTypeRelease)))
	if !b.Lease("10.99.0.100").Expires.After(now) {
		t.Error("a client released the address of another")
	}
	handle(t, s, requestFrom(t, 1, wants("10.99.0.100"), is(dhcpv4.MessageTypeDecline)))
	s = newServer(t, b, &now) // a restart forgets nothing of it
	if offer := handle(t, s, discover(t, wants("10.99.0.100"))); offer.YourIPAddr.String() == "10.99.0.100" {
		t.Error("a declined address is offered again at once")
	}
	now = now.Add(lease.DeclineTime + time.Second)
	var got []string
	for i := range byte(4) {
		if ip, err := leaseTo(t, s, cardMAC(20+i)); err == nil {
			got = append(got, ip.String())
		}
	}
	if !slices.Contains(got, "10.99.0.100") {
		t.Errorf("after a while the declined address is not assigned again; assigned are %v", got)
	}
}

// TestManyAtOnce: cards that ask in the same moment, each packet twice and in
// any order, for fewer addresses than there are cards.
func TestManyAtOnce(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Networks[0].Subnets[0].Pools = []lease.Range{{First: netip.MustParseAddr("10.99.0.10"),
		Last: netip.MustParseAddr("10.99.0.40")}}
	s := serverOf(t, c, &leasetest.Store{}, scripted{}, &now)
	var mu sync.Mutex
	holders := map[netip.Addr]string{}
	var g errgroup.Group
	for i := range byte(60) {
		for range 2 {
			g.Go(func() error {
				ip, err := leaseTo(t, s, cardMAC(i))
				if err != nil || !ip.IsValid() {
					return nil // refused: there are too few
				}
				mu.Lock()
				defer mu.Unlock()
				if other, taken := holders[ip]; taken && other != cardMAC(i).String() {
					return fmt.Errorf("%s and %s were both given %s", other, cardMAC(i), ip)
				}
				holders[ip] = cardMAC(i).String()
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if len(holders) < 25 {
		t.Errorf("%d of 31 addresses were assigned to 60 cards; want nearly all", len(holders))
	}
}
