package bootserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/network"
)

// OtherServerError: another DHCP server answers on interfaces that would be served for the
// first time, and nobody said that ingot is to assign addresses there as well.
type OtherServerError struct {
	Why    []string // a sentence for each interface
	Config string   // configuration with which ingot runs beside the other server, as YAML
}

func (e *OtherServerError) Error() string { return strings.Join(e.Why, "; ") }

// refusal is why a link is not served because of other servers.
type refusal struct {
	why   string
	ingot bool      // the other server is another ingot
	until time.Time // then it is looked again
}

// refusedFor is how long a link is refused before other servers are looked for again.
const refusedFor = time.Minute

// others is what is known about other DHCP servers on the links, by link.key.
type others struct {
	cleared map[string]bool    // links that may be served
	refused map[string]refusal // and those that may not
	held    sync.Map           // keys of links that do not answer until they have been looked at
}

// answers reports whether the link with a key answers DHCP.
func (o *others) answers(key string) bool {
	_, held := o.held.Load(key)
	return !held
}

// holding reports whether a link waits to be looked at.
func (o *others) holding() (holds bool) {
	o.held.Range(func(_, _ any) bool { holds = true; return false })
	return holds
}

// lookForOthers returns the links that must not be served, by key, because another DHCP server
// answers there. It listens and asks on links that are served for the first time: that
// takes seconds. Links without a carrier are held until they have one. s.reloading is held.
func (s *Server) lookForOthers(ctx context.Context, now site) (map[string]refusal, error) {
	refused := map[string]refusal{}
	var fresh []link
	for _, l := range now.links {
		key := l.key()
		known, was := s.others.refused[key]
		switch {
		case s.others.cleared[key]:
		case s.besideOthers(l) != "" || !s.assigns(l):
			s.clear(key)
		case was && s.conf.Now().Before(known.until):
			refused[key] = known
		case !carrier(l.name):
			s.others.held.Store(key, true)
		default:
			fresh = append(fresh, l)
		}
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for _, l := range fresh {
		g.Go(func() error {
			found, err := s.findServers(ctx, now, l)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				s.log.Warn("looking for other DHCP servers; it is tried again", "interface", l.name, "err", err)
				s.others.held.Store(l.key(), true)
			case len(found) > 0:
				refused[l.key()] = s.refuse(l, found)
				s.record(l, found)
				s.others.held.Delete(l.key())
			default:
				s.clear(l.key())
			}
			return nil
		})
	}
	err := g.Wait()
	maps.Copy(s.others.refused, refused)
	return refused, err
}

// clear remembers that a link may be served.
func (s *Server) clear(key string) {
	s.others.cleared[key] = true
	delete(s.others.refused, key)
	if _, was := s.others.held.LoadAndDelete(key); was {
		s.log.Info("an interface answers DHCP now: no other server was heard on " + key)
	}
}

// assigns reports whether a link assigns addresses on a network that can have other
// servers.
func (s *Server) assigns(l link) bool {
	i, err := net.InterfaceByName(l.name)
	if err != nil || i.Flags&net.FlagLoopback != 0 || len(i.HardwareAddr) != 6 {
		return false
	}
	if l.six != nil {
		return l.six.Settings().Assigns
	}
	return l.four.Settings().Assigns
}

// carrier reports whether an interface has a link.
func carrier(name string) bool {
	i, err := net.InterfaceByName(name)
	return err == nil && i.Flags&net.FlagRunning != 0
}

// besideOthers says why a link is served although another DHCP server may answer there,
// "" if there is no reason.
func (s *Server) besideOthers(l link) string {
	mode, known := "", false
	if l.six != nil {
		mode, known = string(l.six.Mode), l.six.Known
	} else {
		mode, known = string(l.four.Mode), l.four.Known
	}
	switch {
	case mode != "":
		return "mode " + mode + " is chosen for it"
	case known:
		return "known: true is set for it"
	case s.leasedAt(l):
		return "machines got addresses from it before"
	}
	return ""
}

