package show

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// UsageError marks an error of the command line itself: exit code 2.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// Usagef returns a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// CodeError is an error of a command with its own exit code. Without Err nothing failed, and nothing is
// printed: the code is the answer.
type CodeError struct {
	Err  error
	Code int
}

func (e CodeError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}
func (e CodeError) Unwrap() error { return e.Err }

// HintError is an error with the next step to take.
type HintError struct {
	Err  error
	Hint string // what to type
}

func (e HintError) Error() string { return e.Err.Error() }
func (e HintError) Unwrap() error { return e.Err }

// WithHint adds the next step to an error.
func WithHint(err error, format string, args ...any) error {
	return HintError{err, fmt.Sprintf(format, args...)}
}

// Explain adds the next step to failures whose cause is outside ingot: an
// interruption, a full disk.
func Explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil: // a tool that was killed with this program reports something else
		return WithHint(errors.New("interrupted; nothing was stored"), "run the same command again; downloads are kept")
	case errors.Is(err, syscall.ENOSPC), strings.Contains(err.Error(),
		"No space left on device"): // of this program, or of a tool
		return WithHint(err, "free disk space, or move the store (--store) or the cache (XDG_CACHE_HOME); nothing was stored")
	}
	return err
}
