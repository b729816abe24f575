package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"ingot/bootserver/access"
)

// Errors of a client that never got as far as an answer.
var (
	// ErrNoServer: nobody answers at the server's address.
	ErrNoServer = errors.New("no server is running")
	// ErrTarget: what a client was told of its server does not fit together.
	ErrTarget = errors.New("not a server")
	// ErrStranger is returned if another server answers than the one whose CA was pinned.
	ErrStranger = errors.New("this is not the server that was pinned")
)

// Target is one server and how a client authenticates: as the user of a socket, or with a token or a
// client certificate.
type Target struct {
	Server      string `json:"server"`                // unix:///PATH or https://HOST:PORT
	CA          string `json:"ca,omitempty"`          // of an https server: its CA in PEM
	Token       string `json:"token,omitempty"`       // or
	Certificate string `json:"certificate,omitempty"` // PEM
	Key         string `json:"key,omitempty"`         // PEM
}

// Client speaks to one server.
type Client struct {
	base  string
	at    string // for people
	token string
	http  *http.Client
	err   error // of every call
}

// Never is a client that answers every call with an error: for callers that
// find out that there is no server before they know what to ask.
func Never(err error) *Client { return &Client{err: err} }

// patience is how long an answer may take.
const patience = 30 * time.Second

// longPatience is how long an answer may take that takes its time, after the request was sent: that to
// a backup that is restored, for one.
const longPatience = 15 * time.Minute

// Dial prepares a client of the socket at unix:///PATH or a plain path. It
// connects at the first call.
func Dial(server string) *Client {
	path := strings.TrimPrefix(server, "unix://")
	t := &http.Transport{DisableCompression: true, MaxResponseHeaderBytes: maxHeader, ResponseHeaderTimeout: longPatience}
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
	}
	return &Client{base: "http://ingot", at: path, http: &http.Client{Transport: t, Timeout: patience}}
}

// Connect prepares a client of any server. Over TLS it speaks only to one whose
// certificate the CA of the target issued, and redirects are not followed: a
// token goes nowhere else.
func Connect(t Target) (*Client, error) {
	if strings.HasPrefix(t.Server, "unix://") || strings.HasPrefix(t.Server, "/") {
		return Dial(t.Server), nil
	}
	u, err := url.Parse(t.Server)
	switch {
	case err != nil || u.Host == "":
		return nil, fmt.Errorf("%w: %q; write unix:///PATH or https://HOST:PORT", ErrTarget, t.Server)
	case u.Scheme != "https":
		return nil, fmt.Errorf("%w: %q: a token would travel in the clear; write https://%s", ErrTarget, t.Server,
			u.Host)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(t.CA)) {
		return nil, fmt.Errorf("%w: %s: its CA is not known; pin it with: ingot context add NAME %s", ErrTarget,
			t.Server, t.Server)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: access.ServerName}
	if t.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(t.Certificate), []byte(t.Key))
		if err != nil {
			return nil, fmt.Errorf("%w: %s: its client certificate: %w", ErrTarget, t.Server, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return &Client{base: "https://" + u.Host, at: "https://" + u.Host, token: t.Token,
		http: &http.Client{Timeout: patience,
			Transport: &http.Transport{TLSClientConfig: conf, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
				ResponseHeaderTimeout: longPatience, TLSHandshakeTimeout: 10 * time.Second,
				DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, ForceAttemptHTTP2: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// Look asks a server for its CA without trusting it yet: it returns the CA's
// certificate in PEM and its fingerprint, for somebody to compare.
func Look(ctx context.Context, server string) (ca, fingerprint string, err error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "", "", fmt.Errorf("%w: %q; write https://HOST:PORT", ErrTarget, server)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "443")
	}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second},
		Config: &tls.Config{MinVersion: tls.VersionTLS13, ServerName: access.ServerName,
			InsecureSkipVerify: true}} // nothing is sent; the fingerprint is what will be compared
	c, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return "", "", (&Client{at: server}).explain(err)
	}
	defer c.Close()
	chain := c.(*tls.Conn).ConnectionState().PeerCertificates
	last := chain[len(chain)-1]
	if !last.IsCA || len(chain) < 2 {
		return "", "", fmt.Errorf("%w: %s shows no CA: it is not an ingot server", ErrTarget, server)
	}
	return string(access.PEM(last)), access.Fingerprint(last.Raw), nil
}

