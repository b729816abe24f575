package dhcp4

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot"
	"ingot/bootserver/fleet"
)

// Asker is a client that was heard.
type Asker struct {
	Interface string           `json:"interface"`
	MAC       string           `json:"mac"` // of a DHCPv6 client whose card nothing tells: "duid:" and the DUID
	UUID      string           `json:"uuid,omitempty"`
	Class     string           `json:"class,omitempty"` // option 60
	Firmware  ingot.Firmware   `json:"firmware,omitempty"`
	Hostname  string           `json:"hostname,omitempty"`
	Quirk     string           `json:"quirk,omitempty"`
	Port      fleet.SwitchPort `json:"port,omitzero"`
	Answers   []string         `json:"answers,omitempty"` // what other servers said to it
	Others    []fleet.Other    `json:"others,omitempty"`  // the same, one of each server and kind
	Would     string           `json:"would,omitempty"`   // what we would have, in observe mode
	First     time.Time        `json:"first"`
	Last      time.Time        `json:"last"`
	Packets   int              `json:"packets"`
}

// Foreign is another DHCP server that was heard.
type Foreign struct {
	Interface string     `json:"interface"`
	Address   netip.Addr `json:"address"` // by which it calls itself (option 54)
	From      netip.Addr `json:"from"`    // where its packet came from
	MAC       string     `json:"mac"`
	Proxy     bool       `json:"proxy,omitempty"` // it gives no address
	Class     string     `json:"class,omitempty"` // option 60 in its answers
	File      string     `json:"file,omitempty"`  // what it lets machines boot
	Next      netip.Addr `json:"next,omitzero"`   // and from where
	Ingot     string     `json:"ingot,omitempty"` // identity of another ingot
	DUID      string     `json:"duid,omitempty"`  // of a DHCPv6 server, hexadecimal; then a client named it, and nothing else is known
	First     time.Time  `json:"first"`
	Last      time.Time  `json:"last"`
	Packets   int        `json:"packets"`
}

