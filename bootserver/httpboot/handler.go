// Package httpboot serves boots over HTTP/1.1 (RFC 9110, RFC 9112): script,
// kernel, initramfs and root to the machine; tickets, events and reports from
// it. The paths are those of ingot.BootPath. The key in a path is the machine's
// credential: it gives access to one boot, until that boot is over.
//
// The clients are firmware, boot loaders and ingot-init, so the answers are
// simple. A path is exact or 404, and never redirected. Every body has a length,
// and none is chunked. Files are sent from the page cache by sendfile(2). When
// too many transfers are under way, a client gets 503 with Retry-After.
//
// GET changes no machine, assignment or grant, except for the facts that a
// waiting machine sends about itself; it may add a line to the record of the
// boot. TLS, HTTP/2 and several ranges in one request are left out: no firmware
// uses them.
package httpboot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/bootserver/ipxe"
)

// Errors of a Booter that have a status of their own.
var (
	// ErrUnknown: no such boot, image or artifact. Status 404.
	ErrUnknown = errors.New("unknown")
	// ErrRefused: the machine is not allowed to have this. Status 403.
	ErrRefused = errors.New("refused")
	// ErrUnproven: a message does not prove the secret of its boot. Status 401.
	ErrUnproven = errors.New("not authenticated")
	// ErrCrossed is joined to ErrUnproven: the message was under way when the ticket was taken, and the
	// machine sends it again. It is not worth a warning.
	ErrCrossed = errors.New("it was sent before the machine had the ticket")
	// ErrConflict: another message or machine was first. Status 409.
	ErrConflict = errors.New("conflict")
)

// Later is an error after which the same request may succeed. Status 503, with Retry-After.
type Later struct {
	After time.Duration
	Why   string
}

func (e *Later) Error() string { return e.Why }

// Booter makes the decisions about boots.
type Booter interface {
	// Knows reports whether the server issued a key, in constant time.
	Knows(key ingot.BootKey) bool
	// Admit returns an error if the key of a boot may not be used from an address.
	Admit(boot ingot.BootID, from netip.Addr) error
	// Script returns the loader's script; base is the server's URL that the
	// request was sent to, such as "http://10.99.0.1".
	Script(boot ingot.BootID, base string) (string, error)
	// Waits records the facts that a machine sends while it waits in its loader.
	Waits(boot ingot.BootID, f ingot.Facts) error
	// Artifact returns a part of an image, and Served records what was sent of it.
	Artifact(boot ingot.BootID, image ingot.Digest, part string) (Artifact, error)
	Served(boot ingot.BootID, part string, bytes int64, whole bool)
	Ticket(boot ingot.BootID, q ingot.TicketRequest) (ingot.SignedTicket, error)
	// Sender returns what may be posted after a message was verified: proof and token are its
	// headers, empty if it has none. The error is ErrUnproven if they do not belong to the message.
	Sender(boot ingot.BootID, m ingot.Message, proof, token string) (Sender, error)
}

// Sender records one message of a machine.
type Sender interface {
	Event(e ingot.Event) error
	// Report returns the order that the answer brings to the machine; nil: none.
	Report(r ingot.Report) (*ingot.Order, error)
	// Console records output of the kernel and ingot-init; Crash that of the boot
	// before, as far as it was kept.
	Console(text string) error
	Crash(text string) error
	// Prove returns the content of ingot.HeaderAuth for an answer; empty if the message proved nothing.
	Prove(status int, body []byte) string
}

// Artifact is one file of an image: a path, or bytes.
type Artifact struct {
	Open   func() (*os.File, error) // nil: it is in Bytes
	Bytes  []byte
	Digest ingot.Digest // its ETag
}

// Bounds of one request, in bytes. The facts of a machine with many disks fit
// into maxBody, 64 volumes or 100 checks with long texts into maxMessage.
const (
	maxBody    = 1 << 20
	maxMessage = 256 << 10
	maxHeader  = 16 << 10
)

// transferTimeout bounds the time to read a body, and to send one window of an
// answer.
const transferTimeout = 30 * time.Second

// Server answers the boot network.
type Server struct {
	booter      Booter
	log         *slog.Logger
	admission   admission
	pace        pace
	connections connections
	bodies      bodies
	sending     sending
	timeout     time.Duration // transferTimeout, except in tests
	sent        atomic.Int64  // bytes of artifacts
	refused     atomic.Int64  // transfers over the limits
}

// New returns a server with the default limits.
func New(b Booter, log *slog.Logger) *Server {
	s := &Server{booter: b, log: log, timeout: transferTimeout}
	s.SetLimits(Limits{})
	return s
}

