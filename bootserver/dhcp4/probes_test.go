package dhcp4

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/lease/leasetest"
)

// TestProbeIsShared: a client that asks again while its address is probed waits for
// the end of that test, and gets no address that is in use.
func TestProbeIsShared(t *testing.T) {
	ask := func(i int) *dhcpv4.DHCPv4 {
		return discover(t, dhcpv4.WithTransactionID(dhcpv4.TransactionID{byte(i)}))
	}
	want := func(i int) *dhcpv4.DHCPv4 {
		p := requestFrom(t, 1, selects("10.99.0.1"), wants("10.99.0.100"))
		p.TransactionID = dhcpv4.TransactionID{byte(i)}
		return p
	}
	mixed := func(i int) *dhcpv4.DHCPv4 {
		if i == 0 {
			return ask(i)
		}
		return want(i)
	}
	other := func(i int) *dhcpv4.DHCPv4 {
		p := ask(i)
		p.ClientHWAddr = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, byte(i + 1)}
		return p
	}
	for _, c := range []struct {
		what   string
		packet func(i int) *dhcpv4.DHCPv4
		taken  bool     // 10.99.0.100 is in use
		after  []string // what each of three packets, 50 ms apart, is answered, and when
		tested []string
	}{
		{"three questions", ask, false, []string{"OFFER 10.99.0.100 200ms", "OFFER 10.99.0.100 200ms",
			"OFFER 10.99.0.100 200ms"}, []string{"10.99.0.100"}},
		{"for an address in use", ask, true, []string{"OFFER 10.99.0.101 400ms", "OFFER 10.99.0.101 400ms",
			"OFFER 10.99.0.101 400ms"}, []string{"10.99.0.100", "10.99.0.101"}},
		{"three requests", want, false, []string{"ACK 10.99.0.100 200ms", "ACK 10.99.0.100 200ms", "ACK 10.99.0.100 200ms"},
			[]string{"10.99.0.100"}},
		{"for an address in use", want, true, []string{"NAK <nil> 200ms", "NAK <nil> 200ms", "NAK <nil> 200ms"},
			[]string{"10.99.0.100"}},
		{"a question, then requests", mixed, true, []string{"OFFER 10.99.0.101 400ms", "NAK <nil> 200ms", "NAK <nil> 200ms"},
			[]string{"10.99.0.100", "10.99.0.101"}},
		{"three clients", other, false, []string{"OFFER 10.99.0.100 200ms", "OFFER 10.99.0.101 250ms",
			"OFFER 10.99.0.102 300ms"}, []string{"10.99.0.100", "10.99.0.101", "10.99.0.102"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			now := time.Unix(1000, 0)
			s := newServer(t, &leasetest.Store{}, &now)
			var tested []string
			var mu sync.Mutex
			s.Probe = func(_ context.Context, tr Probe) (string, bool) {
				mu.Lock()
				tested = append(tested, tr.Address.String())
				mu.Unlock()
				time.Sleep(DefaultProbe)
				return "MAC 00:11:22:33:44:55", c.taken && tr.Address.String() == "10.99.0.100"
			}
			begin, got := time.Now(), make([]string, 3)
			var g sync.WaitGroup
			for i := range got {
				g.Go(func() {
					time.Sleep(time.Duration(i) * 50 * time.Millisecond)
					r, err := s.Handle(t.Context(), broadcast(c.packet(i)))
					if err != nil || r == nil {
						t.Errorf("%s: packet %d: %v, %v", c.what, i, r, err)
						return
					}
					got[i] = r.Message.MessageType().String() + " " + r.Message.YourIPAddr.String() + " " + time.Since(begin).String()
				})
			}
			g.Wait()
			if !slices.Equal(got, c.after) || !slices.Equal(tested, c.tested) {
				t.Errorf("%s: answered %q, tested %q; want %q, %q", c.what, got, tested, c.after, c.tested)
			}
			if n := len(s.probes.running); n != 0 {
				t.Errorf("%s: %d tests never end", c.what, n)
			}
		})
	}
}
