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
		Open:    openSmall,
		Durable: true,
		Files:   []string{file, journalFile},
		Check:   func(s state.Store) error { return pagesOf(s.(*Store)) },
		Rounds:  deaths(),
		Writer:  os.Getenv(statetest.WriterVariable),
	})
}

// deaths is how often a server dies: as often as the bar wants it, or 0.
func deaths() int {
	if os.Getenv("INGOT_TEST_ALL") != "" {
		return 500
	}
	return 0
}

// openSmall opens a state whose journal is soon full, and begins again.
func openSmall(ctx context.Context, dir string) (state.Store, error) {
	s, err := Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	s.room = firstSize
	return s, nil
}
