package rollout

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"ingot"
)

// Standing is what a machine is to a rollout now.
type Standing struct {
	Member
	Is  string // "waiting", "unfit", "moving", "good", "bad", "has it", "back", "not moved", "outside"
	Why string
	// why the boots since it was moved cannot be read, if they cannot
	Unreadable string
}

// Counts counts machines by what they are to a rollout.
func Counts(list []Standing) map[string]int {
	n := map[string]int{}
	for i := range list {
		n[list[i].Is]++
	}
	return n
}

// EndedStandings returns what each machine was to a rollout when that ended. What became of the machines
// since makes no difference.
func EndedStandings(r Rollout, members []Member) []Standing {
	list := make([]Standing, len(members))
	for i := range members {
		m := &members[i]
		s := Standing{Member: *m, Is: notMoved}
		switch {
		case !m.Gone.IsZero():
			s.Is = "back"
		case m.Left != "":
			s.Is, s.Why = standings[outside], m.Left
		case m.touched() && m.GivenUp:
			s.Is = standings[bad]
		case m.touched() && m.good():
			s.Is = standings[good]
		case m.touched():
			s.Is, s.Why = standings[outside], "its boots of the image had said nothing when the rollout ended"
		case m.From.Image == r.Image.Image:
			s.Is = "has it"
		}
		list[i] = s
	}
	return list
}

// Domain is how many machines of a failure domain may be unavailable, and are.
type Domain struct {
	Name        string
	Machines    int
	Unavailable int
	Most        int
}

// notMoved is what a machine is that was not moved when its rollout ended.
const notMoved = "not moved"

var standings = map[standing]string{outside: "outside", waiting: "waiting", unfit: "unfit", moving: "moving",
	good: "good", bad: "bad"}

// Look returns what each machine is to a rollout that has not ended, and the budget of each failure domain.
func Look(r Rollout, members []Member, f Fleet, now time.Time) ([]Standing, []Domain) {
	d := &decider{rules: standard, r: r, members: members, f: f, now: now}
	list := make([]Standing, len(members))
	for i := range members {
		m := &members[i]
		s, why := d.standingOf(m)
		machine, known := f.Machines[m.Machine]
		list[i] = Standing{*m, standings[s], why, machine.Unreadable}
		switch {
		case !m.Gone.IsZero():
			list[i].Is = "back"
		case m.Left == "" && m.Moved.IsZero() && known && machine.Assigned.Image == r.Image.Image && machine.out() == "":
			list[i].Is = "has it"
		}
	}
	all, unavailable := d.domains()
	var domains []Domain
	for _, name := range slices.Sorted(maps.Keys(all)) {
		domains = append(domains, Domain{name, all[name], unavailable[name], r.Policy.MaxUnavailable.Of(all[name])})
	}
	return list, domains
}

// Out returns why a machine would not be moved to an image now; empty if it would.
func (c *Candidate) Out(image ingot.Digest, f Fleet, now time.Time) string {
	switch why := c.out(); {
	case why != "":
		return why
	case c.Assigned.Image == image:
		return "it has the image already"
	case !f.healthy(&c.Machine, now):
		return (&decider{f: f, now: now}).illness(c.Machine)
	}
	return ""
}

// Failed reports whether a boot of the image failed on the machine because of the image.
func (m *Member) Failed() bool {
	return slices.ContainsFunc(m.Results, func(r Result) bool { return r.Class == Bad && !r.Void })
}

// Runs reports whether the machine runs the image, as far as is known.
func (m *Member) Runs() bool { return m.touched() && m.good() }

// Touched reports whether the rollout moved the machine, and is responsible for it.
func (m *Member) Touched() bool { return m.touched() }

// Has reports whether a boot was counted.
func (m *Member) Has(boot ingot.BootID) bool {
	return slices.ContainsFunc(m.Results, func(r Result) bool { return r.Boot == boot })
}

// ByName sorts candidates by failure domain and name.
func ByName(a, b Candidate) int {
	return cmp.Or(cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
}
