package fleet

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"ingot"
)

// Image has the facts about an image that decisions need. The caller looks them up.
type Image struct {
	ImageRef
	Root     ingot.Digest
	Deadline time.Duration // from the script to the report; 0: the policy's
	UKI      bool          // the image has one
	Able     bool          // its signed manifest has ingot.FeatureAuthenticated
	Err      error         // why it cannot be served; nil if it can
}

// Images are the images that were looked up, by digest, or by name for those in a policy.
type Images map[string]Image

// StaleFacts is the error of a decision that needs an image that was not looked up, because
// the records changed in the meantime. The caller looks it up and decides again.
type StaleFacts struct{ Missing []string }

func (e *StaleFacts) Error() string {
	return "the facts of the decision are stale; images not looked up: " + strings.Join(e.Missing, ", ")
}

// Decision is the result of a decision about a machine and one of its boots: the new
// records, and the Changes that led to them. It is a pure function of its inputs, so the
// same facts always give the same Decision.
type Decision struct {
	Machine Machine
	Boot    Boot     // no boot if its ID is empty
	Older   []Boot   // older boots of the machine that changed
	Changes []Change // in chronological order

	now     time.Time
	by      Actor
	policy  BootPolicy
	images  Images
	missing []string // images that were needed but not looked up
	machine Machine  // before the decision
	boot    Boot     // before the decision
	created bool     // the machine is new
}

// NewDecision begins a decision about a machine and one of its boots; the zero Boot means
// none. by is zero unless an operator decides.
func NewDecision(m Machine, b Boot, p BootPolicy, images Images, by Actor, now time.Time) *Decision {
	return &Decision{Machine: m, Boot: b, now: now, by: by, policy: p, images: images, machine: m, boot: b}
}

// Err returns a *StaleFacts if the decision needed an image that was not looked up.
func (d *Decision) Err() error {
	if len(d.missing) == 0 {
		return nil
	}
	return &StaleFacts{d.missing}
}

// seenInterval is how outdated the stored LastSeen of a machine may become, if nothing else
// of its record changes.
const seenInterval = 30 * time.Second

// MachineChanged reports whether the machine must be stored.
func (d *Decision) MachineChanged() bool {
	was := d.machine
	if d.Machine.LastSeen.Sub(was.LastSeen) <= seenInterval {
		was.LastSeen = d.Machine.LastSeen
	}
	return d.created || !same(&was, &d.Machine)
}

// BootChanged reports whether the boot must be stored.
func (d *Decision) BootChanged() bool { return d.Boot.ID != "" && !same(&d.boot, &d.Boot) }

// Began reports whether the decision started a new boot.
func (d *Decision) Began() bool { return d.Boot.ID != "" && d.Boot.ID != d.boot.ID }

// same compares records. It alone decides which records are written.
func same[T any](a, b *T) bool { return reflect.DeepEqual(a, b) }

// usualChanges is how many Changes the decision about a new machine has.
const usualChanges = 6

// add adds a Change about the machine.
func (d *Decision) add(c Change) {
	c.At, c.Machine, c.Actor = d.now, d.Machine.ID, d.by
	if d.Changes == nil {
		d.Changes = make([]Change, 0, usualChanges)
	}
	d.Changes = append(d.Changes, c)
}

// addBoot adds a Change about a boot.
func (d *Decision) addBoot(b Boot, c Change) {
	c.Boot = b.ID
	d.add(c)
}

// set sets a string field of the machine, and adds the Change if it differs.
func (d *Decision) set(code Code, field string, text *string, to string) {
	if *text != to {
		d.add(Change{Code: code, From: Values{field: *text}, To: Values{field: to}})
		*text = to
	}
}

// image returns the facts about an image. If it was not looked up, the decision is
// invalid, see Err.
func (d *Decision) image(ref string) Image {
	im, known := d.images[ref]
	if !known {
		if !slices.Contains(d.missing, ref) {
			d.missing = append(d.missing, ref)
		}
		im.Err = &StaleFacts{[]string{ref}}
	}
	return im
}

