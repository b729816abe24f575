package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot"
)

// Errors of what operators ask of a rollout.
var (
	// ErrEnded: the rollout is over.
	ErrEnded = errors.New("the rollout is over")
	// ErrAborting: the rollout is being aborted.
	ErrAborting = errors.New("the rollout is being aborted")
	// ErrNotStopped: the rollout is neither paused nor halted.
	ErrNotStopped = errors.New("the rollout is neither paused nor halted")
	// ErrStopped: the rollout is paused or halted already.
	ErrStopped = errors.New("the rollout is paused or halted already")
	// ErrNobody: no machine would be moved.
	ErrNobody = errors.New("no machine would be moved")
)

// Defaults of a Policy.
const (
	DefaultBake     = 15 * time.Minute
	DefaultPatience = 45 * time.Minute
	DefaultQuorum   = 90
	DefaultTrouble  = 3
	DefaultCanary   = 1
)

// defaultShare is the default of Policy.MaxUnavailable.
const defaultShare = 10

// MaxMembers limits the machines of one rollout.
const MaxMembers = 20_000

// WithDefaults returns the policy with what was left out. usual is the fleet's rate of failed boots.
func (p Policy) WithDefaults(usual float64, attempts int) Policy {
	if len(p.Waves) == 0 {
		p.Waves = []int{10, 50, 100}
	}
	if p.MaxUnavailable == (Amount{}) {
		p.MaxUnavailable.Percent = defaultShare
	}
	for d, value := range map[*time.Duration]time.Duration{&p.Bake: DefaultBake, &p.Patience: DefaultPatience} {
		if *d == 0 {
			*d = value
		}
	}
	for n, value := range map[*int]int{&p.Quorum: DefaultQuorum, &p.Trouble: DefaultTrouble, &p.Attempts: attempts} {
		if *n == 0 {
			*n = value
		}
	}
	if p.How == "" {
		p.How = Auto
	}
	t := TestFor(usual)
	for f, value := range map[*float64]float64{&p.Test.Usual: t.Usual, &p.Test.Alpha: t.Alpha, &p.Test.Beta: t.Beta} {
		if *f == 0 {
			*f = value
		}
	}
	if p.Test.Bad == 0 {
		p.Test.Bad = min(badTimes*p.Test.Usual, maxBadRate)
	}
	return p
}

// Check returns what is wrong with a policy that WithDefaults returned.
func (p Policy) Check() error {
	rising := true
	for i := 1; i < len(p.Waves); i++ {
		rising = rising && p.Waves[i-1] < p.Waves[i]
	}
	switch n := len(p.Waves); {
	case p.Canary < 0 || p.Canary > MaxMembers:
		return fmt.Errorf("canary: %d machines; use a number from 0", p.Canary)
	case n > 20 || n > 0 && (p.Waves[0] < 1 || p.Waves[n-1] != 100) || !rising:
		return errors.New("waves: use at most 20 rising percentages of which the last is 100%, such as 10%,50%,100%")
	case p.MaxUnavailable.Machines < 0 || p.MaxUnavailable.Percent < 0 || p.MaxUnavailable.Percent > 100:
		return errors.New("max-unavailable: use a number of machines, or a percentage of each failure domain")
	case p.Bake < 0 || p.Patience < time.Minute || p.Bake > 30*24*time.Hour || p.Patience > 30*24*time.Hour:
		return errors.New("bake and patience: use times of up to 720h, and a patience of at least 1m")
	case p.Quorum < 1 || p.Quorum > 100:
		return errors.New("quorum: use a percentage from 1 to 100")
	case p.Trouble < 1 || p.Attempts < 1:
		return errors.New("trouble: use a number of machines from 1")
	case !slices.Contains([]How{Auto, Reboot, NextBoot}, p.How):
		return fmt.Errorf("how: %q is unknown; use auto, reboot or next-boot", p.How)
	case !slices.Contains([]ingot.Drain{ingot.DrainNone, ingot.DrainRequired, ingot.DrainBestEffort}, p.Drain):
		return fmt.Errorf("drain: %q is unknown; use required or best-effort", p.Drain)
	case p.Drain != ingot.DrainNone && p.How == NextBoot:
		return errors.New("drain: with how next-boot nobody drains; use auto or reboot")
	case !p.Test.Valid():
		return errors.New("test: the rate of a bad image must be above the usual rate and below 1, and alpha and beta " +
			"must be above 0 and together below 1")
	}
	for _, w := range p.PauseAfter {
		if w < 0 || w >= len(p.Waves) {
			return fmt.Errorf("pause-after: there is no wave %d before the last; 0 is the canary", w)
		}
	}
	return nil
}

