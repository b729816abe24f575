package operator

import (
	"cmp"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
)

// Answers of the API are types of their own: fleet's values change as decisions do, and clients
// depend on the API's.

// each converts a list. None stays none.
func each[F, T any](list []F, convert func(F) T) []T {
	if list == nil {
		return nil
	}
	out := make([]T, len(list))
	for i := range list {
		out[i] = convert(list[i])
	}
	return out
}

func imageRefOf(r fleet.ImageRef) api.ImageRef { return api.ImageRef(r) }

func failureOf(f fleet.Failure) api.Failure { return api.Failure(f) }

// machineOf converts a machine.
func machineOf(m fleet.Machine) api.Machine {
	out := api.Machine{ID: m.ID, Name: m.Name, Labels: m.Labels, State: api.State(m.State), UUID: m.UUID,
		Serial: m.Serial,
		MACs:   m.MACs, MachineKey: m.MachineKey, Firmware: m.Firmware, Address: m.Address, Port: api.SwitchPort(m.Port),
		Loaders: m.Loaders, FirstSeen: m.FirstSeen, LastSeen: m.LastSeen, Facts: m.Facts,
		Assignment: api.Assignment{ImageRef: imageRefOf(m.Assignment.ImageRef), Why: m.Assignment.Why,
			Since: m.Assignment.Since},
		LastHealthy: imageRefOf(m.LastHealthy), Healthy: each(m.Healthy, imageRefOf),
		Trial:  api.Trial{Image: m.Trial.Image, Failures: each(m.Trial.Failures, failureOf)},
		Orders: m.Orders, Boot: m.Boot, Authenticated: m.Authenticated, Returned: m.Returned,
		Answered: each(m.Answered, func(a fleet.Answered) api.Answered { return api.Answered(a) }),
		Grants:   each(m.Grants, func(g fleet.Grant) api.Grant { return api.Grant(g) }), Had: m.Had}
	if q := m.Ask; q != nil {
		out.Ask = &api.Question{With: q.With, What: q.What, About: q.About, Reported: q.Reported}
	}
	out.Once = onceOf(m.Once)
	out.Pin, out.Off = markOf(m.Pin), markOf(m.Off)
	if c := m.Claim; c != nil {
		out.Claim = &api.Claim{Running: c.Running, Healthy: c.Healthy, Since: c.Since, Until: c.Until}
	}
	if s := m.Setback; s != nil {
		out.Setback = &api.Setback{Gave: imageRefOf(s.Gave), To: imageRefOf(s.To), Why: s.Why, At: s.At,
			Failures: each(s.Failures, failureOf)}
	}
	return out
}

// latestOf says what the latest boot of a machine is, to a server that has heard machines since a time.
func latestOf(m fleet.Machine, b fleet.Boot, since, now time.Time) *api.Latest {
	l := &api.Latest{ImageRef: imageRefOf(b.Image), Outcome: b.Outcome, Once: b.Once != nil, Since: b.Started,
		Heard: fleet.LastHeard(m, b), Silent: fleet.Silent(m, b, since, now), Down: b.Auth.Down}
	if !b.Ended.IsZero() {
		l.Since = b.Ended
	}
	return l
}

func markOf(m *fleet.Mark) *api.Mark {
	if m == nil {
		return nil
	}
	out := api.Mark(*m)
	return &out
}

// bootOf converts a boot.
func bootOf(b fleet.Boot) api.Boot {
	out := api.Boot{ID: b.ID, Machine: b.Machine, Number: b.Number, Before: b.Before, Firmware: b.Firmware,
		Image: imageRefOf(b.Image), Order: b.Order, Root: b.Root, First: b.First, Proxy: b.Proxy, Accepted: b.Accepted,
		Back: b.Back, Started: b.Started, Deadline: b.Deadline, Ended: b.Ended, Outcome: b.Outcome, Cause: string(b.Cause),
		Reason: b.Reason, Ticket: b.Ticket, Facts: b.Facts, Changes: b.Changes, Crash: b.Crash, Pstore: b.Pstore,
		Events: each(b.Events,
			func(e fleet.Event) api.Event { return api.Event(e) }), Served: b.Served, Report: b.Report,
		Others:  each(b.Others, OtherOf),
		Origins: each(b.Origins, func(o fleet.Origin) api.Origin { return api.Origin(o) }), Addresses: b.Addresses,
		Auth: api.Authentication{Able: b.Auth.Able, Half: b.Auth.Half, Heard: b.Auth.Heard, Down: b.Auth.Down}}
	out.Once, out.Ordered = onceOf(b.Once), orderOf(b.Ordered)
	if c := b.Conflict; c != nil {
		out.Conflict = &api.Conflict{At: c.At, With: c.With}
	}
	return out
}

func onceOf(o *fleet.Once) *api.Once {
	if o == nil {
		return nil
	}
	return &api.Once{ImageRef: imageRefOf(o.ImageRef), Arguments: o.Arguments, Shell: o.Shell, Limit: o.Limit,
		Why: o.Why, Since: o.Since, Order: o.Order}
}

// OtherOf converts what another DHCP server answered.
func OtherOf(o fleet.Other) api.Other { return api.Other(o) }

// LeaseOf converts a lease.
func LeaseOf(l fleet.Lease) api.Lease {
	return api.Lease{MAC: l.MAC, DUID: l.DUID, Address: l.Address, Expires: l.Expires, Hostname: l.Hostname,
		Machine: l.Machine,
		Port:    api.SwitchPort(l.Port), Declined: l.Declined}
}

// entryOf converts a Change.
func entryOf(c fleet.Change) api.Entry {
	return api.Entry{Seq: c.Seq, At: c.At, Kind: string(c.Kind()), Code: string(c.Code), Machine: c.Machine,
		Boot:  c.Boot,
		Image: imageRefOf(c.Image), Rollout: c.Rollout, Stage: c.Stage,
		Failure: c.Failure, From: c.From, To: c.To, Text: c.String(),
		Bytes: c.Bytes, Bad: c.Bad()}
}

// EventOf converts a Change to what receivers of events get.
func EventOf(c fleet.Change) api.WebhookData {
	d := api.WebhookData{Entry: entryOf(c), Topics: c.Topics(), Subject: c.Subject, Name: c.Name, Detail: c.Detail}
	if !c.Actor.IsZero() {
		by := whoOf(c.Actor)
		d.Actor = &by
	}
	return d
}

// auditOf converts an operator's action.
func auditOf(c fleet.Change) api.AuditEntry {
	return api.AuditEntry{Seq: c.Seq, At: c.At, Who: whoOf(c.Actor), Action: string(c.Code),
		On: cmp.Or(string(c.Machine), string(c.Image.Image), c.Subject), Name: c.Name, From: c.From, To: c.To}
}

// whoOf converts an actor; actorOf is the other way.
func whoOf(a fleet.Actor) access.Who {
	return access.Who{Kind: access.Kind(a.Kind), Name: a.Name, ID: a.ID, UID: a.UID, PID: a.PID, From: a.From,
		Scope: access.Scope(a.Scope)}
}

// converted converts a machine, or none with an error.
func converted(m fleet.Machine, err error) (api.Machine, error) {
	if err != nil {
		return api.Machine{}, err
	}
	return machineOf(m), nil
}
