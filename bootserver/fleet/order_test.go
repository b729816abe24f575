package fleet

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ingot"
)

// runs is the machine and the boot of a system that reports and takes orders.
func runs() (Machine, Boot) {
	b := Boot{ID: boot1, Machine: "m-1", Image: v1, Started: t0, Ticket: t0, Outcome: ingot.OutcomeHealthy,
		Report: &ingot.Report{Healthy: true}, Auth: Authentication{Able: true, Half: make(ingot.Half, 32), Heard: t0}}
	return Machine{ID: "m-1", Name: "node01", State: Approved, Assignment: Assignment{ImageRef: v1}, Boot: boot1}, b
}

// TestNoOrder: only a system that is heard, proves what it says, and whose image takes orders gets one.
func TestNoOrder(t *testing.T) {
	order := func(s ingot.OrderState) *Order {
		return &Order{Counter: 1, Kind: ingot.OrderReboot, State: s, At: t0, Expires: t0.Add(OrderLife)}
	}
	for _, c := range []struct {
		name   string
		change func(m *Machine, b *Boot, s *OrderStatus)
		want   string // in the error; empty: it gets one
	}{
		{"as it is", func(*Machine, *Boot, *OrderStatus) {}, ""},
		{"retired", func(m *Machine, _ *Boot, _ *OrderStatus) { m.State = Retired }, "it is retired"},
		{"another boot began", func(m *Machine, _ *Boot, _ *OrderStatus) { m.Boot = "b" }, "has not booted"},
		{"before its report", func(_ *Machine, b *Boot, _ *OrderStatus) { b.Report = nil }, "has not reported"},
		{"an older image", func(_ *Machine, _ *Boot, s *OrderStatus) { s.Able = false }, "an older ingot built it"},
		{"no secret", func(_ *Machine, b *Boot, _ *OrderStatus) { b.Auth.Half = nil }, "not authenticated"},
		{"a claim", func(m *Machine, _ *Boot, _ *OrderStatus) { m.Claim = &Claim{} }, "began in its name"},
		{"it shuts down", func(_ *Machine, b *Boot, _ *OrderStatus) { b.Auth.Down = true }, "shuts down"},
		{"silent", func(_ *Machine, _ *Boot, s *OrderStatus) { s.Silent = true }, "nothing is heard"},
		{"ordered", func(_ *Machine, b *Boot, _ *OrderStatus) { b.Ordered = order(ingot.OrderGiven) }, "under way"},
		{"drains", func(_ *Machine, b *Boot, _ *OrderStatus) { b.Ordered = order(ingot.OrderDraining) }, "under way"},
		{"reboots", func(_ *Machine, b *Boot, _ *OrderStatus) { b.Ordered = order(ingot.OrderRebooting) }, "under way"},
		{"failed", func(_ *Machine, b *Boot, _ *OrderStatus) { b.Ordered = order(ingot.OrderDrainFailed) }, ""},
		{"withdrawn", func(_ *Machine, b *Boot, _ *OrderStatus) { b.Ordered = order(ingot.OrderWithdrawn) }, ""},
	} {
		m, b := runs()
		s := OrderStatus{Able: true}
		c.change(&m, &b, &s)
		err := NoOrder(m, b, s, t0.Add(time.Second))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
		if err != nil && !errors.Is(err, ErrNoOrder) && !errors.Is(err, ErrOrderOpen) {
			t.Errorf("%s: %v is neither ErrNoOrder nor ErrOrderOpen", c.name, err)
		}
	}
}

// ordering is a boot to which orders are given in the order of a history, and what was seen.
type ordering struct {
	m         Machine
	b         Boot
	now       time.Time
	began     []uint64 // orders that the server let the machine carry out to the end
	withdrawn []uint64
	counters  []uint64
}

func (o *ordering) decision() *Decision {
	return NewDecision(o.m, o.b, BootPolicy{}, nil, Actor{}, o.now)
}

// TestOrderHistories: whatever is given, withdrawn, said, repeated and late, numbers rise, one order is open at
// most, and no machine is let reboot by an order that was withdrawn, expired or forged.
func TestOrderHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, b := runs()
		o := &ordering{m: m, b: b, now: t0}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			o.now = o.now.Add(time.Duration(rapid.IntRange(-60, 400).Draw(t, "seconds")) * time.Second)
			o.step(t)
		}
		if len(o.counters) != len(slices.Compact(slices.Clone(o.counters))) || !slices.IsSorted(o.counters) {
			t.Fatalf("the numbers of orders are %d", o.counters)
		}
		for _, n := range o.began {
			if slices.Contains(o.withdrawn, n) {
				t.Fatalf("order %d was withdrawn and carried out", n)
			}
		}
	})
}

func (o *ordering) step(t *rapid.T) {
	d := o.decision()
	open := o.b.Ordered != nil && o.b.Ordered.Open(o.now)
	switch rapid.IntRange(0, 3).Draw(t, "what") {
	case 0:
		if d.NoOrder(OrderStatus{Able: true}) != nil {
			return
		}
		if open {
			t.Fatal("a second order may be given")
		}
		d.Order(Order{Kind: ingot.OrderReboot, Hooks: []string{"a", "b"}})
		o.counters = append(o.counters, d.Boot.Ordered.Counter)
	case 1:
		if had := d.WithdrawOrder(); had != open {
			t.Fatalf("an order that is open (%v) is withdrawn: %v", open, had)
		} else if had {
			o.withdrawn = append(o.withdrawn, o.b.Ordered.Counter)
		}
	case 2:
		if sent := d.Deliver(); sent != nil {
			if !open || sent.Within <= 0 || sent.Counter != o.b.Ordered.Counter {
				t.Fatalf("%+v is sent; open: %v", sent, open)
			}
		}
	case 3:
		states := append(slices.Clone(orderSteps), ingot.OrderGiven, "x")
		s := ingot.OrderStep{State: rapid.SampledFrom(states).Draw(t, "state"),
			Hook: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "hook")}
		if len(o.counters) > 0 {
			s.Counter = rapid.SampledFrom(o.counters).Draw(t, "counter")
		}
		if rapid.Bool().Draw(t, "forged") {
			s.Counter++
		}
		err := d.OrderStep(s)
		if err == nil && s.State == ingot.OrderRebooting {
			if s.Counter != o.counters[len(o.counters)-1] {
				t.Fatalf("the machine may reboot by order %d of %d", s.Counter, o.counters)
			}
			o.began = append(o.began, s.Counter)
		}
	}
	o.b = d.Boot
}

// TestOrderStepsAreBounded: a machine cannot make the ledger or its boot grow by what it says of an order.
func TestOrderStepsAreBounded(t *testing.T) {
	m, b := runs()
	d := NewDecision(m, b, BootPolicy{}, nil, Actor{}, t0)
	d.Order(Order{Kind: ingot.OrderReboot, Hooks: []string{"a", "b"}})
	for i := range 3 * maxNotes {
		if err := d.OrderStep(ingot.OrderStep{Counter: d.Boot.Ordered.Counter, State: ingot.OrderDraining,
			Hook: []string{"a", "b"}[i%2], Error: strings.Repeat("<", 5000)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.Changes) > maxNotes+1 || len(d.Boot.Ordered.Error) > maxOrderError || len(d.Boot.Events) > 0 {
		t.Errorf("%d Changes, %d events, an error of %d bytes", len(d.Changes), len(d.Boot.Events),
			len(d.Boot.Ordered.Error))
	}
}
