package dhcp4

import (
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
	"ingot/bootserver/lease/leasetest"
)

var update = flag.Bool("update", false, "write the golden packets anew")

// dump shows a packet for people, and then every byte of it.
func dump(what string, r *Reply) string {
	if r == nil {
		return what + ": silence\n"
	}
	to := "to " + r.To.String()
	if r.Hardware != nil {
		to += " at " + r.Hardware.String()
	}
	return fmt.Sprintf("%s: from %s %s\n%s\n%s", what, r.From, to, strings.TrimSpace(r.Message.Summary()),
		hex.Dump(r.Message.ToBytes()))
}

// TestGoldenPackets keeps every byte of what each kind of client asks and gets:
// from a full server, the offer and what follows when it is taken, from a proxy
// with the offers, and from its port 4011. A file in testdata is the evidence of
// a row of docs/HARDWARE.md.
func TestGoldenPackets(t *testing.T) {
	now := time.Unix(1000, 0)
	server := func(mode Mode) *Server {
		c := testConfig()
		c.Interfaces[0].Mode = mode
		return serverOf(t, c, &leasetest.Store{}, scripted{}, &now)
	}
	answer := func(s *Server, p Packet) *Reply {
		r, err := s.Handle(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	show := func(p *dhcpv4.DHCPv4) string {
		return fmt.Sprintf("%s\n%s", strings.TrimSpace(p.Summary()), hex.Dump(p.ToBytes()))
	}
	for _, r := range rows(t) {
		full := server(Full)
		offer := answer(full, broadcast(r.packet))
		got := "asks\n" + show(r.packet) + dump("\nfull server", offer)
		if r.packet.MessageType() == dhcpv4.MessageTypeDiscover {
			q := takes(t, r.packet, offer.Message)
			ack := answer(full, broadcast(q))
			got += "\ntakes the full server's offer\n" + show(q) + dump("\nfull server", ack)
			if m := ack.Message; m.MessageType() != dhcpv4.MessageTypeAck || !m.YourIPAddr.Equal(offer.Message.YourIPAddr) ||
				m.BootFileName != offer.Message.BootFileName {
				t.Errorf("%s: the offer of %s and %q is followed by %s of %s and %q", r.name, offer.Message.YourIPAddr,
					offer.Message.BootFileName, m.MessageType(), m.YourIPAddr, m.BootFileName)
			}
		}
		got += dump("\nproxy", answer(server(Proxy), broadcast(r.packet)))
		if got += dump("\nproxy, port 4011", answer(server(Proxy), toBootServer(t, r.packet))); r.kind == client.System &&
			strings.Count(got, "silence") != 2 {
			t.Errorf("a proxy answers a system")
		}
		path := filepath.Join("testdata", r.name+".txt")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", r.name, d)
		}
	}
}

// takes makes of a client's DHCPDISCOVER the DHCPREQUEST that takes an offer
// (RFC 2131 table 5).
func takes(t *testing.T, p, offer *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	q, err := dhcpv4.FromBytes(p.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	q.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
	q.UpdateOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier()))
	q.UpdateOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
	return q
}

