package memory

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/statetest"
)

func TestSuite(t *testing.T) {
	statetest.Run(t, statetest.Backend{Open: func(ctx context.Context, dir string) (state.Store, error) {
		return Open(ctx, dir)
	}})
}

// recorder is a test that may fail.
type recorder struct {
	t      *testing.T
	mu     sync.Mutex
	failed []string
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.t.Context() }
func (r *recorder) TempDir() string          { return r.t.TempDir() }
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// TestPlantedFaults: each fault that a store may have is found by the check that is for it,
// and that check finds nothing in a store without a fault.
func TestPlantedFaults(t *testing.T) {
	for plant, name := range map[Fault]string{LostWrite: "LostWrite", StaleRead: "StaleRead", Half: "HalfTransaction",
		Phantom: "Phantom"} {
		for _, c := range statetest.Checks {
			if c.Name != name {
				continue
			}
			for _, fault := range []Fault{None, plant} {
				r := &recorder{t: t}
				done := make(chan struct{})
				go func() {
					defer close(done)
					c.Run(r, statetest.Backend{Open: func(_ context.Context, dir string) (state.Store, error) {
						return OpenFaulty(dir, fault)
					}})
				}()
				<-done
				if found := len(r.failed) > 0; found != (fault != None) {
					t.Errorf("%s with fault %d: %q", name, fault, r.failed)
				}
			}
		}
	}
}

// TestFindsImpureTransactions: a transaction that does something else when it runs again,
// although nothing has changed, is a fault of the program.
func TestFindsImpureTransactions(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer func() {
		if r := fmt.Sprint(recover()); !strings.Contains(r, "ran twice") {
			t.Errorf("the transaction ended with %s", r)
		}
	}()
	n := 0
	_ = s.Update(func(tx state.Tx) error {
		n++
		tx.StoreMachine(fleet.Machine{ID: "m-1", Orders: n})
		return nil
	})
	t.Error("a transaction that counts its runs went through")
}