func (c *Client) call(ctx context.Context, method, path string, q, into any) error {
	resp, err := c.do(ctx, method, "/v1/"+path, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return decode(resp.Body, into)
}

// list asks for a list that is one answer.
func list[T any](ctx context.Context, c *Client, path string) ([]T, error) {
	memory := int64(listMemory)
	all, _, err := askPage(ctx, c, path, []T{}, &memory)
	return all, err
}

// askPage asks for a page of a list, adds it to the list, and returns the query of the next page, when there is
// one. memory is what the list may still take.
func askPage[T any](ctx context.Context, c *Client, path string, to []T, memory *int64) (all []T, next string,
	err error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/"+path, nil)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if all, err = decodeList(resp.Body, to, memory); err != nil {
		return nil, "", err
	}
	if m := nextRE.FindStringSubmatch(resp.Header.Get("Link")); m != nil {
		next = m[1]
	}
	return all, next, nil
}

// Bounds of lists, headers and streams; see also answerMemory.
const (
	maxPages     = 10_000 // of one list
	maxHeader    = 1 << 20
	maxSilence   = 2 * time.Minute
	listPatience = 10 * time.Minute // for all pages
	maxDetail    = 8 << 10          // bytes of the text of an error
)

// errSlowList is the cause when listPatience is over.
var errSlowList = fmt.Errorf("the server takes longer than %s to send a list", listPatience)

// receive copies a stream of at most so many bytes. A server that sends nothing for maxSilence ends
// it; stop ends the request.
func receive(w io.Writer, body io.Reader, most int64, silence time.Duration, stop func()) (n int64, err error) {
	var silent atomic.Bool
	alarm := time.AfterFunc(silence, func() { silent.Store(true); stop() })
	defer alarm.Stop()
	for buf := make([]byte, 64<<10); ; {
		k, err := body.Read(buf)
		alarm.Reset(silence)
		if n += int64(k); n > most {
			return n, fmt.Errorf("the server sends more than %d bytes", most)
		}
		if _, err := w.Write(buf[:k]); err != nil {
			return n, err
		}
		switch {
		case silent.Load():
			return n, fmt.Errorf("the server sent nothing for %s", silence)
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, err
		}
	}
}

var nextRE = regexp.MustCompile(`^<[^?>]*\?([^>]*)>; rel="next"$`)

func (c *Client) do(ctx context.Context, method, path string, q any) (*http.Response, error) {
	var body io.Reader
	if q != nil {
		b, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	return c.send(ctx, c.http, method, path, body, "application/json")
}

// stream is a call whose bodies may be large and take their time.
func (c *Client) stream(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	p := c.patient(0)
	return p.send(ctx, p.http, method, path, body, "application/octet-stream")
}

// patient is the client for answers that take their time; 0 is any time.
func (c *Client) patient(d time.Duration) *Client {
	if c.err != nil {
		return c
	}
	p, h := *c, *c.http
	h.Timeout, p.http = d, &h
	return &p
}

func (c *Client) send(ctx context.Context, by *http.Client, method, path string, body io.Reader,
	kind string) (*http.Response, error) {
	if c.err != nil {
		return nil, c.err
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := by.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	p := Problem{Status: resp.StatusCode, Detail: resp.Status}
	_ = decode(io.LimitReader(resp.Body, 64<<10), &p) // else the status speaks
	if len(p.Detail) > maxDetail {
		p.Detail = strings.ToValidUTF8(p.Detail[:maxDetail], "") + "…"
	}
	return nil, p.complete()
}

func (c *Client) explain(err error) error {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w at %s", ErrNoServer, c.at)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("opening %s: %w", c.at, fs.ErrPermission)
	case errors.Is(err, syscall.EINVAL) && len(c.at) > 100:
		return fmt.Errorf("the socket's path %s is longer than the 107 bytes that Unix sockets may have", c.at)
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid):
		return fmt.Errorf("%w: %s: %w", ErrStranger, c.at, err)
	}
	return fmt.Errorf("asking the server at %s: %w", c.at, err)
}

