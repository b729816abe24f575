// Package httpboot serves one boot over HTTP/1.1 (RFC 9110, RFC 9112): script,
// kernel, initramfs and root to the machine, and its tickets, events and
// reports back. The paths are those of ingot.BootPath; the key in them is the
// machine's credential: it opens its own boot, and nothing when that is over.
//
// Its clients are firmware, boot loaders and ingot-init, so the answers are
// plain: a path is exact or 404, never a redirect; every body says its length,
// none is chunked; files go from the page cache to the socket by sendfile(2).
// A crowd is admitted in turns: who finds no room is told when to come back.
//
// GET changes no machine, assignment or grant, but for what a machine that waits
// tells of itself; it may add a line to the record of the boot. TLS, HTTP/2 and several ranges in one request are left out: no
// firmware asks for them.
package httpboot

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/bootserver/ipxe"
)

// Errors of a Booter that have a status of their own.
var (
	// ErrUnknown: there is no such boot, image or artifact. 404.
	ErrUnknown = errors.New("unknown")
	// ErrRefused: the machine may not have what it asks for. 403.
	ErrRefused = errors.New("refused")
)

// Booter knows boots and decides about them.
type Booter interface {
	// Knows reports whether a key is the server's own; it takes the same time
	// for any.
	Knows(key ingot.BootKey) bool
	// Script is what a loader runs; base is the URL that it asked, "http://10.99.0.1".
	Script(boot ingot.BootID, base string) (string, error)
	// Waits is told what a machine says of itself that waits in its loader.
	Waits(boot ingot.BootID, f ingot.Facts) error
	Artifact(boot ingot.BootID, image ingot.Digest, part string) (Artifact, error)
	Served(boot ingot.BootID, part string, bytes int64, whole bool)
	Ticket(boot ingot.BootID, q ingot.TicketRequest) (ingot.SignedTicket, error)
	Event(boot ingot.BootID, e ingot.Event) error
	Report(boot ingot.BootID, r ingot.Report) error
	// Console is what kernel and ingot-init said; Crash what was left of the boot before.
	Console(boot ingot.BootID, text string) error
	Crash(boot ingot.BootID, text string) error
}

// Artifact is one file of an image: a path, or bytes.
type Artifact struct {
	Path   string
	Bytes  []byte
	Digest ingot.Digest // its ETag
}

// Bounds of one request. Facts of a machine with many disks fit into maxBody,
// more does not.
const (
	maxBody   = 1 << 20
	maxHeader = 16 << 10
)

// patience is how long a body may take to come, and a window of an answer to go.
const patience = 30 * time.Second

// Server answers the boot network.
type Server struct {
	booter  Booter
	log     *slog.Logger
	gate    gate
	pace    pace
	callers callers
	wait    time.Duration // patience, but for tests
	sent    atomic.Int64  // bytes of artifacts
	refused atomic.Int64  // transfers that found no room
}

// New returns a server with the default limits.
func New(b Booter, log *slog.Logger) *Server {
	s := &Server{booter: b, log: log, wait: patience}
	s.SetLimits(Limits{})
	return s
}

// ServeHTTP implements http.Handler. Paths are taken as they are: a mux would
// clean them, and redirect, which firmware does not follow.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.hurry(w, r)
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
	switch {
	case len(at) == 2 && at[1] == "script" && (r.Method == http.MethodPost || r.Method == http.MethodGet && r.URL.RawQuery != ""):
		s.told(w, r, boot)
	case len(at) == 2 && at[1] == "script":
		s.reading(w, r, func() { s.script(w, r, boot) })
	case len(at) == 2 && at[1] == "ticket":
		s.posted(w, r, func() { s.ticket(w, r, boot) })
	case len(at) == 2 && at[1] == "events":
		s.posted(w, r, func() { s.event(w, r, boot) })
	case len(at) == 2 && at[1] == "report":
		s.posted(w, r, func() { s.report(w, r, boot) })
	case len(at) == 2 && at[1] == "console":
		s.posted(w, r, func() { s.text(w, r, boot, s.booter.Console) })
	case len(at) == 2 && at[1] == "crash":
		s.posted(w, r, func() { s.text(w, r, boot, s.booter.Crash) })
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

// hurry gives a body, and then the answer, a time to be through. Without a
// body nothing is to be read: a deadline would only end the request's context.
func (s *Server) hurry(w http.ResponseWriter, r *http.Request) {
	now, c := time.Now(), http.NewResponseController(w)
	if r.ContentLength != 0 {
		_ = c.SetReadDeadline(now.Add(s.wait)) // a connection has deadlines, only a test's recorder has none
	}
	_ = c.SetWriteDeadline(now.Add(2 * s.wait))
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	s.log.Debug("nothing is there", "method", r.Method, "path", ingot.HideBootKeys(r.URL.Path), "remote", r.RemoteAddr)
	refuse(w, "nothing is there", http.StatusNotFound)
}

// reading lets GET and HEAD through.
func (s *Server) reading(w http.ResponseWriter, r *http.Request, f func()) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, "this can only be read", http.StatusMethodNotAllowed)
		return
	}
	f()
}

