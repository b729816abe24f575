package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"ingot"
	"ingot/bootserver/access"
)

// Rollouts is what the server can do about rollouts.
type Rollouts interface {
	// Rollouts returns all rollouts, the oldest first.
	Rollouts() []Rollout
	// OpenRollouts returns those that have not ended, without Count.
	OpenRollouts() []Rollout
	// Rollout returns one rollout, by id.
	Rollout(id string) (RolloutDetail, error)
	// RolloutMachines returns the machines of a rollout, in the order in which they are moved.
	RolloutMachines(id string) ([]RolloutMachine, error)
	// StartRollout starts a rollout, or with DryRun only plans it.
	StartRollout(ctx context.Context, q RolloutRequest) (RolloutPlan, error)
	PauseRollout(ctx context.Context, id string, q WhyRequest) (Rollout, error)
	ResumeRollout(ctx context.Context, id string, q WhyRequest) (Rollout, error)
	AbortRollout(ctx context.Context, id string, q WhyRequest) (Rollout, error)
}

// RolloutRequest says which machines get an image, and how. What is left out has a default.
type RolloutRequest struct {
	Image    string        `json:"image" maxLength:"300"`
	Selector string        `json:"selector" maxLength:"4000" doc:"Labels, a hostlist, the name of a machine, or all."`
	Policy   RolloutPolicy `json:"policy,omitempty"`
	Force    bool          `json:"force,omitempty" doc:"As in AssignRequest."`
	DryRun   bool          `json:"dryRun,omitempty"`
}

// RolloutPolicy is how a rollout proceeds.
type RolloutPolicy struct {
	Canary         *int          `json:"canary,omitempty" doc:"Machines of the first wave. Default: 1."`
	Waves          []int         `json:"waves,omitempty" doc:"Percent of the machines after each wave, rising to 100."`
	MaxUnavailable Amount        `json:"maxUnavailable,omitzero" doc:"Of each failure domain. Default: 10 percent."`
	Spread         string        `json:"spread,omitempty" maxLength:"200" doc:"Label whose values are failure domains."`
	Bake           time.Duration `json:"bake,omitempty" doc:"Nanoseconds that a wave must go on well. Default: 15 min."`
	PauseAfter     []int         `json:"pauseAfter,omitempty" doc:"Waves after which a person looks; 0: the canary."`
	Window         string        `json:"window,omitempty" maxLength:"200" doc:"Mon-Fri 09:00-16:00 Europe/Berlin"`
	How            string        `json:"how,omitempty" enum:"auto,reboot,next-boot" doc:"How machines come to boot it."`
	Drain          ingot.Drain   `json:"drain,omitempty" enum:"required,best-effort" doc:"Run drain hooks first."`
	Quorum         int           `json:"quorum,omitempty" doc:"Percent of a wave that must be good. Default: 90."`
	Patience       time.Duration `json:"patience,omitempty" doc:"Nanoseconds without progress before it pauses."`
	Trouble        int           `json:"trouble,omitempty" doc:"Machines with failures elsewhere that pause it."`
	Attempts       int           `json:"attempts,omitempty" doc:"Failures in a row after which a machine is given up."`
	Test           RolloutTest   `json:"test,omitzero"`
}

// Amount is a number of machines, or a share of them.
type Amount struct {
	Machines int `json:"machines,omitempty"`
	Percent  int `json:"percent,omitempty"`
}

// RolloutTest are the parameters of the test that stops a rollout.
type RolloutTest struct {
	Usual float64 `json:"usual,omitempty" doc:"Rate of boots that fail, of good images. Default: the fleet's own."`
	Bad   float64 `json:"bad,omitempty" doc:"Rate of an image that must be stopped. Default: ten times Usual."`
	Alpha float64 `json:"alpha,omitempty" doc:"Probability of stopping a good image, for each test."`
	Beta  float64 `json:"beta,omitempty" doc:"Probability of not stopping a bad one."`
}

// WhyRequest has the reason of an operator.
type WhyRequest struct {
	Why string `json:"why,omitempty" maxLength:"400"`
}

