package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Errors of a decision that is to be repeated, because the machine has changed meanwhile.
var (
	// errStale: it is not the machine that was named any more.
	errStale = errors.New("the machine has changed meanwhile")
	// errNotLookedUp: the decision needs an image that was not looked up before its transaction.
	errNotLookedUp = errors.New("the images of the machine have changed meanwhile")
)

// maxAttempts bounds how often a decision is repeated that found something changed.
const maxAttempts = 5

// repeat calls f until it does not return one of these errors.
func repeat(f func() error, errs ...error) error {
	var err error
	for range maxAttempts {
		if err = f(); !slices.ContainsFunc(errs, func(e error) bool { return errors.Is(err, e) }) {
			return err
		}
	}
	return api.NewProblem(api.CodeChanged, err.Error())
}

// decision decides about a machine as an operator wants. It only computes: a transaction may run it twice.
type decision func(tx state.Tx, d *fleet.Decision) error

// change changes the machine that ref names, and records the action.
func (o *Operator) change(ctx context.Context, code fleet.Code, ref string, decide decision) (_ api.Machine,
	err error) {
	var changed fleet.Machine
	var changes []fleet.Change
	err = repeat(func() error {
		picked, err := o.findNamed(ref)
		if err != nil {
			return err
		}
		now := o.now()
		return o.state.Update(func(tx state.Tx) error {
			m, known := tx.Machine(picked.ID)
			if !known || len(fleet.Named([]fleet.Machine{m}, ref)) == 0 {
				return errStale
			}
			d := newDecision(ctx, m, now)
			if err := decide(tx, d); err != nil {
				return err
			}
			changed = d.Machine
			changes = append(d.Changes, on(changed, Action(ctx, now, code, m, changed)))
			tx.StoreMachine(changed)
			tx.Record(changes...)
			return nil
		})
	}, errStale)
	if err != nil {
		return api.Machine{}, removalProblem(err)
	}
	logActions(o.log, changes...)
	return machineOf(changed), nil
}

// newDecision begins a decision of the operator of ctx about a machine.
func newDecision(ctx context.Context, m fleet.Machine, now time.Time) *fleet.Decision {
	return fleet.NewDecision(m, fleet.Boot{}, fleet.BootPolicy{}, nil, actorOf(access.From(ctx)), now)
}

// removalProblem is the problem of an assignment of an image that is being removed.
func removalProblem(err error) error {
	if errors.Is(err, state.ErrBeingRemoved) {
		return api.NewProblem(api.CodeImageBeingRemoved, err.Error())
	}
	return err
}

// pick returns the one machine that ref names.
func pick(machines []fleet.Machine, ref string) (fleet.Machine, error) {
	switch found := fleet.Match(machines, ref); len(found) {
	case 1:
		return found[0], nil
	case 0:
		return fleet.Machine{}, api.NewProblem(api.CodeMachineNotFound, fmt.Sprintf("no machine matches %q", ref),
			"ref", ref)
	default:
		return fleet.Machine{}, api.NewProblem(api.CodeMachineAmbiguous,
			fmt.Sprintf("%d machines match %q: %s", len(found), ref, several(found)), "ref", ref)
	}
}

// pickNamed is pick for what changes a machine: the beginning of a name is not enough. A machine that is
// added later would make it mean another one.
func pickNamed(machines []fleet.Machine, ref string) (fleet.Machine, error) {
	if whole := fleet.Named(machines, ref); len(whole) > 0 {
		return pick(whole, ref)
	}
	found := fleet.Match(machines, ref)
	switch len(found) {
	case 0:
		return pick(nil, ref)
	case 1:
		return fleet.Machine{}, api.NewProblem(api.CodeMachineInexact,
			fmt.Sprintf("%q is no machine, but the beginning of %s", ref, several(found)), "ref", ref,
			"machine", found[0].Hostname())
	}
	return fleet.Machine{}, api.NewProblem(api.CodeMachineInexact,
		fmt.Sprintf("%q is no machine, but the beginning of %d: %s", ref, len(found), several(found)), "ref", ref)
}

// several lists machines by id and name, the first of many.
func several(list []fleet.Machine) string {
	const most = 8
	var words []string
	for _, m := range list[:min(len(list), most)] {
		words = append(words, strings.TrimSpace(string(m.ID)+" "+m.Name))
	}
	if more := len(list) - most; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}
