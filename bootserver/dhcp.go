package bootserver

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	"ingot/bootserver/booter"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// dhcpServers answer DHCP of both families. What clients know them by, the DUID
// above all, is derived from the state's identity.
type dhcpServers struct {
	four *dhcp4.Server
	six  *dhcp6.Server
}

// leases are those of both families.
func (l *dhcpServers) leases() []fleet.Lease { return append(l.four.Leases(), l.six.Leases()...) }

// openDHCPServers makes the DHCP servers of what the state knows now.
func (s *Server) openDHCPServers(now site) error {
	parts := network.Parts{Booter: s.booter, Log: s.log, Now: s.conf.Now, Record: s.packets.Note}
	parts.Store = booter.LeasesOf(s.state, netip.Addr.Is6)
	six, err := dhcp6.New(now.dhcp6, now.cards6, [16]byte(s.booter.Derive("dhcp6", "identity")), parts)
	if err != nil {
		return err
	}
	parts.Store = booter.LeasesOf(s.state, netip.Addr.Is4)
	four, err := dhcp4.New(now.dhcp, now.cards, hex.EncodeToString(s.booter.Derive("dhcp", "identity")[:8]), parts)
	if err != nil {
		return err
	}
	four.Probe = s.prober.Probe
	four.Answers = func(iface string) bool { return s.others.answers(link{name: iface}.key()) }
	six.Answers = func(iface string) bool { return s.others.answers(link{name: iface, six: &dhcp6.Interface{}}.key()) }
	s.dhcp.Store(&dhcpServers{four, six})
	s.refusePastRelays()
	return nil
}

// refusePastRelays warns of relays through which machines booted before, and which the
// configuration does not list: after an upgrade, an operator sees them at the first
// start and not when the next machine fails to boot.
func (s *Server) refusePastRelays() {
	servers, seen := s.dhcp.Load(), map[netip.Addr]bool{}
	var four, six []network.Refusal
	judge := func(relay netip.Addr) {
		if !relay.IsValid() || seen[relay] {
			return
		}
		seen[relay] = true
		if r := servers.four.Site().JudgePast(relay); r != nil && relay.Is4() {
			four = append(four, *r)
		}
		if r := servers.six.Site().JudgePast(relay); r != nil && relay.Is6() {
			six = append(six, *r)
		}
	}
	for _, m := range s.state.Machines() {
		judge(m.Port.Relay)
	}
	for _, l := range servers.leases() {
		judge(l.Port.Relay)
	}
	servers.four.Observer.ResetRefusals(four, s.conf.Now())
	servers.six.Observer.ResetRefusals(six, s.conf.Now())
}

// keepLeases writes down once more what is lent: a state that was restored may
// not know it.
func (s *Server) keepLeases() error {
	servers := s.dhcp.Load()
	if servers == nil {
		return nil
	}
	var waits []func() error
	for _, l := range servers.leases() {
		waits = append(waits, booter.LeasesOf(s.state, nil).PutLease(l))
	}
	for _, wait := range waits {
		if err := wait(); err != nil {
			return err
		}
	}
	return nil
}

// changeIdentity makes other DHCP servers of a state that another server wrote: they go
// by its identity, and know what it lent. Their sockets are opened anew, which
// takes milliseconds; clients that ask meanwhile ask again. A server that
// cannot go on ends, and begins with the state that was restored.
func (s *Server) changeIdentity() error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if s.group == nil { // it does not serve, or not any more
		return nil
	}
	err := s.replaceDHCPServers()
	if err != nil {
		err = fmt.Errorf("going on as the server whose state was restored: %w", err)
		s.group.Go(func() error { return err })
	}
	return err
}

func (s *Server) replaceDHCPServers() error {
	for _, p := range s.ports.dhcp {
		p.stop()
		<-p.ended
	}
	if err := errors.Join(s.keepLeases(), s.openDHCPServers(s.site)); err != nil { // of the last moment, too
		return err
	}
	for _, l := range s.site.links {
		p, err := s.openDHCP(s.serving, l)
		if err != nil {
			return err
		}
		s.ports.dhcp[l.key()] = p
		s.serve([]*port{p})
	}
	return nil
}
