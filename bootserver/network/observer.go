package network

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// ObservedClient is a client that sent a packet.
type ObservedClient struct {
	Interface   string
	MAC         string // of a DHCPv6 client whose card is not known: "duid:" and the DUID
	UUID        string
	Class       string // vendor class: option 60 of DHCP, option 16 of DHCPv6
	Firmware    ingot.Firmware
	Hostname    string
	Quirk       string
	Port        fleet.SwitchPort
	Answers     []string      // what other servers answered it, as text
	Others      []fleet.Other // the same, one for each server and kind of message
	WouldAnswer string        // what this server would have answered, in observe mode
	First       time.Time
	Last        time.Time
	Packets     int
}

// ObservedServer is another DHCP server that was heard, or that a client named.
type ObservedServer struct {
	Interface string
	Address   netip.Addr // its server identifier (option 54)
	From      netip.Addr // source address of its packet
	MAC       string
	Proxy     bool       // it gives no address
	Class     string     // option 60 in its answers
	File      string     // boot file that it names
	Next      netip.Addr // server of that file
	Ingot     string     // identity of another ingot
	DUID      string     // of a DHCPv6 server, hexadecimal; then a client named it, and nothing else is known
	First     time.Time
	Last      time.Time
	Packets   int
}

// String names the server by its addresses.
func (s ObservedServer) String() string {
	address := s.Address
	if !address.IsValid() {
		address = s.From
	}
	return address.String() + " (MAC " + s.MAC + ")"
}

// Warning is a problem of a network that an operator should know.
type Warning struct {
	Interface string
	Text      string
	First     time.Time
	Last      time.Time
	Times     int
}

// Observations is what was observed on the networks.
type Observations struct {
	Clients  []ObservedClient
	Servers  []ObservedServer
	Warnings []Warning
	Refusals []Refusal
}

// Bounds on what clients that are not known can make an Observer remember.
const (
	MaxClients  = 4096
	maxServers  = 64
	MaxWarnings = 256
	maxAnswers  = 8
	// MaxRefusals is how many refused relays are remembered, and maxRefusalsFrom how many of
	// them with one source.
	MaxRefusals     = 64
	maxRefusalsFrom = 4
)

// Observer remembers the clients, other servers and problems of networks. It may
// be used by several goroutines.
type Observer struct {
	log *slog.Logger

	mu       sync.Mutex
	clients  map[[2]string]*ObservedClient // by interface and MAC address
	servers  map[serverKey]*ObservedServer
	warnings map[[2]string]*loggedWarning // by interface and key
	refusals map[refusalKey]*loggedRefusal
	// how many refusals were logged in the hour that began at logsSince
	logs      int
	logsSince time.Time
}

// refusalKey identifies a refused relay.
type refusalKey struct {
	iface             string
	relay, link, from netip.Addr
}

// loggedRefusal is a Refusal and the time when it was logged last.
type loggedRefusal struct {
	Refusal
	logged time.Time
}

// serverKey identifies another server.
type serverKey struct {
	iface, mac, duid string
	address          netip.Addr
	proxy            bool
}

// loggedWarning is a Warning and the time when it was logged last.
type loggedWarning struct {
	Warning
	logged time.Time
}

// NewObserver returns an Observer that logs warnings.
func NewObserver(log *slog.Logger) *Observer {
	return &Observer{log: log, clients: map[[2]string]*ObservedClient{}, servers: map[serverKey]*ObservedServer{},
		warnings: map[[2]string]*loggedWarning{}, refusals: map[refusalKey]*loggedRefusal{}}
}

