// Package httpboot serves one boot over HTTP: script, kernel, initramfs and
// root to the machine, and its tickets, events and reports back. The paths are
// those of ingot.BootPath; the boot id in them is the machine's credential.
//
// GET changes no machine, assignment or grant; it may add a line to the record
// of the boot.
package httpboot

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"ingot"
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
	Script(boot ingot.BootID) (string, error)
	Artifact(boot ingot.BootID, image ingot.Digest, part string) (Artifact, error)
	Served(boot ingot.BootID, part string, bytes int64, whole bool)
	Ticket(boot ingot.BootID, q ingot.TicketRequest) (ingot.SignedTicket, error)
	Event(boot ingot.BootID, e ingot.Event) error
	Report(boot ingot.BootID, r ingot.Report) error
}

// Artifact is one file of an image: a path, or bytes.
type Artifact struct {
	Path   string
	Bytes  []byte
	Digest ingot.Digest // its ETag
}

// Bodies are bounded: facts of a machine with many disks fit, more does not.
const maxBody = 1 << 20

type handler struct {
	booter Booter
	log    *slog.Logger
}

// New returns the handler of the boot network.
func New(b Booter, log *slog.Logger) http.Handler {
	h := &handler{b, log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /b/{boot}/script", h.script)
	mux.HandleFunc("GET /b/{boot}/{image}/{part}", h.artifact)
	mux.HandleFunc("POST /b/{boot}/ticket", h.ticket)
	mux.HandleFunc("POST /b/{boot}/events", h.event)
	mux.HandleFunc("POST /b/{boot}/report", h.report)
	return mux
}

func (h *handler) boot(w http.ResponseWriter, r *http.Request) (ingot.BootID, bool) {
	id, err := ingot.ParseBootID(r.PathValue("boot"))
	if err != nil {
		http.Error(w, "not a boot id", http.StatusNotFound)
		return "", false
	}
	return id, true
}

// fail answers an error in plain text: its reader is a console.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrUnknown):
		status = http.StatusNotFound
	case errors.Is(err, ErrRefused):
		status = http.StatusForbidden
	}
	h.log.Log(r.Context(), level(status), "answering a machine", "path", r.URL.Path, "remote", r.RemoteAddr, "status", status, "err", err)
	http.Error(w, err.Error(), status)
}

func level(status int) slog.Level {
	if status >= 500 {
		return slog.LevelError
	}
	return slog.LevelWarn
}

func (h *handler) script(w http.ResponseWriter, r *http.Request) {
	boot, ok := h.boot(w, r)
	if !ok {
		return
	}
	text, err := h.booter.Script(boot)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = io.WriteString(w, text) // a machine that hung up asks again
}

func (h *handler) artifact(w http.ResponseWriter, r *http.Request) {
	boot, ok := h.boot(w, r)
	if !ok {
		return
	}
	image, err := ingot.ParseDigest("sha256:" + r.PathValue("image"))
	if err != nil {
		http.Error(w, "not an image digest", http.StatusNotFound)
		return
	}
	part := r.PathValue("part")
	a, err := h.booter.Artifact(boot, image, part)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	var content io.ReadSeeker = bytes.NewReader(a.Bytes)
	size := int64(len(a.Bytes))
	if a.Path != "" {
		f, err := os.Open(a.Path)
		if err != nil {
			h.fail(w, r, err)
			return
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			h.fail(w, r, err)
			return
		}
		content, size = f, st.Size()
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+string(a.Digest)+`"`)
	counted := &counter{ResponseWriter: w}
	http.ServeContent(counted, r, "", time.Time{}, content)
	if r.Method == http.MethodGet {
		h.booter.Served(boot, part, counted.n, counted.n == size)
	}
}

// counter counts the bytes of an answer. It passes ReadFrom on, so that the
// kernel still copies from the file to the socket by itself (sendfile(2)).
type counter struct {
	http.ResponseWriter
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, r)
	c.n += n
	return n, err
}

func (h *handler) ticket(w http.ResponseWriter, r *http.Request) {
	boot, ok := h.boot(w, r)
	if !ok {
		return
	}
	var q ingot.TicketRequest
	if !h.read(w, r, &q) {
		return
	}
	if len(q.Nonce) < 32 || len(q.Nonce) > 128 {
		http.Error(w, "the nonce needs 32 to 128 characters", http.StatusBadRequest)
		return
	}
	t, err := h.booter.Ticket(boot, q)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(t) // a machine that hung up asks again
}

func (h *handler) event(w http.ResponseWriter, r *http.Request) {
	boot, ok := h.boot(w, r)
	if !ok {
		return
	}
	var e ingot.Event
	if !h.read(w, r, &e) {
		return
	}
	if e.Stage.Rank() < 0 {
		http.Error(w, "unknown stage", http.StatusBadRequest)
		return
	}
	h.done(w, r, h.booter.Event(boot, e))
}

func (h *handler) report(w http.ResponseWriter, r *http.Request) {
	boot, ok := h.boot(w, r)
	if !ok {
		return
	}
	var p ingot.Report
	if !h.read(w, r, &p) {
		return
	}
	if p.Boot != boot {
		http.Error(w, "the report is of another boot", http.StatusBadRequest)
		return
	}
	h.done(w, r, h.booter.Report(boot, p))
}

func (h *handler) done(w http.ResponseWriter, r *http.Request, err error) {
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *handler) read(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into); err != nil {
		http.Error(w, "the body is not the JSON that is wanted: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}
