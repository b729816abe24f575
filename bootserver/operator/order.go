package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state"
)

// Reboot implements api.Machinery.
func (o *Operator) Reboot(ctx context.Context, ref string, q api.RebootRequest) (api.Boot, error) {
	drain := ingot.Drain(q.Drain)
	by := access.From(ctx).String()
	return o.order(ctx, fleet.ActionReboot, ref, func(d *fleet.Decision, status fleet.OrderStatus) error {
		m := d.Machine
		if err := d.NoOrder(status); err != nil {
			return orderProblem(m, err)
		}
		if _, err := fleet.Next(m); err != nil {
			return api.NewProblem(api.CodeNoNextImage, fmt.Sprintf("%s would boot nothing: %v", m.Hostname(), err),
				"machine", m.Hostname())
		}
		order := fleet.Order{Kind: ingot.OrderReboot, Drain: drain, Why: q.Why, By: by}
		if drain != ingot.DrainNone {
			if order.Hooks = status.Hooks; len(order.Hooks) == 0 {
				return api.NewProblem(api.CodeNoDrain, fmt.Sprintf("%s declares no drain hooks", d.Boot.Image.Name),
					"machine", m.Hostname(), "image", d.Boot.Image.Name)
			}
		}
		d.Order(order)
		return nil
	})
}

// CancelReboot implements api.Machinery.
func (o *Operator) CancelReboot(ctx context.Context, ref string) (api.Boot, error) {
	return o.order(ctx, fleet.ActionCancelReboot, ref, func(d *fleet.Decision, _ fleet.OrderStatus) error {
		if !d.WithdrawOrder() {
			return api.NewProblem(api.CodeNoOrder, fmt.Sprintf("no order to %s can be withdrawn", d.Machine.Hostname()),
				"machine", d.Machine.Hostname())
		}
		return nil
	})
}

func orderProblem(m fleet.Machine, err error) error {
	code := api.CodeNotOrderable
	if errors.Is(err, fleet.ErrOrderOpen) {
		code = api.CodeOrderOpen
	}
	return api.NewProblem(code, fmt.Sprintf("%s: %v", m.Hostname(), err), "machine", m.Hostname())
}

// order decides about the order to the running system of a machine, and records the action. decide only
// computes: a transaction may run it twice.
func (o *Operator) order(ctx context.Context, code fleet.Code, ref string,
	decide func(d *fleet.Decision, status fleet.OrderStatus) error) (_ api.Boot, err error) {
	var boot fleet.Boot
	var changes []fleet.Change
	err = repeat(func() error {
		picked, err := o.findNamed(ref)
		if err != nil {
			return err
		}
		latest, _ := o.state.Boot(picked.Boot)
		now := o.now()
		status := orderStatus(o.catalog, latest)
		status.Silent = fleet.Silent(picked, latest, o.started, now)
		return o.state.Update(func(tx state.Tx) error {
			m, known := tx.Machine(picked.ID)
			b, _ := tx.Boot(m.Boot)
			if !known || len(fleet.Named([]fleet.Machine{m}, ref)) == 0 || b.Image.Image != latest.Image.Image {
				return errStale
			}
			d := fleet.NewDecision(m, b, fleet.BootPolicy{}, nil, actorOf(access.From(ctx)), now)
			if err := decide(d, status); err != nil {
				return err
			}
			boot = d.Boot
			changes = append(d.Changes, on(m, Action(ctx, now, code, b.Ordered, boot.Ordered)))
			tx.StoreBoot(boot)
			tx.Record(changes...)
			return nil
		})
	}, errStale)
	if err != nil {
		return api.Boot{}, err
	}
	logActions(o.log, changes...)
	return bootOf(boot), nil
}

// orderStatus says what the system of a boot can be told, by the signed manifest of its image.
func orderStatus(c *catalog.Catalog, b fleet.Boot) (s fleet.OrderStatus) {
	if b.Image.Image == "" {
		return s
	}
	im, err := c.Stored(b.Image.Image)
	if err != nil {
		return s // an image that is not known takes none
	}
	s.Able = im.Manifest.Has(ingot.FeatureOrders)
	for _, h := range im.Manifest.Drain {
		s.Hooks = append(s.Hooks, h.Name)
	}
	return s
}

func orderOf(o *fleet.Order) *api.Order {
	if o == nil {
		return nil
	}
	out := api.Order(*o)
	return &out
}

// statuses are what systems can be told, by image.
type statuses map[ingot.Digest]fleet.OrderStatus

// of returns what the system of a boot can be told.
func (s statuses) of(c *catalog.Catalog, b fleet.Boot) fleet.OrderStatus {
	status, known := s[b.Image.Image]
	if !known {
		status = orderStatus(c, b)
		s[b.Image.Image] = status
	}
	return status
}

// noOrder says why a machine takes no orders; empty if it does, although one may be under way. Whether it is heard
// is known to package rollout.
func (s statuses) noOrder(c *catalog.Catalog, m fleet.Machine, b fleet.Boot, now time.Time) string {
	if err := fleet.NoOrder(m, b, s.of(c, b), now); errors.Is(err, fleet.ErrNoOrder) {
		return err.Error()
	}
	return ""
}

// orderFacts returns the facts of an order.
func orderFacts(o *fleet.Order, now time.Time) *rollout.Order {
	if o == nil {
		return nil
	}
	return &rollout.Order{Rollout: o.Rollout, Counter: o.Counter, Given: o.Given, At: o.At, State: o.StateAt(now),
		Open: o.Open(now), Pending: o.Pending(now), Text: o.Text(now)}
}

// statusesOf looks up what the systems that a step is about can be told.
func (x *Rollouts) statusesOf(actions []rollout.Action) statuses {
	s := statuses{}
	for _, a := range actions {
		if b, known := x.State.Boot(a.Boot); known {
			s.of(x.Catalog, b)
		}
	}
	return s
}

// act gives or withdraws an order of a rollout. It is errStale if the machine or its order have changed in the
// meantime.
func act(tx state.Tx, r rollout.Rollout, a rollout.Action, able statuses, now time.Time) ([]fleet.Change, error) {
	m, known := tx.Machine(a.Machine)
	b, has := tx.Boot(a.Boot)
	status, looked := able[b.Image.Image]
	if !known || !has || m.Boot != a.Boot {
		return nil, errStale
	}
	d := fleet.NewDecision(m, b, fleet.BootPolicy{}, nil, fleet.Actor{}, now)
	switch {
	case a.Withdraw != 0:
		if b.Ordered == nil || b.Ordered.Counter != a.Withdraw || !d.WithdrawOrder() {
			return nil, errStale
		}
	case !looked || tx.RolloutOf(m.ID) != r.ID || m.Pin != nil || m.Once != nil || m.Ask != nil ||
		d.NoOrder(status) != nil:
		return nil, errStale
	default:
		order := fleet.Order{Kind: ingot.OrderReboot, Rollout: r.ID, Why: rollout.WaveName(r.Wave) + " of " + r.Image.Name}
		if len(status.Hooks) > 0 && a.Drain != ingot.DrainNone {
			order.Drain, order.Hooks = a.Drain, status.Hooks
		}
		d.Order(order)
	}
	tx.StoreBoot(d.Boot)
	return d.Changes, nil
}
