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

// Check returns what is wrong with a policy that WithDefaults returned: all faults in one error.
func (p Policy) Check() error {
	var words []string
	for _, err := range p.Faults() {
		words = append(words, err.Error())
	}
	if len(words) == 0 {
		return nil
	}
	return errors.New(strings.Join(words, "; "))
}

// Faults returns all that is wrong with a policy that WithDefaults returned. Each begins with the name of a flag.
func (p Policy) Faults() (list []error) {
	add := func(wrong bool, text string, args ...any) {
		if wrong {
			list = append(list, fmt.Errorf(text, args...))
		}
	}
	rising := true
	for i := 1; i < len(p.Waves); i++ {
		rising = rising && p.Waves[i-1] < p.Waves[i]
	}
	n, most := len(p.Waves), 30*24*time.Hour
	add(p.Canary < 0 || p.Canary > MaxMembers, "canary: %d machines; use a number from 0", p.Canary)
	add(n > 20 || n > 0 && (p.Waves[0] < 1 || p.Waves[n-1] != 100) || !rising,
		"waves: use at most 20 rising percentages of which the last is 100%%, such as 10%%,50%%,100%%")
	add(p.MaxUnavailable.Machines < 0 || p.MaxUnavailable.Percent < 0 || p.MaxUnavailable.Percent > 100,
		"max-unavailable: use a number of machines, or a percentage of each failure domain")
	add(p.Bake < 0 || p.Bake > most, "bake: use a time of up to 720h")
	add(p.Patience < time.Minute || p.Patience > most, "patience: use a time of 1m to 720h")
	add(p.Quorum < 1 || p.Quorum > 100, "quorum: use a percentage from 1 to 100")
	add(p.Trouble < 1 || p.Attempts < 1, "trouble: use a number of machines from 1")
	add(!slices.Contains([]How{Auto, Reboot, NextBoot}, p.How), "how: %q is unknown; use auto, reboot or next-boot", p.How)
	add(!slices.Contains([]ingot.Drain{ingot.DrainNone, ingot.DrainRequired, ingot.DrainBestEffort}, p.Drain),
		"drain: %q is unknown; use required or best-effort", p.Drain)
	add(p.Drain != ingot.DrainNone && p.How == NextBoot, "drain: with how next-boot nobody drains; use auto or reboot")
	add(!p.Test.Valid(), "test: the rate of a bad image must be above the usual rate and below 1, and alpha and beta "+
		"must be above 0 and together below 1")
	for _, w := range p.PauseAfter {
		add(w < 0 || w >= len(p.Waves), "pause-after: there is no wave %d before the last; 0 is the canary", w)
	}
	return list
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