// Warning is something about a network that an operator should know.
type Warning struct {
	Interface string    `json:"interface"`
	Text      string    `json:"text"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Times     int       `json:"times"`
}

// Heard is what was heard on the networks.
type Heard struct {
	Askers   []Asker   `json:"askers"`
	Servers  []Foreign `json:"servers"`
	Warnings []Warning `json:"warnings"`
}

// Bounds of what strangers can make grow.
const (
	maxAskers   = 4096
	maxForeign  = 64
	maxWarnings = 256
	maxAnswers  = 8
)

// Watch remembers what was heard.
type Watch struct {
	id  string // our own identity
	log *slog.Logger

	mu       sync.Mutex
	askers   map[[2]string]*Asker
	servers  map[string]*Foreign
	warnings map[[2]string]*warned
}

// warned is a Warning, and when the log said it last.
type warned struct {
	Warning
	logged time.Time
}

// NewWatch makes a Watch; id is our own identity.
func NewWatch(id string, log *slog.Logger) *Watch {
	return &Watch{id: id, log: log, askers: map[[2]string]*Asker{}, servers: map[string]*Foreign{}, warnings: map[[2]string]*warned{}}
}

// asker is the client of a packet.
func (t *talk) asker() Asker {
	a := Asker{Interface: t.Interface, MAC: t.client.MAC, Class: t.client.Class, Quirk: t.client.Quirk, UUID: t.client.UUID, Firmware: t.client.Firmware, Port: t.switchPort()}
	if h := t.Message.Options.Get(dhcpv4.OptionHostName); len(h) > 0 {
		a.Hostname = Readable(unterminated(h[:min(len(h), 64)]))
	}
	return a
}

// Asked notes a client. What boots says more of a machine than its system does
// later; empty fields change nothing.
func (w *Watch) Asked(c Asker, boots bool, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.asker(c.Interface, c.MAC, now)
	a.Last, a.Packets = now, a.Packets+1
	if boots || a.Class == "" {
		a.Class, a.Quirk = c.Class, c.Quirk
		if c.UUID != "" {
			a.UUID = c.UUID
		}
		if c.Firmware != ingot.FirmwareUnknown {
			a.Firmware = c.Firmware
		}
	}
	if c.Hostname != "" {
		a.Hostname = c.Hostname
	}
	if c.Port.Relay.IsValid() {
		a.Port = c.Port
	}
}

// asker returns the record of a client; w.mu is held.
func (w *Watch) asker(iface, mac string, now time.Time) *Asker {
	k := [2]string{iface, mac}
	a := w.askers[k]
	if a == nil {
		if len(w.askers) >= maxAskers {
			for old := range w.askers { // any: who is alive asks again
				delete(w.askers, old)
				break
			}
		}
		a = &Asker{Interface: iface, MAC: mac, First: now, Last: now}
		w.askers[k] = a
	}
	return a
}

// Down notes that an interface is down.
func (w *Watch) Down(iface string, now time.Time) {
	w.Warn(iface, "down", "the interface is down", now)
}

// Would notes what a client would be answered, in observe mode.
func (w *Watch) Would(iface, client, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.askers[[2]string{iface, client}]; a != nil {
		a.Would = ingot.HideBootKeys(what)
	}
}

// Warn notes a warning, and logs it when it is new, and once an hour as long as
// it lasts.
func (w *Watch) Warn(iface, key, text string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := [2]string{iface, key}
	x := w.warnings[k]
	if x == nil {
		if len(w.warnings) >= maxWarnings {
			for old := range w.warnings {
				delete(w.warnings, old)
				break
			}
		}
		x = &warned{Warning: Warning{Interface: iface, First: now}}
		w.warnings[k] = x
	}
	if x.Times == 0 || now.Sub(x.logged) >= time.Hour {
		w.log.Warn(text, "interface", iface)
		x.logged = now
	}
	x.Text, x.Last, x.Times = text, now, x.Times+1
}

// optMark is of the codes for private use (RFC 3942); our own questions to the
// network carry it, and the answers of other ingots to them.
const optMark = 224

var markPrefix = []byte("ingot ")

// marked returns the identity of the ingot that a packet is of, and in
// questions its address.
func marked(p *dhcpv4.DHCPv4) (id, at string) {
	rest, ok := bytes.CutPrefix(p.Options.Get(dhcpv4.GenericOptionCode(optMark)), markPrefix)
	if !ok {
		return "", ""
	}
	id, at, _ = strings.Cut(Readable(rest[:min(len(rest), 64)]), " ")
	return id, at
}

func mark(id string) dhcpv4.Option {
	return dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(optMark), append(slices.Clone(markPrefix), id...))
}

// frame is where an overheard packet came from.
type frame struct {
	iface string
	mac   net.HardwareAddr
	from  netip.Addr
	ours  bool // it answers our own question, or is of another interface of ours
}

// overheard notes another server's answer, and returns what it said to whom; nil
// when that is none of a client's. mode is what we do on the interface.
func (w *Watch) overheard(f frame, p *dhcpv4.DHCPv4, mode Mode, now time.Time) *fleet.Other {
	x := Foreign{Interface: f.iface, MAC: macText(f.mac), From: f.from, Address: address(p.ServerIdentifier()),
		Class: clip(string(unterminated(p.Options.Get(dhcpv4.OptionClassIdentifier)))), Next: address(p.ServerIPAddr)}
	x.Ingot, _ = marked(p)
	x.Proxy = address(p.YourIPAddr) == netip.Addr{}
	if x.Ingot == w.id {
		return nil
	}
	if x.File = p.BootFileName; x.File == "" {
		x.File = string(unterminated(p.Options.Get(dhcpv4.OptionBootfileName)))
	}
	x.File = ingot.HideBootKeys(Readable([]byte(clip(x.File)))) // another ingot has keys as well
	w.note(x, p, f.ours, now)
	w.warn(x, mode, now)
	if f.ours {
		return nil
	}
	o := fleet.Other{Address: x.Address, MAC: x.MAC, Kind: kindName(p.MessageType()), Given: address(p.YourIPAddr), File: x.File, At: now,
		Expected: mode != Full && !x.Proxy && x.File == "" && x.Ingot == "" || mode == Observe}
	if !o.Address.IsValid() {
		o.Address = x.From
	}
	w.Other(f.iface, macText(p.ClientHWAddr), o)
	return &o
}

// warn says what is wrong with another server.
func (w *Watch) warn(x Foreign, mode Mode, now time.Time) {
	name := x.name()
	switch {
	case x.Ingot != "":
		w.Warn(x.Interface, "ingot "+x.MAC, "a second ingot answers on this network: "+name+"; stop one of them, or let one observe", now)
	case strings.HasPrefix(x.Class, "PXEClient") && !x.Proxy && x.File == "":
		w.Warn(x.Interface, "stray60 "+x.MAC, "the DHCP server "+name+` says "PXEClient" in option 60 and names nothing to boot: UEFI firmware then asks it on port 4011, `+
			"gets no answer, and does not boot from us (tianocore/edk2#6944); remove option 60 from its configuration", now)
	case x.Proxy && strings.HasPrefix(x.Class, "PXEClient"):
		w.Warn(x.Interface, "proxy "+x.MAC, "another boot server (proxyDHCP) answers on this network: "+name+", which offers "+fmt.Sprintf("%q", x.File)+"; machines take whichever is quicker", now)
	case mode == Full && !x.Proxy:
		w.Warn(x.Interface, "foreign "+x.MAC, "another DHCP server answers on this network: "+name+"; stop it, or serve in proxy mode beside it", now)
	case mode == Proxy && x.File != "":
		w.Warn(x.Interface, "boots "+x.MAC, "the DHCP server "+name+" tells machines itself what to boot, "+fmt.Sprintf("%q", x.File)+"; remove it there, or machines may boot that", now)
	}
}

// name is a server as people find it.
func (f Foreign) name() string {
	s := f.Address.String()
	if !f.Address.IsValid() {
		s = f.From.String()
	}
	return s + " (MAC " + f.MAC + ")"
}

// Server notes another server.
func (w *Watch) Server(x Foreign, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.server(x, now)
}

func (w *Watch) server(x Foreign, now time.Time) bool {
	k := strings.Join([]string{x.Interface, x.MAC, x.DUID, x.Address.String(), fmt.Sprint(x.Proxy)}, " ")
	old := w.servers[k]
	if old == nil {
		if len(w.servers) >= maxForeign {
			return false
		}
		old = &Foreign{First: now}
		w.servers[k] = old
	}
	x.First, x.Packets, x.Last = old.First, old.Packets+1, now
	if x.Ingot == "" {
		x.Ingot = old.Ingot
	}
	*old = x
	return true
}

func (w *Watch) note(x Foreign, p *dhcpv4.DHCPv4, ours bool, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.server(x, now) && !ours { // an answer may be overheard before the question was worked on
		a := w.asker(x.Interface, macText(p.ClientHWAddr), now)
		said := strings.ToUpper(p.MessageType().String()) + " from " + x.name()
		if ip := address(p.YourIPAddr); ip.IsValid() {
			said += " of " + ip.String()
		}
		if x.File != "" {
			said += " booting " + x.File
		}
		if !slices.Contains(a.Answers, said) && len(a.Answers) < maxAnswers {
			a.Answers = append(a.Answers, said)
		}
	}
}

// Heard returns all of it, sorted.
func (w *Watch) Heard() Heard {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := Heard{Askers: []Asker{}, Servers: []Foreign{}, Warnings: []Warning{}}
	for _, a := range w.askers {
		c := *a
		c.Answers = slices.Clone(a.Answers)
		h.Askers = append(h.Askers, c)
	}
	for _, s := range w.servers {
		h.Servers = append(h.Servers, *s)
	}
	for _, x := range w.warnings {
		h.Warnings = append(h.Warnings, x.Warning)
	}
	slices.SortFunc(h.Askers, func(a, b Asker) int { return strings.Compare(a.Interface+a.MAC, b.Interface+b.MAC) })
	slices.SortFunc(h.Servers, func(a, b Foreign) int { return strings.Compare(a.Interface+a.MAC, b.Interface+b.MAC) })
	slices.SortFunc(h.Warnings, func(a, b Warning) int { return strings.Compare(a.Interface+a.Text, b.Interface+b.Text) })
	return h
}

// question is what we ask a network to find its servers: a DHCPDISCOVER of
// UEFI firmware that is answered by broadcast. No DHCPREQUEST follows, so no
// address is taken for longer than an offer lasts.
func question(mac net.HardwareAddr, id string) (*dhcpv4.DHCPv4, error) {
	return dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true), dhcpv4.WithOption(mark(id)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00007:UNDI:003016")),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 7})),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 3, 16})),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionClassIdentifier, dhcpv4.OptionTFTPServerName, dhcpv4.OptionBootfileName, dhcpv4.OptionVendorSpecificInformation))
}