// posted lets POST through.
func (s *Server) posted(w http.ResponseWriter, r *http.Request, f func()) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		refuse(w, "this can only be posted to", http.StatusMethodNotAllowed)
		return
	}
	f()
}

// fail answers an error in plain text: its reader is a console.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, level := http.StatusInternalServerError, slog.LevelError
	switch {
	case errors.Is(err, ErrUnknown):
		status, level = http.StatusNotFound, slog.LevelWarn
	case errors.Is(err, ErrRefused):
		status, level = http.StatusForbidden, slog.LevelWarn
	}
	s.log.Log(r.Context(), level, "answering a machine", "path", ingot.HideBootKeys(r.URL.Path), "remote", r.RemoteAddr, "status", status, "err", err)
	refuse(w, err.Error(), status)
}

// maxText bounds the text of a refusal, which may repeat what was asked.
const maxText = 500

// refuse answers in plain text, with its length: http.Error sends a long text
// in chunks.
func refuse(w http.ResponseWriter, text string, status int) {
	text = strings.ToValidUTF8(text[:min(len(text), maxText)], "") + "\n"
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a machine that hung up asks again
}

// answer sends a whole small body with its length.
func answer(w http.ResponseWriter, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	_, _ = w.Write(body) // a machine that hung up asks again
}

// base is the URL of the address that was asked, without a port when that is
// HTTP's own. The client's Host header has no say in it.
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

// told takes what a loader says of its machine, in a query or a form, and
// answers with the script.
func (s *Server) told(w http.ResponseWriter, r *http.Request, boot ingot.BootID) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse(w, "the body is no form of at most 4 KiB", http.StatusBadRequest)
		return
	}
	f := ingot.Facts{Vendor: r.Form.Get(ipxe.FieldVendor), Product: r.Form.Get(ipxe.FieldProduct), Serial: r.Form.Get(ipxe.FieldSerial)}
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
		refuse(w, "the nonce needs 32 to 128 characters", http.StatusBadRequest)
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

func (s *Server) event(w http.ResponseWriter, r *http.Request, boot ingot.BootID) {
	var e ingot.Event
	if !s.read(w, r, &e) {
		return
	}
	if e.Stage.Rank() < 0 {
		refuse(w, "unknown stage", http.StatusBadRequest)
		return
	}
	s.done(w, r, s.booter.Event(boot, e))
}

func (s *Server) report(w http.ResponseWriter, r *http.Request, boot ingot.BootID) {
	var p ingot.Report
	if !s.read(w, r, &p) {
		return
	}
	if p.Boot != boot {
		refuse(w, "the report is of another boot", http.StatusBadRequest)
		return
	}
	s.done(w, r, s.booter.Report(boot, p))
}

// text takes plain text.
func (s *Server) text(w http.ResponseWriter, r *http.Request, boot ingot.BootID, take func(ingot.BootID, string) error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, ingot.MaxConsole))
	if err != nil {
		refuse(w, "the text is larger than 32 KiB, or broke off", http.StatusRequestEntityTooLarge)
		return
	}
	s.done(w, r, take(boot, string(b)))
}

func (s *Server) done(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// read parses a body, which must be one JSON value and nothing more.
func (s *Server) read(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows the value")
		}
	}
	var large *http.MaxBytesError
	switch {
	case err == nil:
		return true
	case errors.As(err, &large):
		refuse(w, "the body is larger than 1 MiB", http.StatusRequestEntityTooLarge)
	default:
		refuse(w, "the body is not the JSON that is wanted: "+err.Error(), http.StatusBadRequest)
	}
	return false
}
