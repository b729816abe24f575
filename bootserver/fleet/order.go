package fleet

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
)

// Errors of orders.
var (
	// ErrNoOrder: the machine's system cannot be given an order.
	ErrNoOrder = errors.New("it takes no orders now")
	// ErrOrderOpen: an order to the system is under way.
	ErrOrderOpen = errors.New("an order to it is under way")
	// ErrOrderOver: the order of a message is not under way any more, so that the machine must not reboot.
	ErrOrderOver = errors.New("the order was withdrawn, has expired, or is not known")
)

// OrderLife is how long a machine has to fetch an order: its agent reports every ingot.Heartbeat.
const OrderLife = 10 * time.Minute

// rebootTime is how long after it said that it reboots a machine that goes on gets no other order.
const rebootTime = 5 * time.Minute

// Order is an order to the system of a boot, see ingot.Order. A boot has at most one that is open.
type Order struct {
	Counter uint64          `json:"counter"`
	Kind    ingot.OrderKind `json:"kind"`
	Drain   ingot.Drain     `json:"drain,omitempty"`
	Hooks   []string        `json:"hooks,omitempty"`   // never modified, only replaced
	Why     string          `json:"why,omitempty"`     // an operator's reason
	By      string          `json:"by"`                // the operator; empty if a rollout gave it
	Rollout string          `json:"rollout,omitempty"` // that gave it
	Given   time.Time       `json:"given"`
	Expires time.Time       `json:"expires"` // it is not sent any more from then on
	// how far it is, and since when
	State ingot.OrderState `json:"state"`
	At    time.Time        `json:"at"`
	Hook  string           `json:"hook,omitempty"`  // that runs or failed
	Error string           `json:"error,omitempty"` // why it was not carried out
}

// StateAt returns how far an order is at a time: one that was not fetched in time has expired.
func (o *Order) StateAt(now time.Time) ingot.OrderState {
	if o.State == ingot.OrderGiven && !now.Before(o.Expires) {
		return ingot.OrderExpired
	}
	return o.State
}

// Open reports whether the machine may still carry the order out.
func (o *Order) Open(now time.Time) bool {
	switch o.StateAt(now) {
	case ingot.OrderGiven, ingot.OrderReceived, ingot.OrderDraining:
		return true
	}
	return false
}

// Pending reports whether another order would come too early.
func (o *Order) Pending(now time.Time) bool {
	return o != nil && (o.Open(now) || o.State == ingot.OrderRebooting && now.Sub(o.At).Abs() < rebootTime)
}

// OrderStatus is what a machine's system can be told now.
type OrderStatus struct {
	Able   bool // the signed manifest of the image that runs has ingot.FeatureOrders
	Hooks  []string
	Silent bool // nothing is heard of it
}

// NoOrder returns why the latest boot of a machine can be given no order, as an error that wraps ErrNoOrder or
// ErrOrderOpen; nil if it can.
func NoOrder(m Machine, b Boot, s OrderStatus, now time.Time) error {
	no := func(why string) error { return fmt.Errorf("%w: %s", ErrNoOrder, why) }
	switch {
	case m.State != Approved:
		return no("it is " + string(m.State) + ", and would not boot again")
	case b.ID == "" || b.ID != m.Boot:
		return no("it has not booted")
	case b.Report == nil || b.Image.Image == "":
		return no("its latest boot has not reported")
	case !s.Able:
		return no("the agent in " + b.Image.Name + " takes none; an older ingot built it")
	case len(b.Auth.Half) == 0:
		return no("its reports are not authenticated")
	case m.Claim != nil:
		return no("another boot began in its name")
	case b.Auth.Down:
		return no("its system shuts down")
	case s.Silent:
		return no("nothing is heard from it")
	case b.Ordered.Pending(now):
		return fmt.Errorf("%w: %s", ErrOrderOpen, b.Ordered.Text(now))
	}
	return nil
}

// NoOrder is the function NoOrder for the decision's machine and boot.
func (d *Decision) NoOrder(s OrderStatus) error { return NoOrder(d.Machine, d.Boot, s, d.now) }

// Order gives the system of the boot an order. The caller has checked NoOrder.
func (d *Decision) Order(o Order) {
	o.Given, o.At, o.State = d.now, d.now, ingot.OrderGiven
	o.Expires = d.now.Add(OrderLife)
	o.Counter = uint64(max(d.now.UnixMilli(), 1)) // also larger than one that a restore lost
	if before := d.Boot.Ordered; before != nil {
		d.ExpireOrder()
		o.Counter = max(o.Counter, before.Counter+1)
	}
	d.Boot.Ordered = &o
	to := Values{"kind": string(o.Kind), "until": o.Expires.UTC().Format(time.RFC3339)}
	if o.Drain != ingot.DrainNone {
		to["drain"], to["hooks"] = string(o.Drain), o.Hooks
	}
	d.addBoot(d.Boot, Change{Code: CodeOrderGiven, Rollout: o.Rollout, To: to, Detail: o.Why})
}

// WithdrawOrder takes the open order of the boot back; had is false if there is none. A machine that
// drains finishes the hook that runs, and does not reboot.
func (d *Decision) WithdrawOrder() (had bool) {
	o := d.Boot.Ordered
	if o == nil || !o.Open(d.now) {
		return false
	}
	d.orderIs(ingot.OrderStep{State: ingot.OrderWithdrawn, Hook: o.Hook}, d.addBoot)
	return true
}

