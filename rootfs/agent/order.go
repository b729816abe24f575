package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"ingot"
	"ingot/rootfs"
)

// orders carries out orders of the server, one at a time and each at most once. What it does is noted in
// Agent.Dir before it is done. An agent that is started again goes on with nothing: it says that the order
// was interrupted.
type orders struct {
	mu      sync.Mutex // of what follows
	note    rootfs.Obeyed
	unread  error // why it is not known what was ordered; no order is carried out
	running bool

	saying sync.Mutex     // held while a step is sent, so that steps arrive in their order
	done   sync.WaitGroup // of the order that is carried out
}

// confirmTime bounds the wait for the server's confirmation before a reboot. A machine whose server is away
// stays up: it could not boot.
const confirmTime = 5 * time.Minute

// readOrders reads what was ordered before the agent was started, and ends what is not over.
func (a *Agent) readOrders() {
	o := &a.orders
	o.mu.Lock()
	defer o.mu.Unlock()
	o.note.Boot = a.Handover.Ticket.Boot
	if a.Dir == "" {
		o.unread = errors.New("there is no folder to note orders in")
		return
	}
	if o.note, o.unread = rootfs.ReadObeyed(a.Dir, o.note.Boot); o.unread != nil {
		a.Log.Error("no order will be carried out", "err", o.unread)
		return
	}
	if n := o.note; n.Step.Counter != 0 && !n.Over {
		a.write(rootfs.Obeyed{Boot: n.Boot, Over: true, Step: ingot.OrderStep{Counter: n.Step.Counter,
			State: ingot.OrderInterrupted, Hook: n.Step.Hook, Error: "the agent was started again"}})
	}
}

// write notes something of an order; the caller holds orders.mu.
func (a *Agent) write(n rootfs.Obeyed) error {
	a.orders.note = n
	err := n.Write(a.Dir)
	if err != nil {
		a.Log.Error("noting an order", "err", err)
	}
	return err
}

// beat sends a heartbeat, and takes the order that the answer brings.
func (a *Agent) beat(ctx context.Context, root ingot.Digest) {
	a.say(ctx)
	r, sent := a.report(ctx, root, a.checkOnce(ctx)), time.Now()
	answer, err := a.post(ctx, "report", r)
	if a.final("report", err); err != nil || len(answer.Text) == 0 || !a.sender.Authenticates() {
		return // an order counts only if the server's answer proves itself
	}
	var o ingot.Order
	if json.Unmarshal(answer.Text, &o) == nil && o.Counter > 0 {
		a.take(ctx, o, sent)
	}
}

// take begins with an order that came in the answer to a message which was sent at a time.
func (a *Agent) take(ctx context.Context, o ingot.Order, sent time.Time) {
	s := &a.orders
	s.mu.Lock()
	defer s.mu.Unlock()
	switch had := s.note.Step.Counter; {
	case s.unread == nil && o.Counter == had: // the server does not have what was said
		s.note.Said = false
	case s.running || time.Since(sent) > o.Within: // it comes again, or is too old
	case s.unread != nil, o.Counter < had:
		why := "a newer order was carried out"
		if s.unread != nil {
			why = s.unread.Error()
		}
		s.done.Go(func() { a.refuse(ctx, o, why) })
	default:
		before := s.note
		if err := a.write(rootfs.Obeyed{Boot: s.note.Boot, Step: ingot.OrderStep{Counter: o.Counter,
			State: ingot.OrderReceived}}); err != nil {
			s.note = before
			s.done.Go(func() { a.refuse(ctx, o, err.Error()) })
			return
		}
		s.running = true
		s.done.Go(func() { a.carryOut(ctx, o) })
	}
}

// refuse says that an order is not carried out, which is not noted.
func (a *Agent) refuse(ctx context.Context, o ingot.Order, why string) {
	a.Log.Warn("an order is not carried out", "order", o.Counter, "why", why)
	a.send(ctx, "events", stepEvent(ingot.OrderStep{Counter: o.Counter, State: ingot.OrderRefused, Error: why}))
}

func stepEvent(s ingot.OrderStep) ingot.Event {
	return ingot.Event{Stage: ingot.StageAgent, Order: &s, Uptime: rootfs.Uptime()}
}