// Rollout is one image on its way to many machines.
type Rollout struct {
	ID       string         `json:"id"`
	Image    ImageRef       `json:"image"`
	Selector string         `json:"selector"`
	Policy   RolloutPolicy  `json:"policy"`
	By       string         `json:"by"`
	Created  time.Time      `json:"created"`
	State    string         `json:"state"` // planned, canary, wave, baking, paused, halted, aborting, done or back
	Since    time.Time      `json:"since"`
	Wave     int            `json:"wave"` // 0: the canaries
	Waves    int            `json:"waves"`
	Machines int            `json:"machines"`
	Stop     *RolloutStop   `json:"stop,omitempty"` // why it is paused or halted, or was
	Ended    time.Time      `json:"ended,omitzero"`
	Count    map[string]int `json:"count"` // machines by what they are to the rollout
	Log      []RolloutEntry `json:"log,omitempty"`
}

// RolloutEntry is a change of the state of a rollout.
type RolloutEntry struct {
	At    time.Time `json:"at"`
	State string    `json:"state"`
	Wave  int       `json:"wave"`
	By    string    `json:"by,omitempty"`
	Why   string    `json:"why,omitempty"`
}

// RolloutStop is why a rollout stopped.
type RolloutStop struct {
	Reason   string            `json:"reason"`
	At       time.Time         `json:"at"`
	By       string            `json:"by,omitempty"`
	Text     string            `json:"text"` // one sentence
	Evidence []RolloutEvidence `json:"evidence,omitempty"`
	More     int               `json:"more,omitempty"` // machines that Evidence does not name
}

// RolloutEvidence is a machine that stopped a rollout, or for which it waits.
type RolloutEvidence struct {
	Machine ingot.MachineID   `json:"machine"`
	Name    string            `json:"name"`
	Boot    ingot.BootID      `json:"boot,omitempty"`
	Stage   ingot.Stage       `json:"stage,omitempty"`
	Code    ingot.FailureCode `json:"code,omitempty"`
	Reason  string            `json:"reason"`
}

// RolloutDetail is a rollout with what is computed for its page.
type RolloutDetail struct {
	Rollout
	Budget []RolloutBudget `json:"budget"`
	// the test after each boot that it counts, and the bounds at which it decides
	Curve []RolloutPoint `json:"curve"`
	Stops float64        `json:"stops"`
	Good  float64        `json:"good"`
	// what machines that failed have in common and healthy ones have not
	Common []RolloutShared `json:"common,omitempty"`
	// machines whose boots cannot be read, so that they count as not healthy
	Unreadable []RolloutEvidence `json:"unreadable,omitempty"`
}

// RolloutBudget is how many machines of a failure domain may be unavailable, and are.
type RolloutBudget struct {
	Domain      string `json:"domain"`
	Machines    int    `json:"machines"`
	Unavailable int    `json:"unavailable"`
	Most        int    `json:"most"`
}

// RolloutPoint is the test after one boot.
type RolloutPoint struct {
	Machine ingot.MachineID `json:"machine"`
	Boot    ingot.BootID    `json:"boot"`
	At      time.Time       `json:"at"`
	Bad     bool            `json:"bad"`
	Ratio   float64         `json:"ratio"`   // logarithm of the ratio of both probabilities
	Verdict string          `json:"verdict"` // good: the test starts anew; bad: stop
}

// RolloutShared is what machines that failed have in common.
type RolloutShared struct {
	Kind    string `json:"kind"`
	Value   string `json:"value"`
	Failed  int    `json:"failed"`  // machines that failed and have it
	OfBad   int    `json:"ofBad"`   // machines that failed
	Healthy int    `json:"healthy"` // healthy ones that have it
	OfGood  int    `json:"ofGood"`  // healthy ones
}

// RolloutMachine is a machine of a rollout.
type RolloutMachine struct {
	Machine ingot.MachineID `json:"machine"`
	Name    string          `json:"name"`
	Domain  string          `json:"domain,omitempty"`
	Wave    int             `json:"wave"`
	From    ImageRef        `json:"from"`
	Moved   time.Time       `json:"moved,omitzero"`
	Ordered time.Time       `json:"ordered,omitzero"` // when it was ordered to reboot into the image
	Back    time.Time       `json:"back,omitzero"`    // when it was assigned what it had before
	// waiting, unfit, moving, good, bad, has it, back, not moved (and the rollout has ended) or outside
	Is      string          `json:"is"`
	Why     string          `json:"why,omitempty"`
	Results []RolloutResult `json:"results,omitempty"`
}

