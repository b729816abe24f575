package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ingot"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state"
)

// RolloutsConfig is what Rollouts work with. All but Elapsed and Log are required.
type RolloutsConfig struct {
	State   state.Store
	Catalog *catalog.Catalog
	Healing func() fleet.Policy
	Now     func() time.Time
	// Elapsed is a clock that nobody sets; nil: that of the operating system. The difference to Now shows
	// when the clock was set.
	Elapsed func() time.Duration
	Log     *slog.Logger
}

// Rollouts moves rollouts on: it gathers facts, lets package rollout decide, and stores the step, if
// nothing that it follows from changed in the meantime. It remembers nothing but since when it listens.
type Rollouts struct {
	RolloutsConfig
	starting sync.Mutex // held while a rollout is planned and stored
	swept    bool       // rollouts that a crash or an error left half stored were dropped; starting is held
	applying sync.Mutex // held while desired state is applied, before starting

	mu        sync.Mutex
	listening time.Time
	stepped   time.Time
	wall      time.Time                    // at the last look
	elapsed   time.Duration                // likewise
	logged    map[string]map[string]string // errors that were logged and last: by rollout, and by what was done
}

// NewRollouts returns Rollouts that listen from now on.
func NewRollouts(c RolloutsConfig) *Rollouts {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Elapsed == nil {
		began := time.Now()
		c.Elapsed = func() time.Duration { return time.Since(began) }
	}
	x := &Rollouts{RolloutsConfig: c, logged: map[string]map[string]string{}}
	x.wall, x.elapsed = c.Now(), c.Elapsed()
	x.listening = x.wall
	return x
}

// clockSlack is how much the clock may differ from one that nobody sets between two looks.
const clockSlack = 20 * time.Second

// clock returns the time, since when machines are heard, and when the clock was last set.
func (x *Rollouts) clock() (now, listening, stepped time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now = x.Now()
	elapsed := x.Elapsed()
	if drift := now.Sub(x.wall) - (elapsed - x.elapsed); drift > clockSlack || drift < -clockSlack {
		x.stepped = now
		x.Log.Warn("the clock was set; rollouts wait until they have heard all machines again", "by", drift)
	}
	x.wall, x.elapsed = now, elapsed
	return now, x.listening, x.stepped
}

// stepsAtOnce bounds the steps of one rollout in one tick: others want their turn.
const stepsAtOnce = 50

// Tick moves all rollouts on. The server calls it every few seconds; calling it more often, or not at
// all for a while, changes nothing but the time.
func (x *Rollouts) Tick(ctx context.Context) {
	if !x.sweep() {
		return
	}
	for _, r := range x.State.Rollouts() {
		if r.State.Ended() || r.State == rollout.Preparing {
			x.forget(r.ID)
			continue
		}
		more, err := true, error(nil)
		for n := 0; n < stepsAtOnce && more && err == nil && ctx.Err() == nil; n++ {
			more, err = x.step(r.ID)
		}
		x.logOnce(err, "moving a rollout on", r.ID, "")
	}
	x.logOnce(x.trim(), "removing the oldest rollouts", "", "")
}

// logOnce logs an error of a rollout or of one of its machines, either of which may be empty: once, until it is
// another one, or over. Rollouts are looked at every few seconds.
func (x *Rollouts) logOnce(err error, doing, id string, machine ingot.MachineID) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == x.swapLogged(id, doing+string(machine), text) {
		return
	}
	var args []any
	if id != "" {
		args = append(args, "rollout", id)
	}
	if machine != "" {
		args = append(args, "machine", string(machine))
	}
	if text == "" {
		x.Log.Info(doing+": this works again", args...)
		return
	}
	x.Log.Error(doing, append(args, "err", err)...)
}

// swapLogged notes the latest error about something of a rollout, and returns the one before.
func (x *Rollouts) swapLogged(id, what, text string) (before string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	before = x.logged[id][what]
	switch {
	case text == before:
	case text == "":
		delete(x.logged[id], what)
	case x.logged[id] == nil:
		x.logged[id] = map[string]string{what: text}
	default:
		x.logged[id][what] = text
	}
	return before
}

