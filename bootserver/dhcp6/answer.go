package dhcp6

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/insomniacslk/dhcp/rfc1035label"

	"ingot/bootserver/client"
	"ingot/bootserver/network"
)

// Told is what a client is told.
type Told struct {
	Server netip.Addr // our address for it
	Options
	Boot  client.Boot
	Proxy bool // another server tells it all but what to boot
}

// Answer makes the message of a type to one of a client, with the options that
// are about its addresses before the others.
func Answer(m *dhcpv6.Message, t dhcpv6.MessageType, server []byte, c Client, n Told, addresses ...dhcpv6.Option) *dhcpv6.Message {
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
// 21.7). One without a list of wishes gets all.
func (w writer) wanted(code dhcpv6.OptionCode) bool {
	list := w.request.Options.RequestedOptions()
	return len(list) == 0 || slices.Contains(list, code)
}

func (w writer) network(n Told) {
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
	// RFC 5908 section 6: who knows the old option alone asks for it.
	if len(n.NTP) > 0 && slices.Contains(w.request.Options.RequestedOptions(), dhcpv6.OptionSNTPServerList) {
		w.a.AddOption(dhcpv6.OptSNTP(ips(n.NTP)...))
	}
	for _, e := range n.Extra {
		if b, err := e.Bytes(network.IPv6); err == nil && w.wanted(dhcpv6.OptionCode(e.Code)) { // Check let it pass
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

// block is the unit in which UEFI is told the size of a boot file, as the first
// parameter (UEFI 2.10 section 24.3.1; edk2, PxeBcExtractBootFileParam).
const block = 512

// boot adds what the client boots. The URL is the last option: UEFI of 2015
// reads it as if a zero followed (edk2, HttpBootParseDhcp6Packet).
func (w writer) boot(c Client, n Told) {
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
		// By this UEFI tells an answer without an address that is meant for it from
		// one that has none to give (edk2, PxeBcParseDhcp6Packet). With an address it
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

// maxMessage is what fits into a packet that no IPv6 link takes apart, with the
// headers of one relay around it (RFC 8200 section 5).
const maxMessage = 1280 - 40 - 8 - 34 - 64

// fit leaves out what a client can do without when an answer is too large.
func (w writer) fit() {
	keep := []dhcpv6.OptionCode{dhcpv6.OptionClientID, dhcpv6.OptionServerID, dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD, dhcpv6.OptionStatusCode,
		dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionVendorClass, dhcpv6.OptionBootfileParam, dhcpv6.OptionBootfileURL, dhcpv6.OptionPreference, dhcpv6.OptionRapidCommit}
	for len(w.a.ToBytes()) > maxMessage {
		i := slices.IndexFunc(w.a.Options.Options, func(o dhcpv6.Option) bool { return !slices.Contains(keep, o.Code()) })
		if i < 0 {
			return
		}
		w.a.Options.Options = slices.Delete(w.a.Options.Options, i, i+1)
	}
}

// lent is an identity association with an address for some time. An address
// stays preferred for five eighths of that, and is renewed at half of those
// (RFC 8415 section 21.4 recommends 0.5 and 0.8 of the preferred lifetime).
func lent(id [4]byte, ip netip.Addr, valid time.Duration) *dhcpv6.OptIANA {
	preferred := valid * 5 / 8
	ia := &dhcpv6.OptIANA{IaId: id, T1: preferred / 2, T2: preferred * 4 / 5}
	ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: ip.AsSlice(), PreferredLifetime: preferred, ValidLifetime: valid})
	return ia
}

// over adds an address to an association that must not be used any more.
func over(ia *dhcpv6.OptIANA, ip netip.Addr) *dhcpv6.OptIANA {
	ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: ip.AsSlice()})
	return ia
}

// refused is an identity association without an address.
func refused(id [4]byte, code iana.StatusCode, text string) *dhcpv6.OptIANA {
	ia := &dhcpv6.OptIANA{IaId: id}
	ia.Options.Add(status(code, text))
	return ia
}

// wrap puts an answer into what relays expect, the innermost first (RFC 8415
// section 19.3). What they sent to find their way back returns unchanged.
func wrap(a dhcpv6.DHCPv6, chain []relay) dhcpv6.DHCPv6 {
	for _, r := range slices.Backward(chain) {
		w := &dhcpv6.RelayMessage{MessageType: dhcpv6.MessageTypeRelayReply, HopCount: r.HopCount, LinkAddr: r.LinkAddr, PeerAddr: r.PeerAddr}
		for _, code := range []dhcpv6.OptionCode{dhcpv6.OptionInterfaceID, dhcpv6.OptionRelayPort} {
			if o := r.GetOneOption(code); o != nil {
				w.AddOption(o)
			}
		}
		w.AddOption(dhcpv6.OptRelayMessage(a))
		a = w
	}
	return a
}

// summary says in one line what an answer gives.
func summary(ip netip.Addr, boot client.Boot) string {
	var parts []string
	if ip.IsValid() {
		parts = append(parts, ip.String())
	}
	switch {
	case boot.URL != "":
		parts = append(parts, boot.URL)
	case boot.Loader != "":
		parts = append(parts, boot.Loader+" by TFTP")
	}
	return strings.Join(parts, ", ")
}
