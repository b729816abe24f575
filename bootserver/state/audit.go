package state

import (
	"cmp"
	"strings"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
)

// ActionOn is an action on a machine, an image or something else, as schema 1 named it.
func ActionOn(action, on string) fleet.Change {
	c := fleet.Change{Code: fleet.Code(action)}
	switch kind, _, _ := strings.Cut(action, "."); kind {
	case "machine":
		c.Machine = ingot.MachineID(on)
	case "image":
		c.Image.Image = ingot.Digest(on)
	default:
		c.Subject = on
	}
	return c
}

// ActionOf converts a line of the audit log of schema 1.
func ActionOf(a access.Change) fleet.Change {
	c := ActionOn(a.Action, a.On)
	c.Seq, c.At, c.Name, c.From, c.To = a.Seq, a.At, a.Name, a.From, a.To
	c.Actor = fleet.Actor{Kind: string(a.Who.Kind), Name: a.Who.Name, ID: a.Who.ID, UID: a.Who.UID, PID: a.Who.PID,
		From: a.Who.From, Scope: string(a.Who.Scope)}
	return c
}

// AuditLine converts an action to a line of the audit log of schema 1.
func AuditLine(c fleet.Change) access.Change {
	w := c.Actor
	return access.Change{Seq: c.Seq, At: c.At, Action: string(c.Code),
		On: cmp.Or(string(c.Machine), string(c.Image.Image), c.Subject), Name: c.Name, From: c.From, To: c.To,
		Who: access.Who{Kind: access.Kind(w.Kind), Name: w.Name, ID: w.ID, UID: w.UID, PID: w.PID, From: w.From,
			Scope: access.Scope(w.Scope)}}
}
