package dhcp4

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// Settings is what an answer gives to a client.
type Settings struct {
	Server  netip.Addr // address of this server for the client
	Address netip.Addr // of the client; zero: none is given
	Prefix  netip.Prefix
	Options
	Hostname string
	Boot     client.Boot
	Proxy    bool // another server gives everything but what to boot
}

// Answer makes the packet of a message type.
func Answer(p *dhcpv4.DHCPv4, t dhcpv4.MessageType, c client.Client, n Settings) *dhcpv4.DHCPv4 {
	server := n.Server.AsSlice()
	a := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootReply, HWType: p.HWType, TransactionID: p.TransactionID, Flags: p.Flags,
		ClientHWAddr: p.ClientHWAddr, GatewayIPAddr: p.GatewayIPAddr, ServerIPAddr: server, Options: dhcpv4.Options{}}
	o := writer{a, p}
	o.set(dhcpv4.OptionDHCPMessageType, []byte{byte(t)})
	o.set(dhcpv4.OptionServerIdentifier, server)
	// These are returned unchanged: RFC 6842, RFC 3046 section 2.2, RFC 4578 section 2.3.
	o.copy(dhcpv4.OptionClientIdentifier)
	o.copy(dhcpv4.OptionRelayAgentInformation)
	if t == dhcpv4.MessageTypeNak {
		a.ServerIPAddr = nil
		if a.GatewayIPAddr != nil && !a.GatewayIPAddr.IsUnspecified() {
			a.SetBroadcast() // the relay must not send it to an address that is not the client's (RFC 2131 section 4.3.2)
		}
		return a
	}
	if p.MessageType() != dhcpv4.MessageTypeDiscover {
		a.ClientIPAddr = p.ClientIPAddr // RFC 2131 table 3
	}
	if !n.Proxy {
		o.network(n)
	}
	if c.Kind != client.System {
		o.copy(dhcpv4.OptionClientMachineIdentifier)
		o.boot(c, n)
		applyQuirk(c, a, p)
	}
	o.fit()
	return a
}

// writer puts options into an answer.
type writer struct{ a, request *dhcpv4.DHCPv4 }

func (w writer) set(code dhcpv4.OptionCode, b []byte) { w.a.Options[code.Code()] = b }

func (w writer) copy(code dhcpv4.OptionCode) {
	if v := w.request.Options.Get(code); v != nil {
		w.set(code, v)
	}
}

// wanted reports whether the client asked for an option. A client that sends no
// parameter request list (RFC 2132 section 9.8) gets all.
func (w writer) wanted(code dhcpv4.OptionCode) bool {
	list := w.request.Options.Get(dhcpv4.OptionParameterRequestList)
	return len(list) == 0 || slices.Contains(list, code.Code())
}

func (w writer) addresses(code dhcpv4.OptionCode, list []netip.Addr) {
	if len(list) == 0 {
		return
	}
	b := make([]byte, 0, 4*len(list))
	for _, a := range list {
		b = append(b, a.AsSlice()...)
	}
	w.set(code, b)
}

// network adds the address and what belongs to it. Mask, router and name servers are
// always sent, the rest to clients that ask for it.
func (w writer) network(n Settings) {
	if n.Address.IsValid() {
		w.a.YourIPAddr = n.Address.AsSlice()
		w.set(dhcpv4.OptionIPAddressLeaseTime, binary.BigEndian.AppendUint32(nil, uint32(n.lease().Seconds())))
	}
	if n.Prefix.IsValid() {
		w.set(dhcpv4.OptionSubnetMask, net.CIDRMask(n.Prefix.Bits(), 32))
		if _, last := lease.Bounds(n.Prefix); n.Prefix.Bits() < 31 &&
			slices.Contains(w.request.Options.Get(dhcpv4.OptionParameterRequestList), dhcpv4.OptionBroadcastAddress.Code()) {
			w.set(dhcpv4.OptionBroadcastAddress, last.AsSlice())
		}
	}
	w.addresses(dhcpv4.OptionRouter, n.Routers)
	w.addresses(dhcpv4.OptionDomainNameServer, n.DNS)
	if w.wanted(dhcpv4.OptionNTPServers) {
		w.addresses(dhcpv4.OptionNTPServers, n.NTP)
	}
	text := func(code dhcpv4.OptionCode, s string) {
		if s != "" && w.wanted(code) {
			w.set(code, []byte(s))
		}
	}
	text(dhcpv4.OptionDomainName, n.Domain)
	text(dhcpv4.OptionHostName, n.Hostname)
	if n.MTU != 0 && w.wanted(dhcpv4.OptionInterfaceMTU) {
		w.set(dhcpv4.OptionInterfaceMTU, binary.BigEndian.AppendUint16(nil, uint16(n.MTU)))
	}
	if len(n.Search) > 0 && w.wanted(dhcpv4.OptionDNSDomainSearchList) {
		w.set(dhcpv4.OptionDNSDomainSearchList, labels(n.Search))
	}
	if b := routes(n); len(b) > 0 && w.wanted(dhcpv4.OptionClasslessStaticRoute) {
		w.set(dhcpv4.OptionClasslessStaticRoute, b)
	}
	for _, e := range n.Extra {
		if b, err := e.Bytes(network.IPv4); err == nil { // Check accepted it
			w.set(dhcpv4.GenericOptionCode(e.Code), b)
		}
	}
}