// toBootServer makes of a client's packet the one that it sends to port 4011.
func toBootServer(t *testing.T, p *dhcpv4.DHCPv4) Packet {
	t.Helper()
	q, err := dhcpv4.FromBytes(p.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	q.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
	q.ClientIPAddr = net.IPv4(10, 99, 0, 77).To4()
	return Packet{Interface: "eth0", Port: client.PortPXE, Message: q, From: netip.MustParseAddrPort("10.99.0.77:4011"),
		To: testServer}
}

// TestMusts are what firmware drops an answer for, whatever else is in it.
func TestMusts(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, mode := range []Mode{Full, Proxy} {
		c := testConfig()
		c.Interfaces[0].Mode = mode
		s := serverOf(t, c, &leasetest.Store{}, scripted{}, &now)
		for _, r := range rows(t) {
			a := answerOf(t, s, broadcast(r.packet))
			if a == nil {
				continue
			}
			if id := r.packet.Options.Get(dhcpv4.OptionClientMachineIdentifier); id != nil &&
				string(a.Options.Get(dhcpv4.OptionClientMachineIdentifier)) != string(id) {
				t.Errorf("%s, %s: option 97 does not go back unchanged", mode, r.name)
			}
			class, url := a.ClassIdentifier(), string(a.Options.Get(dhcpv4.OptionBootfileName))
			switch {
			case strings.Contains(r.name, "http") && (class != "HTTPClient" || !strings.HasPrefix(url, "http://10.99.0.1/") ||
				!strings.HasSuffix(url, ".efi") || len(url) > 254):
				t.Errorf("%s, %s: class %q, URL %q; want HTTPClient, and a URL of a program below 255 bytes", mode,
					r.name, class, url)
			case !strings.Contains(r.name, "http") && r.kind == client.Firmware && class != "PXEClient":
				t.Errorf("%s, %s: class %q; want PXEClient", mode, r.name, class)
			}
			if mode == Proxy && (address(a.YourIPAddr).IsValid() || a.Options.Has(dhcpv4.OptionIPAddressLeaseTime) ||
				a.Options.Has(dhcpv4.OptionSubnetMask) || a.Options.Has(dhcpv4.OptionRouter)) {
				t.Errorf("a proxy gives %s what it must not:\n%s", r.name, a.Summary())
			}
		}
	}
}

// TestBootItem: a boot server returns the boot item of the request.
func TestBootItem(t *testing.T) {
	now := time.Unix(1000, 0)
	c := testConfig()
	c.Interfaces[0].Mode = Proxy
	p := toBootServer(t, discover(t, arch(iana.EFI_X86_64)))
	p.Message.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{71, 4, 0, 1, 0, 0, 255}))
	r, err := serverOf(t, c, &leasetest.Store{}, scripted{}, &now).Handle(t.Context(), p)
	if err != nil || r == nil {
		t.Fatalf("Handle = %v, %v; want an answer", r, err)
	}
	if got := r.Message.Options.Get(dhcpv4.OptionVendorSpecificInformation); string(
		got) != "\x47\x04\x00\x01\x00\x00\xff" {
		t.Errorf("option 43 = %x; want the item back", got)
	}
	if r.To != p.From || r.From.Port() != client.PortPXE {
		t.Errorf("the answer goes from %s to %s; want from 4011 to where it was asked from", r.From, r.To)
	}
}

// watchful remembers the clients that it observed.
type watchful struct {
	scripted
	seen *[]client.Sighting
}

func (w watchful) Observe(c client.Sighting) (client.Boot, error) {
	*w.seen = append(*w.seen, c)
	return w.scripted.Observe(c)
}

// TestSightingSaysWhoGivesTheAddress: what explains a boot must know.
func TestSightingSaysWhoGivesTheAddress(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, mode := range []Mode{Full, Proxy} {
		c := testConfig()
		c.Interfaces[0].Mode = mode
		var seen []client.Sighting
		if _, err := serverOf(t, c, &leasetest.Store{}, watchful{scripted{}, &seen}, &now).Handle(t.Context(),
			broadcast(discover(t, arch(iana.EFI_X86_64)))); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 1 || seen[0].Proxy != (mode == Proxy) || seen[0].Address.IsValid() != (mode == Full) {
			t.Errorf("in mode %s the fleet gets %+v", mode, seen)
		}
	}
}

