package record

import (
	"net/netip"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

type event struct {
	ingot.Event
	At time.Time `json:"at"`
}

type other struct {
	Address  netip.Addr `json:"address,omitzero"`
	DUID     string     `json:"duid,omitempty"`
	MAC      string     `json:"mac,omitempty"`
	Kind     string     `json:"kind,omitempty"`
	Given    netip.Addr `json:"given,omitzero"`
	File     string     `json:"file,omitempty"`
	Expected bool       `json:"expected,omitempty"`
	First    time.Time  `json:"first,omitzero"`
	At       time.Time  `json:"at"`
	Times    int        `json:"times,omitempty"`
}

type authentication struct {
	Able     bool              `json:"able,omitempty"`
	Half     ingot.Half        `json:"half,omitempty"`
	Counters map[string]uint64 `json:"counters,omitempty"`
	Heard    time.Time         `json:"heard,omitzero"`
	Down     bool              `json:"down,omitempty"`
}

// isZero reports whether the boot knows no authentication, as all did before there was one.
func (a authentication) isZero() bool {
	return !a.Able && a.Half == nil && a.Counters == nil && a.Heard.IsZero() && !a.Down
}

type conflict struct {
	At   time.Time    `json:"at"`
	With ingot.BootID `json:"with,omitempty"`
}

// boot is the record of a boot.
type boot struct {
	ID       ingot.BootID     `json:"id"`
	Machine  ingot.MachineID  `json:"machine"`
	Number   int              `json:"number"`
	Before   ingot.BootID     `json:"before,omitempty"`
	Firmware ingot.Firmware   `json:"firmware,omitempty"`
	Image    imageRef         `json:"image"`
	Order    int              `json:"order,omitempty"`
	Once     *once            `json:"once,omitempty"`
	Root     ingot.Digest     `json:"root,omitempty"`
	First    string           `json:"first,omitempty"`
	Proxy    bool             `json:"proxy,omitempty"`
	Accepted time.Time        `json:"told,omitzero"`
	Back     bool             `json:"back,omitempty"`
	Started  time.Time        `json:"started"`
	Deadline time.Time        `json:"deadline,omitzero"`
	Ended    time.Time        `json:"ended,omitzero"`
	Outcome  ingot.Outcome    `json:"outcome"`
	Cause    fleet.Cause      `json:"cause,omitempty"`
	Reason   string           `json:"reason,omitempty"`
	Ticket   time.Time        `json:"ticket,omitzero"`
	Facts    ingot.BootID     `json:"facts,omitempty"`
	Changes  []string         `json:"changes,omitempty"`
	Crash    string           `json:"crash,omitempty"`
	Pstore   bool             `json:"pstore,omitempty"`
	Events   []event          `json:"events"`
	Served   map[string]int64 `json:"served,omitempty"`
	Report   *ingot.Report    `json:"report,omitempty"`
	Others   []other          `json:"others,omitempty"`

	Origins   []origin        `json:"origins,omitempty"`
	Addresses []netip.Addr    `json:"addresses,omitempty"`
	Auth      *authentication `json:"auth,omitempty"`
	Conflict  *conflict       `json:"conflict,omitempty"`
	Ordered   *order          `json:"ordered,omitempty"`
	Newest    int             `json:"newest,omitempty"`
	Notes     int             `json:"notes,omitempty"`
	Reports   *reportLog      `json:"reports,omitempty"`
}

// reportLog is what the ledger has of reports.
type reportLog struct {
	Next   time.Time `json:"next,omitzero"`
	Behind *recorded `json:"behind,omitempty"`
}

type recorded struct {
	Healthy bool     `json:"healthy,omitempty"`
	Failed  []string `json:"failed,omitempty"`
}

func reportLogOf(l fleet.ReportLog) *reportLog {
	if l == (fleet.ReportLog{}) {
		return nil
	}
	r := &reportLog{Next: l.Next}
	if b := l.Behind; b != nil {
		r.Behind = &recorded{b.Healthy, b.Failed}
	}
	return r
}

func (r *reportLog) value() (l fleet.ReportLog) {
	if r == nil {
		return l
	}
	l.Next = r.Next
	if r.Behind != nil {
		l.Behind = &fleet.Recorded{Healthy: r.Behind.Healthy, Failed: r.Behind.Failed}
	}
	return l
}

// order is an order to the system of a boot.
type order struct {
	Counter uint64           `json:"counter"`
	Kind    ingot.OrderKind  `json:"kind"`
	Drain   ingot.Drain      `json:"drain,omitempty"`
	Hooks   []string         `json:"hooks,omitempty"`
	Why     string           `json:"why,omitempty"`
	By      string           `json:"by,omitempty"`
	Rollout string           `json:"rollout,omitempty"`
	Given   time.Time        `json:"given"`
	Expires time.Time        `json:"expires"`
	State   ingot.OrderState `json:"state"`
	At      time.Time        `json:"at"`
	Hook    string           `json:"hook,omitempty"`
	Error   string           `json:"error,omitempty"`
}

func orderOf(o *fleet.Order) *order {
	if o == nil {
		return nil
	}
	r := order(*o)
	return &r
}

func (r *order) value() *fleet.Order {
	if r == nil {
		return nil
	}
	o := fleet.Order(*r)
	return &o
}

type origin struct {
	Interface string `json:"interface,omitempty"`
	Network   string `json:"network,omitempty"`
	IPv6      bool   `json:"ipv6,omitempty"`
}

func bootOf(b fleet.Boot) boot {
	r := boot{ID: b.ID, Machine: b.Machine, Number: b.Number, Before: b.Before, Firmware: b.Firmware,
		Image: imageRef(b.Image),
		Once:  onceOf(b.Once),
		Order: b.Order, Root: b.Root, First: b.First, Proxy: b.Proxy, Accepted: b.Accepted, Back: b.Back, Started: b.Started,
		Deadline: b.Deadline, Ended: b.Ended, Outcome: b.Outcome, Cause: b.Cause, Reason: b.Reason, Ticket: b.Ticket,
		Facts:   b.Facts,
		Changes: b.Changes, Crash: b.Crash, Pstore: b.Pstore, Events: list(b.Events, func(e fleet.Event) event {
			return event(e)
		}),
		Served: b.Served, Report: b.Report, Others: list(b.Others, otherOf), Newest: b.Newest,
		Origins: list(b.Origins, func(o fleet.Origin) origin { return origin(o) }), Addresses: b.Addresses,
		Notes: b.Notes, Reports: reportLogOf(b.Reports), Ordered: orderOf(b.Ordered)}
	if a := authentication(b.Auth); !a.isZero() {
		r.Auth = &a
	}
	if c := b.Conflict; c != nil {
		r.Conflict = &conflict{c.At, c.With}
	}
	return r
}

func (r boot) value() fleet.Boot {
	b := fleet.Boot{ID: r.ID, Machine: r.Machine, Number: r.Number, Before: r.Before, Firmware: r.Firmware,
		Image: fleet.ImageRef(r.Image),
		Once:  r.Once.value(),
		Order: r.Order, Root: r.Root, First: r.First, Proxy: r.Proxy, Accepted: r.Accepted, Back: r.Back, Started: r.Started,
		Deadline: r.Deadline, Ended: r.Ended, Outcome: r.Outcome, Cause: r.Cause, Reason: r.Reason, Ticket: r.Ticket,
		Facts:   r.Facts,
		Changes: r.Changes, Crash: r.Crash, Pstore: r.Pstore, Events: list(r.Events, func(e event) fleet.Event {
			return fleet.Event(e)
		}),
		Served: r.Served, Report: r.Report, Others: list(r.Others, other.value), Newest: r.Newest,
		Origins: list(r.Origins, func(o origin) fleet.Origin { return fleet.Origin(o) }), Addresses: r.Addresses,
		Notes: r.Notes, Reports: r.Reports.value(), Ordered: r.Ordered.value()}
	if a := r.Auth; a != nil {
		b.Auth = fleet.Authentication(*a)
	}
	if c := r.Conflict; c != nil {
		b.Conflict = &fleet.Conflict{At: c.At, With: c.With}
	}
	return b
}

func otherOf(o fleet.Other) other {
	return other{Address: o.Address, DUID: o.DUID, MAC: o.MAC, Kind: o.Kind, Given: o.Given, File: o.File,
		Expected: o.Expected,
		First:    o.First, At: o.At, Times: o.Times}
}

func (r other) value() fleet.Other {
	return fleet.Other{Address: r.Address, DUID: r.DUID, MAC: r.MAC, Kind: r.Kind, Given: r.Given, File: r.File,
		Expected: r.Expected,
		First:    r.First, At: r.At, Times: r.Times}
}

// lease is the record of a lease.
type lease struct {
	MAC      string          `json:"mac,omitempty"`
	DUID     string          `json:"duid,omitempty"`
	Address  netip.Addr      `json:"address"`
	Expires  time.Time       `json:"expires"`
	Hostname string          `json:"hostname,omitempty"`
	Machine  ingot.MachineID `json:"machine,omitempty"`
	Port     switchPort      `json:"port,omitzero"`
	Declined bool            `json:"declined,omitempty"`
}

func leaseOf(l fleet.Lease) lease {
	return lease{MAC: l.MAC, DUID: l.DUID, Address: l.Address, Expires: l.Expires, Hostname: l.Hostname,
		Machine: l.Machine,
		Port:    switchPort(l.Port), Declined: l.Declined}
}

func (r lease) value() fleet.Lease {
	return fleet.Lease{MAC: r.MAC, DUID: r.DUID, Address: r.Address, Expires: r.Expires, Hostname: r.Hostname,
		Machine: r.Machine,
		Port:    fleet.SwitchPort(r.Port), Declined: r.Declined}
}
