package statetest

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

var errRefused = errors.New("refused by the test")

// fullMachine has every field of a machine.
func fullMachine() fleet.Machine {
	at := time.Unix(6, 0).UTC()
	one, two := fleet.ImageRef{Image: digest(1), Name: "node:1"}, fleet.ImageRef{Image: digest(2), Name: "node:2"}
	failures := []fleet.Failure{{Boot: bootID(9), Outcome: ingot.OutcomeFailed, Stage: ingot.StageRoot, Reason: "no root",
		At: at}}
	return fleet.Machine{ID: "m-1", Name: "node01", Labels: map[string]string{"rack": "r1"}, State: fleet.Approved,
		UUID: "u1", Serial: "S1",
		Ask:      &fleet.Question{With: "m-2", What: "is it m-2?", About: "card a", Reported: true},
		Answered: []fleet.Answered{{About: "card b", At: at}},
		MACs:     []string{"52:54:00:00:00:01"}, MachineKey: strings.Repeat("a", 32), Firmware: ingot.FirmwareBIOS,
		Address:   netip.MustParseAddr("10.0.0.9"),
		Port:      fleet.SwitchPort{Relay: netip.MustParseAddr("10.0.0.1"), Circuit: "eth1", Remote: "sw"},
		Loaders:   map[ingot.Firmware]string{ingot.FirmwareBIOS: "undionly.kpxe"},
		FirstSeen: time.Unix(5, 0).UTC(), LastSeen: at, Facts: ingot.Facts{Vendor: "QEMU", RAM: 1 << 30,
			NICs: []ingot.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01"}}},
		Assignment: fleet.Assignment{ImageRef: two, Why: "first", Since: at}, LastHealthy: one,
		Healthy: []fleet.ImageRef{one}, Orders: 3,
		Trial:   fleet.Trial{Image: two.Image, Failures: failures},
		Setback: &fleet.Setback{Gave: two, To: one, Why: "failed", At: at, Failures: failures},
		Grants: []fleet.Grant{{Grant: ingot.Grant{Volume: "data", Disk: "D1", Expires: at}, Given: at, Boot: bootID(1),
			Over: true}}, Boot: bootID(1)}
}

// fullBoot has every field of a boot.
func fullBoot() fleet.Boot {
	at := time.Unix(7, 0).UTC()
	b := fleet.Boot{ID: bootID(1), Machine: "m-1", Number: 1, Before: bootID(8), Firmware: ingot.FirmwareBIOS,
		Image: fleet.ImageRef{Image: digest(2), Name: "node:2"},
		Order: 3, Root: digest(3), First: fleet.FirstUKI, Proxy: true, Accepted: at, Back: true, Started: at, Deadline: at,
		Ended: at, Outcome: ingot.OutcomeFailed,
		Reason: "no root", Ticket: at, Facts: bootID(1), Changes: []string{"RAM"}, Crash: "panic", Pstore: true,
		Served:    map[string]int64{"root": 5},
		Report:    &ingot.Report{Healthy: true, Failed: []string{"a.service"}},
		Others:    []fleet.Other{{MAC: "02:00:00:00:00:01", Kind: "DHCPOFFER", File: "x", At: at, Times: 2}},
		Origins:   []fleet.Origin{{Interface: "eth1", Network: "lab", IPv6: true}},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}
	b.Events = []fleet.Event{{Event: ingot.Event{Stage: ingot.StageDHCP, Detail: "eth0", Uptime: time.Second}, At: at}}
	return b
}

func digest(n int) ingot.Digest { return ingot.Digest(fmt.Sprintf("sha256:%064x", n)) }

var addresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// testRemembers: everything is the same after a restart, to the last field.
func testRemembers(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	m, x := fullMachine(), fullBoot()
	l := fleet.Lease{MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.9"), Expires: time.Unix(9, 0).UTC(),
		Hostname: "h", Machine: "m-1", Port: m.Port, Declined: true}
	c := access.Credential{ID: "1", Name: "ci", Kind: access.Token, Scope: access.Operate, Hash: "h",
		Created: time.Unix(1, 0).UTC(), By: "local root", Expires: time.Unix(2, 0).UTC(), Revoked: time.Unix(3, 0).UTC()}
	session := access.Session{ID: "5", Kind: access.Token, Credential: "1", Name: "n", Began: time.Unix(1, 0).UTC(),
		Used: time.Unix(2, 0).UTC(), Until: time.Unix(3, 0).UTC(), Groups: []string{"g"}}
	r := state.Removal{Image: digest(7), Since: time.Unix(4, 0).UTC(), By: fleet.Actor{Kind: "token", Name: "ci"}}
	uid := 0
	change := fleet.Change{At: time.Unix(8, 0).UTC(), Code: fleet.CodeImageAssigned, Machine: "m-1", Boot: x.ID,
		Image: m.LastHealthy, Rollout: "r", Subject: "s", Name: "n",
		Actor: fleet.Actor{Kind: "local", Name: "root", UID: &uid, PID: 7, Scope: "admin"}, Stage: ingot.StageRoot,
		Failure: "code", From: fleet.Values{"image": "a"},
		To: fleet.Values{"image": "b"}, Detail: "d", Bytes: 5}
	update(t, s, func(tx state.Tx) {
		tx.StoreMachine(m)
		tx.StoreBoot(x)
		tx.PutLease(l)
		tx.PutCredential(c)
		tx.PutSession(session)
		tx.PutRemoval(r)
		tx.Record(change)
	})
	change.Seq = 1
	identity := s.Identity()
	for range 2 {
		closeStore(t, s)
		s = b.open(t, dir)
		if d := cmp.Diff([]fleet.Machine{m}, s.Machines(), addresses); d != "" {
			t.Errorf("machines after reopening (-want +got):\n%s", d)
		}
		if got, ok := s.Boot(x.ID); !ok || cmp.Diff(x, got, addresses) != "" {
			t.Errorf("boot after reopening: %s", cmp.Diff(x, got, addresses))
		}
		if got := leases(t, s); len(got) != 1 || got[0] != l {
			t.Errorf("leases after reopening = %+v; want %+v", got, l)
		}
		if got := s.Credentials(); len(got) != 1 || got[0] != c {
			t.Errorf("credentials after reopening = %+v; want %+v", got, c)
		}
		if got := s.Sessions(); len(got) != 1 || cmp.Diff(session, got[0]) != "" {
			t.Errorf("sessions after reopening = %+v; want %+v", got, session)
		}
		if got := s.Removals(); len(got) != 1 || got[0] != r {
			t.Errorf("removals after reopening = %+v; want %+v", got, r)
		}
		if got := changes(t, s, state.Query{}); len(got) != 1 || cmp.Diff(change, got[0]) != "" {
			t.Errorf("Changes after reopening = %+v; want %+v", got, change)
		}
		if again := s.Identity(); len(identity) != 32 || !bytes.Equal(again, identity) {
			t.Errorf("the identity has %d bytes, and is the same after reopening: %v", len(identity),
				bytes.Equal(again, identity))
		}
	}
	if err := s.Verify(); err != nil {
		t.Error(err)
	}
	closeStore(t, s)
}

func testRefusedChange(t *testing.T, b Backend) {
	s := b.fresh(t)
	err := s.Update(func(tx state.Tx) error {
		tx.StoreMachine(fleet.Machine{ID: "m-1"})
		tx.Record(note("m-1", "x"))
		return errRefused
	})
	if !errors.Is(err, errRefused) {
		t.Errorf("Update = %v; want the function's error", err)
	}
	if len(s.Machines()) != 0 || len(changes(t, s, state.Query{})) != 0 {
		t.Error("a refused change is seen")
	}
}

func testOneServer(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	if _, err := b.Open(t.Context(), dir); !errors.Is(err, state.ErrLocked) {
		t.Errorf("a second Open = %v; want ErrLocked", err)
	}
	closeStore(t, s)
	closeStore(t, b.open(t, dir))
}

func testClosed(t *testing.T, b Backend) {
	s := b.open(t, filepath.Join(t.TempDir(), "state"))
	closeStore(t, s)
	if err := s.Update(func(tx state.Tx) error {
		tx.StoreMachine(fleet.Machine{ID: "m-1"})
		return nil
	}); !errors.Is(err, state.ErrClosed) {
		t.Errorf("Update after Close = %v; want ErrClosed", err)
	}
}

func testBootsAreBounded(t *testing.T, b Backend) {
	s := b.fresh(t)
	for i := range state.BootsPerMachine + 20 {
		update(t, s, func(tx state.Tx) {
			tx.StoreBoot(fleet.Boot{ID: bootID(1, byte(i)), Machine: "m-1", Number: i + 1, Started: time.Unix(int64(i), 0)})
		})
	}
	list := boots(t, s, "m-1")
	if len(list) != state.BootsPerMachine || list[0].Started.Unix() != 20 {
		t.Errorf("%d boots, the oldest of %d; want %d, the oldest ones gone", len(list), list[0].Started.Unix(),
			state.BootsPerMachine)
	}
}

// testMovedBoots: the boots of a machine that is merged take their places by when they
// started; the latest stays the latest, after a restart too, and after a change that failed
// all is as it was.
func testMovedBoots(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	update(t, s, func(tx state.Tx) {
		for i, m := range []ingot.MachineID{"old", "into", "old", "into"} {
			tx.StoreBoot(fleet.Boot{ID: bootID(byte(i + 1)), Machine: m, Number: i/2 + 1, Started: time.Unix(int64(i), 0).UTC()})
		}
	})
	order := func(m ingot.MachineID, want ...byte) {
		t.Helper()
		var got []byte
		last := 0
		for _, x := range boots(t, s, m) {
			got = append(got, x.ID[1]-'0')
			if x.Machine != m || x.Number <= last {
				t.Errorf("boot %s of %s has the number %d after %d", x.ID.Short(), x.Machine, x.Number, last)
			}
			last = x.Number
		}
		if !bytes.Equal(got, want) {
			t.Errorf("boots of %s: %d; want %d", m, got, want)
		}
	}
	if err := s.Update(func(tx state.Tx) error {
		_, err := tx.MoveBoots("old", "into")
		return errors.Join(err, errRefused)
	}); !errors.Is(err, errRefused) {
		t.Fatal(err)
	}
	order("old", 1, 3)
	order("into", 2, 4)
	var last int
	if err := s.Update(func(tx state.Tx) (err error) { last, err = tx.MoveBoots("old", "into"); return err }); err != nil {
		t.Fatal(err)
	}
	if b, _ := s.Boot(bootID(4)); b.Number != last {
		t.Errorf("the last boot has the number %d, and MoveBoots returned %d", b.Number, last)
	}
	for range 2 {
		order("old")
		order("into", 1, 2, 3, 4)
		if list := s.Latest(); len(list) != 1 || list[0].ID != bootID(4) {
			t.Errorf("the latest boots are %+v; want the one that runs", list)
		}
		closeStore(t, s)
		s = b.open(t, dir)
	}
	closeStore(t, s)
}

// testDroppedMachine: a machine goes with its whole past, and what another one of the same
// id does later in the same moment stays.
func testDroppedMachine(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	for i := range state.BootsPerMachine {
		update(t, s, func(tx state.Tx) {
			x := fleet.Boot{ID: bootID(1, byte(i)), Machine: "m-1", Number: i + 1, Started: time.Unix(int64(i), 0).UTC(),
				Outcome: ingot.OutcomeHealthy}
			tx.StoreBoot(x)
			tx.AddConsole(x.ID, "x")
			tx.StoreMachine(fleet.Machine{ID: "m-1", Boot: x.ID})
		})
	}
	s.Forget()
	again := fleet.Boot{ID: bootID(2), Machine: "m-1", Number: 1, Started: time.Unix(500, 0).UTC()}
	var waits []func() error
	waits = append(waits, s.Begin(func(tx state.Tx) error { return errors.Join(tx.DropMachine("m-1"), errRefused) }))
	waits = append(waits, s.Begin(func(tx state.Tx) error { return tx.DropMachine("m-1") }))
	waits = append(waits, s.Begin(func(tx state.Tx) error {
		tx.StoreMachine(fleet.Machine{ID: "m-1", Boot: again.ID})
		tx.StoreBoot(again)
		return nil
	}))
	for i, wait := range waits {
		if err := wait(); (err != nil) != (i == 0) {
			t.Fatalf("transaction %d: %v", i, err)
		}
	}
	for range 2 {
		if list := boots(t, s, "m-1"); len(list) != 1 || list[0].ID != again.ID {
			t.Errorf("%d boots; want only the one after the machine was dropped", len(list))
		}
		if _, ok := s.Boot(bootID(1, 99)); ok {
			t.Error("a boot of the machine that was dropped is found")
		}
		if text, err := s.Console(bootID(1, 99)); err != nil || text != "" {
			t.Errorf("its console is %q, %v", text, err)
		}
		closeStore(t, s)
		s = b.open(t, dir)
	}
	closeStore(t, s)
}

func testAddressHasOneLease(t *testing.T, b Backend) {
	s := b.fresh(t)
	for _, ip := range []string{"10.0.0.9", "fd00::9"} {
		for _, mac := range []string{"52:54:00:00:00:01", "52:54:00:00:00:02"} {
			update(t, s, func(tx state.Tx) { tx.PutLease(fleet.Lease{MAC: mac, Address: netip.MustParseAddr(ip)}) })
		}
	}
	if l := leases(t, s); len(l) != 2 || l[0].MAC != "52:54:00:00:00:02" || l[1].MAC != "52:54:00:00:00:02" {
		t.Errorf("leases = %+v; want only the later ones", l)
	}
}

// testIndex: machines and boots are found by what they are known by, and are not when the
// change was refused.
func testIndex(t *testing.T, b Backend) {
	s := b.fresh(t)
	ip := netip.MustParseAddr("10.0.0.9")
	m := fleet.Machine{ID: "m-1", Name: "node01", State: fleet.Pending, MACs: []string{"a", "b"}, UUID: "u1", Address: ip,
		Grants: []fleet.Grant{{Grant: ingot.Grant{Volume: "data", Disk: "D"}}}}
	x := fleet.Boot{ID: bootID(1), Machine: "m-1"}
	update(t, s, func(tx state.Tx) { tx.StoreMachine(m); tx.StoreBoot(x) })
	refused := m
	refused.State, refused.MACs, refused.UUID, refused.Name = fleet.Approved, []string{"b", "c"}, "u2", "node02"
	refused.Address, refused.Grants = netip.MustParseAddr("10.0.0.10"), nil
	ended := x
	ended.Outcome = ingot.OutcomeFailed
	err := s.Update(func(tx state.Tx) error {
		tx.StoreMachine(refused)
		tx.StoreBoot(ended)
		tx.StoreBoot(fleet.Boot{ID: bootID(2), Machine: "m-1"})
		if got, _, ok := tx.Find(fleet.Sighting{MAC: "c"}); !ok || got.UUID != "u2" || tx.Pending() != 0 ||
			tx.WithCard("a") != 0 || tx.WithCard("c") != 1 {
			t.Error("a change does not see itself")
		}
		if got := tx.MachinesNamed("node02"); len(got) != 1 || got[0].ID != "m-1" {
			t.Error("a change does not find its own name")
		}
		return errRefused
	})
	if !errors.Is(err, errRefused) {
		t.Fatal(err)
	}
	for sight, want := range map[fleet.Sighting]bool{{MAC: "a"}: true, {MAC: "b"}: true, {MAC: "c"}: false,
		{MAC: "a", UUID: "u1"}: true, {MAC: "c", UUID: "u1"}: false, {MAC: "a", UUID: "u3"}: false} {
		if got, ok := s.Find(sight); ok != want || (ok && got.ID != "m-1") {
			t.Errorf("Find(%+v) = %v, %v; want %v", sight, got.ID, ok, want)
		}
	}
	if _, ok := s.AtAddress(ip); !ok {
		t.Error("the machine is not found at its address")
	}
	if _, ok := s.AtAddress(refused.Address); ok {
		t.Error("a machine is found at the address of a refused change")
	}
	if open := s.OpenBoots(func(fleet.Boot) bool { return true }); len(open) != 1 || open[0].ID != x.ID {
		t.Errorf("open boots %+v; want what was before the refused change", open)
	}
	if granted := s.Granted(); len(granted) != 1 {
		t.Errorf("%d machines with a grant; want what was before the refused change", len(granted))
	}
	update(t, s, func(tx state.Tx) {
		first, second := len(tx.MachinesNamed("node01")) == 1, len(tx.MachinesNamed("node02")) > 0
		if !first || second || tx.Pending() != 1 || tx.WithCard("a") != 1 || tx.WithCard("c") != 0 {
			t.Errorf("node01 is found: %v, node02: %v, pending: %d; want what was before the refused change", first, second,
				tx.Pending())
		}
	})
}

// testBound: a transaction above its bound is refused as a whole, and one at it is not.
func testBound(t *testing.T, b Backend) {
	s := b.fresh(t)
	put := func(n int, name string) error {
		return s.Update(func(tx state.Tx) error {
			for i := range n {
				tx.StoreMachine(fleet.Machine{ID: ingot.MachineID(fmt.Sprint("m-", i)), Name: name})
			}
			return nil
		})
	}
	if err := put(state.MaxRecords+1, ""); !errors.Is(err, state.ErrTooLarge) || len(s.Machines()) != 0 {
		t.Errorf("%d records: %v, %d stored; want ErrTooLarge and none", state.MaxRecords+1, err, len(s.Machines()))
	}
	large := put(state.MaxRecords, strings.Repeat("x", state.MaxBytes/state.MaxRecords))
	if err := large; !errors.Is(err, state.ErrTooLarge) || len(s.Machines()) != 0 {
		t.Errorf("more than %d bytes: %v; want ErrTooLarge", state.MaxBytes, err)
	}
	if err := put(1, strings.Repeat("<", state.MaxBytes/5)); !errors.Is(err, state.ErrTooLarge) || len(s.Machines()) != 0 {
		t.Errorf("one record of more than %d bytes: %v, %d stored; want ErrTooLarge", state.MaxBytes, err, len(s.Machines()))
	}
	if err := put(state.MaxRecords, ""); err != nil {
		t.Errorf("%d records: %v", state.MaxRecords, err)
	}
	read := func(n int) error {
		return s.Update(func(tx state.Tx) error {
			for i := range n {
				tx.Machine(ingot.MachineID(fmt.Sprint("absent-", i)))
			}
			return nil
		})
	}
	if err := read(state.MaxRecords + 1); !errors.Is(err, state.ErrTooLarge) {
		t.Errorf("%d records that are absent were read: %v; want ErrTooLarge", state.MaxRecords+1, err)
	}
	if err := read(state.MaxRecords); err != nil {
		t.Errorf("%d records were read: %v", state.MaxRecords, err)
	}
}

// testImageRemoval: an image that a machine needs is known as such, and one that is being
// removed is given to none.
func testImageRemoval(t *testing.T, b Backend) {
	s := b.fresh(t)
	assigned := func(id ingot.MachineID, image int) func(tx state.Tx) error {
		return func(tx state.Tx) error {
			m, _ := tx.Machine(id)
			m.ID, m.Assignment.ImageRef = id, fleet.ImageRef{Image: digest(image), Name: fmt.Sprint("node:", image)}
			tx.StoreMachine(m)
			return nil
		}
	}
	used := func(image int) (why string) {
		update(t, s, func(tx state.Tx) { why, _ = tx.ImageUse(digest(image)) })
		return why
	}
	if err := s.Update(assigned("m-1", 1)); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx state.Tx) {
		m, _ := tx.Machine("m-1")
		m.Name, m.Boot, m.LastHealthy.Image = "node01", bootID(1), digest(3)
		tx.StoreMachine(m)
		tx.StoreBoot(fleet.Boot{ID: m.Boot, Machine: "m-1", Image: fleet.ImageRef{Image: digest(2)}})
	})
	for image, want := range []string{"", "node01 is assigned it", "node01 booted it last",
		"node01 was last healthy with it", ""} {
		if got := used(image); got != want {
			t.Errorf("image %d is used: %q; want %q", image, got, want)
		}
	}
	update(t, s, func(tx state.Tx) { tx.PutRemoval(state.Removal{Image: digest(4)}) })
	if err := s.Update(assigned("m-1", 4)); !errors.Is(err, state.ErrBeingRemoved) {
		t.Errorf("assigning an image that is being removed: %v; want ErrBeingRemoved", err)
	}
	if got := used(1); got == "" {
		t.Error("the assignment that was refused took the old image")
	}
	update(t, s, func(tx state.Tx) {
		if _, pending := tx.Removal(digest(4)); !pending {
			t.Error("the removal is not pending")
		}
		tx.DropRemoval(digest(4))
	})
	looked := s.Removed()
	if err := s.Update(assigned("m-1", 4)); err != nil || used(1) != "" || used(4) == "" || len(s.Removals()) != 0 {
		t.Errorf("after the removal was dropped: %v, image 1 is used: %q, image 4: %q", err, used(1), used(4))
	}
	update(t, s, func(tx state.Tx) {
		if err := tx.DropMachine("m-1"); err != nil {
			t.Error(err)
		}
	})
	if why := used(4) + used(2); why != "" {
		t.Errorf("of no machine is used: %s", why)
	}
	if err := s.Update(func(tx state.Tx) error {
		tx.LookedUp(looked)
		return assigned("m-1", 4)(tx)
	}); err != nil {
		t.Errorf("assigning an image that was looked up before nothing was removed: %v", err)
	}
	update(t, s, func(tx state.Tx) { tx.PutRemoval(state.Removal{Image: digest(5)}) })
	update(t, s, func(tx state.Tx) { tx.DropRemoval(digest(5)) })
	if err := s.Update(func(tx state.Tx) error {
		tx.LookedUp(looked)
		return assigned("m-1", 5)(tx)
	}); !errors.Is(err, state.ErrRemoved) {
		t.Errorf("assigning an image that was looked up before a removal ended: %v; want ErrRemoved", err)
	}
	if err := s.ReplaceMachines(state.LargeChange{LookedUp: looked, Machines: []state.Replacement{
		{After: fleet.Machine{ID: "m-2", Assignment: fleet.Assignment{ImageRef: fleet.ImageRef{Image: digest(5)}}}},
	}}); !errors.Is(err, state.ErrRemoved) {
		t.Errorf("a large change with such an image: %v; want ErrRemoved", err)
	}
}