// Image returns the facts about an image. If it was not looked up, the decision is
// invalid, see Err.
func (d *Decision) Image(image ingot.Digest) Image { return d.image(string(image)) }

// servable reports whether an image can be served.
func (d *Decision) servable(image ingot.Digest) bool { return d.image(string(image)).Err == nil }

// MaxEvents limits the events of one boot, so that a machine that fails in a loop does not
// fill the disk.
const MaxEvents = 200

// Record adds an event to the boot, if it is open or was ended as silent: after a clock
// change, the server may end boots that are still in progress. A failure that the machine
// will not retry ends an open boot.
func (d *Decision) Record(e ingot.Event) {
	b := d.Boot
	e = b.boundEvent(e)
	d.spendGrants(e)
	last := e.Error != "" && !e.Retry && b.Open() // the final failure is recorded even beyond the limit
	if !b.Open() && b.Outcome != ingot.OutcomeSilent || len(b.Events) >= MaxEvents && !last {
		return
	}
	if e.Error == "" && e.Check != nil {
		d.recordCheck(e)
		return
	}
	// A repeated event is a retransmission, or another fetch of the waiting screen.
	if n := len(b.Events); n > 0 && e.Error == "" {
		before := b.Events[n-1]
		if before.Error == "" && before.Stage == e.Stage && before.Detail == e.Detail && before.Bytes == e.Bytes {
			return
		}
	}
	if e.Error == "" || !e.Code.Plausible() {
		e.Code = ""
	}
	b.Events = append(slices.Clone(b.Events), Event{e, d.now})
	d.Boot = b
	d.addBoot(b, stageChange(b.Events[len(b.Events)-1]))
	for _, r := range e.Results {
		if c, is := volumeChange(r); is {
			d.note(c)
		}
	}
	d.spendOnce()
	if last {
		d.End(Ending{ingot.OutcomeFailed, CauseFailed, fmt.Sprintf("stage %s: %s", e.Stage, e.Error)})
	}
}

// maxCheck limits how long after its start a boot may be that checks filesystems.
const maxCheck = 48 * time.Hour

// recordCheck records how far the check of a filesystem is. An event about the same check
// replaces the previous one, and the deadline of the boot moves by the time between them:
// the time of a check does not count against the boot.
func (d *Decision) recordCheck(e ingot.Event) {
	b := d.Boot
	events := slices.Clone(b.Events)
	var before Event
	if n := len(events); n > 0 {
		before = events[n-1]
	}
	follows := before.Check != nil && before.Check.Volume == e.Check.Volume
	if follows {
		events = events[:len(events)-1]
		check := *e.Check
		check.Percent = max(check.Percent, before.Check.Percent) // it never goes back, in the ledger either
		e.Check = &check
	}
	if passed := d.now.Sub(before.At); passed > 0 && !b.Deadline.IsZero() && b.Open() && !before.At.IsZero() {
		b.Deadline = b.Deadline.Add(passed)
		if latest := b.Started.Add(maxCheck); b.Deadline.After(latest) {
			b.Deadline = latest
		}
	}
	b.Events = append(events, Event{e, d.now})
	d.Boot = b
	const tenth = 10
	switch c := stageChange(b.Events[len(b.Events)-1]); {
	case !follows:
		d.addBoot(b, c)
	case before.Check.Percent/tenth != e.Check.Percent/tenth:
		d.note(c)
	}
}

// spendGrants marks grants as used, also if the boot has ended: the machine wrote.
func (d *Decision) spendGrants(e ingot.Event) {
	if e.Stage != ingot.StageVolumes || len(e.Volumes) == 0 {
		return
	}
	after, spent := SpendGrants(d.Machine, d.Boot.ID, e.Volumes)
	if len(spent) == 0 {
		return
	}
	d.Machine = after
	for _, g := range spent {
		d.addBoot(d.Boot, Change{Code: CodeGrantUsed, From: grantValues(g)})
	}
}