// RolloutResult is what one boot of the image said of it.
type RolloutResult struct {
	Boot   ingot.BootID      `json:"boot"`
	Seq    int               `json:"seq"`
	Class  string            `json:"class"` // good, bad or elsewhere
	At     time.Time         `json:"at"`
	Stage  ingot.Stage       `json:"stage,omitempty"`
	Code   ingot.FailureCode `json:"code,omitempty"`
	Reason string            `json:"reason,omitempty"`
	Late   bool              `json:"late,omitempty"`
	Again  bool              `json:"again,omitempty"`
	Void   bool              `json:"void,omitempty"`
}

// RolloutPlan is what a rollout will do.
type RolloutPlan struct {
	Rollout  Rollout          `json:"rollout"`
	DryRun   bool             `json:"dryRun"`
	Boots    int              `json:"boots"` // of which the usual rate of failures was computed
	Machines []PlannedMachine `json:"machines"`
	Changes  []PlannedChange  `json:"changes"` // for each image that machines have now
	Notes    []string         `json:"notes,omitempty"`
}

// PlannedMachine is a machine in the plan of a rollout.
type PlannedMachine struct {
	Machine ingot.MachineID `json:"machine"`
	Name    string          `json:"name"`
	Domain  string          `json:"domain,omitempty"`
	Wave    int             `json:"wave"`
	From    ImageRef        `json:"from"`
	Out     string          `json:"out,omitempty"`  // why it would not be moved now
	Note    string          `json:"note,omitempty"` // what may keep the image from running on it
}

// PlannedChange is what changes for machines that have an image now.
type PlannedChange struct {
	From     ImageRef `json:"from"`
	Machines int      `json:"machines"`
	Lines    []string `json:"lines"`
	// packages with another version, or of one image only; absent if an image has no SBOM
	Packages []PackageChange `json:"packages,omitempty"`
}

// PackageChange is a package that two images have in different versions, or one of them has not.
type PackageChange struct {
	Name   string `json:"name"`
	Before string `json:"before,omitempty"` // version
	After  string `json:"after,omitempty"`
}

// RolloutIn names one rollout in the path of a route.
type RolloutIn struct {
	ID string `path:"id" maxLength:"40" doc:"Id of the rollout: r7."`
}

func rolloutRoutes(r *routes, b Backend) {
	type whyIn struct {
		RolloutIn
		Body WhyRequest
	}
	type startIn struct{ Body RolloutRequest }
	add(r, "GET /v1/rollouts", access.Read, "All rollouts, the oldest first",
		func(context.Context, *nothingIn) ([]Rollout, error) { return append([]Rollout{}, b.Rollouts()...), nil })
	add(r, "POST /v1/rollouts", access.Operate, "Bring an image to many machines, or with dryRun plan that",
		func(ctx context.Context, in *startIn) (RolloutPlan, error) { return b.StartRollout(ctx, in.Body) })
	add(r, "GET /v1/rollouts/{id}", access.Read, "One rollout, with its budget and its test",
		func(_ context.Context, in *RolloutIn) (RolloutDetail, error) { return b.Rollout(in.ID) })
	type machinesIn struct {
		RolloutIn
		PageIn
	}
	addPage(r, "GET /v1/rollouts/{id}/machines", access.Read, "The machines of a rollout, as they are moved",
		func(_ context.Context, in *machinesIn) ([]RolloutMachine, string, error) {
			all, err := b.RolloutMachines(in.ID)
			if err != nil {
				return nil, "", err
			}
			return page(all, in.PageIn, func(m RolloutMachine) string { return string(m.Machine) })
		})
	add(r, "POST /v1/rollouts/{id}/pause", access.Operate, "Pause a rollout",
		func(ctx context.Context, in *whyIn) (Rollout, error) { return b.PauseRollout(ctx, in.ID, in.Body) })
	add(r, "POST /v1/rollouts/{id}/resume", access.Operate, "Let a paused or halted rollout go on",
		func(ctx context.Context, in *whyIn) (Rollout, error) { return b.ResumeRollout(ctx, in.ID, in.Body) })
	add(r, "POST /v1/rollouts/{id}/abort", access.Operate, "Assign to each machine that was moved what it had before",
		func(ctx context.Context, in *whyIn) (Rollout, error) { return b.AbortRollout(ctx, in.ID, in.Body) })
}

