package network

import (
	"errors"
	"fmt"
)

// Faults collects what is wrong with a configuration, each with its place.
type Faults []error

// Add notes one.
func (f *Faults) Add(where, format string, args ...any) {
	*f = append(*f, fmt.Errorf("%s: "+format, append([]any{where}, args...)...))
}

// Err returns all of them as one error that is of a kind, nil when there are
// none.
func (f Faults) Err(kind error) error {
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("%w:\n%w", kind, errors.Join(f...))
}