// Report records a health report. The boot is healthy if all checks passed and the measured
// root is the assigned one; the image then counts as healthy on this machine. Reports of
// boots other than the machine's latest one are ignored.
func (d *Decision) Report(r ingot.Report) {
	if d.Machine.Boot != d.Boot.ID {
		return
	}
	if d.Machine.Claim == nil {
		d.Machine.LastSeen = d.now
	}
	d.noteReport(r)
	d.Boot.Report = &r
	if d.Boot.Outcome == ingot.OutcomeHealthy || d.Boot.Outcome == ingot.OutcomeFailed {
		return
	}
	d.Boot.Outcome = ingot.OutcomeOpen // a late report of the latest boot still counts
	if code, reason := fault(r, d.Boot.Root); reason != "" {
		d.Record(ingot.Event{Stage: ingot.StageHealthy, Error: reason, Code: code})
		return
	}
	d.Record(ingot.Event{Stage: ingot.StageHealthy, Uptime: r.Uptime, Detail: "root " + r.Root.Short()})
	if !d.tentative() {
		d.countHealthy()
	}
	d.End(Ending{ingot.OutcomeHealthy, CauseReport, ""})
}

// fault returns why a report makes its boot fail; the reason is empty if it does not.
func fault(r ingot.Report, root ingot.Digest) (ingot.FailureCode, string) {
	if r.Root != root {
		return ingot.FailureRootMeasurement, fmt.Sprintf("the machine measured root %s; the assigned root is %s",
			r.Root.Short(), root.Short())
	}
	for _, c := range r.Checks {
		if !c.OK {
			return ingot.FailureCheck, fmt.Sprintf("check %s failed: %s", c.Name, c.Detail)
		}
	}
	if !r.Healthy {
		return ingot.FailureUnhealthy, "the machine reports that it is not healthy"
	}
	return "", ""
}

// maxHealthy limits the list of images that were healthy on a machine.
const maxHealthy = 20

// countHealthy records that the image of the boot was healthy on the machine. An image that is not
// assigned, or that got other arguments, says nothing about later boots.
func (d *Decision) countHealthy() {
	if d.Boot.Once == nil {
		d.Machine = healthyOn(d.Machine, d.Boot.Image)
	}
}

// healthyOn records that an image was healthy on a machine.
func healthyOn(m Machine, image ImageRef) Machine {
	m.LastHealthy = image
	m.Healthy = slices.DeleteFunc(slices.Clone(m.Healthy), func(i ImageRef) bool { return i.Image == image.Image })
	m.Healthy = append(m.Healthy, image)
	if more := len(m.Healthy) - maxHealthy; more > 0 {
		m.Healthy = m.Healthy[more:]
	}
	return m
}

// stageChange returns the Change of an event of a boot.
func stageChange(e Event) Change {
	c := Change{Code: CodeBootStage, Stage: e.Stage, Bytes: e.Bytes, Detail: e.Detail}
	if e.Error != "" {
		c.Code, c.Detail, c.Failure = CodeStageFailed, e.Error, e.Code
		if e.Retry {
			c.To = Values{"retry": true}
		}
	}
	return c
}

// volumeChange returns the Change of a volume that could not be used.
func volumeChange(r ingot.VolumeResult) (c Change, is bool) {
	v := Values{"volume": r.Volume, "state": string(r.State), "problem": string(r.Problem)}
	for name, text := range map[string]string{"device": r.Device, "disk": r.Disk} {
		if text != "" {
			v[name] = text
		}
	}
	return Change{Code: CodeVolumeProblem, Stage: ingot.StageVolumes, To: v, Detail: r.Detail}, !r.Mounted()
}