// AddClient records a packet of a client. Firmware and loaders reveal more about a
// machine than its system does later: only packets of clients that boot replace
// what is known. Empty fields change nothing.
func (o *Observer) AddClient(c ObservedClient, boots bool, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known := o.client(c.Interface, c.MAC, now)
	known.Last, known.Packets = now, known.Packets+1
	if boots || known.Class == "" {
		known.Class, known.Quirk = c.Class, c.Quirk
		known.UUID = cmp.Or(c.UUID, known.UUID)
		known.Firmware = cmp.Or(c.Firmware, known.Firmware)
	}
	known.Hostname = cmp.Or(c.Hostname, known.Hostname)
	if c.Port.Relay.IsValid() {
		known.Port = c.Port
	}
}

// client returns the record of a client; o.mu is held.
func (o *Observer) client(iface, mac string, now time.Time) *ObservedClient {
	key := [2]string{iface, mac}
	if c := o.clients[key]; c != nil {
		return c
	}
	if len(o.clients) >= MaxClients {
		deleteAny(o.clients) // a client that is still there sends another packet
	}
	c := &ObservedClient{Interface: iface, MAC: mac, First: now, Last: now}
	o.clients[key] = c
	return c
}

func deleteAny[K comparable, V any](m map[K]V) {
	for k := range m {
		delete(m, k)
		return
	}
}

// SetWouldAnswer records what a client would be answered, in observe mode.
func (o *Observer) SetWouldAnswer(iface, mac, answer string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.clients[[2]string{iface, mac}]; c != nil {
		c.WouldAnswer = ingot.HideBootKeys(answer)
	}
}

// AddOther records what another server sent to a client, or the client to it.
func (o *Observer) AddOther(iface, mac string, other fleet.Other) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.client(iface, mac, other.At) // an answer may be overheard before the client's packet is handled
	c.Others, _ = fleet.Hear(c.Others, other)
}

// Others returns what other servers sent to a client.
func (o *Observer) Others(iface, mac string) []fleet.Other {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.clients[[2]string{iface, mac}]; c != nil {
		return c.Others // replaced, never changed
	}
	return nil
}

// AddServer records another server. It reports whether there was room for it.
func (o *Observer) AddServer(s ObservedServer, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.addServer(s, now)
}

func (o *Observer) addServer(s ObservedServer, now time.Time) bool {
	key := serverKey{s.Interface, s.MAC, s.DUID, s.Address, s.Proxy}
	known := o.servers[key]
	if known == nil {
		if len(o.servers) >= maxServers {
			return false
		}
		known = &ObservedServer{First: now}
		o.servers[key] = known
	}
	s.First, s.Last, s.Packets = known.First, now, known.Packets+1
	s.Ingot = cmp.Or(s.Ingot, known.Ingot)
	*known = s
	return true
}

// AddAnswer records another server and the text of its answer to a client, which
// is empty when the answer was not for a client.
func (o *Observer) AddAnswer(s ObservedServer, mac, answer string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.addServer(s, now) || answer == "" {
		return
	}
	c := o.client(s.Interface, mac, now) // an answer may be overheard before the client's packet is handled
	if !slices.Contains(c.Answers, answer) && len(c.Answers) < maxAnswers {
		c.Answers = append(c.Answers, answer)
	}
}

// Warn records a warning. It is logged when it is new, and once an hour while it
// is repeated. The key tells warnings of an interface apart.
func (o *Observer) Warn(iface, key, text string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.warnings[[2]string{iface, key}]
	if w == nil {
		if len(o.warnings) >= MaxWarnings {
			deleteAny(o.warnings)
		}
		w = &loggedWarning{Warning: Warning{Interface: iface, First: now}}
		o.warnings[[2]string{iface, key}] = w
	}
	if w.Times == 0 || now.Sub(w.logged) >= time.Hour {
		o.log.Warn(text, "interface", iface)
		w.logged = now
	}
	w.Text, w.Last, w.Times = text, now, w.Times+1
}