// leasedAt reports whether addresses were leased on a link.
func (s *Server) leasedAt(l link) bool {
	servers := s.dhcp.Load()
	if l.six != nil {
		on := servers.six.Site().Interfaces[l.name]
		return on != nil && on.Network.Leased(servers.six.Leases())
	}
	on := servers.four.Site().Interfaces[l.name]
	return on != nil && on.Network.Leased(servers.four.Leases())
}

func (s *Server) findServers(ctx context.Context, now site, l link) ([]network.ObservedServer, error) {
	if l.six != nil {
		return s.dhcp.Load().six.FindServers(ctx, *l.six, now.cards6[l.name])
	}
	return s.dhcp.Load().four.FindServers(ctx, *l.four, now.cards[l.name])
}

// refuse returns why a link is not served beside other servers.
func (s *Server) refuse(l link, found []network.ObservedServer) refusal {
	r := refusal{until: s.conf.Now().Add(refusedFor)}
	for _, o := range found {
		r.ingot = r.ingot || o.Ingot != ""
	}
	section, beside := "dhcp", string(dhcp4.Proxy)
	if l.six != nil {
		section, beside = "dhcp6", string(dhcp6.Boot)
	}
	if r.ingot {
		beside = string(dhcp4.Observe)
	}
	r.why = fmt.Sprintf("another %s server answers on %s: %s; no mode is chosen for the interface and no machine got an "+
		"address from it before, so it is not served; to serve beside the other server, write {name: %s, mode: %s} under "+
		"%s.interfaces, to assign addresses all the same, mode: full", protocolOf(l), l.name, namesOf(found), l.name, beside,
		section)
	return r
}

func protocolOf(l link) string {
	if l.six != nil {
		return "DHCPv6"
	}
	return "DHCP"
}

