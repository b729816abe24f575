// Package dashboard opens the server's dashboard to a browser on the same host: a port of the loopback
// address whose requests go on to the administrator's socket.
//
// Every local user and every web page can reach such a port. So nothing passes without a session,
// which a link begins that works once; requests for another host name (DNS rebinding) are refused; and
// the API, which takes no cookies, is not reached through it.
//
// Cookies know no ports (RFC 6265, section 8.5): a browser would show the session to whatever another
// local user serves at another port of 127.0.0.1. So the link has a host name of its own below
// localhost, which browsers resolve to the loopback address by themselves (RFC 6761, section 6.3), and
// which nobody else knows.
package dashboard

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ingot/bootserver/web"
)

// Loopback is an open port.
type Loopback struct {
	// Link opens the dashboard, once.
	Link string

	socket   string
	patience time.Duration // with a server that does not answer
	listener net.Listener
	hosts    [2]string // that requests must be for: the one of the link, and the address
	cookie   string    // its name: cookies are shared by all ports of a host
	proxy    http.Handler

	mu      sync.Mutex
	key     string // of the link; empty when it was used
	session string // empty before
}

// Open opens a port of the loopback address, 0 for any, that leads to a server's socket.
func Open(ctx context.Context, socket string, port int) (*Loopback, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("opening a port for the dashboard: %w", err)
	}
	p := &Loopback{socket: socket, patience: time.Minute, listener: l, key: secret()}
	number := l.Addr().(*net.TCPAddr).Port
	p.hosts = [2]string{fmt.Sprintf("ingot-%s.localhost:%d", strings.ToLower(rand.Text()[:16]), number), l.Addr().String()}
	p.cookie = fmt.Sprintf("ingot-%d", number)
	p.Link = "http://" + p.hosts[0] + "/once?key=" + p.key
	p.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "ingot"})
			r.Out.Host = r.In.Host // the server compares it with the origin of forms
			r.Out.Header.Del("Cookie")
			r.Out.Header.Del("Authorization")
		},
		Transport: &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn,
			error) {
			return p.dial(ctx)
		}},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			say(w, http.StatusBadGateway, "The server does not answer. Is it running?")
		},
		ErrorLog: log.New(io.Discard, "", 0), // a browser that left is no error
	}
	return p, nil
}

// dial connects to the server.
func (p *Loopback) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "unix", p.socket)
}

// ErrGone is returned when the server does not answer any more.
var ErrGone = errors.New("the server does not answer any more")

// watch ends serving when the server has not answered for a while.
func (p *Loopback) watch(ctx context.Context, end context.CancelCauseFunc) {
	last := time.Now()
	for t := time.NewTicker(p.patience / 6); ; {
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if c, err := p.dial(ctx); err == nil {
			_ = c.Close() // it answered
			last = time.Now()
		} else if time.Since(last) > p.patience {
			end(ErrGone)
		}
	}
}

// secret is what cannot be guessed.
func secret() string {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	return base64.RawURLEncoding.EncodeToString(random[:])
}

// Serve answers until ctx ends, or until the server has not answered for a minute.
func (p *Loopback) Serve(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go p.watch(ctx, end)
	s := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0)}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // open pages do not hold it up
	defer stop()
	err := s.Serve(p.listener)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrGone):
		return cause
	case errors.Is(err, http.ErrServerClosed):
		return nil
	}
	return err
}

// say answers a sentence.
func say(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// ServeHTTP implements http.Handler.
func (p *Loopback) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !slices.Contains(p.hosts[:], r.Host):
		say(w, http.StatusMisdirectedRequest, "This port answers to the name in its link alone.")
	case r.URL.Path == "/once" && r.Method == http.MethodGet:
		p.once(w, r)
	case !p.known(r):
		say(w, http.StatusForbidden,
			"Open the link that ingot dashboard printed. It works once; run ingot dashboard again for another.")
	case !web.Serves(r.URL.Path):
		say(w, http.StatusNotFound, "The API is not reached through this port; it takes no cookies.")
	default:
		p.proxy.ServeHTTP(w, r)
	}
}

// known reports whether a request is of the session.
func (p *Loopback) known(r *http.Request) bool {
	c, err := r.Cookie(p.cookie)
	p.mu.Lock()
	defer p.mu.Unlock()
	return err == nil && p.session != "" && subtle.ConstantTimeCompare([]byte(c.Value), []byte(p.session)) == 1
}

// once exchanges the key of the link for the session.
func (p *Loopback) once(w http.ResponseWriter, r *http.Request) {
	if p.known(r) {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	key := r.URL.Query().Get("key")
	p.mu.Lock()
	good := p.key != "" && subtle.ConstantTimeCompare([]byte(key), []byte(p.key)) == 1
	if good {
		p.key, p.session = "", secret()
	}
	session := p.session
	p.mu.Unlock()
	if !good {
		say(w, http.StatusForbidden, "This link was used already, or is not one of this port. Run ingot dashboard again.")
		return
	}
	http.SetCookie(w, &http.Cookie{Name: p.cookie, Value: session, Path: "/", HttpOnly: true,
		SameSite: http.SameSiteStrictMode})
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
