// Package rollout decides how an image reaches many machines without harming more than a few: which
// machines get it next, and when to stop. Next is a plain function from stored facts and a time to the
// changes to store, so a server that restarts at any moment goes on as if nothing had happened. There
// are no locks and no steps that run.
//
// A rollout goes through waves, of which the first are the canaries. It stops itself when a canary is
// given up, or when a sequential probability ratio test (A. Wald, 1945) says that the image fails more
// often than boots usually do. After that only a person moves it on.
//
// A machine that was moved is ordered to reboot, if its system takes orders; else the rollout waits for
// whoever reboots it.
//
// Left out on purpose: I/O and clocks, as in package fleet; what becomes of an order on the machine; and
// which machines a selector names.
package rollout

import (
	"cmp"
	"slices"
	"time"

	"ingot"
)

// Image identifies an image by digest, with its name for display.
type Image struct {
	Image ingot.Digest `json:"image,omitempty"`
	Name  string       `json:"name,omitempty"`
}

// State is how far a rollout is.
type State string

// The states of a rollout. It ends in Done or Back.
const (
	Preparing State = "preparing" // its machines are being stored; a server that restarts drops it
	Planned   State = "planned"   // nothing was moved yet
	Canary    State = "canary"    // the first machines get the image
	Wave      State = "wave"      // more machines get it
	Baking    State = "baking"    // the machines of this wave have it, and must go on well for a while
	Paused    State = "paused"    // a person, or something that says nothing of the image, stopped it
	Halted    State = "halted"    // the image harmed machines
	Aborting  State = "aborting"  // machines are assigned what they had before
	Done      State = "done"
	Back      State = "back" // every machine that was moved is assigned what it had before
)

// Ended reports whether a rollout is over.
func (s State) Ended() bool { return s == Done || s == Back }

// Stopped reports whether only a person moves a rollout on.
func (s State) Stopped() bool { return s == Paused || s == Halted }

// Reason is why a rollout stopped.
type Reason string

// The reasons.
const (
	ByOperator     Reason = "operator"       // a person paused or aborted it
	ByPlan         Reason = "planned-pause"  // it was started with a pause after this wave
	CanaryGivenUp  Reason = "canary"         // a canary was given up
	FailingBoots   Reason = "failing-boots"  // the test found that too many boots fail
	Infrastructure Reason = "infrastructure" // boots failed for reasons that another image would meet as well
	Inconclusive   Reason = "inconclusive"   // too few machines said anything
	ImageMissing   Reason = "image-missing"  // the image cannot be served
	Unreadable     Reason = "unreadable"     // nothing that its machines did can be read, or when they may be moved
	Restored       Reason = "restored"       // the state was restored from a backup: what happened since is not known
)

// Rollout is one image on its way to many machines.
type Rollout struct {
	ID         string    `json:"id"`
	Number     int       `json:"number"`     // 1 for the first of the server
	Generation uint64    `json:"generation"` // of this record: what was decided for another one is not stored
	Image      Image     `json:"image"`
	Selector   string    `json:"selector"`
	Policy     Policy    `json:"policy"`
	By         string    `json:"by"` // who started it
	Created    time.Time `json:"created"`
	State      State     `json:"state"`
	Since      time.Time `json:"since"` // in this state since
	Wave       int       `json:"wave"`  // that gets the image, or bakes; 0 are the canaries
	Waves      int       `json:"waves"` // canaries included
	Machines   int       `json:"machines"`
	// why it is paused or halted, or was when it was aborted; never modified, only replaced
	Stop    *Stop     `json:"stop,omitempty"`
	Before  State     `json:"before,omitempty"`  // the state that a resume goes back to
	Counted int       `json:"counted,omitempty"` // results of boots
	Ledger  string    `json:"ledger,omitempty"`  // name of the ledger, which a restore changes
	Seen    int       `json:"seen,omitempty"`    // results up to this one count no more: a person resumed it after them
	Ended   time.Time `json:"ended,omitzero"`
	// how many machines were what when it ended, see Standing.Is; never modified
	Count map[string]int `json:"count,omitempty"`
	Log   []Entry        `json:"log,omitempty"` // states, the latest last; never modified, only replaced
}