// routes is option 121. Clients that use it ignore option 3, so it includes the
// default route (RFC 3442).
func routes(n Settings) []byte {
	if len(n.Routes) == 0 {
		return nil
	}
	list := slices.Clone(n.Routes)
	hasDefault := slices.ContainsFunc(list, func(r Route) bool { return r.To.Bits() == 0 })
	if len(n.Routers) > 0 && !hasDefault {
		list = append(list, Route{netip.PrefixFrom(netip.IPv4Unspecified(), 0), n.Routers[0]})
	}
	var b []byte
	for _, r := range list {
		to := r.To.Masked().Addr().As4()
		b = append(b, byte(r.To.Bits()))
		b = append(b, to[:(r.To.Bits()+7)/8]...)
		b = append(b, r.Via.AsSlice()...)
	}
	return b
}

// labels encodes names as in RFC 1035 section 3.1, without compression.
func labels(names []string) []byte {
	var b []byte
	for _, n := range names {
		for len(n) > 0 {
			i := slices.Index([]byte(n), '.')
			l, rest := n, ""
			if i >= 0 {
				l, rest = n[:i], n[i+1:]
			}
			if l != "" && len(l) < 64 {
				b = append(append(b, byte(len(l))), l...)
			}
			n = rest
		}
		b = append(b, 0)
	}
	return b
}

// boot adds what the client boots. The file name goes into the fixed field as
// well as into option 67: ROMs differ in where they look.
func (w writer) boot(c client.Client, n Settings) {
	class := "PXEClient"
	if c.HTTP {
		class = "HTTPClient" // UEFI 2.10 section 24.7.3.1: else the offer is dropped
	}
	if c.Kind == client.Init {
		class = client.InitClass
	}
	switch {
	case n.Boot.URL != "":
		if c.HTTP || c.Kind == client.Init || n.Proxy {
			w.set(dhcpv4.OptionClassIdentifier, []byte(class))
		}
		w.file(n.Boot.URL)
	case n.Boot.Loader != "" && !c.HTTP:
		// PXE firmware ignores an offer without PXEClient. Option 43.6 = 8 turns boot
		// server discovery off: firmware loads the file named here (PXE 2.1 table 2-2).
		w.set(dhcpv4.OptionClassIdentifier, []byte(class))
		w.set(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255})
		w.set(dhcpv4.OptionTFTPServerName, []byte(n.Server.String()))
		w.file(n.Boot.Loader)
	default:
		return
	}
	if n.Proxy && c.IPXE {
		w.set(dhcpv4.GenericOptionCode(optIPXE), []byte{featurePriority, 1, 1})
	}
}

// featurePriority in option 175 is the priority of an offer: iPXE takes the boot
// server of the highest. Without it iPXE takes the last offer with PXEClient in
// option 60, even from a server that has nothing to boot (iPXE, DHCP_EB_PRIORITY in
// its net/udp/dhcp.c; seen with QEMU's ROM beside dnsmasq).
const featurePriority = 1

func (w writer) file(name string) {
	if len(name) <= network.MaxFile {
		w.a.BootFileName = name
	}
	w.set(dhcpv4.OptionBootfileName, []byte(name))
}

// The size of a packet that every client accepts, and of its parts before the options
// (RFC 2131 section 2), in bytes.
const (
	minMessage = 576
	headers    = 28  // IP and UDP
	fixed      = 240 // fixed fields and magic cookie
)

// dispensable are the options that are left out, in this order, of an answer that is
// too large for the client.
var dispensable = []dhcpv4.OptionCode{dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionNTPServers,
	dhcpv4.OptionBroadcastAddress,
	dhcpv4.OptionDomainName, dhcpv4.OptionHostName, dhcpv4.OptionClasslessStaticRoute}

// fit keeps the answer below the size that the client accepts (option 57).
func (w writer) fit() {
	limit := minMessage
	if b := w.request.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(b) == 2 {
		limit = max(limit, int(binary.BigEndian.Uint16(b)))
	}
	limit = min(limit, 1500) - headers
	for _, code := range dispensable {
		if w.size() <= limit {
			return
		}
		delete(w.a.Options, code.Code())
	}
}

func (w writer) size() int {
	n := fixed + 1
	for _, b := range w.a.Options {
		n += 2*(1+len(b)/256) + len(b)
	}
	return n
}

var broadcastClient = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpv4.ClientPort)

// Destination returns where an answer is sent (RFC 2131 section 4.1): to the relay, to
// the client's own address, by broadcast, or to the address that the answer gives to
// the client, which does not answer ARP yet: then direct is true, and the packet must
// be sent to the client's hardware address.
func Destination(p, a *dhcpv4.DHCPv4) (to netip.AddrPort, direct bool) {
	if relay := address(p.GatewayIPAddr); relay.IsValid() {
		return netip.AddrPortFrom(relay, dhcpv4.ServerPort), false
	}
	if a.MessageType() == dhcpv4.MessageTypeNak {
		return broadcastClient, false
	}
	if own := address(p.ClientIPAddr); own.IsValid() {
		return netip.AddrPortFrom(own, dhcpv4.ClientPort), false
	}
	yours := address(a.YourIPAddr)
	if p.IsBroadcast() || !yours.IsValid() || p.HWType != iana.HWTypeEthernet {
		return broadcastClient, false
	}
	return netip.AddrPortFrom(yours, dhcpv4.ClientPort), true
}

func address(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip.To4())
	if !ok || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
