package api

import (
	"net/netip"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/advice"
)

// State is how far a machine has come.
type State string

// The states of a machine.
const (
	Pending  State = "pending"  // seen, and waiting for an operator
	Approved State = "approved" // may boot what it is assigned
	Retired  State = "retired"  // known, and may not boot any more
)

// ImageRef names an image by its digest, and by the name that people know it by.
type ImageRef struct {
	Image ingot.Digest `json:"image,omitempty"`
	Name  string       `json:"name,omitempty"`
}

// Assignment is the image that a machine should run.
type Assignment struct {
	ImageRef
	Why   string    `json:"why,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Grant lets one boot initialise one blank disk.
type Grant struct {
	ingot.Grant
	Given time.Time    `json:"given"`
	Lent  ingot.BootID `json:"lent,omitempty"` // the latest boot with it in its ticket
	Boot  ingot.BootID `json:"boot,omitempty"` // the boot that used it
	Over  bool         `json:"over,omitempty"` // it expired unused
}

// SwitchPort is where a machine is plugged in, as the relay of its network reported (RFC 3046).
type SwitchPort struct {
	Relay   netip.Addr `json:"relay,omitzero"` // giaddr, or the link-address of DHCPv6
	Circuit string     `json:"circuit,omitempty"`
	Remote  string     `json:"remote,omitempty"`
}

// Question is what an operator is asked about a machine: is it the same as another one?
type Question struct {
	With  ingot.MachineID `json:"with"`            // the machine that it may be
	What  string          `json:"what"`            // for people
	About string          `json:"about,omitempty"` // what raised it: "card 52:54:00:12:00:01"
	// the machine's own report raised it; else a new machine's packets
	Reported bool `json:"told,omitempty"`
}

// Answers returns the steps that answer the question of a machine: same if it is the same machine,
// other if it is another one.
func (q Question) Answers(m Machine) (same, other Step) {
	a, b := advice.Question{Machine: string(m.ID), Name: m.Hostname(), With: string(q.With),
		Reported: q.Reported}.Answers()
	return StepOf(a), StepOf(b)
}

// Answered is a question that an operator answered.
type Answered struct {
	About string    `json:"about"`
	At    time.Time `json:"at"`
}

// Failure is a boot of an image that failed.
type Failure struct {
	Boot    ingot.BootID  `json:"boot"`
	Outcome ingot.Outcome `json:"outcome"`
	Stage   ingot.Stage   `json:"stage"` // the furthest that it came
	Reason  string        `json:"reason"`
	At      time.Time     `json:"at"`
}

// Trial has the failures in a row of the image that a machine boots now, the latest last.
type Trial struct {
	Image    ingot.Digest `json:"image,omitempty"`
	Failures []Failure    `json:"failures,omitempty"`
}

// IsZero reports whether nothing failed.
func (t Trial) IsZero() bool { return t.Image == "" && len(t.Failures) == 0 }

// Setback says that the assigned image was given up on a machine, and what is done instead.
type Setback struct {
	Gave     ImageRef  `json:"gave"` // the image that failed
	To       ImageRef  `json:"to"`   // what the machine boots instead; empty: it is held
	Why      string    `json:"why"`
	At       time.Time `json:"at"`
	Failures []Failure `json:"failures"` // that decided it
}

// Machine is one computer.
type Machine struct {
	ID     ingot.MachineID   `json:"id"`
	Name   string            `json:"name,omitempty"` // host name that an operator gave it
	Labels map[string]string `json:"labels,omitempty"`
	Ask    *Question         `json:"ask,omitempty"` // what an operator must answer before it boots
	// questions that operators answered, the latest last
	Answered    []Answered                `json:"answered,omitempty"`
	State       State                     `json:"state"`
	UUID        string                    `json:"uuid,omitempty"` // plausible SMBIOS UUID
	Serial      string                    `json:"serial,omitempty"`
	MACs        []string                  `json:"macs"`
	MachineKey  string                    `json:"machineKey"` // machine-id(5) of its systems, 32 hex digits
	Firmware    ingot.Firmware            `json:"firmware,omitempty"`
	Address     netip.Addr                `json:"address,omitzero"`
	Port        SwitchPort                `json:"port,omitzero"`     // when it last booted through a relay
	Loaders     map[ingot.Firmware]string `json:"loaders,omitempty"` // first stages that replace ones that stalled
	FirstSeen   time.Time                 `json:"firstSeen"`
	LastSeen    time.Time                 `json:"lastSeen"`
	Facts       ingot.Facts               `json:"facts"` // hardware, as reported at the last boot
	Assignment  Assignment                `json:"assignment"`
	LastHealthy ImageRef                  `json:"lastHealthy"`
	Healthy     []ImageRef                `json:"healthy,omitempty"` // images that were healthy here, the latest last
	Trial       Trial                     `json:"trial,omitzero"`
	Setback     *Setback                  `json:"setback,omitempty"`
	Orders      int                       `json:"orders,omitempty"` // how often an operator decided what it boots
	Once        *Once                     `json:"once,omitempty"`   // what its next boot does instead
	Pin         *Mark                     `json:"pin,omitempty"`    // an operator keeps it out of rollouts
	Off         *Mark                     `json:"off,omitempty"`    // an operator says that it is switched off
	Grants      []Grant                   `json:"grants,omitempty"`
	// disks with volumes that the machine used before volumes had owners
	Had   []ingot.Disk `json:"had,omitempty"`
	Boot  ingot.BootID `json:"boot,omitempty"` // the latest one
	Claim *Claim       `json:"claim,omitempty"`
	// the system that took the latest ticket authenticates its reports
	Authenticated bool `json:"authenticated,omitempty"`
	// when it came back after a restore that had lost its boot, by its own report; until its next ticket
	Returned time.Time `json:"returned,omitzero"`
	// what its latest boot runs or became; absent before the first boot
	Latest *Latest `json:"latest,omitempty"`
}

// Latest is what the latest boot of a machine runs, or what became of it.
type Latest struct {
	ImageRef               // empty while the boot waits for one
	Outcome  ingot.Outcome `json:"outcome"`
	Once     bool          `json:"once,omitempty"`   // it is the one boot that an operator decided
	Since    time.Time     `json:"since"`            // when it became healthy or failed, else when it began
	Heard    time.Time     `json:"heard,omitzero"`   // when its system was last heard from
	Silent   bool          `json:"silent,omitempty"` // it became healthy, and sends no reports any more
	Down     bool          `json:"down,omitempty"`   // its system said that it shuts down
}

// Mark is an operator's remark on a machine.
type Mark struct {
	Why   string    `json:"why,omitempty"`
	By    string    `json:"by"`
	Since time.Time `json:"since"`
}

// Once is what exactly one boot of a machine does other than its assignment says.
type Once struct {
	ImageRef
	Arguments []string      `json:"arguments,omitempty"` // kernel arguments beyond those of the image
	Shell     bool          `json:"shell,omitempty"`     // a shell starts in the initramfs
	Limit     time.Duration `json:"limit,omitempty"`     // until the boot must be healthy; zero: as other boots
	Why       string        `json:"why,omitempty"`
	Since     time.Time     `json:"since"`
	Order     int           `json:"order"` // the machine's orders after this one
}

// String describes the boot: "lab:v1 with kernel arguments debug and a shell in the initramfs".
func (o Once) String() string {
	var with []string
	if len(o.Arguments) > 0 {
		with = append(with, "kernel arguments "+strings.Join(o.Arguments, " "))
	}
	if o.Shell {
		with = append(with, "a shell in the initramfs")
	}
	if with == nil {
		return o.Name
	}
	return o.Name + " with " + strings.Join(with, " and ")
}

// Claim says that an earlier boot of a machine may still run: the latest one gets no grant until then.
type Claim struct {
	Running ingot.BootID `json:"running"` // the earlier boot
	Healthy bool         `json:"healthy"` // it was healthy
	Since   time.Time    `json:"since"`
	Until   time.Time    `json:"until"`
}

// Authentication says how the messages of a boot are authenticated.
type Authentication struct {
	Able  bool       `json:"able,omitempty"` // its image can authenticate messages
	Half  ingot.Half `json:"half,omitempty"` // public half of the machine that took the ticket; empty: none did
	Heard time.Time  `json:"heard,omitzero"` // when the latest authenticated message came
	Down  bool       `json:"down,omitempty"` // the latest message said that the system shuts down
}

// Conflict says that two hosts acted as one machine.
type Conflict struct {
	At time.Time `json:"at"`
	// the boot that the other host began; empty if it requested a ticket of the same boot
	With ingot.BootID `json:"with,omitempty"`
}

// Hostname is the name that the machine's system gets.
func (m *Machine) Hostname() string {
	if m.Name != "" {
		return m.Name
	}
	return string(m.ID)
}

// Brief returns the machine without what a table of thousands does not show: its hardware but for
// vendor and product, its past, its grants.
func (m Machine) Brief() Machine {
	m.Facts = ingot.Facts{Vendor: m.Facts.Vendor, Product: m.Facts.Product}
	m.Healthy, m.Grants, m.Had, m.Trial, m.MachineKey, m.Loaders, m.Answered = nil, nil, nil, Trial{}, "", nil, nil
	m.Claim = nil
	if m.Setback != nil {
		s := *m.Setback
		s.Failures = nil
		m.Setback = &s
	}
	return m
}

// Event is one step of a boot.
type Event struct {
	ingot.Event
	At time.Time `json:"at"`
}

// Boot is one attempt of one machine.
type Boot struct {
	ID       ingot.BootID     `json:"id"`
	Machine  ingot.MachineID  `json:"machine"`
	Number   int              `json:"number"`           // 1 for the machine's first
	Before   ingot.BootID     `json:"before,omitempty"` // the machine's boot before this one
	Firmware ingot.Firmware   `json:"firmware,omitempty"`
	Image    ImageRef         `json:"image"` // empty until it is decided
	Order    int              `json:"order,omitempty"`
	Once     *Once            `json:"once,omitempty"`  // what it does other than the assignment says
	Root     ingot.Digest     `json:"root,omitempty"`  // that the machine should measure
	First    string           `json:"first,omitempty"` // first stage: the file of a loader, or FirstUKI
	Proxy    bool             `json:"proxy,omitempty"` // another server gives the address
	Accepted time.Time        `json:"told,omitzero"`   // when the machine accepted the first stage last
	Back     bool             `json:"back,omitempty"`  // the first stage ran: it requested an address
	Started  time.Time        `json:"started"`
	Deadline time.Time        `json:"deadline,omitzero"` // by which it must report
	Ended    time.Time        `json:"ended,omitzero"`
	Outcome  ingot.Outcome    `json:"outcome"`
	Cause    string           `json:"cause,omitempty"` // code of what ended it
	Reason   string           `json:"reason,omitempty"`
	Ticket   time.Time        `json:"ticket,omitzero"`   // when it got its first ticket
	Facts    ingot.BootID     `json:"facts,omitempty"`   // the boot that first reported such hardware
	Changes  []string         `json:"changes,omitempty"` // of the hardware since the boot before
	Crash    string           `json:"crash,omitempty"`   // the line of the kernel's log that says why it crashed
	Pstore   bool             `json:"pstore,omitempty"`  // it delivered what the firmware kept of a crash
	Events   []Event          `json:"events"`
	Served   map[string]int64 `json:"served,omitempty"` // bytes by artifact
	Report   *ingot.Report    `json:"report,omitempty"` // the first one, and then the latest heartbeat
	Others   []Other          `json:"others,omitempty"` // other DHCP servers that answered
	Origins  []Origin         `json:"origins,omitempty"`
	// addresses that it took from other servers, or used first; before the ticket its key works from there
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// what authenticates its messages after the ticket
	Auth     Authentication `json:"auth,omitzero"`
	Conflict *Conflict      `json:"conflict,omitempty"`
	Ordered  *Order         `json:"ordered,omitempty"` // the latest order to its system
}

// Order is an order to the system of a boot.
type Order struct {
	Counter uint64          `json:"counter"` // identifies it: larger than that of each earlier order of the boot
	Kind    ingot.OrderKind `json:"kind"`    // "reboot"
	Drain   ingot.Drain     `json:"drain,omitempty"`
	Hooks   []string        `json:"hooks,omitempty"` // of the image, to be run before
	Why     string          `json:"why,omitempty"`
	By      string          `json:"by"`                // the operator; empty if a rollout gave it
	Rollout string          `json:"rollout,omitempty"` // that gave it
	Given   time.Time       `json:"given"`
	Expires time.Time       `json:"expires"` // a machine that did not fetch it by then does not get it any more
	// given, received, draining, rebooting, drain-failed, drain-timed-out, refused, interrupted, expired or
	// withdrawn; and since when
	State ingot.OrderState `json:"state"`
	At    time.Time        `json:"at"`
	Hook  string           `json:"hook,omitempty"`  // that runs or failed
	Error string           `json:"error,omitempty"` // why it was not carried out
}

// Origin is where a boot was requested.
type Origin struct {
	Interface string `json:"interface,omitempty"` // of the server
	Network   string `json:"network,omitempty"`   // of the configuration; empty: the interface's own
	IPv6      bool   `json:"ipv6,omitempty"`
}

// FirstUKI stands for the image's own UKI as first stage.
const FirstUKI = "uki"

// Stage is the furthest stage that the boot has reached.
func (b *Boot) Stage() ingot.Stage {
	var furthest ingot.Stage
	for _, e := range b.Events {
		if e.Error == "" && e.Stage.Rank() >= furthest.Rank() {
			furthest = e.Stage
		}
	}
	return furthest
}

// Open reports whether the boot has not ended.
func (b *Boot) Open() bool { return b.Outcome == ingot.OutcomeOpen }

// Other is what another DHCP server answered a machine, or a machine sent to it.
type Other struct {
	Address  netip.Addr `json:"address,omitzero"`   // its server identifier
	DUID     string     `json:"duid,omitempty"`     // of a DHCPv6 server, hexadecimal
	MAC      string     `json:"mac,omitempty"`      // of the server, or the relay before it
	Kind     string     `json:"kind,omitempty"`     // of the message: DHCPOFFER, REQUEST
	Given    netip.Addr `json:"given,omitzero"`     // the address that it is about
	File     string     `json:"file,omitempty"`     // boot file that it names
	Expected bool       `json:"expected,omitempty"` // the network's own server
	First    time.Time  `json:"first,omitzero"`
	At       time.Time  `json:"at"` // the last time
	Times    int        `json:"times,omitempty"`
}

// Lease is an address lent to one network card.
type Lease struct {
	MAC      string          `json:"mac,omitempty"`
	DUID     string          `json:"duid,omitempty"` // hexadecimal; of a DHCPv6 client whose card is not known
	Address  netip.Addr      `json:"address"`
	Expires  time.Time       `json:"expires"`
	Hostname string          `json:"hostname,omitempty"`
	Machine  ingot.MachineID `json:"machine,omitempty"` // of an approved machine: the address is kept for it
	Port     SwitchPort      `json:"port,omitzero"`
	Declined bool            `json:"declined,omitempty"` // in use by an unknown client, until Expires
}

// Client is the client of the lease: its MAC address, else "duid:" and its DUID.
func (l Lease) Client() string {
	if l.MAC == "" && l.DUID != "" {
		return "duid:" + l.DUID
	}
	return l.MAC
}

// Entry is one Change of the ledger. Text is for people; programs use the other fields.
type Entry struct {
	Seq     uint64            `json:"seq"`
	At      time.Time         `json:"at"`
	Kind    string            `json:"kind"`           // step, end, decision, machine, server or packet
	Code    string            `json:"code,omitempty"` // what happened: "image-assigned"
	Machine ingot.MachineID   `json:"machine,omitempty"`
	Boot    ingot.BootID      `json:"boot,omitempty"`
	Image   ImageRef          `json:"image,omitzero"`
	Rollout string            `json:"rollout,omitempty"`
	Stage   ingot.Stage       `json:"stage,omitempty"`   // of a step
	Failure ingot.FailureCode `json:"failure,omitempty"` // kind of failure that the machine reported
	From    map[string]any    `json:"from,omitempty"`    // fields that changed, before
	To      map[string]any    `json:"to,omitempty"`      // and after
	Text    string            `json:"text"`
	Bytes   int64             `json:"bytes,omitempty"`
	Bad     bool              `json:"bad,omitempty"` // worth a look
}

// AuditEntry is one operator's action of the audit log.
type AuditEntry struct {
	Seq    uint64         `json:"seq"` // shared with the ledger, so that it has gaps
	At     time.Time      `json:"at"`
	Who    access.Who     `json:"who"`
	Action string         `json:"action"`         // "machine.assign"
	On     string         `json:"on,omitempty"`   // ID or digest of the machine, image, token or other object
	Name   string         `json:"name,omitempty"` // name of that object
	From   map[string]any `json:"from,omitempty"` // fields that changed, before
	To     map[string]any `json:"to,omitempty"`   // and after
}

// Planned is one machine of a list that operators have before the machines boot for the first time.
type Planned struct {
	Name    string            `json:"name"`
	MACs    []string          `json:"macs,omitempty"`
	UUID    string            `json:"uuid,omitempty"`
	Serial  string            `json:"serial,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Image   string            `json:"image,omitempty"`
	Pending bool              `json:"pending,omitempty"` // it is not approved by its import
}

// Action is what an import does with one machine.
type Action struct {
	Do      string          `json:"do"` // "add", "change", "same"; "asks": it is unchanged, and waits for an answer
	Machine ingot.MachineID `json:"machine"`
	Name    string          `json:"name"`
	What    []string        `json:"what,omitempty"` // what changes
}

// String is the port and the relay that reported it; empty without one.
func (p SwitchPort) String() string {
	if !p.Relay.IsValid() {
		return ""
	}
	return strings.TrimSpace(p.Circuit+" "+p.Remote) + " via " + p.Relay.String()
}

// Session is a browser that is logged in to the dashboard.
type Session struct {
	ID         string      `json:"id"` // the first digits of the hash of its secret
	Kind       access.Kind `json:"kind"`
	Credential string      `json:"credential"`       // id of the token, or issuer and subject of the account
	Name       string      `json:"name"`             // of the token or the account
	Groups     []string    `json:"groups,omitempty"` // of the account
	Began      time.Time   `json:"began"`
	Used       time.Time   `json:"used"`  // or some minutes later
	Until      time.Time   `json:"until"` // it ends then at the latest
}