// Version is the server's version.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v Version
	err := c.call(ctx, http.MethodGet, "version", nil, &v)
	return v.Version, err
}

// Network returns what was heard and lent on the server's networks.
func (c *Client) Network(ctx context.Context) (n Network, err error) {
	return n, c.call(ctx, http.MethodGet, "network", nil, &n)
}

// pages asks for one page after the other.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	memory := int64(listMemory)
	return pagesUntil(ctx, c, path, query, &memory, func([]T, int) bool { return false })
}

// pagesUntil asks for one page after the other until there is no other, or enough says so, which gets all
// elements and how many of them are from earlier pages.
func pagesUntil[T any](ctx context.Context, c *Client, path string, query url.Values, memory *int64,
	enough func(all []T, earlier int) bool) (all []T, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, listPatience, errSlowList)
	defer cancel()
	all = []T{}
	q := query.Encode()
	for range maxPages {
		earlier := len(all)
		if all, q, err = askPage(ctx, c, path+"?"+q, all, memory); err != nil {
			if errors.Is(context.Cause(ctx), errSlowList) {
				return nil, errSlowList
			}
			return nil, err
		}
		if enough(all, earlier) || q == "" {
			return all, nil
		}
	}
	return nil, fmt.Errorf("reading a list from the server: it has more than %d pages", maxPages)
}

// Machines lists all machines, the longest known first.
func (c *Client) Machines(ctx context.Context) ([]Machine, error) {
	return pages[Machine](ctx, c, "machines", url.Values{"limit": {"5000"}})
}

// Machine returns one machine by id, name, MAC address, UUID, or the beginning of one.
func (c *Client) Machine(ctx context.Context, ref string) (m Machine, err error) {
	return m, c.call(ctx, http.MethodGet, "machines/"+url.PathEscape(ref), nil, &m)
}

// Boots lists the latest boots of one machine, or of all for an empty ref,
// oldest first; limit 0 is all of them. It asks for one page after the other.
func (c *Client) Boots(ctx context.Context, ref string, limit int) ([]Boot, error) {
	size := bootsPage
	if limit > 0 {
		size = min(size, limit)
	}
	memory := int64(allMemory)
	if limit > 0 {
		memory = min(memory, listMemory+int64(limit)*bootMemory)
	}
	q := url.Values{"machine": {ref}, "limit": {strconv.Itoa(size)}}
	all, err := pagesUntil(ctx, c, "boots", q, &memory, func(all []Boot, earlier int) bool {
		slices.Reverse(all[earlier:]) // newest first: each page is of older boots, the oldest of them first
		return limit > 0 && len(all) >= limit
	})
	if err != nil {
		return nil, err
	}
	if limit > 0 {
		all = all[:min(len(all), limit)]
	}
	slices.Reverse(all)
	return all, nil
}

// bootsPage is how many boots are asked for at once: some MB, when they have
// much to tell.
const bootsPage = 1000

func (c *Client) change(ctx context.Context, ref, verb string, q any) (m Machine, err error) {
	return m, c.call(ctx, http.MethodPost, "machines/"+url.PathEscape(ref)+"/"+verb, q, &m)
}

// Approve lets a machine boot.
func (c *Client) Approve(ctx context.Context, ref string, q ApproveRequest) (Machine, error) {
	return c.change(ctx, ref, "approve", q)
}

// Assign chooses the image of a machine's next boot.
func (c *Client) Assign(ctx context.Context, ref, image, why string) (Machine, error) {
	return c.AssignBy(ctx, ref, AssignRequest{Image: image, Why: why})
}

// AssignBy is Assign with everything that a request can say.
func (c *Client) AssignBy(ctx context.Context, ref string, q AssignRequest) (Machine, error) {
	return c.change(ctx, ref, "assign", q)
}

// Once decides what exactly one boot of a machine does.
func (c *Client) Once(ctx context.Context, ref string, q OnceRequest) (Machine, error) {
	return c.change(ctx, ref, "once", q)
}

// CancelOnce cancels what one boot of a machine was to do.
func (c *Client) CancelOnce(ctx context.Context, ref string) (m Machine, err error) {
	return m, c.call(ctx, http.MethodDelete, "machines/"+url.PathEscape(ref)+"/once", nil, &m)
}

