package bootserver

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
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

// TestRolloutPlanNamesPackages: the plan says which packages have which version afterwards, as far as they fit on a
// screen; the answer has all of them.
func TestRolloutPlanNamesPackages(t *testing.T) {
	s := newStreet(t)
	v1, v2, v3 := s.put("v1"), s.put("v2"), s.put("v3")
	before, after := []string{packaged("gone", "1", 7)}, []string{packaged("new", "3", 7)}
	for i := range 14 {
		name := fmt.Sprintf("p%02d", i)
		before, after = append(before, packaged(name, "1", 7)), append(after, packaged(name, "2", 7))
	}
	before, after = append(before, packaged("same", "1", 7)), append(after, packaged("same", "1", 7))
	s.bom(v1, before...)
	s.bom(v2, after...)
	s.running(fleet.ImageRef{Image: v1.Digest, Name: v1.Name.String()}, 0, 3)
	plan := func(ref string) api.PlannedChange {
		t.Helper()
		p, err := s.server.operator().StartRollout(t.Context(), api.RolloutRequest{Image: ref, Selector: "all", DryRun: true})
		if err != nil || len(p.Changes) != 1 {
			t.Fatalf("%+v, %v", p, err)
		}
		return p.Changes[0]
	}
	c := plan("lab:v2")
	text := strings.Join(c.Lines, "\n")
	for _, want := range []string{"package removed: gone 1\n", "package added: new 3\n", "package: p00 1 → 2\n",
		"and 4 more packages", "ingot image diff lab:v1 lab:v2"} {
		if !strings.Contains(text, want) {
			t.Errorf("the plan lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "same") || len(c.Packages) != 16 || c.Packages[15] != (api.PackageChange{Name: "p13",
		Before: "1", After: "2"}) {
		t.Errorf("the plan names %d packages, %+v\n%s", len(c.Packages), c.Packages, text)
	}
	if c := plan(v3.Name.String()); c.Packages != nil { // it has no SBOM
		t.Errorf("without an SBOM the plan names packages: %+v", c)
	}
}