// markRoutes are those of what operators say of machines for rollouts.
func markRoutes(r *routes, b Backend) {
	add(r, "POST /v1/machines/{ref}/pin", access.Operate, "Keep a machine out of rollouts",
		func(ctx context.Context, in *changeIn[WhyRequest]) (Machine, error) {
			return b.Pin(ctx, in.Ref, in.Body)
		})
	add(r, "DELETE /v1/machines/{ref}/pin", access.Operate, "Let a machine take part in rollouts again",
		func(ctx context.Context, in *MachineIn) (Machine, error) { return b.Unpin(ctx, in.Ref) })
	add(r, "POST /v1/machines/{ref}/off", access.Operate, "Note that a machine is switched off, until it boots",
		func(ctx context.Context, in *changeIn[WhyRequest]) (Machine, error) {
			return b.SwitchOff(ctx, in.Ref, in.Body)
		})
	add(r, "DELETE /v1/machines/{ref}/off", access.Operate, "Take back that a machine is switched off",
		func(ctx context.Context, in *MachineIn) (Machine, error) { return b.SwitchOn(ctx, in.Ref) })
}

func rolloutPath(id string) string { return "rollouts/" + url.PathEscape(id) }

// Rollouts lists all rollouts, the oldest first.
func (c *Client) Rollouts(ctx context.Context) ([]Rollout, error) {
	return list[Rollout](ctx, c, "rollouts")
}

// Rollout returns one rollout.
func (c *Client) Rollout(ctx context.Context, id string) (r RolloutDetail, err error) {
	return r, c.call(ctx, http.MethodGet, rolloutPath(id), nil, &r)
}

// RolloutMachines lists the machines of a rollout.
func (c *Client) RolloutMachines(ctx context.Context, id string) ([]RolloutMachine, error) {
	return pages[RolloutMachine](ctx, c, rolloutPath(id)+"/machines", url.Values{"limit": {"2000"}})
}

// StartRollout starts a rollout, or plans it.
func (c *Client) StartRollout(ctx context.Context, q RolloutRequest) (p RolloutPlan, err error) {
	return p, c.patient(longPatience).call(ctx, http.MethodPost, "rollouts", q, &p)
}

// ChangeRollout pauses, resumes or aborts a rollout: verb is "pause", "resume" or "abort".
func (c *Client) ChangeRollout(ctx context.Context, id, verb, why string) (r Rollout, err error) {
	return r, c.call(ctx, http.MethodPost, rolloutPath(id)+"/"+verb, WhyRequest{why}, &r)
}

// Pin keeps a machine out of rollouts.
func (c *Client) Pin(ctx context.Context, ref, why string) (Machine, error) {
	return c.change(ctx, ref, "pin", WhyRequest{why})
}

// Unpin lets a machine take part in rollouts again.
func (c *Client) Unpin(ctx context.Context, ref string) (m Machine, err error) {
	return m, c.call(ctx, http.MethodDelete, "machines/"+url.PathEscape(ref)+"/pin", nil, &m)
}

// SwitchOff notes that a machine is switched off, until it boots.
func (c *Client) SwitchOff(ctx context.Context, ref, why string) (Machine, error) {
	return c.change(ctx, ref, "off", WhyRequest{why})
}

// SwitchOn takes back that a machine is switched off.
func (c *Client) SwitchOn(ctx context.Context, ref string) (m Machine, err error) {
	return m, c.call(ctx, http.MethodDelete, "machines/"+url.PathEscape(ref)+"/off", nil, &m)
}