// Rollback assigns the last other image that was healthy on a machine.
func (c *Client) Rollback(ctx context.Context, ref string) (Machine, error) {
	return c.change(ctx, ref, "rollback", nil)
}

// ForceRollback is like Rollback, although accounts may have other numbers than in the image that
// runs.
func (c *Client) ForceRollback(ctx context.Context, ref string) (Machine, error) {
	return c.change(ctx, ref, "rollback?force=true", nil)
}

// Resume tries the assigned image of a machine again that gave it up.
func (c *Client) Resume(ctx context.Context, ref string) (Machine, error) {
	return c.change(ctx, ref, "resume", nil)
}

// Grant lets one boot initialise one blank disk as a volume.
func (c *Client) Grant(ctx context.Context, ref string, g GrantRequest) (Machine, error) {
	return c.change(ctx, ref, "grants", g)
}

// WithdrawGrant takes the unused grant for a volume back.
func (c *Client) WithdrawGrant(ctx context.Context, ref, volume string) (m Machine, err error) {
	return m, c.call(ctx, http.MethodDelete, "machines/"+url.PathEscape(ref)+"/grants/"+url.PathEscape(volume), nil, &m)
}

// Reload makes the server read its configuration again.
func (c *Client) Reload(ctx context.Context) (r Reloaded, err error) {
	return r, c.call(ctx, http.MethodPost, "reload", nil, &r)
}

// Capture writes the traffic of machines to w as a pcap file, for a time or
// until it has most bytes, or until ctx ends.
func (c *Client) Capture(ctx context.Context, refs []string, d time.Duration, most int64, w io.Writer) error {
	q := url.Values{"for": {d.String()}, "most": {strconv.FormatInt(most, 10)}}
	path := "/v1/capture?"
	if len(refs) == 1 { // servers of before know this alone
		path = "/v1/machines/" + url.PathEscape(refs[0]) + "/capture?"
	} else {
		q["machine"] = refs
	}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.stream(within, http.MethodGet, path+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	end := time.AfterFunc(d+maxSilence, cancel)
	defer end.Stop()
	// A quiet network sends nothing until the end.
	if _, err := receive(w, resp.Body, most+maxAnswer, d+maxSilence, cancel); err != nil && ctx.Err() == nil {
		return fmt.Errorf("receiving the capture: %w", err)
	}
	return nil
}

// Authority returns the server's CA.
func (c *Client) Authority(ctx context.Context) (a Authority, err error) {
	return a, c.call(ctx, http.MethodGet, "authority", nil, &a)
}

// Credentials lists tokens and client certificates, the oldest first.
func (c *Client) Credentials(ctx context.Context) ([]access.Credential, error) {
	return list[access.Credential](ctx, c, "tokens")
}

// CreateCredential makes a token or client certificate.
func (c *Client) CreateCredential(ctx context.Context, q CredentialRequest) (n NewCredential, err error) {
	return n, c.call(ctx, http.MethodPost, "tokens", q, &n)
}

// RevokeCredential takes one back, by id or name.
func (c *Client) RevokeCredential(ctx context.Context, ref string) (r access.Credential, err error) {
	return r, c.call(ctx, http.MethodPost, "tokens/"+url.PathEscape(ref)+"/revoke", nil, &r)
}

// Sessions lists the browsers that are logged in, used last first.
func (c *Client) Sessions(ctx context.Context) ([]Session, error) {
	return list[Session](ctx, c, "sessions")
}

// EndSessions ends the session with an id, or all of a token or an account.
func (c *Client) EndSessions(ctx context.Context, ref string) (ended []Session, err error) {
	return ended, c.call(ctx, http.MethodDelete, "sessions/"+url.PathEscape(ref), nil, &ended)
}

// Audit lists operators' actions, oldest first: up to limit of those after a sequence
// number, or for last the latest.
func (c *Client) Audit(ctx context.Context, after uint64, last bool, limit int) ([]AuditEntry, error) {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "last": {strconv.FormatBool(last)},
		"limit": {strconv.Itoa(limit)}}
	return list[AuditEntry](ctx, c, "audit?"+q.Encode())
}