// Entry is a change of the state of a rollout.
type Entry struct {
	At    time.Time `json:"at"`
	State State     `json:"state"`
	Wave  int       `json:"wave"`
	By    string    `json:"by,omitempty"` // a person; empty if the rollout moved itself
	Why   string    `json:"why,omitempty"`
}

// maxLog limits the stored changes of state.
const maxLog = 60

// Stop is why a rollout stopped, with the evidence.
type Stop struct {
	Reason   Reason     `json:"reason"`
	At       time.Time  `json:"at"`
	By       string     `json:"by,omitempty"` // the person who stopped it
	Text     string     `json:"text"`         // one sentence
	Evidence []Evidence `json:"evidence,omitempty"`
	More     int        `json:"more,omitempty"` // machines that Evidence does not name
}

// Evidence is one machine that stopped a rollout, or for which it waits.
type Evidence struct {
	Machine ingot.MachineID   `json:"machine"`
	Name    string            `json:"name"`
	Boot    ingot.BootID      `json:"boot,omitempty"`
	Stage   ingot.Stage       `json:"stage,omitempty"`
	Code    ingot.FailureCode `json:"code,omitempty"`
	Reason  string            `json:"reason"`
}

// maxEvidence limits the machines that a Stop names.
const maxEvidence = 40

// Member is a machine of a rollout. It belongs to one as long as that has not ended.
type Member struct {
	Rollout string          `json:"rollout"`
	Machine ingot.MachineID `json:"machine"`
	Name    string          `json:"name"`
	Domain  string          `json:"domain,omitempty"` // value of the label Policy.Spread
	Place   int             `json:"place"`            // in the order in which machines are moved
	Wave    int             `json:"wave"`
	From    Image           `json:"from"`            // what it is assigned when it is moved, and goes back to
	Moved   time.Time       `json:"moved,omitzero"`  // when it was assigned the image
	Number  int             `json:"number"`          // of its latest boot then
	Results []Result        `json:"results"`         // of boots of the image; never modified, only replaced
	Left    string          `json:"left,omitempty"`  // why it belongs to the rollout no more
	Gone    time.Time       `json:"gone,omitzero"`   // when it was assigned what it had before
	GivenUp bool            `json:"givenUp"`         // it failed too often with the image
	GaveUp  int             `json:"gaveUp,omitzero"` // the number of the result that led to it
	// when it was ordered to reboot into the image, and why that led to nothing; zero: it was not, or the
	// order was withdrawn because the rollout stopped
	Ordered time.Time `json:"ordered,omitzero"`
	Stuck   string    `json:"stuck,omitempty"`
	StuckAt int       `json:"stuckAt,omitzero"` // a number like that of a result
}

// Class says what a boot says of its image.
type Class string

// The classes of boots.
const (
	Open      Class = ""          // nothing yet
	Good      Class = "good"      // it became healthy
	Bad       Class = "bad"       // it counts against the image
	Elsewhere Class = "elsewhere" // another image would have met the same: link, server, disks
)

// Result is what one boot of the image said of it.
type Result struct {
	Boot   ingot.BootID      `json:"boot"`
	Seq    int               `json:"seq"` // in the order in which the rollout counted them; from 1
	Class  Class             `json:"class"`
	At     time.Time         `json:"at"`
	Stage  ingot.Stage       `json:"stage,omitempty"`
	Code   ingot.FailureCode `json:"code,omitempty"`
	Reason string            `json:"reason,omitempty"`
	// the boot had been healthy: it was not heard from any more
	Late bool `json:"late,omitempty"`
	// it is not tested: the failure before, of the same machine, is the same fault
	Again bool `json:"again,omitempty"`
	Void  bool `json:"void,omitempty"` // it turned out to be wrong: the machine was heard again
}

// maxResults limits the results of a machine. Later ones say nothing new.
const maxResults = 24

// touched reports whether the rollout assigned its image to the machine, and is responsible for it.
func (m *Member) touched() bool { return !m.Moved.IsZero() && m.Gone.IsZero() && m.Left == "" }

// Uses calls f for every image that a rollout needs, with the reason: what it brings to machines, and
// what they may go back to. Such an image must stay in the store. f may be called more than once for one
// image.
func Uses(r Rollout, members []Member, f func(image ingot.Digest, why string)) {
	if r.State.Ended() {
		return
	}
	f(r.Image.Image, "rollout "+r.ID+" brings it to machines")
	for i := range members {
		if m := &members[i]; m.touched() && m.From.Image != "" {
			f(m.From.Image, "machines of rollout "+r.ID+" may go back to it")
		}
	}
}