// ExpireOrder notes that the order of the boot was not fetched in time, if so.
func (d *Decision) ExpireOrder() {
	if o := d.Boot.Ordered; o != nil && o.State != o.StateAt(d.now) {
		d.orderIs(ingot.OrderStep{State: ingot.OrderExpired}, d.addBoot)
	}
}

// orderIs changes the state of the boot's order; add adds the Change.
func (d *Decision) orderIs(s ingot.OrderStep, add func(Boot, Change)) {
	o := *d.Boot.Ordered
	c := Change{Code: CodeOrderState, Rollout: o.Rollout, From: Values{"state": string(o.State)},
		To: Values{"state": string(s.State), "kind": string(o.Kind)}, Detail: s.Error}
	if s.Hook != "" {
		c.To["hook"] = s.Hook
	}
	o.State, o.At, o.Hook, o.Error = s.State, d.now, s.Hook, s.Error
	d.Boot.Ordered = &o
	add(d.Boot, c)
}

// Deliver returns the order that the answer to a proven report brings to the machine, if any.
func (d *Decision) Deliver() *ingot.Order {
	o := d.Boot.Ordered
	if o == nil || d.Machine.Boot != d.Boot.ID || d.Machine.Claim != nil || len(d.Boot.Auth.Half) == 0 {
		return nil
	}
	if d.ExpireOrder(); o.StateAt(d.now) != ingot.OrderGiven {
		return nil
	}
	return &ingot.Order{Counter: o.Counter, Kind: o.Kind, Drain: o.Drain, Hooks: o.Hooks, Within: o.Expires.Sub(d.now)}
}

// orderSteps are the states that a machine reports.
var orderSteps = []ingot.OrderState{ingot.OrderReceived, ingot.OrderDraining, ingot.OrderRebooting,
	ingot.OrderDrainFailed, ingot.OrderDrainTimedOut, ingot.OrderRefused, ingot.OrderInterrupted}

// maxOrderError limits the stored reason of an order that failed, in bytes.
const maxOrderError = 600

// OrderStep records how far the boot's order is, as the machine says in a proven message. It is
// ErrOrderOver if the order is not under way: the machine must not reboot then.
func (d *Decision) OrderStep(s ingot.OrderStep) error {
	o := d.Boot.Ordered
	switch {
	case o == nil || o.Counter != s.Counter || d.Machine.Boot != d.Boot.ID || d.Machine.Claim != nil,
		!slices.Contains(orderSteps, s.State), s.Hook != "" && !slices.Contains(o.Hooks, s.Hook):
		return ErrOrderOver
	case o.State == ingot.OrderRebooting && s.State == ingot.OrderRebooting: // the answer got lost
		return nil
	case o.State == ingot.OrderRebooting && s.State == ingot.OrderInterrupted:
	case o.State == s.State && s.State != ingot.OrderDraining: // likewise
		return nil
	case o.State != ingot.OrderGiven && !o.Open(d.now): // one that was fetched in time may say so late
		return ErrOrderOver
	}
	s.Error = Clip(s.Error, maxOrderError)
	if s.State == o.State && s.Hook == o.Hook && s.Error == o.Error {
		return nil
	}
	d.orderIs(s, func(_ Boot, c Change) { d.note(c) })
	return nil
}

// Text says what became of the order at a time.
func (o *Order) Text(now time.Time) string { return orderText(o.StateAt(now), o.Hook, o.Error) }

// orderText says what became of an order.
func orderText(s ingot.OrderState, hook, why string) string {
	text := map[ingot.OrderState]string{
		ingot.OrderGiven:         "was ordered to reboot, and has not acknowledged it yet",
		ingot.OrderReceived:      "has the order to reboot",
		ingot.OrderDraining:      "drains before it reboots: hook " + hook,
		ingot.OrderRebooting:     "reboots as it was ordered to",
		ingot.OrderDrainFailed:   "does not reboot, because drain hook " + hook + " failed",
		ingot.OrderDrainTimedOut: "does not reboot, because drain hook " + hook + " took too long",
		ingot.OrderRefused:       "refuses the order to reboot",
		ingot.OrderInterrupted:   "does not reboot, because its agent was interrupted",
		ingot.OrderExpired:       "did not fetch the order to reboot in time",
		ingot.OrderWithdrawn:     "does not reboot, because the order was withdrawn",
	}[s]
	if text == "" {
		text = "order: " + string(s)
	}
	if s == ingot.OrderDraining && why != "" {
		return fmt.Sprintf("drain hook %s failed, and it reboots all the same: %s", hook, why)
	}
	if why != "" {
		text += ": " + why
	}
	return text
}

func orderStateText(c Change) string {
	return orderText(ingot.OrderState(c.To.Text("state")), c.To.Text("hook"), c.Detail)
}

// badOrder: the machine does not do what it was ordered to, or a hook failed.
func badOrder(c Change) bool {
	switch s := ingot.OrderState(c.To.Text("state")); s {
	case ingot.OrderReceived, ingot.OrderRebooting, ingot.OrderWithdrawn:
		return false
	case ingot.OrderDraining:
		return c.Detail != ""
	}
	return true
}

func orderGivenText(c Change) string {
	text := "ordered to " + c.To.Text("kind")
	if hooks := c.To.Texts("hooks"); len(hooks) > 0 {
		text += " after draining (" + strings.Join(hooks, ", ") + ")"
	}
	if ingot.Drain(c.To.Text("drain")) == ingot.DrainBestEffort {
		text += ", also if that fails"
	}
	if c.Rollout != "" {
		text += " by rollout " + c.Rollout
	}
	if c.Detail != "" {
		text += ": " + c.Detail
	}
	return text
}
