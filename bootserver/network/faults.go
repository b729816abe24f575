package network

import (
	"errors"
	"fmt"
)

// ErrConfig is wrapped by errors that list the faults of a DHCP configuration.
var ErrConfig = errors.New("invalid DHCP configuration")

// Faults collects what is wrong with a configuration, each with its place.
type Faults []error

// Add adds a fault.
func (f *Faults) Add(where, format string, args ...any) {
	*f = append(*f, fmt.Errorf("%s: "+format, append([]any{where}, args...)...))
}

// Err returns all faults as one error that wraps ErrConfig, nil for none.
func (f Faults) Err(family Family) error {
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("%w for %s:\n%w", ErrConfig, family, errors.Join(f...))
}
