package bolt

import (
	"context"
	"os"
	"testing"

	"ingot/bootserver/state"
	"ingot/bootserver/state/statetest"
)

func TestSuite(t *testing.T) {
	statetest.Run(t, statetest.Backend{
		Open:    func(ctx context.Context, dir string) (state.Store, error) { return Open(ctx, dir) },
		Durable: true,
		File:    file,
		Check:   func(s state.Store) error { return pagesOf(s.(*Store)) },
		Rounds:  rounds(),
		Writer:  os.Getenv(statetest.WriterVariable),
	})
}

// rounds is how often a server dies: as often as the bar wants it, or 0.
func rounds() int {
	if os.Getenv("INGOT_TEST_ALL") != "" {
		return 500
	}
	return 0
}