// ServeHTTP implements http.Handler. It takes paths as they are: http.ServeMux
// would clean them and redirect, and firmware does not follow redirects.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.setDeadlines(w, r)
	rest, ok := strings.CutPrefix(r.URL.Path, "/b/")
	if !ok || r.URL.RawPath != "" {
		s.notFound(w, r)
		return
	}
	at := strings.Split(rest, "/")
	key, err := ingot.ParseBootKey(at[0])
	if err != nil || !s.booter.Knows(key) {
		s.notFound(w, r)
		return
	}
	boot := key.ID()
	if err := s.booter.Admit(boot, sender(r)); err != nil {
		s.fail(w, r, err)
		return
	}
	switch {
	case len(at) == 2 && at[1] == "script" && hasFacts(r):
		s.facts(w, r, boot)
	case len(at) == 2 && at[1] == "script":
		s.reading(w, r, func() { s.script(w, r, boot) })
	case len(at) == 2 && at[1] == "ticket":
		s.posted(w, r, func() { s.ticket(w, r, boot) })
	case len(at) == 2 && posts[at[1]].record != nil:
		s.posted(w, r, func() { s.message(w, r, boot, posts[at[1]]) })
	case len(at) == 3:
		image, err := ingot.ParseDigest("sha256:" + at[1])
		if err != nil {
			s.notFound(w, r)
			return
		}
		s.reading(w, r, func() { s.artifact(w, r, boot, image, at[2]) })
	default:
		s.notFound(w, r)
	}
}

// sender is the address that a request comes from. That of a link has a zone.
func sender(r *http.Request) netip.Addr {
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // net/http makes it of a TCP address
	return from.Addr().Unmap()
}

// setDeadlines bounds the time of a body and then of the answer. Without a body
// there is nothing to read, and a deadline would only end the request's context.
func (s *Server) setDeadlines(w http.ResponseWriter, r *http.Request) {
	now, c := time.Now(), http.NewResponseController(w)
	if r.ContentLength != 0 {
		_ = c.SetReadDeadline(now.Add(s.timeout)) // connections have deadlines, recorders of tests do not
	}
	_ = c.SetWriteDeadline(now.Add(2 * s.timeout))
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	s.log.Debug("path not found", "method", r.Method, "path", clip(ingot.HideBootKeys(r.URL.Path)),
		"remote", r.RemoteAddr)
	refuse(w, "not found", http.StatusNotFound)
}

// reading calls f for GET and HEAD.
func (s *Server) reading(w http.ResponseWriter, r *http.Request, f func()) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, "method not allowed; use GET", http.StatusMethodNotAllowed)
		return
	}
	f()
}

// posted calls f for POST.
func (s *Server) posted(w http.ResponseWriter, r *http.Request, f func()) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		refuse(w, "method not allowed; use POST", http.StatusMethodNotAllowed)
		return
	}
	f()
}

// fail answers with an error in plain text, which a console shows.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, level := http.StatusInternalServerError, slog.LevelError
	switch {
	case errors.Is(err, ErrUnknown):
		status, level = http.StatusNotFound, slog.LevelWarn
	case errors.Is(err, ErrRefused):
		status, level = http.StatusForbidden, slog.LevelWarn
	case errors.Is(err, ErrUnproven):
		if status, level = http.StatusUnauthorized, slog.LevelWarn; errors.Is(err, ErrCrossed) {
			level = slog.LevelDebug
		}
	case errors.Is(err, ErrConflict):
		status, level = http.StatusConflict, slog.LevelWarn
	case errors.As(err, new(badRequest)):
		status, level = http.StatusBadRequest, slog.LevelDebug
	}
	if later := (*Later)(nil); errors.As(err, &later) {
		status, level = http.StatusServiceUnavailable, slog.LevelInfo
		w.Header().Set("Retry-After", strconv.Itoa(int(later.After/time.Second)+1))
	}
	path, text := clip(ingot.HideBootKeys(r.URL.Path)), clip(err.Error())
	s.log.Log(r.Context(), level, "request failed", "path", path, "remote", r.RemoteAddr, "status", status, "err", text)
	refuse(w, text, status)
}

// maxText bounds the text of a refusal and of the log, in bytes: it may repeat the request.
const maxText = 500

func clip(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxText)], "") }

// refuse answers in plain text with a length: http.Error sends a long text in
// chunks.
func refuse(w http.ResponseWriter, text string, status int) {
	text = clip(text) + "\n"
	if p, is := w.(*proving); is {
		p.prove(status, text)
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a client that hung up repeats its request
}

// answer sends a whole small body with its length.
func answer(w http.ResponseWriter, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(body) // a client that hung up repeats its request
}

// base is the URL of the local address that the request was sent to, without the
// port when it is 80. It does not depend on the client's Host header.
func base(r *http.Request) string {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return ""
	}
	return "http://" + strings.TrimSuffix(local.String(), ":80")
}

func (s *Server) script(w http.ResponseWriter, r *http.Request, boot ingot.BootID) {
	text, err := s.booter.Script(boot, base(r))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	answer(w, "text/plain; charset=utf-8", []byte(text))
}