// testReplaceMachines: any number of machines is stored at once, or none when one of them
// has changed.
func testReplaceMachines(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	const many = 5 * state.MaxRecords
	var c state.LargeChange
	for i := range many {
		m := fleet.Machine{ID: ingot.MachineID(fmt.Sprintf("m-%04d", i)), State: fleet.Approved}
		c.Machines = append(c.Machines, state.Replacement{After: m})
		c.Changes = append(c.Changes, note(m.ID, "imported"))
	}
	if err := s.ReplaceMachines(c); err != nil {
		t.Fatal(err)
	}
	for i, m := range s.Machines() {
		c.Machines[i].Before, c.Machines[i].After = &m, m
		c.Machines[i].After.Name = fmt.Sprint("node", i)
	}
	update(t, s, func(tx state.Tx) {
		m, _ := tx.Machine("m-0400")
		m.Orders++
		tx.StoreMachine(m)
	})
	if err := s.ReplaceMachines(c); !errors.Is(err, state.ErrChanged) {
		t.Errorf("ReplaceMachines with one that has changed = %v; want ErrChanged", err)
	}
	for range 2 {
		named := 0
		for _, m := range s.Machines() {
			if m.Name != "" {
				named++
			}
		}
		if n := len(changes(t, s, state.Query{Limit: 3 * many})); len(s.Machines()) != many || named != 0 || n != many {
			t.Errorf("%d machines, %d with a name, %d Changes; want %d, none, %d", len(s.Machines()), named, n, many, many)
		}
		closeStore(t, s)
		s = b.open(t, dir)
	}
	closeStore(t, s)
}

