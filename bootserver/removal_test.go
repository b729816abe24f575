package bootserver

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// interposed is a state in which something else happens before a transaction begins.
type interposed struct {
	state.Store
	before func() // of the next transaction; nil is nothing
}

func (s *interposed) Begin(f func(tx state.Tx) error) (wait func() error) {
	if before := s.before; before != nil {
		s.before = nil
		before()
	}
	return s.Store.Begin(f)
}

func (s *interposed) Update(f func(tx state.Tx) error) error { return s.Begin(f)() }

func (s *interposed) ReplaceMachines(c state.LargeChange) error {
	if before := s.before; before != nil {
		s.before = nil
		before()
	}
	return s.Store.ReplaceMachines(c)
}

// newInterposedHouse is a house with an image, whose state lets something else happen first.
func newInterposedHouse(t *testing.T) (*house, *interposed) {
	t.Helper()
	h := newHouse(t)
	s := &interposed{Store: h.state}
	h.state = s
	h.begin(h.port)
	h.put("v1")
	return h, s
}

// remove removes lab:v1 as an operator does.
func (h *house) remove() {
	h.t.Helper()
	h.SetPolicy(h.withRule()) // a configuration that names an image keeps it
	if _, err := h.server.operator().RemoveImage(h.t.Context(), "lab:v1"); err != nil {
		h.t.Error(err)
	}
}

// withRule is the policy of h with these rules.
func (h *house) withRule(rules ...fleet.Rule) (p booter.Policy) {
	p = h.Policy()
	p.Rules = rules
	return p
}

