package bootserver

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/bootserver/api"
	"ingot/bootserver/state"
)

// fullStore is a state on a disk that gets full after some transactions.
type fullStore struct {
	state.Store
	room int // transactions that are still stored
}

func (s *fullStore) Begin(f func(tx state.Tx) error) (wait func() error) {
	if s.room--; s.room < 0 {
		return func() error { return syscall.ENOSPC }
	}
	return s.Store.Begin(f)
}

func (s *fullStore) Update(f func(tx state.Tx) error) error { return s.Begin(f)() }

// TestRolloutThatCannotBeStored: a rollout whose start fails at any of its transactions, because the disk
// is full, keeps no machine from the next one, and no image in the store.
func TestRolloutThatCannotBeStored(t *testing.T) {
	for room := range 4 {
		h := newHouse(t)
		v1 := h.put("v1")
		h.put("v2")
		v3 := h.put("v3")
		h.fakes(state.MaxRecords, v1)
		full := &fullStore{h.state, room}
		h.state = full
		h.begin(h.port)
		_, err := h.server.operator().StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v3", Selector: "all"})
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("with room for %d transactions, the start is %v; want %v", room, err, syscall.ENOSPC)
		}
		full.room = 1 << 30
		if room%2 == 0 {
			h.pass(time.Second)
			if n := len(h.state.Rollouts()); n != 0 {
				t.Errorf("with room for %d transactions, %d rollouts are left", room, n)
			}
			if _, err := h.server.operator().RemoveImage(t.Context(), v3.Name.String()); err != nil {
				t.Errorf("with room for %d transactions, removing the image: %v", room, err)
			}
		}
		if _, err := h.server.operator().StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2",
			Selector: "all"}); err != nil {
			t.Errorf("with room for %d transactions, the next rollout: %v", room, err)
		}
	}
}

// TestRolloutHasEachMachineOnce: a selector may name a machine more than once, by one name or by several.
func TestRolloutHasEachMachineOnce(t *testing.T) {
	h := newHouse(t)
	v1 := h.put("v1")
	h.put("v2")
	h.fakes(12, v1)
	for _, selector := range []string{"fake001,fake001,fake005", "fake[001-001],m-000000000005,fake005,fake001"} {
		p, err := h.api.StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2", Selector: selector, DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Machines) != 2 || p.Machines[0].Name != "fake001" || p.Machines[1].Name != "fake005" ||
			p.Rollout.Machines != 2 || p.Changes[0].Machines != 2 {
			t.Errorf("%s: the plan has %+v", selector, p.Machines)
		}
	}
	r := h.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "fake001,fake001,fake005"})
	if list := h.state.Members(r.ID); len(list) != r.Machines || list[0].Wave != 0 {
		t.Errorf("the rollout of %d machines has %+v", r.Machines, list)
	}
}

// TestRolloutNamesWhatIsWrong: a wrong selector is refused with the part of it that is wrong, and a label
// of failure domains that no machine has is refused too: all machines would be one domain.
func TestRolloutNamesWhatIsWrong(t *testing.T) {
	h := newHouse(t)
	v1 := h.put("v1")
	h.put("v2")
	h.fakes(4, v1)
	for _, c := range []struct{ selector, spread, want string }{
		{"fake[000-005]", "", "fake004, fake005"},
		{"fake[000-99999999]", "", "65536"},
		{"fake[000-", "", "a [ without its ]"},
		{"fake000,", "", "a name is missing beside a comma"},
		{"fake[900-999]", "", "no machine has the name fake900, fake901, fake902, fake903, fake904 and 95 more"},
		{"nobody", "", "it names no machine"},
		{"rack=r1,", "", "not a label"},
		{"all", "rak", `no machine of the rollout has the label "rak"`},
		{"fake000", "rak", `no machine of the rollout has the label "rak"`},
	} {
		_, err := h.api.StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2", Selector: c.selector, DryRun: true,
			Policy: api.RolloutPolicy{Spread: c.spread}})
		if !isProblem(err, api.CodeInvalidRollout) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("to %s, spread by %q: %v; want %q", c.selector, c.spread, err, c.want)
		}
	}
}