// last returns the latest valid result of the machine's boots, if any.
func (m *Member) last() (Result, bool) {
	for _, r := range slices.Backward(m.Results) {
		if !r.Void {
			return r, true
		}
	}
	return Result{}, false
}

// good reports whether the machine runs the image, as far as is known.
func (m *Member) good() bool {
	r, has := m.last()
	return has && r.Class == Good && !m.GivenUp
}

// Policy is how a rollout proceeds. Start fills what is zero.
type Policy struct {
	Canary         int           `json:"canary"`         // machines of the first wave
	Waves          []int         `json:"waves"`          // percent of the machines that have the image after each, rising
	MaxUnavailable Amount        `json:"maxUnavailable"` // of each failure domain
	Spread         string        `json:"spread,omitempty"`
	Bake           time.Duration `json:"bake"` // a wave must go on well for it
	PauseAfter     []int         `json:"pauseAfter,omitempty"`
	Window         string        `json:"window,omitempty"` // when machines may be moved, see ParseWindow
	How            How           `json:"how"`
	Drain          ingot.Drain   `json:"drain,omitempty"` // before a machine is made to reboot
	Quorum         int           `json:"quorum"`          // percent of a wave that must be good
	Patience       time.Duration `json:"patience"`        // waiting without progress before it pauses as inconclusive
	Trouble        int           `json:"trouble"`         // machines with failures elsewhere that pause it
	Attempts       int           `json:"attempts"`        // failures in a row after which a machine is given up
	Test           Test          `json:"test"`
}

// How says how a machine comes to boot the image.
type How string

// The ways. Later versions know more.
const (
	Auto     How = "auto"      // Reboot for machines that take orders, else NextBoot
	Reboot   How = "reboot"    // its agent is ordered to reboot
	NextBoot How = "next-boot" // somebody else reboots it
)

// Amount is a number of machines, or a share of them.
type Amount struct {
	Machines int `json:"machines,omitempty"`
	Percent  int `json:"percent,omitempty"` // if Machines is 0
}

// Of returns the number of machines of so many, at least one.
func (a Amount) Of(all int) int {
	if a.Machines > 0 {
		return a.Machines
	}
	return max(1, all*a.Percent/100)
}

// pausesAfter reports whether a person wants to look after a wave.
func (p Policy) pausesAfter(wave int) bool { return slices.Contains(p.PauseAfter, wave) }

// enter returns the rollout in another state.
func (r Rollout) enter(s State, by, why string, now time.Time) Rollout {
	r.State, r.Since = s, now
	r.Log = append(slices.Clone(r.Log), Entry{At: now, State: s, Wave: r.Wave, By: by, Why: why})
	if more := len(r.Log) - maxLog; more > 0 {
		r.Log = r.Log[more:]
	}
	if s.Ended() {
		r.Ended = now
	}
	return r
}

// stop returns the rollout paused or halted.
func (r Rollout) stop(s State, why Stop, now time.Time) Rollout {
	if !r.State.Stopped() {
		r.Before = r.State
	}
	why.At = now
	if more := len(why.Evidence) - maxEvidence; more > 0 {
		why.More, why.Evidence = more, why.Evidence[:maxEvidence]
	}
	r = r.enter(s, why.By, why.Text, now)
	r.Stop = &why
	return r
}

// waveState is the state in which machines of a wave are moved.
func (r Rollout) waveState() State {
	if r.Wave == 0 {
		return Canary
	}
	return Wave
}

// quorum is the percentage of the machines of the present wave that must be good; of the canaries all must.
func (r Rollout) quorum() int {
	if r.Wave == 0 {
		return 100
	}
	return r.Policy.Quorum
}

// WaveName returns the name of a wave: "the canary", "wave 2".
func WaveName(wave int) string {
	if wave == 0 {
		return "the canary"
	}
	return "wave " + itoa(wave)
}

// byPlace sorts members in the order in which they are moved.
func byPlace(a, b Member) int {
	return cmp.Or(cmp.Compare(a.Place, b.Place), cmp.Compare(a.Machine, b.Machine))
}
