package record

import (
	"time"

	"ingot"
	"ingot/bootserver/fleet/rollout"
)

// rolloutVersion is that of rollouts and their members that this program writes.
const rolloutVersion = 1

type rolloutRecord struct {
	V          int            `json:"v"`
	ID         string         `json:"id"`
	Number     int            `json:"number"`
	Generation uint64         `json:"generation"`
	Image      imageRef       `json:"image"`
	Selector   string         `json:"selector"`
	Policy     policy         `json:"policy"`
	By         string         `json:"by"`
	Created    time.Time      `json:"created"`
	State      string         `json:"state"`
	Since      time.Time      `json:"since"`
	Wave       int            `json:"wave,omitempty"`
	Waves      int            `json:"waves"`
	Machines   int            `json:"machines"`
	Stop       *stop          `json:"stop,omitempty"`
	Before     string         `json:"before,omitempty"`
	Counted    int            `json:"counted,omitempty"`
	Ledger     string         `json:"ledger,omitempty"`
	Seen       int            `json:"seen,omitempty"`
	Ended      time.Time      `json:"ended,omitzero"`
	Count      map[string]int `json:"count,omitempty"`
	Log        []rolloutEntry `json:"log,omitempty"`
}

type policy struct {
	Canary         int           `json:"canary"`
	Waves          []int         `json:"waves"`
	MaxUnavailable amount        `json:"maxUnavailable"`
	Spread         string        `json:"spread,omitempty"`
	Bake           time.Duration `json:"bake"`
	PauseAfter     []int         `json:"pauseAfter,omitempty"`
	Window         string        `json:"window,omitempty"`
	How            string        `json:"how"`
	Drain          ingot.Drain   `json:"drain,omitempty"`
	Quorum         int           `json:"quorum"`
	Patience       time.Duration `json:"patience"`
	Trouble        int           `json:"trouble"`
	Attempts       int           `json:"attempts"`
	Test           waldTest      `json:"test"`
}

type amount struct {
	Machines int `json:"machines,omitempty"`
	Percent  int `json:"percent,omitempty"`
}

type waldTest struct {
	Usual float64 `json:"usual"`
	Bad   float64 `json:"bad"`
	Alpha float64 `json:"alpha"`
	Beta  float64 `json:"beta"`
}

type rolloutEntry struct {
	At    time.Time `json:"at"`
	State string    `json:"state"`
	Wave  int       `json:"wave"`
	By    string    `json:"by,omitempty"`
	Why   string    `json:"why,omitempty"`
}

type stop struct {
	Reason   string     `json:"reason"`
	At       time.Time  `json:"at"`
	By       string     `json:"by,omitempty"`
	Text     string     `json:"text"`
	Evidence []evidence `json:"evidence,omitempty"`
	More     int        `json:"more,omitempty"`
}

type evidence struct {
	Machine ingot.MachineID   `json:"machine"`
	Name    string            `json:"name"`
	Boot    ingot.BootID      `json:"boot,omitempty"`
	Stage   ingot.Stage       `json:"stage,omitempty"`
	Code    ingot.FailureCode `json:"code,omitempty"`
	Reason  string            `json:"reason"`
}

// member is the record of a machine of a rollout.
type member struct {
	V       int             `json:"v"`
	Rollout string          `json:"rollout"`
	Machine ingot.MachineID `json:"machine"`
	Name    string          `json:"name"`
	Domain  string          `json:"domain,omitempty"`
	Place   int             `json:"place"`
	Wave    int             `json:"wave"`
	From    imageRef        `json:"from"`
	Moved   time.Time       `json:"moved,omitzero"`
	Number  int             `json:"number,omitempty"`
	Results []bootResult    `json:"results,omitempty"`
	Left    string          `json:"left,omitempty"`
	Gone    time.Time       `json:"gone,omitzero"`
	GivenUp bool            `json:"givenUp,omitempty"`
	GaveUp  int             `json:"gaveUp,omitempty"`
	Ordered time.Time       `json:"ordered,omitzero"`
	Stuck   string          `json:"stuck,omitempty"`
	StuckAt int             `json:"stuckAt,omitempty"`
}

type bootResult struct {
	Boot   ingot.BootID      `json:"boot"`
	Seq    int               `json:"seq"`
	Class  string            `json:"class"`
	At     time.Time         `json:"at"`
	Stage  ingot.Stage       `json:"stage,omitempty"`
	Code   ingot.FailureCode `json:"code,omitempty"`
	Reason string            `json:"reason,omitempty"`
	Late   bool              `json:"late,omitempty"`
	Again  bool              `json:"again,omitempty"`
	Void   bool              `json:"void,omitempty"`
}

