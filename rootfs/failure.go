package rootfs

import (
	"errors"

	"ingot"
)

// Failure is an error of a kind that the server knows: its code goes into the
// Event that reports it.
type Failure struct {
	Code ingot.FailureCode
	Err  error
}

// NewFailure returns an error of a kind, for use as a sentinel.
func NewFailure(code ingot.FailureCode, text string) error {
	return &Failure{code, errors.New(text)}
}

// WithCode adds a code to an error. An error that has one keeps it.
func WithCode(code ingot.FailureCode, err error) error {
	if err == nil || CodeOf(err) != "" {
		return err
	}
	return &Failure{code, err}
}

// CodeOf returns the code of an error; empty if it has none.
func CodeOf(err error) ingot.FailureCode {
	var f *Failure
	if errors.As(err, &f) {
		return f.Code
	}
	return ""
}

func (f *Failure) Error() string { return f.Err.Error() }

func (f *Failure) Unwrap() error { return f.Err }
