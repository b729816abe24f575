package operator

import (
	"context"
	"log/slog"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
)

// Action returns the Change of what the operator of ctx did at a time, with the fields in which two
// values differ. Either value may be nil: all of the other one differs.
func Action(ctx context.Context, at time.Time, code fleet.Code, before, after any) fleet.Change {
	from, to := access.Differ(before, after)
	c := fleet.Change{At: at, Code: code, Actor: actorOf(access.From(ctx))}
	if len(from) > 0 {
		c.From = from
	}
	if len(to) > 0 {
		c.To = to
	}
	return c
}

// on returns an action on a machine.
func on(m fleet.Machine, c fleet.Change) fleet.Change {
	c.Machine, c.Name = m.ID, m.Hostname()
	return c
}

func actorOf(w access.Who) fleet.Actor {
	return fleet.Actor{Kind: string(w.Kind), Name: w.Name, ID: w.ID, UID: w.UID, PID: w.PID, From: w.From,
		Scope: string(w.Scope)}
}

// LogActions writes operators' actions to the log, after they were stored.
func LogActions(log *slog.Logger, list ...fleet.Change) { logActions(log, list...) }

// logActions writes operators' actions to the log, after they were stored.
func logActions(log *slog.Logger, list ...fleet.Change) {
	for _, c := range list {
		if !c.Audit() {
			continue // a consequence, which the ledger has
		}
		args := []any{"action", string(c.Code), "by", c.Actor.String()}
		add := func(key, value string) {
			if value != "" {
				args = append(args, key, value)
			}
		}
		add("machine", string(c.Machine))
		add("image", c.Image.Name)
		add("subject", c.Subject)
		for _, k := range []string{"assignment.name", "name", "state", "scope", "kind", "images", "machines", "bytes"} {
			if v, has := c.To[k]; has {
				args = append(args, k, v)
			}
		}
		log.Info(c.String(), args...)
	}
}