func rolloutOf(r rollout.Rollout) rolloutRecord {
	return rolloutRecord{V: rolloutVersion, ID: r.ID, Number: r.Number, Generation: r.Generation, Image: imageRef(r.Image),
		Selector: r.Selector, Policy: policyOf(r.Policy), By: r.By, Created: r.Created, State: string(r.State),
		Since: r.Since, Wave: r.Wave, Waves: r.Waves, Machines: r.Machines, Stop: stopOf(r.Stop), Before: string(r.Before),
		Counted: r.Counted, Ledger: r.Ledger, Seen: r.Seen, Ended: r.Ended, Count: r.Count,
		Log: list(r.Log, func(e rollout.Entry) rolloutEntry {
			return rolloutEntry{e.At, string(e.State), e.Wave, e.By, e.Why}
		})}
}

func (r rolloutRecord) value() rollout.Rollout {
	return rollout.Rollout{ID: r.ID, Number: r.Number, Generation: r.Generation, Image: rollout.Image(r.Image),
		Selector: r.Selector, Policy: r.Policy.value(), By: r.By, Created: r.Created, State: rollout.State(r.State),
		Since: r.Since, Wave: r.Wave, Waves: r.Waves, Machines: r.Machines, Stop: r.Stop.value(),
		Before: rollout.State(r.Before), Counted: r.Counted, Ledger: r.Ledger, Seen: r.Seen, Ended: r.Ended, Count: r.Count,
		Log: list(r.Log, func(e rolloutEntry) rollout.Entry {
			return rollout.Entry{At: e.At, State: rollout.State(e.State), Wave: e.Wave, By: e.By, Why: e.Why}
		})}
}

func policyOf(p rollout.Policy) policy {
	return policy{p.Canary, p.Waves, amount(p.MaxUnavailable), p.Spread, p.Bake, p.PauseAfter, p.Window, string(p.How),
		p.Drain, p.Quorum, p.Patience, p.Trouble, p.Attempts, waldTest(p.Test)}
}

func (r policy) value() rollout.Policy {
	return rollout.Policy{Canary: r.Canary, Waves: r.Waves, MaxUnavailable: rollout.Amount(r.MaxUnavailable),
		Spread: r.Spread, Bake: r.Bake, PauseAfter: r.PauseAfter, Window: r.Window, How: rollout.How(r.How),
		Drain:  r.Drain,
		Quorum: r.Quorum, Patience: r.Patience, Trouble: r.Trouble, Attempts: r.Attempts, Test: rollout.Test(r.Test)}
}

func stopOf(s *rollout.Stop) *stop {
	if s == nil {
		return nil
	}
	return &stop{string(s.Reason), s.At, s.By, s.Text, list(s.Evidence, func(e rollout.Evidence) evidence {
		return evidence(e)
	}), s.More}
}

func (r *stop) value() *rollout.Stop {
	if r == nil {
		return nil
	}
	return &rollout.Stop{Reason: rollout.Reason(r.Reason), At: r.At, By: r.By, Text: r.Text,
		Evidence: list(r.Evidence, func(e evidence) rollout.Evidence { return rollout.Evidence(e) }), More: r.More}
}

func memberOf(m rollout.Member) member {
	return member{rolloutVersion, m.Rollout, m.Machine, m.Name, m.Domain, m.Place, m.Wave, imageRef(m.From), m.Moved,
		m.Number, list(m.Results, resultOf), m.Left, m.Gone, m.GivenUp, m.GaveUp, m.Ordered, m.Stuck, m.StuckAt}
}

func (r member) value() rollout.Member {
	return rollout.Member{Rollout: r.Rollout, Machine: r.Machine, Name: r.Name, Domain: r.Domain, Place: r.Place,
		Wave: r.Wave, From: rollout.Image(r.From), Moved: r.Moved, Number: r.Number,
		Results: list(r.Results, bootResult.value), Left: r.Left, Gone: r.Gone, GivenUp: r.GivenUp, GaveUp: r.GaveUp,
		Ordered: r.Ordered, Stuck: r.Stuck, StuckAt: r.StuckAt}
}

func resultOf(r rollout.Result) bootResult {
	return bootResult{r.Boot, r.Seq, string(r.Class), r.At, r.Stage, r.Code, r.Reason, r.Late, r.Again, r.Void}
}

func (r bootResult) value() rollout.Result {
	return rollout.Result{Boot: r.Boot, Seq: r.Seq, Class: rollout.Class(r.Class), At: r.At, Stage: r.Stage, Code: r.Code,
		Reason: r.Reason, Late: r.Late, Again: r.Again, Void: r.Void}
}