// forget drops what was logged about a rollout that is over.
func (x *Rollouts) forget(id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.logged, id)
}

// step computes the next step of a rollout and stores it. It reports whether there may be another one at
// once.
func (x *Rollouts) step(id string) (more bool, err error) {
	r, known := x.State.Rollout(id)
	if !known {
		return false, nil
	}
	removed := x.State.Removed()
	members := x.State.Members(id)
	now, f := x.facts(r, members)
	for i := range members {
		id := members[i].Machine
		var err error
		if why := f.Machines[id].Unreadable; why != "" {
			err = errors.New(why)
		}
		x.logOnce(err, "finding out what a machine did", r.ID, id)
	}
	s := rollout.Next(r, members, f, now)
	if s.Empty() {
		return false, nil
	}
	changes, err := x.store(r, s, removed, now)
	switch {
	case errors.Is(err, errStale), errors.Is(err, state.ErrRemoved), errors.Is(err, state.ErrBeingRemoved):
		return false, nil //nolint:nilerr // what it followed from changed: the next tick looks again
	case err != nil:
		return false, err
	}
	x.report(changes)
	return true, nil
}

// report logs Changes that were stored.
func (x *Rollouts) report(changes []fleet.Change) {
	for _, c := range changes {
		level := slog.LevelInfo
		if c.Bad() {
			level = slog.LevelWarn
		}
		args := []any{"rollout", c.Rollout}
		if c.Machine != "" {
			args = append(args, "machine", string(c.Machine))
		}
		x.Log.Log(context.Background(), level, c.String(), args...)
	}
}

// store stores a step, if the rollout is as it was and each machine that is moved too.
func (x *Rollouts) store(before rollout.Rollout, s rollout.Step, removed uint64, now time.Time) (changes []fleet.Change,
	err error) {
	able := x.statusesOf(s.Actions)
	err = x.State.Update(func(tx state.Tx) error {
		changes = changes[:0:0]
		r, known := tx.Rollout(before.ID)
		if !known || r.Generation != before.Generation {
			return errStale
		}
		tx.LookedUp(removed)
		for _, mv := range s.Moves {
			done, err := move(tx, s.Rollout, mv, now)
			if err != nil {
				return err
			}
			changes = append(changes, done...)
		}
		for _, a := range s.Actions {
			done, err := act(tx, s.Rollout, a, able, now)
			if err != nil {
				return err
			}
			changes = append(changes, done...)
		}
		for _, m := range s.Members {
			tx.PutMember(m)
		}
		tx.PutRollout(s.Rollout)
		changes = append(changes, stateChanges(before, s.Rollout)...)
		tx.Record(changes...)
		return nil
	})
	return changes, err
}

// move assigns an image to a machine of a rollout. It is errStale if an operator decided about the
// machine in the meantime.
func move(tx state.Tx, r rollout.Rollout, mv rollout.Move, now time.Time) ([]fleet.Change, error) {
	m, known := tx.Machine(mv.Machine)
	switch {
	case !known, m.Assignment.Image != mv.Assigned.Image, !m.Assignment.Since.Equal(mv.Since):
		return nil, errStale
	case !mv.Back && (m.State != fleet.Approved || m.Pin != nil || m.Once != nil || m.Ask != nil):
		return nil, errStale
	case !mv.Back && tx.RolloutOf(m.ID) != r.ID:
		return nil, errStale
	}
	why := fmt.Sprintf("rollout %s, %s", r.ID, rollout.WaveName(r.Wave))
	if mv.Back {
		why = fmt.Sprintf("rollout %s was aborted", r.ID)
	}
	d := fleet.NewDecision(m, fleet.Boot{}, fleet.BootPolicy{}, nil, fleet.Actor{}, now)
	d.Assign(fleet.Assignment{ImageRef: fleet.ImageRef(mv.To), Why: why, Since: now})
	tx.StoreMachine(d.Machine)
	for i := range d.Changes {
		d.Changes[i].Rollout = r.ID
	}
	return d.Changes, nil
}

