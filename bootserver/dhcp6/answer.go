package dhcp6

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"ingot/bootserver/client"
	"ingot/bootserver/network"
)

// Settings is what an answer gives to a client besides its address.
type Settings struct {
	Server netip.Addr // address of this server for the client
	Options
	Boot  client.Boot
	Proxy bool // another server gives everything but what to boot
}

// Answer makes the answer of a type to a message, with the options for the client's
// addresses before the others.
func Answer(m *dhcpv6.Message, t dhcpv6.MessageType, server []byte, c client.Client, n Settings,
	addresses ...dhcpv6.Option) *dhcpv6.Message {
	a := &dhcpv6.Message{MessageType: t, TransactionID: m.TransactionID}
	if id := m.GetOneOption(dhcpv6.OptionClientID); id != nil {
		a.AddOption(id)
	}
	a.AddOption(raw(dhcpv6.OptionServerID, server))
	for _, o := range addresses {
		a.AddOption(o)
	}
	w := writer{a, m}
	if !n.Proxy {
		w.network(n)
	}
	if c.Kind != client.System {
		w.boot(c, n)
	}
	w.fit()
	return a
}

func raw(code dhcpv6.OptionCode, b []byte) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: b}
}

func status(code iana.StatusCode, text string) dhcpv6.Option {
	return &dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: text}
}

// writer puts options into an answer.
type writer struct{ a, request *dhcpv6.Message }

// wanted reports whether the client asked for an option (RFC 8415 section
// 21.7). A client that sends no option request gets all.
func (w writer) wanted(code dhcpv6.OptionCode) bool {
	list := w.request.Options.RequestedOptions()
	return len(list) == 0 || slices.Contains(list, code)
}

func (w writer) network(n Settings) {
	if len(n.DNS) > 0 && w.wanted(dhcpv6.OptionDNSRecursiveNameServer) {
		w.a.AddOption(dhcpv6.OptDNS(ips(n.DNS)...))
	}
	if len(n.Search) > 0 && w.wanted(dhcpv6.OptionDomainSearchList) {
		w.a.AddOption(dhcpv6.OptDomainSearchList(&rfc1035label.Labels{Labels: n.Search}))
	}
	if len(n.NTP) > 0 && w.wanted(dhcpv6.OptionNTPServer) {
		o := &dhcpv6.OptNTPServer{}
		for _, ip := range ips(n.NTP) {
			sub := dhcpv6.NTPSuboptionSrvAddr(ip)
			o.Suboptions.Add(&sub)
		}
		w.a.AddOption(o)
	}
	// RFC 5908 section 6: clients that know only the old option ask for it.
	if len(n.NTP) > 0 && slices.Contains(w.request.Options.RequestedOptions(), dhcpv6.OptionSNTPServerList) {
		w.a.AddOption(dhcpv6.OptSNTP(ips(n.NTP)...))
	}
	for _, e := range n.Extra {
		if b, err := e.Bytes(network.IPv6); err == nil && w.wanted(dhcpv6.OptionCode(e.Code)) { // Check accepted it
			w.a.UpdateOption(raw(dhcpv6.OptionCode(e.Code), b))
		}
	}
}

func ips(list []netip.Addr) (ips []net.IP) {
	for _, a := range list {
		ips = append(ips, a.AsSlice())
	}
	return ips
}

// block is the unit of the size of a boot file, which UEFI expects as the first
// parameter, in bytes (UEFI 2.10 section 24.3.1; edk2, PxeBcExtractBootFileParam).
const block = 512

// boot adds what the client boots. The URL is the last option: UEFI of 2015
// reads it as if a zero followed (edk2, HttpBootParseDhcp6Packet).
func (w writer) boot(c client.Client, n Settings) {
	url := n.Boot.URL
	if n.Boot.Loader != "" {
		url = "tftp://[" + n.Server.String() + "]/" + n.Boot.Loader
	}
	if url == "" {
		return
	}
	switch {
	case c.HTTP: // else the answer is dropped (UEFI 2.10 section 24.7.3.1)
		w.a.AddOption(vendorClass("HTTPClient"))
	case n.Proxy && c.Kind == client.Firmware && !c.IPXE:
		// By this UEFI tells an answer that is meant to have no address from one that has
		// none to give (edk2, PxeBcParseDhcp6Packet). With an address it
		// would make UEFI ask once more, on port 4011.
		w.a.AddOption(vendorClass("PXEClient"))
	}
	params := n.Params
	if params == nil && n.Boot.Size > 0 && !c.IPXE && (n.Boot.Size+block-1)/block <= 0xffff {
		params = []string{fmt.Sprint((n.Boot.Size + block - 1) / block)}
	}
	if len(params) > 0 && w.wanted(dhcpv6.OptionBootfileParam) {
		w.a.AddOption(dhcpv6.OptBootFileParam(params...))
	}
	w.a.AddOption(dhcpv6.OptBootFileURL(url))
}

func vendorClass(class string) dhcpv6.Option {
	return &dhcpv6.OptVendorClass{EnterpriseNumber: intel, Data: [][]byte{[]byte(class)}}
}

// maxMessage is the largest message, in bytes, that every IPv6 link carries in one
// packet, with the headers of one relay around it (RFC 8200 section 5).
const maxMessage = 1280 - 40 - 8 - 34 - 64

// fit leaves out options that a client can do without if an answer is too large.
func (w writer) fit() {
	keep := []dhcpv6.OptionCode{dhcpv6.OptionClientID, dhcpv6.OptionServerID, dhcpv6.OptionIANA, dhcpv6.OptionIATA,
		dhcpv6.OptionIAPD, dhcpv6.OptionStatusCode,
		dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionVendorClass, dhcpv6.OptionBootfileParam, dhcpv6.OptionBootfileURL,
		dhcpv6.OptionPreference, dhcpv6.OptionRapidCommit}
	for len(w.a.ToBytes()) > maxMessage {
		i := slices.IndexFunc(w.a.Options.Options, func(o dhcpv6.Option) bool { return !slices.Contains(keep, o.Code()) })
		if i < 0 {
			return
		}
		w.a.Options.Options = slices.Delete(w.a.Options.Options, i, i+1)
	}
}
