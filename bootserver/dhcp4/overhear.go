package dhcp4

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// optionIngot is one of the codes for private use (RFC 3942). The queries that
// ingot sends to find other servers carry it, and so do the answers of other
// ingots.
const optionIngot = 224

var ingotPrefix = []byte("ingot ")

// readIngot returns the identity of the ingot that sent a packet, and in queries
// its address. It returns "" for packets of other programs.
func readIngot(p *dhcpv4.DHCPv4) (id, at string) {
	rest, ok := bytes.CutPrefix(p.Options.Get(dhcpv4.GenericOptionCode(optionIngot)), ingotPrefix)
	if !ok {
		return "", ""
	}
	id, at, _ = strings.Cut(client.Readable(rest[:min(len(rest), 64)]), " ")
	return id, at
}

func ingotOption(id string) dhcpv4.Option {
	return dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(optionIngot), append(slices.Clone(ingotPrefix), id...))
}

// newQuery is the packet that finds other servers of a network: a DHCPDISCOVER of
// UEFI firmware that is answered by broadcast. No DHCPREQUEST follows, so no
// address is taken for longer than an offer lasts.
func newQuery(mac net.HardwareAddr, id string) (*dhcpv4.DHCPv4, error) {
	return dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true), dhcpv4.WithOption(ingotOption(id)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016")),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 7})),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 3, 16})),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionClassIdentifier, dhcpv4.OptionTFTPServerName,
			dhcpv4.OptionBootfileName, dhcpv4.OptionVendorSpecificInformation))
}

// source is where an overheard packet came from.
type source struct {
	iface   string
	mac     net.HardwareAddr
	address netip.Addr
	ours    bool // it answers our own query, or is of another interface of ours
}

// overheard records another server's answer. It returns what the server sent to a
// client, nil when the answer is for no client.
func (s *Server) overheard(from source, p *dhcpv4.DHCPv4, mode Mode, now time.Time) *fleet.Other {
	server := observedServer(from, p)
	if server.Ingot == s.id {
		return nil
	}
	other := fleet.Other{Address: server.Address, MAC: server.MAC, Kind: kindName(p.MessageType()),
		Given: address(p.YourIPAddr), File: server.File, At: now}
	other.Expected = mode == Observe || mode != Full && !server.Proxy && server.File == "" && server.Ingot == ""
	if !other.Address.IsValid() {
		other.Address = server.From
	}
	mac := client.MACText(p.ClientHWAddr)
	var answer string
	if !from.ours {
		answer = answerText(server, p)
	}
	s.Observer.AddAnswer(server, mac, answer, now)
	s.warnOfServer(server, mode, now)
	if from.ours {
		return nil
	}
	s.Observer.AddOther(from.iface, mac, other)
	return &other
}

// observedServer is the server that sent an answer.
func observedServer(from source, p *dhcpv4.DHCPv4) network.ObservedServer {
	server := network.ObservedServer{Interface: from.iface, MAC: client.MACText(from.mac), From: from.address,
		Address: address(p.ServerIdentifier()), Proxy: !address(p.YourIPAddr).IsValid(),
		Class: client.Clip(string(unterminated(p.Options.Get(dhcpv4.OptionClassIdentifier)))), Next: address(p.ServerIPAddr)}
	server.Ingot, _ = readIngot(p)
	if server.File = p.BootFileName; server.File == "" {
		server.File = string(unterminated(p.Options.Get(dhcpv4.OptionBootfileName)))
	}
	// Another ingot's URLs contain keys of boots.
	server.File = ingot.HideBootKeys(client.Readable([]byte(client.Clip(server.File))))
	return server
}

// answerText describes the answer of another server.
func answerText(server network.ObservedServer, p *dhcpv4.DHCPv4) string {
	text := strings.ToUpper(p.MessageType().String()) + " from " + server.String()
	if ip := address(p.YourIPAddr); ip.IsValid() {
		text += " of " + ip.String()
	}
	if server.File != "" {
		text += " booting " + server.File
	}
	return text
}

// warnOfServer records what is wrong with another server.
func (s *Server) warnOfServer(o network.ObservedServer, mode Mode, now time.Time) {
	warn := func(key, format string, args ...any) {
		s.Observer.Warn(o.Interface, key+" "+o.MAC, fmt.Sprintf(format, args...), now)
	}
	switch {
	case o.Ingot != "":
		warn("ingot", "a second ingot answers on this network: %s; stop one of them, or use mode observe for one", o)
	case strings.HasPrefix(o.Class, "PXEClient") && !o.Proxy && o.File == "":
		warn("stray60",
			`the DHCP server %s says "PXEClient" in option 60 and names no boot file: UEFI firmware then asks it on port 4011, `+
				"gets no answer, and does not boot from ingot (tianocore/edk2#6944); remove option 60 from its configuration", o)
	case o.Proxy && strings.HasPrefix(o.Class, "PXEClient"):
		warn("proxy",
			"another boot server (proxyDHCP) answers on this network: %s, which offers %q; machines take the first answer",
			o, o.File)
	case mode == Full && !o.Proxy:
		warn("foreign", "another DHCP server answers on this network: %s; stop it, or serve in proxy mode beside it", o)
	case mode == Proxy && o.File != "":
		warn("boots", "the DHCP server %s names a boot file itself, %q; remove it there, or machines may boot that",
			o, o.File)
	}
}
