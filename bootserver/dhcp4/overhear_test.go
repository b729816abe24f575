package dhcp4

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/network"
)

// TestWarnings: what lasts is logged once an hour, however often it is seen; what
// ended is not.
func TestWarnings(t *testing.T) {
	now := time.Unix(1000, 0)
	var log bytes.Buffer
	s := &Server{id: "us", shared: &shared{Observer: network.NewObserver(slog.New(slog.NewTextHandler(&log, nil)))}}
	of := func(mac byte, mods ...dhcpv4.Modifier) (source, *dhcpv4.DHCPv4) {
		offer, err := dhcpv4.New(append(mods, dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), selects("10.99.0.9"),
			dhcpv4.WithYourIP([]byte{10, 99, 0, 70}))...)
		if err != nil {
			t.Fatal(err)
		}
		return source{iface: "eth0", mac: cardMAC(mac), address: netip.MustParseAddr("10.99.0.9")}, offer
	}
	server := func(mode Mode, mac byte, mods ...dhcpv4.Modifier) func() {
		f, p := of(mac, mods...)
		return func() { s.overheard(f, p, mode, now) }
	}
	kinds := map[string]func(){
		"another DHCP server answers": server(Full, 1),
		"in option 60":                server(Proxy, 2, says60("PXEClient")),
		"a second ingot answers":      server(Full, 3, dhcpv4.WithOption(ingotOption("them"))),
	}
	const every = 10 * time.Minute // as often as the network is asked
	for range 3 * time.Hour / every {
		for _, seen := range kinds {
			seen()
		}
		now = now.Add(every)
	}
	for text := range kinds {
		if n := strings.Count(log.String(), text); n != 3 {
			t.Errorf("%q was logged %d times in three hours; want 3\n%s", text, n, log.String())
		}
	}
	log.Reset()
	now = now.Add(24 * time.Hour)
	kinds["in option 60"]()
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "in option 60") {
		t.Errorf("a day later one is seen, and this is logged:\n%s", log.String())
	}
	for _, x := range s.Observer.Observations().Warnings {
		if want := 18; x.Times != want && x.Times != want+1 || !x.First.Equal(time.Unix(1000, 0)) {
			t.Errorf("the warning is %+v; want it counted %d times, from the beginning", x, want)
		}
	}
}

// TestHeardHidesKeys: what people see has no key of a boot, neither ours
// nor one of another ingot.
func TestHeardHidesKeys(t *testing.T) {
	key := strings.Repeat("0123456789abcdef", 4)
	s := &Server{id: "us", shared: &shared{Observer: network.NewObserver(slog.New(slog.DiscardHandler))}}
	now := time.Unix(1000, 0)
	s.Observer.AddClient(network.ObservedClient{Interface: "eth0", MAC: "52:54:00:12:00:01"}, true, now)
	s.Observer.SetWouldAnswer("eth0", "52:54:00:12:00:01", "http://10.99.0.1/b/"+key+"/script")
	offer, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), selects("10.99.0.9"),
		dhcpv4.WithYourIP([]byte{10, 99, 0, 70}),
		dhcpv4.WithOption(dhcpv4.OptBootFileName("http://10.0.0.9/b/"+key+"/script")))
	if err != nil {
		t.Fatal(err)
	}
	s.overheard(source{iface: "eth0", mac: cardMAC(9), address: netip.MustParseAddr("10.99.0.9")}, offer, Proxy, now)
	text := fmt.Sprintf("%+v", s.Observer.Observations())
	if !strings.Contains(text, "/b/01234567…/script") || strings.Contains(text, key[:32]) {
		t.Errorf("people see %s", text)
	}
}