// stateChanges returns the Changes of the states that a rollout went through.
func stateChanges(before, after rollout.Rollout) (list []fleet.Change) {
	from := before.State
	wave := before.Wave
	for _, e := range newEntries(before.Log, after.Log) {
		c := fleet.Change{At: e.At, Code: fleet.CodeRolloutState, Rollout: after.ID, Subject: after.ID,
			Image: fleet.ImageRef(after.Image), Detail: e.Why,
			From: fleet.Values{"state": string(from), "wave": wave}, To: fleet.Values{"state": string(e.State), "wave": e.Wave}}
		if after.Stop != nil && e.State.Stopped() {
			c.To["reason"] = string(after.Stop.Reason)
		}
		list = append(list, c)
		from, wave = e.State, e.Wave
	}
	return list
}

// newEntries returns the entries of a log that an earlier one has not. Of a long log the oldest are
// dropped.
func newEntries(before, after []rollout.Entry) []rollout.Entry {
	if len(before) == 0 {
		return after
	}
	last := before[len(before)-1]
	for i := len(after) - 1; i >= 0; i-- {
		if after[i] == last {
			return after[i+1:]
		}
	}
	return after
}

// Bounds of what is kept of rollouts.
const (
	keptRollouts = 40 // that ended
	dropAtOnce   = state.MaxRecords - 10
)

// trim removes the oldest rollouts that ended, a part of one at a time.
func (x *Rollouts) trim() error {
	var ended []rollout.Rollout
	for _, r := range x.State.Rollouts() {
		if r.State.Ended() {
			ended = append(ended, r)
		}
	}
	if len(ended) <= keptRollouts {
		return nil
	}
	return x.drop(ended[0].ID)
}

// drop removes a rollout and its members, in parts.
func (x *Rollouts) drop(id string) error {
	members := x.State.Members(id)
	for len(members) > 0 {
		part := members[:min(len(members), dropAtOnce)]
		if err := x.State.Update(func(tx state.Tx) error {
			for _, m := range part {
				tx.DropMember(id, m.Machine)
			}
			return nil
		}); err != nil {
			return err
		}
		members = members[len(part):]
	}
	return x.State.Update(func(tx state.Tx) error { tx.DropRollout(id); return nil })
}

// sweep drops rollouts that a crash or an error left half stored. It reports whether that is done.
func (x *Rollouts) sweep() bool {
	x.starting.Lock()
	defer x.starting.Unlock()
	if x.swept {
		return true
	}
	for _, r := range x.State.Rollouts() {
		if r.State != rollout.Preparing {
			continue
		}
		err := x.drop(r.ID)
		if x.logOnce(err, "dropping a rollout that was stored by half", r.ID, ""); err != nil {
			return false
		}
	}
	x.swept = true
	return true
}

// shutAfter is how long after its last message a machine that said that it shuts down counts as off.
const shutAfter = 10 * time.Minute

// boots bounds the boots of a machine that are looked at.
const maxBoots = 24

// facts gathers what a decision about a rollout needs. What cannot be read is said in them.
func (x *Rollouts) facts(r rollout.Rollout, members []rollout.Member) (now time.Time, f rollout.Fleet) {
	now, listening, stepped := x.clock()
	f = rollout.Fleet{Machines: make(map[ingot.MachineID]rollout.Machine, len(members)), Listening: listening,
		Stepped: stepped, Refused: map[ingot.Digest]string{}}
	f.Ledger, _ = x.State.LedgerName()
	var err error
	if f.Closed, err = closed(r.Policy.Window, now); err != nil {
		f.Closed, f.Unreadable = true, err.Error()
	}
	images := map[ingot.Digest]bool{r.Image.Image: true}
	others, able := x.others(r.ID), statuses{}
	for i := range members {
		m := &members[i]
		machine, known := x.machine(m, able, now)
		if !known {
			continue
		}
		machine.Other = others[m.Machine]
		f.Machines[m.Machine] = machine
		if r.State == rollout.Aborting && m.Touched() {
			images[m.From.Image] = true
		}
	}
	for d := range images {
		if _, err := x.Catalog.Image(d); err != nil && d != "" {
			f.Refused[d] = err.Error()
		}
	}
	return now, f
}