// reportChange returns the Change of a report if it differs from what the ledger has, nil if that is
// nothing: in the failed units, or in whether the machine is healthy.
func reportChange(recorded *Recorded, r ingot.Report) (c Change, is bool) {
	c = Change{Code: CodeBootReport, Stage: ingot.StageHealthy, To: Values{"isHealthy": r.Healthy}}
	if recorded != nil && recorded.Healthy != r.Healthy {
		c.To["healthy"] = r.Healthy
		checks, more := listed(r.Checks)
		if checks != nil {
			c.To["checks"] = checks
		}
		if more > 0 {
			c.To["moreChecks"] = more
		}
	}
	if len(r.Failed) > 0 && (recorded == nil || !slices.Equal(recorded.Failed, r.Failed)) {
		c.To["units"] = first(r.Failed, listedSize, maxUnits)
	}
	return c, len(c.To) > 1
}

// Cause is the type of event that ended a boot.
type Cause string

// The values of Cause.
const (
	CauseSuperseded Cause = "superseded" // the machine started another boot
	CauseDeadline   Cause = "deadline"   // no report by the deadline
	CauseStalled    Cause = "stalled"    // the first stage was not loaded, or sent nothing more
	CauseFailed     Cause = "failed"     // the machine reported that a stage failed
	CauseReport     Cause = "report"     // the machine's report decided it
	CauseConflict   Cause = "conflict"   // an earlier boot of the machine turned out to run still
)

// Ending describes how and why a boot ends.
type Ending struct {
	Outcome ingot.Outcome
	Cause   Cause
	Reason  string // for operators
}

// Superseded returns the ending of a boot that is replaced by a newer one.
func Superseded(b Boot) Ending {
	if b.Image.Image == "" {
		return Ending{ingot.OutcomeWaiting, CauseSuperseded, "the machine was waiting for an operator"}
	}
	return Ending{ingot.OutcomeSilent, CauseSuperseded,
		fmt.Sprintf("the machine restarted after stage %s without a report", b.Stage())}
}

// Overdue returns the ending of a boot that passed its deadline without a report; is is
// false if it did not.
func Overdue(b Boot, now time.Time) (e Ending, is bool) {
	if !b.Open() || b.Deadline.IsZero() || now.Before(b.Deadline) {
		return e, false
	}
	return Ending{ingot.OutcomeSilent, CauseDeadline, fmt.Sprintf("no report within %s; last stage %s",
		b.Deadline.Sub(b.Started).Round(time.Second), b.Stage())}, true
}

// end ends a boot and applies the outcome to the machine, see ApplyOutcome. All boots are
// ended here.
func (d *Decision) end(b Boot, e Ending) Boot {
	if !b.Open() {
		return b
	}
	b.Outcome, b.Cause, b.Reason, b.Ended = e.Outcome, e.Cause, e.Reason, d.now
	d.addBoot(b, Change{Code: CodeBootEnded, Image: b.Image, To: Values{"outcome": string(b.Outcome)}, Detail: b.Reason})
	if !d.tentative() {
		d.applyOutcome(b)
	}
	return b
}

// applyOutcome applies the outcome of a boot to the machine, see ApplyOutcome.
func (d *Decision) applyOutcome(b Boot) {
	before := d.Machine.Setback
	d.Machine = ApplyOutcome(d.Machine, b, d.policy.Healing(), d.servable, d.now)
	switch s := d.Machine.Setback; {
	case s == before:
	case s == nil:
		d.add(Change{Code: CodeImageResumed, Image: d.Machine.Assignment.ImageRef})
	case s.To.Image == "":
		d.add(Change{Code: CodeMachineHeld, Image: s.Gave, Detail: s.Why})
	default:
		d.add(Change{Code: CodeImageFallback, Image: s.To, From: imageValues(s.Gave), Detail: s.Why})
	}
}

// End ends the boot of the decision.
func (d *Decision) End(e Ending) { d.Boot = d.end(d.Boot, e) }

// EndOlder ends an older boot of the machine, if it is open.
func (d *Decision) EndOlder(b Boot, e Ending) {
	if !b.Open() {
		return
	}
	d.Older = append(d.Older, d.end(b, e))
}

