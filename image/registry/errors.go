package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Errors that callers may test for with errors.Is.
var (
	// ErrReference: the text is not REGISTRY/REPOSITORY[:TAG|@DIGEST].
	ErrReference = errors.New("not a reference to a registry (want REGISTRY/REPOSITORY:TAG)")
	// ErrCA: the file of authorities contains none.
	ErrCA = errors.New("no certificate authority")
	// ErrCredentials: the registry requires credentials, and there are none.
	ErrCredentials = errors.New("the registry requires credentials, and none are configured for it")
	// ErrRefused: the registry does not accept the credentials.
	ErrRefused = errors.New("the registry rejected the credentials")
	// ErrForbidden: the account has no permission for this.
	ErrForbidden = errors.New("the registry does not allow it")
	// ErrMissing: the registry has no such tag, digest or repository.
	ErrMissing = errors.New("the registry has no such image")
	// ErrUnreachable: connecting to the registry failed, or the connection broke.
	ErrUnreachable = errors.New("the registry cannot be reached")
	// ErrRateLimit: the registry answers 429.
	ErrRateLimit = errors.New("the registry limits the rate of requests")
	// ErrPlainHTTP: it speaks HTTP, and HTTPS is expected.
	ErrPlainHTTP = errors.New("the registry speaks plain HTTP, not HTTPS")
	// ErrAuthority: its certificate is signed by an unknown authority.
	ErrAuthority = errors.New("the registry's certificate is not signed by a known authority")
	// ErrTaken: the tag is an image's version and names another image there.
	ErrTaken = errors.New("the tag names another image")
	// ErrAnswer: the registry's answer violates the specification.
	ErrAnswer = errors.New("unexpected answer from the registry")
	// ErrTooLarge: a manifest is larger than the caller allows.
	ErrTooLarge = errors.New("the manifest is too large")
)

var errStalled = errors.New("no data received or sent")

// sentinels are the errors that explain looks for, beside those of the context.
var sentinels = []error{
	ErrCredentials, ErrRefused, ErrForbidden, ErrMissing, ErrUnreachable, ErrRateLimit, ErrPlainHTTP, ErrAuthority,
	ErrTaken, ErrAnswer, ErrTooLarge, context.Canceled, context.DeadlineExceeded,
}

// explain wraps an error of oras or the network in one of ours, with the action that failed; nil
// stays nil.
func (r *Repository) explain(err error, action string, args ...any) error {
	if err == nil {
		return nil
	}
	action = fmt.Sprintf(action, args...)
	kind := r.classify(err)
	if kind == nil || errors.Is(err, kind) {
		return fmt.Errorf("%s: %w", action, err)
	}
	return fmt.Errorf("%s: %w: %s", action, kind, clip(err))
}

// clip shortens an error's text to one readable line: some registries answer with a page of HTML.
func clip(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}

// classify returns the sentinel for an error, or nil.
func (r *Repository) classify(err error) error {
	for _, own := range sentinels {
		if errors.Is(err, own) && !errors.Is(err, errStalled) {
			return own
		}
	}
	var answer *errcode.ErrorResponse
	var unknown x509.UnknownAuthorityError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return ErrCredentials
	case errors.As(err, &answer):
		return r.classifyStatus(answer.StatusCode)
	case errors.Is(err, errdef.ErrNotFound):
		return ErrMissing
	case errors.Is(err, http.ErrSchemeMismatch):
		return ErrPlainHTTP
	case errors.As(err, &unknown), errors.As(err, &certificate):
		return ErrAuthority
	case isNetworkError(err):
		return ErrUnreachable
	}
	return nil
}

func isNetworkError(err error) bool {
	for _, broken := range []error{io.ErrUnexpectedEOF, io.EOF, errStalled,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, broken) {
			return true
		}
	}
	var network net.Error
	return errors.As(err, &network)
}

func (r *Repository) classifyStatus(code int) error {
	switch {
	case code == http.StatusUnauthorized && !r.loggedIn:
		return ErrCredentials
	case code == http.StatusUnauthorized:
		return ErrRefused
	case code == http.StatusForbidden, code == http.StatusMethodNotAllowed:
		return ErrForbidden
	case code == http.StatusNotFound:
		return ErrMissing
	case code == http.StatusTooManyRequests:
		return ErrRateLimit
	case code >= 500:
		return ErrUnreachable
	}
	return ErrAnswer
}

// temporary reports whether another attempt may succeed.
func temporary(err error) bool { return errors.Is(err, ErrUnreachable) || errors.Is(err, ErrRateLimit) }