// ParseWaves reads percentages such as "10%,50%,100%".
func ParseWaves(text string) (list []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(part), "%"))
		if err != nil {
			return nil, fmt.Errorf("waves: %q is not a percentage", part)
		}
		list = append(list, n)
	}
	return list, nil
}

// ParseAmount reads a number of machines or a percentage: "3", "10%".
func ParseAmount(text string) (a Amount, err error) {
	digits, percent := strings.CutSuffix(text, "%")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 {
		return a, fmt.Errorf("%q is neither a number of machines from 1 nor a percentage", text)
	}
	if percent {
		return Amount{Percent: n}, nil
	}
	return Amount{Machines: n}, nil
}

func (a Amount) String() string {
	if a.Machines > 0 {
		return strconv.Itoa(a.Machines)
	}
	return strconv.Itoa(a.Percent) + "%"
}

// Candidate is a machine that a selector names, with its facts.
type Candidate struct {
	ID     ingot.MachineID
	Name   string
	Domain string
	Machine
}

// Plan puts machines into waves. Those that can be moved come first, and machines of different failure
// domains take turns, so that the canaries are as different as they can be. The order of the list
// decides among equals.
func Plan(r Rollout, list []Candidate) (Rollout, []Member, error) {
	ordered := spread(list, r.Image.Image)
	movable := 0
	for _, c := range ordered {
		if c.movable(r.Image.Image) {
			movable++
		}
	}
	if movable == 0 {
		return r, nil, ErrNobody
	}
	canaries := min(r.Policy.Canary, movable)
	members := make([]Member, len(ordered))
	for i, c := range ordered {
		members[i] = Member{Rollout: r.ID, Machine: c.ID, Name: c.Name, Domain: c.Domain, Place: i,
			Wave: waveOf(i, canaries, max(movable, i+1), r.Policy.Waves), From: c.Assigned}
	}
	r.Waves, r.Machines = len(r.Policy.Waves)+1, len(members)
	if canaries == 0 {
		r.Wave = 1
	}
	return r, members, nil
}

// waveOf returns the wave of the machine at a place.
func waveOf(place, canaries, all int, waves []int) int {
	if place < canaries {
		return 0
	}
	for k, percent := range waves {
		if place < (all*percent+99)/100 {
			return k + 1
		}
	}
	return len(waves)
}

func (c *Candidate) movable(image ingot.Digest) bool {
	return c.out() == "" && c.Assigned.Image != image
}

// spread sorts candidates: those that can be moved first, domains taking turns.
func spread(list []Candidate, image ingot.Digest) []Candidate {
	type turn struct{ index, rank int }
	count := map[string]int{}
	turns := make([]turn, len(list))
	for i := range list {
		c := &list[i]
		rank := MaxMembers + i
		if c.movable(image) {
			rank = count[c.Domain]
			count[c.Domain]++
		}
		turns[i] = turn{i, rank}
	}
	slices.SortStableFunc(turns, func(a, b turn) int { return a.rank - b.rank })
	out := make([]Candidate, len(list))
	for i, t := range turns {
		out[i] = list[t.index]
	}
	return out
}

// Pause stops a rollout on behalf of an operator.
func Pause(r Rollout, by, why string, now time.Time) (Rollout, error) {
	switch {
	case r.State.Ended():
		return r, ErrEnded
	case r.State == Aborting:
		return r, ErrAborting
	case r.State.Stopped():
		return r, ErrStopped
	}
	text := "paused by " + by
	if why != "" {
		text += ": " + why
	}
	r = r.stop(Paused, Stop{Reason: ByOperator, By: by, Text: text}, now)
	r.Generation++
	return r, nil
}

// Resume lets a stopped rollout go on. What led to the stop counts no more.
func Resume(r Rollout, by, why string, now time.Time) (Rollout, error) {
	switch {
	case r.State.Ended():
		return r, ErrEnded
	case r.State == Aborting:
		return r, ErrAborting
	case !r.State.Stopped():
		return r, ErrNotStopped
	}
	r.Seen, r.Stop = r.Counted, nil
	r = r.enter(r.Before, by, why, now)
	r.Before = ""
	r.Generation++
	return r, nil
}

// Abort makes a rollout assign to each machine that it moved what the machine had before.
func Abort(r Rollout, by, why string, now time.Time) (Rollout, error) {
	switch {
	case r.State.Ended():
		return r, ErrEnded
	case r.State == Aborting:
		return r, ErrAborting
	}
	if r.Stop == nil {
		text := "aborted by " + by
		if why != "" {
			text += ": " + why
		}
		r.Stop = &Stop{Reason: ByOperator, At: now, By: by, Text: text}
	}
	r = r.enter(Aborting, by, why, now)
	r.Generation++
	return r, nil
}

func itoa(n int) string { return strconv.Itoa(n) }