// namesOf names servers.
func namesOf(found []network.ObservedServer) string {
	var names []string
	for _, o := range found {
		name := o.String()
		if o.Ingot != "" {
			name += ", which is another ingot"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// warnOfOthers looks for other servers on a link that is served whether or not there are
// any, and says so loudly.
func (s *Server) warnOfOthers(ctx context.Context, l link) {
	why := s.besideOthers(l)
	if why == "" || !s.assigns(l) || !carrier(l.name) {
		return // it was looked at before
	}
	now := s.shown.Load()
	found, err := s.findServers(ctx, *now, l)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("looking for other DHCP servers", "interface", l.name, "err", err)
		}
		return
	}
	if len(found) == 0 {
		return
	}
	s.log.Error(fmt.Sprintf("another %s server answers on %s: %s; this server answers there as well, since %s; machines "+
		"take the first answer: stop one of the two, or use mode proxy", protocolOf(l), l.name, namesOf(found), why),
		"interface", l.name)
	s.record(l, found)
}

// record remembers other servers of a link, for operators.
func (s *Server) record(l link, found []network.ObservedServer) {
	observer := s.dhcp.Load().four.Observer
	if l.six != nil {
		observer = s.dhcp.Load().six.Observer
	}
	for _, o := range found {
		observer.AddServer(o, s.conf.Now())
	}
}

// besideConfig is the configuration of the interfaces with which the server runs beside
// others where it is refused.
func besideConfig(c config.Config, refused map[string]refusal) string {
	var b strings.Builder
	write := func(section string, lines []string) {
		if len(lines) > 0 {
			fmt.Fprintf(&b, "%s:\n  interfaces:\n    - %s\n", section, strings.Join(lines, "\n    - "))
		}
	}
	mode := func(key string, set, beside string) string {
		r, is := refused[key]
		switch {
		case is && r.ingot:
			return string(dhcp4.Observe)
		case is:
			return beside
		}
		return set
	}
	var four, six []string
	for _, i := range c.DHCP.Interfaces {
		i.Mode = dhcp4.Mode(mode(link{name: i.Name, four: &i}.key(), string(i.Mode), string(dhcp4.Proxy)))
		var more []string
		if i.Probe != 0 {
			more = append(more, "probe: "+i.Probe.String())
		}
		if i.Quiet {
			more = append(more, "quiet: true")
		}
		four = append(four, interfaceLine(i.Name, string(i.Mode), i.Known, more...))
	}
	for _, i := range c.DHCP6.Interfaces {
		i.Mode = dhcp6.Mode(mode(link{name: i.Name, six: &i}.key(), string(i.Mode), string(dhcp6.Boot)))
		var more []string
		if i.Preference != 0 && i.Settings().Assigns {
			more = append(more, fmt.Sprintf("preference: %d", i.Preference))
		}
		if i.RapidCommit && i.Settings().Assigns {
			more = append(more, "rapidCommit: true")
		}
		six = append(six, interfaceLine(i.Name, string(i.Mode), i.Known, more...))
	}
	write("dhcp", four)
	write("dhcp6", six)
	return b.String()
}

// plainName matches names that YAML takes as they are.
var plainName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`)

func interfaceLine(name, mode string, known bool, more ...string) string {
	if !plainName.MatchString(name) {
		name = fmt.Sprintf("%q", name)
	}
	parts := []string{"name: " + name}
	if mode != "" {
		parts = append(parts, "mode: "+mode)
	}
	if known {
		parts = append(parts, "known: true")
	}
	return "{" + strings.Join(append(parts, more...), ", ") + "}"
}

// withoutRefused returns the site without the links that are refused.
func (s site) withoutRefused(refused map[string]refusal) site {
	for key, r := range refused {
		s = s.without(r.why, func(l link) bool { return l.key() == key })
	}
	slices.SortStableFunc(s.absent, func(a, b absence) int { return strings.Compare(a.key(), b.key()) })
	return s
}

// refuseFirst looks for other servers before the first answer of a server that starts.
// Links where one is heard are not served; it is an error if none remains.
func (s *Server) refuseFirst(ctx context.Context, now site) (site, error) {
	refused, err := s.lookForOthers(ctx, now)
	if err != nil || len(refused) == 0 {
		return now, err
	}
	less := now.withoutRefused(refused)
	if len(less.links) == 0 {
		e := &OtherServerError{Config: besideConfig(s.conf.Settings, refused)}
		for _, r := range refused {
			e.Why = append(e.Why, r.why)
		}
		slices.Sort(e.Why)
		return less, e
	}
	for _, r := range refused {
		s.log.Error(r.why)
	}
	kept, err := s.open(ctx, less)
	if err != nil {
		return less, err
	}
	for _, p := range s.ports.all() {
		if !slices.Contains(kept.all(), p) {
			p.close()
		}
	}
	s.ports = kept
	return less, s.apply(less)
}

// refuseReloaded looks for other servers on the new links of a reload. It is an error if
// one is heard; links that were refused before stay so.
func (s *Server) refuseReloaded(ctx context.Context, c config.Config, now site, opened ports) (site, ports, error) {
	before := maps.Clone(s.others.refused)
	refused, err := s.lookForOthers(ctx, now)
	e := &OtherServerError{Config: besideConfig(c, refused)}
	for key, r := range refused {
		if _, was := before[key]; !was {
			e.Why = append(e.Why, r.why)
			delete(s.others.refused, key)
		}
	}
	switch {
	case err == nil && len(refused) == 0:
		return now, opened, nil
	case err == nil && len(e.Why) > 0:
		slices.Sort(e.Why)
		err = e
	}
	opened.closeUnserved()
	if err == nil {
		now = now.withoutRefused(refused)
		if opened, err = s.open(ctx, now); err == nil {
			if err = s.apply(now); err == nil {
				return now, opened, nil
			}
			opened.closeUnserved()
		}
	}
	return now, ports{}, errors.Join(err, s.apply(s.site))
}
