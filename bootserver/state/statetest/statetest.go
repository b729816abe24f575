// Package statetest is the conformance suite of package state: what every backend must do,
// whatever it stores on. A backend's own test calls Run.
//
// The checks of isolation and durability (Checks) also run on their own, by a backend's test
// that plants faults, to see that they find them.
package statetest

import (
	"context"
	"path/filepath"
	"testing"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Backend is what is tested.
type Backend struct {
	// Open opens the state in a folder, or makes a new one.
	Open func(ctx context.Context, dir string) (state.Store, error)
	// Durable is true for a backend whose stores outlive the process.
	Durable bool
	// Files are the names of the files in a state's folder in which everything is stored, if
	// there are no others: then the power is cut, too.
	Files []string
	// Check reports what is wrong with a store that was opened after a crash; it may be nil.
	Check func(s state.Store) error
	// Rounds is how often a server dies; 0 means 15 kills and 60 power cuts.
	Rounds int
	// Writer is the folder that this process writes to until it is killed. A test passes on
	// what it finds in its environment under WriterVariable.
	Writer string
}

// WriterVariable is the environment variable by which the suite starts the test's own
// program once more, to be killed. Its value is for Backend.Writer.
const WriterVariable = "STATE_TEST_WRITE"

// Run runs all of the suite as subtests of t.
func Run(t *testing.T, b Backend) {
	t.Helper()
	for _, c := range Checks {
		t.Run(c.Name, func(t *testing.T) { c.Run(t, b) })
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, Backend)
	}{
		{"Remembers", testRemembers},
		{"RefusedChange", testRefusedChange},
		{"OneServer", testOneServer},
		{"Closed", testClosed},
		{"BootsAreBounded", testBootsAreBounded},
		{"MovedBoots", testMovedBoots},
		{"DroppedMachine", testDroppedMachine},
		{"RunningBoot", testRunningBoot},
		{"AddressHasOneLease", testAddressHasOneLease},
		{"Index", testIndex},
		{"Bound", testBound},
		{"ImageRemoval", testImageRemoval},
		{"Rollouts", testRollouts},
		{"Desired", testDesired},
		{"RolloutImages", testRolloutImages},
		{"EndedRollouts", testEndedRollouts},
		{"Webhooks", testWebhooks},
		{"RestoreKeepsWebhooks", testRestoreKeepsWebhooks},
		{"ReplaceMachines", testReplaceMachines},
		{"ManyAtOnce", testManyAtOnce},
		{"Order", testOrder},
		{"MemoryIsBounded", testMemoryIsBounded},
		{"Ledger", testLedger},
		{"Await", testAwait},
		{"Audit", testAudit},
		{"Credentials", testCredentials},
		{"Sessions", testSessions},
		{"EndsAreCounted", testEndsAreCounted},
		{"Console", testConsole},
		{"FactsPerBoot", testFactsPerBoot},
		{"FactsOfMergedBoots", testFactsOfMergedBoots},
		{"Backup", testBackup},
		{"RestoreKeepsAccess", testRestoreKeepsAccess},
		{"DamagedBackup", testDamagedBackup},
		{"FlippedBackup", testFlippedBackup},
		{"Histories", testHistories},
		{"Killed", testKilled},
		{"PowerCut", testPowerCut},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, b) })
	}
}

// T is the part of testing.T that Checks use.
type T interface {
	Helper()
	Context() context.Context
	TempDir() string
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

func (b Backend) open(t T, dir string) state.Store {
	t.Helper()
	s, err := b.Open(t.Context(), dir)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return s
}

// fresh opens a new state, which is closed when the test ends.
func (b Backend) fresh(t *testing.T) state.Store {
	t.Helper()
	s := b.open(t, filepath.Join(t.TempDir(), "state"))
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t T, s state.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// update runs a transaction that must not fail.
func update(t T, s state.Store, f func(tx state.Tx)) {
	t.Helper()
	if err := s.Update(func(tx state.Tx) error { f(tx); return nil }); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func leases(t T, s state.Store) []fleet.Lease {
	t.Helper()
	l, err := s.Leases()
	if err != nil {
		t.Fatalf("Leases: %v", err)
	}
	return l
}

func boots(t T, s state.Store, m ingot.MachineID) []fleet.Boot {
	t.Helper()
	l, err := s.Boots(m, 0)
	if err != nil {
		t.Fatalf("Boots: %v", err)
	}
	return l
}

func changes(t T, s state.Store, q state.Query) []fleet.Change {
	t.Helper()
	l, _, err := s.Changes(q)
	if err != nil {
		t.Fatalf("Changes: %v", err)
	}
	return l
}

// note is a Change with a text of its own.
func note(machine ingot.MachineID, text string) fleet.Change {
	c := fleet.TextChange(fleet.KindMachine, text, false)
	c.Machine = machine
	return c
}

func bootID(parts ...byte) ingot.BootID {
	var b [16]byte
	copy(b[:], parts)
	return ingot.NewBootID(b)
}