// others returns the machines of other rollouts that have not ended.
func (x *Rollouts) others(id string) map[ingot.MachineID]string {
	of := map[ingot.MachineID]string{}
	for _, r := range x.State.Rollouts() {
		if r.ID == id || r.State.Ended() {
			continue
		}
		for _, m := range x.State.Members(r.ID) {
			if m.Left == "" {
				of[m.Machine] = r.ID
			}
		}
	}
	return of
}

// closed reports whether a time is outside of a window.
func closed(window string, now time.Time) (bool, error) {
	if window == "" {
		return false, nil
	}
	w, err := rollout.ParseWindow(window)
	if err != nil {
		return false, err
	}
	zone, err := time.LoadLocation(w.Zone)
	if err != nil {
		return false, fmt.Errorf("window %q: %w", window, err)
	}
	return !w.Open(now.In(zone)), nil
}

// machine gathers the facts of a machine of a rollout.
func (x *Rollouts) machine(of *rollout.Member, able statuses, now time.Time) (f rollout.Machine, known bool) {
	m, known := x.State.Machine(of.Machine)
	if !known {
		return f, false
	}
	latest, has := x.State.Boot(m.Boot)
	f = machineFacts(m, latest, now)
	f.NoOrder, f.Hooks = able.noOrder(x.Catalog, m, latest, now), able.of(x.Catalog, latest).Hooks
	if !has {
		return f, true
	}
	boots := []fleet.Boot{latest}
	if unseen := latest.Number - of.Number; of.Touched() && unseen > 1 && !of.GivenUp && !of.Has(latest.ID) {
		if all, err := x.State.Boots(m.ID, min(unseen, maxBoots)); err != nil {
			f.Unreadable = err.Error()
		} else {
			boots = all
		}
	}
	for _, b := range boots {
		f.Boots = append(f.Boots, bootFacts(m, b))
	}
	f.Boots[len(f.Boots)-1].Order = orderFacts(latest.Ordered, now)
	return f, true
}

// machineFacts returns the facts of a machine, without its boots.
func machineFacts(m fleet.Machine, latest fleet.Boot, now time.Time) rollout.Machine {
	_, err := fleet.Next(m)
	gave := m.Setback != nil && m.Setback.Gave.Image == m.Assignment.Image
	down := latest.Auth.Down && now.Sub(latest.Auth.Heard) > shutAfter
	busy := ""
	switch {
	case m.Ask != nil:
		busy = "an operator must answer a question about it"
	case m.Once != nil:
		busy = "its next boot is decided"
	}
	return rollout.Machine{Retired: m.State != fleet.Approved, Off: m.IsOff(latest), Shut: down, Busy: busy,
		Held: errors.Is(err, fleet.ErrHeld), Pinned: m.Pin != nil,
		Assigned: rollout.Image(m.Assignment.ImageRef), Since: m.Assignment.Since, GaveUp: gave}
}

// bootFacts returns the facts of a boot.
func bootFacts(m fleet.Machine, b fleet.Boot) rollout.Boot {
	f := rollout.Boot{ID: b.ID, Number: b.Number, Before: b.Before, Image: b.Image.Image, Once: b.Once != nil,
		Outcome: b.Outcome, Stage: b.Stage(), Delivered: fleet.Delivered(b), Reason: b.Reason, Started: b.Started,
		Ended: b.Ended,
		Crash: b.Crash, Heard: b.Auth.Heard, Down: b.Auth.Down}
	if n := len(b.Events); n > 0 && b.Events[n-1].Error != "" {
		f.Code = b.Events[n-1].Code
	}
	if m.Boot == b.ID && f.Heard.IsZero() && m.Claim == nil { // older images do not authenticate reports
		f.Heard = m.LastSeen
	}
	f.Unwell = b.Outcome == ingot.OutcomeHealthy && b.Report != nil && !b.Report.Healthy
	return f
}
