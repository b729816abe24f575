package ingot

import "time"

// Orders to running systems. The server answers a proven report with an Order; the agent carries it out at
// most once, and says how far it is with events that have an OrderStep. An order names hooks of the image,
// never a command. Before the machine reboots, the server must have confirmed OrderRebooting: until then
// the order can be withdrawn.

// OrderKind is what a machine is to do. Kinds keep their meaning; an agent refuses those that it does not
// know.
type OrderKind string

// OrderReboot: systemd stops everything in order and resets the machine.
const OrderReboot OrderKind = "reboot"

// Drain says what a failed drain hook means for an order.
type Drain string

// The values of Drain.
const (
	DrainNone       Drain = ""            // no hooks run
	DrainRequired   Drain = "required"    // the machine reboots only if all hooks succeeded
	DrainBestEffort Drain = "best-effort" // it reboots in any case
)

// Order is what a server wants a running system to do. It travels in the body of the answer to a Report,
// to images with FeatureOrders and with a BootSecret only.
type Order struct {
	// Counter is larger than that of each earlier order of the boot. An agent notes it in RunDir before it
	// acts, and carries out no order with a number that is not larger.
	Counter uint64    `json:"counter"`
	Kind    OrderKind `json:"kind"`
	Drain   Drain     `json:"drain,omitempty"`
	Hooks   []string  `json:"hooks,omitempty"` // names of hooks of the image, run one after another
	// Within is how long after the report was sent the order may be begun. The machine's own clock measures
	// it, so it needs no correct time.
	Within time.Duration `json:"within"`
}

// OrderState is how far an order is.
type OrderState string

// The states of an order. Machines report those from OrderReceived to OrderInterrupted.
const (
	OrderGiven         OrderState = "given"           // the machine did not acknowledge it yet
	OrderReceived      OrderState = "received"        // the machine noted it, and begins
	OrderDraining      OrderState = "draining"        // a hook runs
	OrderRebooting     OrderState = "rebooting"       // the machine is about to reboot
	OrderDrainFailed   OrderState = "drain-failed"    // a hook failed, and the machine does not reboot
	OrderDrainTimedOut OrderState = "drain-timed-out" // a hook took too long, and the machine does not reboot
	OrderRefused       OrderState = "refused"         // the machine cannot carry it out
	OrderInterrupted   OrderState = "interrupted"     // the agent ended in between; it is not begun again
	OrderExpired       OrderState = "expired"         // the machine did not fetch it in time
	OrderWithdrawn     OrderState = "withdrawn"       // it was taken back before the machine rebooted
)

// OrderStep is what a machine reports about an order, in Event.Order.
type OrderStep struct {
	Counter uint64     `json:"counter"` // of the order
	State   OrderState `json:"state"`
	Hook    string     `json:"hook,omitempty"`  // that runs or failed
	Error   string     `json:"error,omitempty"` // why the order, or with DrainBestEffort the hook, failed
}

// Hook is a command of an image that prepares a machine for a reboot. Orders name it.
type Hook struct {
	Name    string        `json:"name"`
	Command []string      `json:"command"`          // must exit 0
	Within  time.Duration `json:"within,omitempty"` // then it is ended, and has failed; zero means DefaultHookTime
}

// Bounds of drain hooks.
const (
	DefaultHookTime = 5 * time.Minute
	MaxHookTime     = 24 * time.Hour
	MaxHooks        = 16
)

// Limit is how long the hook may run.
func (h Hook) Limit() time.Duration {
	if h.Within <= 0 {
		return DefaultHookTime
	}
	return h.Within
}
