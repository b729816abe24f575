package operator

import (
	"slices"

	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// others returns what other DHCP servers answered a machine: in these boots, and what was heard of
// its own cards. The answer that it followed comes last.
func (o *Operator) others(m fleet.Machine, boots []fleet.Boot) (list []fleet.Other) {
	for _, b := range boots {
		for _, other := range b.Others {
			list = append(list, within(b, other))
		}
	}
	for _, other := range o.host.HeardOf(m.Cards()) {
		if n := len(boots); n > 0 && boots[n-1].Started.Sub(other.At) < network.SameAttempt {
			other = within(boots[n-1], other)
		}
		if !other.Expected {
			list = append(list, other)
		}
	}
	slices.SortFunc(list, fleet.ByWeight)
	return list
}

// within returns an answer that belongs to a boot with a time that does: others may answer before
// this server does, and a boot begins with our answer.
func within(b fleet.Boot, o fleet.Other) fleet.Other {
	if o.At.Before(b.Started) {
		o.At = b.Started
	}
	return o
}
