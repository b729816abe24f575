package access

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Errors of requests that are not authenticated. All of them are answered with 401.
var (
	// ErrNobody: no token and no certificate came with the request.
	ErrNobody = errors.New("no token and no client certificate came with the request")
	// ErrWrong: the token or certificate is none of this server's.
	ErrWrong = errors.New("this server knows no such token or certificate")
	// ErrExpired: it was good once.
	ErrExpired = errors.New("the token or certificate has expired")
	// ErrRevoked: an administrator took it back.
	ErrRevoked = errors.New("the token or certificate was revoked")
	// ErrPlain: a token came over a connection that others can read.
	ErrPlain = errors.New("a token travels over TLS only; this one was sent in the clear and should be revoked")
)

// Keeper authenticates requests.
type Keeper struct {
	Find     func(id string) (Credential, bool) // a token's or certificate's record
	Now      func() time.Time
	Throttle Throttle
}

// Who authenticates a request: by the user of a local socket, else by its token, else by the client
// certificate of its connection. An answer to a wrong credential waits, see Throttle.
func (k *Keeper) Who(r *http.Request) (Who, error) {
	if p, ok := r.Context().Value(peerKey{}).(peer); ok {
		return p.who, p.err
	}
	who, err := k.remote(r)
	if err == nil {
		welcome(r.Context())
	} else if !errors.Is(err, ErrNobody) {
		err = k.Throttle.failed(r.Context(), r.RemoteAddr, k.Now(), err)
	}
	return who, err
}

// remote authenticates a request over TCP.
func (k *Keeper) remote(r *http.Request) (Who, error) {
	header := r.Header.Get("Authorization")
	if r.TLS == nil {
		if header != "" {
			return Who{}, ErrPlain
		}
		return Who{}, ErrNobody
	}
	var c Credential
	var err error
	switch {
	case header != "":
		c, err = k.token(header)
	case len(r.TLS.VerifiedChains) > 0:
		c, err = k.certificate(r.TLS.VerifiedChains[0][0])
	default:
		err = ErrNobody
	}
	if err == nil {
		err = k.live(c)
	}
	return Who{Kind: c.Kind, Name: c.Name, ID: c.ID, From: r.RemoteAddr, Scope: c.Scope}, err
}

// Holder authenticates a request over TLS of a session that the holder of a token began before, by
// the id of that token.
func (k *Keeper) Holder(r *http.Request, id string) (Who, error) {
	if r.TLS == nil {
		return Who{}, ErrPlain
	}
	c, found := k.Find(id)
	if !found || c.Kind != Token {
		return Who{}, ErrWrong
	}
	if err := k.live(c); err != nil {
		return Who{}, err
	}
	welcome(r.Context())
	return Who{Kind: c.Kind, Name: c.Name, ID: c.ID, From: r.RemoteAddr, Scope: c.Scope}, nil
}

// Admit authenticates a request over TLS of an operator that a login provider vouched for.
func (k *Keeper) Admit(r *http.Request, who Who) (Who, error) {
	if r.TLS == nil {
		return Who{}, ErrPlain
	}
	welcome(r.Context())
	who.From = r.RemoteAddr
	return who, nil
}

// Refused records that a login by a provider failed, as it does for a wrong token, and waits before its
// answer, which it returns.
func (k *Keeper) Refused(r *http.Request, err error) error {
	return k.Throttle.failed(r.Context(), r.RemoteAddr, k.Now(), err)
}

func (k *Keeper) live(c Credential) error {
	switch {
	case !c.Revoked.IsZero():
		return ErrRevoked
	case !k.Now().Before(c.Expires):
		return ErrExpired
	}
	return nil
}

// token finds a token's record. One that is not there is compared all the
// same, so that the time of the answer does not tell whether an id exists.
func (k *Keeper) token(header string) (Credential, error) {
	token, ok := bearer(header)
	if !ok {
		return Credential{}, fmt.Errorf("%w: the Authorization header is not of the form Bearer TOKEN", ErrWrong)
	}
	id, secret, ok := split(token)
	if !ok {
		return Credential{}, fmt.Errorf("%w: a token begins with %s", ErrWrong, Prefix)
	}
	c, found := k.Find(id)
	if !c.matches(secret) || !found || c.Kind != Token {
		return Credential{}, ErrWrong
	}
	return c, nil
}

// certificate finds the record of a certificate that TLS found to be of our CA.
// Its scope is the smaller of what the two say.
func (k *Keeper) certificate(cert *x509.Certificate) (Credential, error) {
	c, found := k.Find(SerialOf(cert))
	if !found || c.Kind != Certificate || c.Hash != Fingerprint(cert.Raw) {
		return Credential{}, ErrWrong
	}
	c.Scope = Least(c.Scope, scopeOf(cert))
	return c, nil
}
