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
	// ErrCA: the file of authorities holds none.
	ErrCA = errors.New("no certificate authority")
	// ErrCredentials: the registry wants credentials that we have not.
	ErrCredentials = errors.New("the registry asks for credentials, and there are none for it")
	// ErrRefused: the registry does not accept the credentials that we have.
	ErrRefused = errors.New("the registry refuses the credentials")
	// ErrForbidden: who we are may not do this.
	ErrForbidden = errors.New("the registry does not allow it")
	// ErrMissing: the registry has no such tag, digest or repository.
	ErrMissing = errors.New("the registry has no such image")
	// ErrUnreachable: the registry cannot be talked to, or went away.
	ErrUnreachable = errors.New("the registry cannot be reached")
	// ErrPlainHTTP: it talks HTTP where we talk HTTPS.
	ErrPlainHTTP = errors.New("the registry talks plain HTTP, not HTTPS")
	// ErrAuthority: its certificate is by an authority that we do not know.
	ErrAuthority = errors.New("the registry's certificate is not by a known authority")
	// ErrTaken: the tag is an image's version and names another image there.
	ErrTaken = errors.New("the tag is taken by another image")
	// ErrAnswer: the registry answers what it must not.
	ErrAnswer = errors.New("the registry gives a wrong answer")
)

var errStalled = errors.New("nothing moved")

// explain turns what oras and the network say into one of our errors, with
// what we were doing.
func (r *Repository) explain(err error, doing string, args ...any) error {
	doing = fmt.Sprintf(doing, args...)
	kind := r.kind(err)
	if kind == nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if errors.Is(err, kind) { // said already
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %s", doing, kind, clip(err))
}

// clip keeps an error's text to one readable line: some registries answer with
// a page of HTML.
func clip(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return s
}

// kind is the sentinel for an error, or nil.
func (r *Repository) kind(err error) error {
	for _, own := range []error{ErrCredentials, ErrRefused, ErrForbidden, ErrMissing, ErrUnreachable, ErrPlainHTTP, ErrAuthority, ErrTaken, ErrAnswer,
		context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, own) && !errors.Is(err, errStalled) {
			return own
		}
	}
	var answer *errcode.ErrorResponse
	var unknown x509.UnknownAuthorityError
	var certificate *tls.CertificateVerificationError
	var network net.Error
	switch {
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return ErrCredentials
	case errors.As(err, &answer):
		return r.status(answer.StatusCode)
	case errors.Is(err, errdef.ErrNotFound):
		return ErrMissing
	case errors.Is(err, http.ErrSchemeMismatch):
		return ErrPlainHTTP
	case errors.As(err, &unknown), errors.As(err, &certificate):
		return ErrAuthority
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, errStalled), errors.Is(err, syscall.ECONNREFUSED),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.As(err, &network):
		return ErrUnreachable
	}
	return nil
}

func (r *Repository) status(code int) error {
	switch {
	case code == http.StatusUnauthorized && !r.known:
		return ErrCredentials
	case code == http.StatusUnauthorized:
		return ErrRefused
	case code == http.StatusForbidden, code == http.StatusMethodNotAllowed:
		return ErrForbidden
	case code == http.StatusNotFound:
		return ErrMissing
	case code >= 500, code == http.StatusTooManyRequests:
		return ErrUnreachable
	}
	return ErrAnswer
}

// passing reports whether an error may be gone the next time.
func passing(err error) bool { return errors.Is(err, ErrUnreachable) }