// TestFits: an answer is never larger than the client takes, and what is left
// out is what it can do without.
func TestFits(t *testing.T) {
	n := Settings{Server: testServer, Address: netip.MustParseAddr("10.99.0.5"),
		Prefix: netip.MustParsePrefix("10.99.0.0/24"), Boot: client.Boot{Loader: "snponly.efi"},
		Options: Options{Search: []string{strings.Repeat("a.", 60) + "example", strings.Repeat("b.", 60) + "example"},
			Domain: strings.Repeat("c.", 60) + "example",
			Extra:  []Option{{Code: 150, Text: strings.Repeat("x", 100)}}}}
	p := discover(t, arch(iana.EFI_X86_64))
	p.Options.Del(dhcpv4.OptionParameterRequestList) // wants all
	small := Answer(p, dhcpv4.MessageTypeOffer, Parse(p), n)
	p.UpdateOption(dhcpv4.OptMaxMessageSize(1472))
	large := Answer(p, dhcpv4.MessageTypeOffer, Parse(p), n)
	if l := len(small.ToBytes()); l > 548 || small.BootFileName != "snponly.efi" ||
		!small.Options.Has(dhcpv4.GenericOptionCode(150)) || small.Options.Has(dhcpv4.OptionDNSDomainSearchList) {
		t.Errorf("%d bytes for a client that takes 548:\n%s", l, small.Summary())
	}
	if l := len(large.ToBytes()); l <= 548 || !large.Options.Has(dhcpv4.OptionDNSDomainSearchList) {
		t.Errorf("%d bytes for a client that takes 1444; want all options", l)
	}
}

// says93 finds what a row of docs/HARDWARE.md says of option 93.
var says93 = regexp.MustCompile(`\b93 = (\d+)`)

// TestHardwareTable: docs/HARDWARE.md has a row for each kind of client and
// names each quirk and each default loader; and no row without packets, or with
// another architecture than they have, be it in option 60 or 93.
func TestHardwareTable(t *testing.T) {
	b, err := os.ReadFile("../../docs/HARDWARE.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, r := range rows(t) {
		known[r.name] = true
		_, rest, found := strings.Cut(string(b), "\n| `"+r.name+"` | ")
		if !found {
			t.Errorf("docs/HARDWARE.md has no row %q", r.name)
		}
		line, _, _ := strings.Cut(rest, "\n")
		if code := says93.FindStringSubmatch(line); code != nil {
			if got := r.packet.ClientArch(); len(got) != 1 || fmt.Sprint(uint16(got[0])) != code[1] {
				t.Errorf("docs/HARDWARE.md says that %s sends %s in option 93; its packet has %d", r.name, code[1], got)
			}
		}
		if class := r.packet.ClassIdentifier(); strings.Contains(class, ":Arch:") &&
			r.packet.Options.Has(dhcpv4.OptionClientSystemArchitectureType) {
			if want := fmt.Sprintf(":Arch:%05d:", uint16(r.packet.ClientArch()[0])); !strings.Contains(class, want) {
				t.Errorf("%s: option 60 says %q, option 93 %d", r.name, class, r.packet.ClientArch())
			}
		}
	}
	for _, line := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(line, "| `v6-") { // of package dhcp6
			continue
		}
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "` | ")
		if ok && strings.HasPrefix(line, "| `") && !known[name] {
			t.Errorf("the row %q of docs/HARDWARE.md has no packets", name)
		}
	}
	for _, q := range Quirks {
		if !strings.Contains(string(b), "(quirk `"+q.Name+"`)") || q.Device == "" || q.What == "" || q.Source == "" {
			t.Errorf("the quirk %q is not in docs/HARDWARE.md, or does not say of what and how we know", q.Name)
		}
	}
	for f, list := range client.DefaultLoaders {
		for _, l := range list {
			if !strings.Contains(string(b), "`"+l+"`") {
				t.Errorf("docs/HARDWARE.md does not name the loader %s of %s", l, f)
			}
		}
	}
}

// TestFirstAmongOffers: beside a server that says PXEClient and has nothing to
// boot, iPXE takes what we offer.
func TestFirstAmongOffers(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, mode := range []Mode{Full, Proxy} {
		c := testConfig()
		c.Interfaces[0].Mode = mode
		for _, name := range []string{"rom-ipxe", "loader-snponly", "uefi-7"} {
			a := answerOf(t, serverOf(t, c, &leasetest.Store{}, scripted{}, &now), broadcast(captured(t, name)))
			if got, want := a.Options.Has(dhcpv4.GenericOptionCode(optIPXE)), mode == Proxy && name != "uefi-7"; got != want {
				t.Errorf("%s, %s: a priority is sent: %v; want %v\n%s", mode, name, got, want, a.Summary())
			}
		}
	}
}