// Restarts reports whether the machine should reboot by itself if it becomes unhealthy in
// this boot: only if the next boot is another attempt or boots another image. Otherwise
// it stays up for inspection.
func (d *Decision) Restarts() bool {
	if o := d.Boot.Once; o != nil { // an operator wants to look, or the next boot is of another image
		return !o.special()
	}
	trial := *d
	trial.Boot.Outcome = ingot.OutcomeOpen
	trial.Boot.Events = append(slices.Clone(d.Boot.Events), Event{Event: ingot.Event{Stage: ingot.StageAgent}})
	trial.Older, trial.Changes = nil, nil
	trial.End(Ending{ingot.OutcomeFailed, CauseFailed, ""})
	d.missing = trial.missing
	if s := trial.Machine.Setback; s != nil && s != d.Machine.Setback {
		return s.To.Image != ""
	}
	p := d.policy.Healing()
	return p.After == AfterRetry || len(trial.Machine.Trial.Failures) < p.Limit()
}

// run sets the image of the boot.
func (d *Decision) run(ref ImageRef, im Image) {
	var limit time.Duration
	if d.Boot.Once = d.Machine.Once; d.Boot.Once != nil {
		limit = d.Boot.Once.Limit
	}
	d.Boot.Image, d.Boot.Root, d.Boot.Order, d.Boot.Auth.Able = ref, im.Root, d.Machine.Orders, im.Able
	d.Boot.Deadline = d.now.Add(cmp.Or(limit, im.Deadline, d.policy.Deadline))
}

// Script decides which image the script of the boot starts. The error is the reason why
// the machine has to wait.
func (d *Decision) Script() (ingot.Digest, error) {
	if !d.guarded(&d.Boot) { // a machine that waits for its first image does not send another DHCP request
		d.assignFirst(d.policy.FirstImage(d.Machine))
	}
	if o := d.Machine.Once; o != nil && !d.servable(o.Image) {
		d.dropOnce("the image cannot be served: " + d.Image(o.Image).Err.Error())
	}
	ref, err := Next(d.Machine)
	if err != nil {
		return "", err
	}
	fetched := d.Boot.Served["kernel"]+d.Boot.Served["initramfs"] > 0
	if running := d.Boot.Image; running.Image != "" && fetched && d.servable(running.Image) {
		ref = running // a new assignment applies to the next boot, unless this image was removed
	}
	im := d.image(string(ref.Image))
	if im.Err != nil {
		return "", im.Err
	}
	if d.Boot.Image.Image != ref.Image || !fetched && !d.Boot.Once.same(d.Machine.Once) {
		d.run(ref, im)
	}
	d.Record(ingot.Event{Stage: ingot.StageScript, Detail: ref.Name})
	return ref.Image, nil
}

// Learn records the hardware that the machine reports. The caller calls it once per boot: a
// repeated ticket request must not be compared with the first one of the same boot. others
// are as for the function Learn. While the boot has only a claim, the report is kept with it; ask is then
// the question that it would raise.
func (d *Decision) Learn(f ingot.Facts, others []Machine) (ask *Question) {
	before := d.Machine
	after, changes := Learn(before, f, others, d.now)
	if before.Claim != nil {
		if before.Ask == nil {
			ask = after.Ask
		}
		d.newcomer(func(n *Newcomer) { n.Facts = &f })
		return ask
	}
	d.replaceMachine(after)
	was := claimedCards(before, others)
	claimed := slices.DeleteFunc(claimedCards(after, others), func(c string) bool { return slices.Contains(was, c) })
	if len(claimed) > 0 {
		d.addBoot(d.Boot, Change{Code: CodeCardsClaimed, To: Values{"cards": claimed}})
	}
	if len(changes) > 0 {
		d.Boot.Changes = changes
		d.addBoot(d.Boot, Change{Code: CodeBootHardware, To: Values{"changes": changes}})
	}
	return nil
}