// testManyAtOnce: each of many that wait at once is answered when its change is stored.
func testManyAtOnce(t *testing.T, b Backend) {
	s := b.fresh(t)
	var g errgroup.Group
	for i := range 500 {
		g.Go(func() error {
			ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			return s.Update(func(tx state.Tx) error { tx.PutLease(fleet.Lease{Address: ip}); return nil })
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := len(leases(t, s)); got != 500 {
		t.Errorf("%d leases are stored; want 500", got)
	}
}

// testOrder: transactions that are begun one after another are stored in that order.
func testOrder(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	ip := netip.MustParseAddr("10.0.0.9")
	var waits []func() error
	for i := range 200 {
		waits = append(waits, s.Begin(func(tx state.Tx) error {
			tx.PutLease(fleet.Lease{Address: ip, Hostname: fmt.Sprint(i)})
			return nil
		}))
	}
	for _, wait := range waits {
		if err := wait(); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, s)
	s = b.open(t, dir)
	if l := leases(t, s); len(l) != 1 || l[0].Hostname != "199" {
		t.Errorf("leases = %+v; want the one that was begun last", l)
	}
	closeStore(t, s)
}

// testMemoryIsBounded: boots that ended leave the memory when a newer one is there, and are
// found all the same.
func testMemoryIsBounded(t *testing.T, b Backend) {
	s := b.fresh(t)
	for i := range 10 {
		update(t, s, func(tx state.Tx) {
			tx.StoreBoot(fleet.Boot{ID: bootID(byte(i)), Machine: "m-1", Number: i + 1, Outcome: ingot.OutcomeHealthy})
		})
	}
	s.Forget()
	if n := len(s.Latest()); n != 1 {
		t.Errorf("%d latest boots; want one", n)
	}
	if x, ok := s.Boot(bootID(3)); !ok || x.Number != 4 {
		t.Errorf("an older boot = %+v, %t", x, ok)
	}
	if list := boots(t, s, "m-1"); len(list) != 10 {
		t.Errorf("%d boots; want all", len(list))
	}
}

// testRunningBoot: the boot that runs stays, however many began after it in the machine's name, and is
// the machine's latest one when they have ended, also after a restart.
func testRunningBoot(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	boot := func(n int) fleet.Boot {
		x := fleet.Boot{ID: bootID(1, byte(n)), Machine: "m-1", Number: n, Started: time.Unix(int64(n), 0).UTC(),
			Outcome: ingot.OutcomeFailed}
		x.Image.Image = digest(min(n, 2))
		return x
	}
	running := boot(1)
	running.Outcome = ingot.OutcomeHealthy
	update(t, s, func(tx state.Tx) {
		tx.StoreBoot(running)
		tx.StoreMachine(fleet.Machine{ID: "m-1", Boot: running.ID})
	})
	claim := &fleet.Claim{Running: running.ID, Healthy: true, Since: time.Unix(2, 0).UTC(), Until: time.Unix(9, 0).UTC()}
	const others = state.BootsPerMachine + 20
	for n := 2; n < 2+others; n++ {
		update(t, s, func(tx state.Tx) {
			tx.StoreBoot(boot(n))
			tx.StoreMachine(fleet.Machine{ID: "m-1", Boot: boot(n).ID, Claim: claim})
		})
	}
	if _, ok := s.Boot(running.ID); !ok {
		t.Errorf("the running boot is gone after %d others", others)
	}
	update(t, s, func(tx state.Tx) { tx.StoreMachine(fleet.Machine{ID: "m-1", Boot: running.ID}) })
	for _, when := range []string{"before", "after"} {
		if list := s.Latest(); len(list) != 1 || list[0].ID != running.ID {
			t.Errorf("latest boots %s a restart: %+v; want the running one", when, list)
		}
		update(t, s, func(tx state.Tx) {
			if why, used := tx.ImageUse(running.Image.Image); !used {
				t.Errorf("%s a restart, nothing needs the image of the running boot: %q", when, why)
			}
		})
		if n := len(boots(t, s, "m-1")); n > state.BootsPerMachine+1 {
			t.Errorf("%d boots %s a restart; want at most %d", n, when, state.BootsPerMachine+1)
		}
		closeStore(t, s)
		s = b.open(t, dir)
	}
	closeStore(t, s)
}