// hasFacts reports whether a request for a script brings facts of the machine.
func hasFacts(r *http.Request) bool {
	return r.Method == http.MethodPost || r.Method == http.MethodGet && r.URL.RawQuery != ""
}

// facts records what a loader sends about its machine, in a query or a form, and
// answers with the script.
func (s *Server) facts(w http.ResponseWriter, r *http.Request, boot ingot.BootID) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse(w, "the body is not a form of at most 4 KiB", http.StatusBadRequest)
		return
	}
	f := ingot.Facts{
		Vendor:  r.Form.Get(ipxe.FieldVendor),
		Product: r.Form.Get(ipxe.FieldProduct),
		Serial:  r.Form.Get(ipxe.FieldSerial),
	}
	if err := s.booter.Waits(boot, f); err != nil {
		s.fail(w, r, err)
		return
	}
	s.script(w, r, boot)
}

// maxForm bounds what a loader posts, in bytes.
const maxForm = 4 << 10

func (s *Server) ticket(w http.ResponseWriter, r *http.Request, boot ingot.BootID) {
	var q ingot.TicketRequest
	if !s.read(w, r, &q) {
		return
	}
	if len(q.Nonce) < 32 || len(q.Nonce) > 128 {
		refuse(w, "the nonce must have 32 to 128 characters", http.StatusBadRequest)
		return
	}
	t, err := s.booter.Ticket(boot, q)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	body, err := json.Marshal(t)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	answer(w, "application/json", body)
}

// badRequest is an error of a body. Status 400.
type badRequest string

func (e badRequest) Error() string { return string(e) }

// post is how a message for one part of a boot is read and recorded.
type post struct {
	most   int64 // bytes of its body
	record func(to Sender, boot ingot.BootID, body []byte) (*ingot.Order, error)
}

// posts are the messages of a boot, by part.
var posts = map[string]post{
	"events": {maxMessage, func(to Sender, _ ingot.BootID, body []byte) (*ingot.Order, error) {
		var e ingot.Event
		if err := parse(body, &e); err != nil {
			return nil, err
		}
		if e.Stage.Rank() < 0 {
			return nil, badRequest("unknown stage")
		}
		return nil, to.Event(e)
	}},
	"report": {maxMessage, func(to Sender, boot ingot.BootID, body []byte) (*ingot.Order, error) {
		var r ingot.Report
		if err := parse(body, &r); err != nil {
			return nil, err
		}
		if r.Boot != boot {
			return nil, badRequest("the report belongs to another boot")
		}
		return to.Report(r)
	}},
	"console": {ingot.MaxConsole, func(to Sender, _ ingot.BootID, body []byte) (*ingot.Order, error) {
		return nil, to.Console(string(body))
	}},
	"crash": {ingot.MaxConsole, func(to Sender, _ ingot.BootID, body []byte) (*ingot.Order, error) {
		return nil, to.Crash(string(body))
	}},
}

// proving is an answer to a message that proved the secret of its boot: the answer proves it as well.
type proving struct {
	http.ResponseWriter
	to Sender
}

func (p *proving) prove(status int, body string) {
	if proof := p.to.Prove(status, []byte(body)); proof != "" {
		p.Header().Set(ingot.HeaderAuth, proof)
	}
}

// message records what a machine posts.
func (s *Server) message(w http.ResponseWriter, r *http.Request, boot ingot.BootID, p post) {
	body, release, ok := s.body(w, r, p.most)
	defer release()
	if !ok {
		return
	}
	m := ingot.Message{Method: r.Method, Path: r.URL.Path, Body: body}
	to, err := s.booter.Sender(boot, m, r.Header.Get(ingot.HeaderAuth), r.Header.Get(ingot.HeaderToken))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	proven := &proving{w, to}
	order, err := p.record(to, boot, body)
	if err != nil {
		s.fail(proven, r, err)
		return
	}
	if order == nil {
		proven.prove(http.StatusNoContent, "")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	text, err := json.Marshal(order)
	if err != nil {
		s.fail(proven, r, err)
		return
	}
	proven.prove(http.StatusOK, string(text))
	answer(w, "application/json", text)
}

// read parses a body, which must be exactly one JSON value.
func (s *Server) read(w http.ResponseWriter, r *http.Request, into any) bool {
	body, release, ok := s.body(w, r, maxBody)
	defer release()
	if !ok {
		return false
	}
	if err := parse(body, into); err != nil {
		refuse(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// parse reads exactly one JSON value. Its lists may not have so many elements that their values take
// far more memory than the body.
func parse(body []byte, into any) error {
	if n := bytes.Count(body, []byte(",")); n > maxElements {
		return badRequest(fmt.Sprintf("the body has more than %d elements", maxElements))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return badRequest("parsing the body: " + err.Error())
	}
	return nil
}