// Had returns the disks of Machine.Had for a ticket. While the boot has only a claim, they follow from
// what the machine reported before, as they do when it counts.
func (d *Decision) Had() []ingot.Disk {
	if d.Machine.Claim != nil && d.Machine.Claim.New.Facts != nil {
		return hadVolumes(d.Machine)
	}
	return d.Machine.Had
}

// leastTime is the minimum time from a ticket to the report, however late the ticket was
// requested.
const leastTime = time.Minute

// Ticket returns the grants for the ticket of the boot. If ask is not nil, the machine gets
// no ticket, because an operator must answer a question first.
func (d *Decision) Ticket() (lent []ingot.Grant, ask *Question) {
	if d.Machine.Claim == nil {
		d.Machine.LastSeen, d.Machine.Returned = d.now, time.Time{}
	}
	if d.Boot.Deadline.Sub(d.now) < leastTime { // its loader was slow; the ticket has the new deadline
		d.Boot.Deadline = d.now.Add(leastTime)
	}
	if d.Machine.Ask != nil {
		return nil, d.Machine.Ask
	}
	had := d.Machine.Grants
	if d.Machine.Claim == nil {
		d.Machine, lent = LendGrants(d.Machine, d.Boot.ID, d.now)
	}
	if d.Boot.Ticket.IsZero() || !slices.Equal(had, d.Machine.Grants) { // not for a repeated request
		if d.Boot.Ticket.IsZero() {
			d.Boot.Ticket = d.now
		}
		var grants []Values
		for _, g := range lent {
			grants = append(grants, grantValues(g))
		}
		c := Change{Code: CodeTicketGiven, Stage: ingot.StageTicket, Image: d.Boot.Image}
		if grants != nil {
			c.To = Values{"grants": grants}
		}
		d.addBoot(d.Boot, c)
	}
	d.spendOnce()
	return lent, nil
}

// LearnWaiting records the SMBIOS values of a machine that waits in its loader, for rules
// and for the operator. They are ignored if the machine has reported its hardware before.
func (d *Decision) LearnWaiting(f ingot.Facts, facts Facts) {
	if d.Machine.State != Pending || d.Machine.Facts.RAM != 0 || d.Machine.Boot != d.Boot.ID || d.Machine.Claim != nil {
		return
	}
	d.Machine.Facts.Vendor, d.Machine.Facts.Product = f.Vendor, f.Product
	d.Machine.Facts.Serial = ingot.PlausibleSerial(f.Serial)
	d.withdrawQuestion(facts)
	d.applyRules(facts)
}

// Crash records in the previous boot how its kernel crashed.
func (d *Decision) Crash(before Boot, line string) {
	d.Boot.Pstore = true
	if before.Crash == "" { // the first report counts
		before.Crash = line
		d.addBoot(before, Change{Code: CodeBootCrash, Detail: line})
		d.Older = append(d.Older, before)
	}
}

// Hear adds a packet of another DHCP server to the boot; isNew is as for the function Hear.
func (d *Decision) Hear(o Other) (isNew bool) {
	d.Boot.Others, isNew = Hear(d.Boot.Others, o)
	return isNew
}

// Serve adds bytes of an artifact that were served in the boot.
func (d *Decision) Serve(part string, bytes int64) {
	served := map[string]int64{part: bytes}
	for k, v := range d.Boot.Served {
		served[k] += v
	}
	d.Boot.Served = served
}

// ExpireGrants marks the unused grants that have expired.
func (d *Decision) ExpireGrants() {
	d.Machine.Grants = slices.Clone(d.Machine.Grants)
	for i := range d.Machine.Grants {
		if g := &d.Machine.Grants[i]; g.Unused() && !d.now.Before(g.Expires) {
			g.Over = true
			d.add(Change{Code: CodeGrantExpired, From: grantValues(g.Grant)})
		}
	}
}