// Refuse records a packet that is refused. Its relay is logged when it is new, and once
// an hour while packets are refused. Hosts that invent relays can fill neither the
// memory nor the log.
func (o *Observer) Refuse(r Refusal, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := refusalKey{r.Interface, r.Relay, r.Link, r.From}
	known := o.refusals[key]
	if known == nil {
		if !o.roomForRefusal(r.From) {
			return
		}
		known = &loggedRefusal{Refusal: Refusal{First: now}}
		o.refusals[key] = known
	}
	r.First, r.Last, r.Packets = known.First, now, known.Packets+1
	known.Refusal = r
	if !known.logged.IsZero() && now.Sub(known.logged) < time.Hour {
		return
	}
	if known.logged = now; now.Sub(o.logsSince) >= time.Hour {
		o.logsSince, o.logs = now, 0
	}
	if o.logs++; o.logs <= MaxRefusals {
		o.log.Warn(r.String(), "interface", r.Interface)
	}
}

// roomForRefusal makes room for another relay: the one with the fewest packets is
// forgotten, and of those the one that was not heard for longest. It reports false if
// the source has its part. o.mu is held.
func (o *Observer) roomForRefusal(from netip.Addr) bool {
	same := 0
	var rarest refusalKey
	var fewest *loggedRefusal
	for key, r := range o.refusals {
		if key.from == from && from.IsValid() {
			same++
		}
		if r.Code == RefusedPast {
			continue // these come from the records, not from packets
		}
		if fewest == nil || r.Packets < fewest.Packets || r.Packets == fewest.Packets && r.Last.Before(fewest.Last) {
			rarest, fewest = key, r
		}
	}
	if same >= maxRefusalsFrom {
		return false
	}
	if len(o.refusals) >= MaxRefusals {
		delete(o.refusals, rarest)
	}
	return true
}

// ResetRefusals forgets what was refused, since a new configuration may list it, and
// records refused relays of the past, see RefusedPast.
func (o *Observer) ResetRefusals(past []Refusal, now time.Time) {
	o.mu.Lock()
	clear(o.refusals)
	o.mu.Unlock()
	for _, r := range past {
		o.Refuse(r, now)
	}
}

// WarnDown records that an interface is down.
func (o *Observer) WarnDown(iface string, now time.Time) {
	o.Warn(iface, "down", "the interface is down", now)
}

// Observations returns everything observed, sorted by interface.
func (o *Observer) Observations() Observations {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all Observations
	for _, c := range o.clients {
		copied := *c
		copied.Answers = slices.Clone(c.Answers)
		all.Clients = append(all.Clients, copied)
	}
	for _, s := range o.servers {
		all.Servers = append(all.Servers, *s)
	}
	for _, w := range o.warnings {
		all.Warnings = append(all.Warnings, w.Warning)
	}
	for _, r := range o.refusals {
		all.Refusals = append(all.Refusals, r.Refusal)
	}
	slices.SortFunc(all.Refusals, func(a, b Refusal) int {
		return cmp.Or(strings.Compare(a.Interface, b.Interface), a.Relay.Compare(b.Relay), a.From.Compare(b.From),
			a.Link.Compare(b.Link))
	})
	slices.SortFunc(all.Clients, func(a, b ObservedClient) int {
		return strings.Compare(a.Interface+a.MAC, b.Interface+b.MAC)
	})
	slices.SortFunc(all.Servers, func(a, b ObservedServer) int {
		return strings.Compare(a.Interface+a.MAC, b.Interface+b.MAC)
	})
	slices.SortFunc(all.Warnings, func(a, b Warning) int {
		return strings.Compare(a.Interface+a.Text, b.Interface+b.Text)
	})
	return all
}

// SameAttempt is how long before this server's offer another server's answers
// belong to the same attempt to boot: a new machine is not known until its offer
// is made, and that takes as long as probing the address does.
const SameAttempt = 10 * time.Second

// WarnInUse records that a client found its address in use.
func (o *Observer) WarnInUse(iface string, ip netip.Addr, holder string, now time.Time) {
	o.Warn(iface, "used "+ip.String(), fmt.Sprintf("the address %s, assigned to %s, is used by another host; "+
		"find that host, or remove the address from the pool", ip, holder), now)
}