// carryOut drains the machine and reboots it.
func (a *Agent) carryOut(ctx context.Context, o ingot.Order) {
	defer func() {
		a.orders.mu.Lock()
		defer a.orders.mu.Unlock()
		a.orders.running = false
	}()
	a.Log.Warn("the server ordered", "what", o.Kind, "order", o.Counter, "hooks", o.Hooks)
	hooks, err := a.hooks(o)
	if err != nil {
		a.end(ctx, ingot.OrderStep{State: ingot.OrderRefused, Error: err.Error()})
		return
	}
	if !a.goesOn(ctx, ingot.OrderStep{State: ingot.OrderReceived}) {
		return
	}
	for _, h := range hooks {
		step := ingot.OrderStep{State: ingot.OrderDraining, Hook: h.Name}
		if !a.goesOn(ctx, step) {
			return
		}
		late, err := a.runHook(ctx, h)
		switch {
		case ctx.Err() != nil: // the agent ends
			return
		case err == nil:
			continue
		}
		step.Error = err.Error()
		a.Log.Error("draining", "hook", h.Name, "err", err)
		if o.Drain == ingot.DrainBestEffort {
			if !a.goesOn(ctx, step) {
				return
			}
			continue
		}
		if step.State = ingot.OrderDrainFailed; late {
			step.State = ingot.OrderDrainTimedOut
		}
		a.end(ctx, step)
		return
	}
	a.reboot(ctx)
}

// hooks returns the hooks of the image that an order names.
func (a *Agent) hooks(o ingot.Order) (list []ingot.Hook, err error) {
	if o.Kind != ingot.OrderReboot {
		return nil, fmt.Errorf("this agent takes no orders of kind %q", o.Kind)
	}
	for _, name := range o.Hooks {
		i := slices.IndexFunc(a.Handover.Image.Drain, func(h ingot.Hook) bool { return h.Name == name })
		if i < 0 || len(a.Handover.Image.Drain[i].Command) == 0 {
			return nil, fmt.Errorf("the image has no drain hook %q", name)
		}
		list = append(list, a.Handover.Image.Drain[i])
	}
	return list, nil
}

// reboot reboots the machine after the server confirmed the order.
func (a *Agent) reboot(ctx context.Context) {
	a.set(ingot.OrderStep{State: ingot.OrderRebooting}, false)
	for began := time.Now(); ; {
		switch err := a.say(ctx); {
		case err == nil:
			if err := a.System.Reboot(ctx); err != nil {
				a.end(ctx, ingot.OrderStep{State: ingot.OrderInterrupted, Error: "asking systemd to reboot: " + err.Error()})
			}
			return
		case errors.Is(err, errRefused):
			a.withdrawn()
			return
		case time.Since(began) > confirmTime:
			a.end(ctx, ingot.OrderStep{State: ingot.OrderInterrupted, Error: "the server did not confirm the reboot"})
			return
		}
		if !sleep(ctx, time.Second+rand.N(2*time.Second)) {
			return
		}
	}
}

// goesOn notes and says a step. It reports false if the server says that the order is over, or the agent
// ends.
func (a *Agent) goesOn(ctx context.Context, s ingot.OrderStep) bool {
	a.set(s, false)
	if errors.Is(a.say(ctx), errRefused) {
		a.withdrawn()
		return false
	}
	return ctx.Err() == nil
}

func (a *Agent) withdrawn() {
	a.Log.Warn("the order was withdrawn")
	a.set(ingot.OrderStep{State: ingot.OrderWithdrawn}, true)
}

// end notes and says why an order is not carried out.
func (a *Agent) end(ctx context.Context, s ingot.OrderStep) {
	a.set(s, true)
	_ = a.say(ctx) // it is said again with the next heartbeat
}

// set notes a step of the order.
func (a *Agent) set(s ingot.OrderStep, over bool) {
	o := &a.orders
	o.mu.Lock()
	defer o.mu.Unlock()
	s.Counter = o.note.Step.Counter
	_ = a.write(rootfs.Obeyed{Boot: o.note.Boot, Step: s, Over: over, Said: s.State == ingot.OrderWithdrawn})
}

// say sends the latest step of an order to the server, unless it has it.
func (a *Agent) say(ctx context.Context) error {
	o := &a.orders
	o.saying.Lock()
	defer o.saying.Unlock()
	o.mu.Lock()
	n := o.note
	o.mu.Unlock()
	if n.Said || n.Step.Counter == 0 {
		return nil
	}
	_, err := a.post(ctx, "events", stepEvent(n.Step))
	if !a.final("order", err) {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.note.Step == n.Step {
		n.Said = true
		_ = a.write(n) // else it is said twice
	}
	return err
}

// runHook runs a drain hook; late reports that it was ended because it took too long.
func (a *Agent) runHook(ctx context.Context, h ingot.Hook) (late bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.Limit())
	defer cancel()
	var out tail
	argv := a.System.Outside(h.Command)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with its children
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	switch {
	case err == nil:
		return false, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return true, withOutput(fmt.Errorf("%s did not end within %s", h.Command[0], h.Limit()), bytes.TrimSpace(out))
	}
	return false, withOutput(fmt.Errorf("%s: %w", h.Command[0], err), bytes.TrimSpace(out))
}

// tail is the end of what is written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	const most = 300
	*t = append(*t, p[max(0, len(p)-most):]...)
	*t = (*t)[max(0, len(*t)-most):]
	return len(p), nil
}