// TestRuleOrRemove: a rule does not assign an image that is being removed, or that was removed
// after it was looked up. The machine is answered, and the rest of the rule applies.
func TestRuleOrRemove(t *testing.T) {
	rule := fleet.Rule{MAC: "52:54:00:12:*", Approve: true, Image: "lab:v1"}
	t.Run("removed", func(t *testing.T) {
		h, s := newInterposedHouse(t)
		h.SetPolicy(h.withRule(rule))
		s.before = h.remove
		h.seen(firstMachine)
		if m := h.known(machineID); m.Assignment.Image != "" || m.State != fleet.Approved {
			t.Errorf("the machine is %s, and is assigned %+v; want approved, and no image", m.State, m.Assignment)
		}
	})
	t.Run("pending", func(t *testing.T) {
		h, s := newInterposedHouse(t)
		im, err := h.images.Get(t.Context(), "lab:v1")
		if err != nil {
			t.Fatal(err)
		}
		h.SetPolicy(h.withRule(rule))
		s.before = func() {
			if err := s.Update(func(tx state.Tx) error {
				tx.PutRemoval(state.Removal{Image: im.Digest})
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
		h.seen(firstMachine)
		if m := h.known(machineID); m.Assignment.Image != "" || m.State != fleet.Approved {
			t.Errorf("the machine is %s, and is assigned %+v; want approved, and no image", m.State, m.Assignment)
		}
	})
}

// TestRemovedBeforeAssigned: an image that was removed after it was looked up is not assigned by
// an operator either, whatever the request.
func TestRemovedBeforeAssigned(t *testing.T) {
	for name, request := range map[string]func(h *house) error{
		"assign": func(h *house) error {
			_, err := h.server.operator().Assign(h.t.Context(), machineID, api.AssignRequest{Image: "lab:v1"})
			return err
		},
		"approve": func(h *house) error {
			_, err := h.server.operator().Approve(h.t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"})
			return err
		},
		"import": func(h *house) error {
			_, err := h.server.operator().Import(h.t.Context(), api.ImportRequest{Machines: []api.Planned{
				{Name: "node02", MACs: []string{"52:54:00:12:00:02"}, Image: "lab:v1"}}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, s := newInterposedHouse(t)
			h.seen(firstMachine)
			s.before = h.remove
			err := request(h)
			var p api.Problem
			if !errors.As(err, &p) || p.Code != api.CodeImageNotFound {
				t.Errorf("%s: %v; want that there is no such image", name, err)
			}
			for _, m := range h.state.Machines() {
				if m.Assignment.Image != "" {
					t.Errorf("%s is assigned an image that was removed", m.Hostname())
				}
			}
		})
	}
}

// TestChangesNeedWholeNames: what changes a machine takes its whole name, and says which; what only
// looks at it takes the beginning of one, too.
func TestChangesNeedWholeNames(t *testing.T) {
	h := newHouseOf(t)
	ctx := t.Context()
	other := firstMachine
	other.MAC, other.UUID = "52:54:00:12:00:02", "d1b2c3a4-0000-4000-8000-525400120002"
	h.seen(other)
	const otherID = "m-525400120002"
	changes := map[string]func(ref string) error{
		"approve": func(ref string) error { _, err := h.api.Approve(ctx, ref, api.ApproveRequest{}); return err },
		"assign": func(ref string) error {
			_, err := h.api.AssignBy(ctx, ref, api.AssignRequest{Image: "lab:v1"})
			return err
		},
		"once":     func(ref string) error { _, err := h.api.Once(ctx, ref, api.OnceRequest{Image: "lab:v1"}); return err },
		"cancel":   func(ref string) error { _, err := h.api.CancelOnce(ctx, ref); return err },
		"rollback": func(ref string) error { _, err := h.api.Rollback(ctx, ref); return err },
		"resume":   func(ref string) error { _, err := h.api.Resume(ctx, ref); return err },
		"label":    func(ref string) error { _, err := h.api.Label(ctx, ref, api.LabelRequest{}); return err },
		"rename":   func(ref string) error { _, err := h.api.Rename(ctx, ref, "node09"); return err },
		"retire":   func(ref string) error { _, err := h.api.Retire(ctx, ref); return err },
		"forget":   func(ref string) error { _, err := h.api.Forget(ctx, ref, true); return err },
		"merge":    func(ref string) error { _, err := h.api.Merge(ctx, ref, "node01"); return err },
		"absorb":   func(ref string) error { _, err := h.api.Merge(ctx, otherID, ref); return err },
		"grant": func(ref string) error {
			_, err := h.api.Grant(ctx, ref, api.GrantRequest{Volume: "data", Disk: "X1", For: time.Hour})
			return err
		},
		"withdraw": func(ref string) error { _, err := h.api.WithdrawGrant(ctx, ref, "data"); return err },
	}
	for _, c := range []struct{ ref, says, hint string }{
		{"node0", `"node0" is no machine, but the beginning of m-525400120001 node01`, "write the whole name: node01"},
		{"m-52540012000", `"m-52540012000" is no machine, but the beginning of 2: m-525400120001 node01, m-525400120002`,
			"write the whole name: MACHINE"},
	} {
		for name, change := range changes {
			var p api.Problem
			if err := change(c.ref); !errors.As(err, &p) || p.Code != "machine-inexact" || p.Detail != c.says ||
				p.Hint() != c.hint {
				t.Errorf("%s %s: %v (%s, %q); want it refused: %s", name, c.ref, err, p.Code, p.Hint(), c.says)
			}
		}
	}
	if m, err := h.api.Machine(ctx, "node0"); err != nil || m.ID != machineID {
		t.Errorf("looking at node0: %s, %v; want node01", m.ID, err)
	}
	for _, ref := range []string{"52:54:00:12:00:02", other.UUID, otherID} {
		if _, err := h.api.Label(ctx, ref, api.LabelRequest{Set: map[string]string{"a": "b"}}); err != nil {
			t.Errorf("label %s: %v; want it done", ref, err)
		}
	}
}

// TestWhySaysMissingImage: a machine that waits for approval, or that a rule approved, says that the rule's
// image is not in the store, until it is.
func TestWhySaysMissingImage(t *testing.T) {
	for approve, want := range map[bool]string{
		true: `waits for its first image. lab:v9 cannot be served: no such image: "lab:v9"; the store has lab:v1.`,
		false: `lab:v9, which it is given when it is approved, cannot be served: no such image: "lab:v9"; the store has ` +
			`lab:v1.`,
	} {
		h := newHouse(t)
		h.put("v1")
		h.SetPolicy(h.withRule(fleet.Rule{MAC: "52:54:00:12:*", Approve: approve, Image: "lab:v9"}))
		h.seen(firstMachine)
		y, err := h.api.Why(t.Context(), machineID)
		if err != nil || !strings.Contains(y.Words, want) || len(y.Steps) == 0 {
			t.Errorf("approve %v: why = %q, %v, %v; want %q and a next step", approve, y.Words, y.Steps, err, want)
		}
		h.put("v9")
		if y, err := h.api.Why(t.Context(), machineID); err != nil || strings.Contains(y.Words, "cannot be served") {
			t.Errorf("approve %v: once it is built, why = %q, %v", approve, y.Words, err)
		}
	}
}

// TestWhatLetsAnImageGo: an image that cannot be removed says what to type, for each reason, and that helps.
func TestWhatLetsAnImageGo(t *testing.T) {
	h := newLook(t)
	ctx := t.Context()
	hint := func(image, want string) {
		t.Helper()
		var p api.Problem
		_, err := h.api.RemoveImage(ctx, image)
		if !errors.As(err, &p) || p.Code != api.CodeImageInUse || p.Hint() != want {
			t.Errorf("removing %s: %v, hint %q; want %q", image, err, p.Hint(), want)
		}
	}
	must := func(_ api.Machine, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	hint("lab:v1", "assign another image first: ingot assign node01 IMAGE")
	must(h.api.Assign(ctx, "node01", "lab:old", ""))
	hint("lab:v1", "it may still run on node01: assign another image, and reboot it: ingot assign node01 IMAGE")
	h.once(api.OnceRequest{Image: "lab:rescue"})
	hint("lab:rescue", "ingot assign node01 --once --cancel")
	must(h.api.CancelOnce(ctx, "node01"))
	h.attempt("", "")
	hint("lab:v1", "ingot rollback node01 would go back to it; it can go when node01 was healthy with two other images, "+
		"or is gone: ingot machine forget node01")
	h.SetPolicy(booter.Policy{ApproveAll: true, Image: "lab:rescue"})
	hint("lab:rescue", "name another image in the configuration: ingot config show")
	h.SetPolicy(booter.Policy{})
	must(h.api.Assign(ctx, "node01", "lab:rescue", ""))
	h.attempt("", "")
	if _, err := h.api.RemoveImage(ctx, "lab:v1"); err != nil {
		t.Errorf("after two other images were healthy: %v", err)
	}
}
