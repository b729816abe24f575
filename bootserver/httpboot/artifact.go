package httpboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ingot"
)

// smallFile is the size in bytes up to which a file is sent without admission: it
// takes less time than a wait.
const smallFile = 256 << 10

func (s *Server) artifact(w http.ResponseWriter, r *http.Request, boot ingot.BootID, image ingot.Digest, part string) {
	a, err := s.booter.Artifact(boot, image, part)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	content, size, err := a.open()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer content.Close()
	if r.Method == http.MethodGet && size > smallFile {
		leave, ok := s.admission.enter(boot, part == "root")
		if !ok {
			s.busy(w, r, boot, part)
			return
		}
		defer leave()
	}
	if strings.Contains(r.Header.Get("Range"), ",") {
		// Several ranges would be answered in MIME parts, without sendfile. A server
		// may ignore the header (RFC 9110 section 14.2).
		r.Header.Del("Range")
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+string(a.Digest)+`"`)
	out := &paced{ResponseWriter: w, control: http.NewResponseController(w), ctx: r.Context(), server: s}
	defer s.sending.begin(boot, part, out)() // after it is recorded, so that no bytes are missing
	http.ServeContent(out, r, "", time.Time{}, content)
	if r.Method == http.MethodGet {
		n := out.n.Load()
		s.sent.Add(n)
		s.booter.Served(boot, part, n, n == size)
	}
}

// busy asks a machine to retry later (RFC 9110 section 10.2.3). The time is
// jittered, so that a rack that was refused at once does not return at once.
func (s *Server) busy(w http.ResponseWriter, r *http.Request, boot ingot.BootID, part string) {
	s.refused.Add(1)
	s.log.Debug("too many transfers, machine must retry later", "boot", boot.Short(), "part", part, "remote", r.RemoteAddr)
	w.Header().Set("Retry-After", strconv.Itoa(retryAfter()))
	refuse(w, "too many transfers; retry later", http.StatusServiceUnavailable)
}

// file is what an artifact is read from.
type file interface {
	io.ReadSeeker
	io.Closer
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// open opens an artifact and returns its size in bytes.
func (a Artifact) open() (file, int64, error) {
	if a.Open == nil {
		return memory{bytes.NewReader(a.Bytes)}, int64(len(a.Bytes)), nil
	}
	f, err := a.Open()
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("no longer in the store")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%w artifact: %w", ErrUnknown, err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// paced sends an answer in windows. Each window waits for its turn at the
// server's rate and has a deadline, so that a client may be slow but not stop
// reading. It counts the bytes.
type paced struct {
	http.ResponseWriter
	control *http.ResponseController
	ctx     context.Context // of the request
	server  *Server
	n       atomic.Int64
}

// sending has the transfers under way: for each boot, the part that each sends.
type sending struct {
	mu    sync.Mutex
	boots map[ingot.BootID]map[*paced]string
}

func (s *sending) begin(boot ingot.BootID, part string, p *paced) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.boots == nil {
		s.boots = map[ingot.BootID]map[*paced]string{}
	}
	if s.boots[boot] == nil {
		s.boots[boot] = map[*paced]string{}
	}
	s.boots[boot][p] = part
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.boots[boot], p); len(s.boots[boot]) == 0 {
			delete(s.boots, boot)
		}
	}
}

// Sending returns the parts of an image that are being sent to a boot, with the bytes that these
// transfers sent so far; nil if there are none.
func (s *Server) Sending(boot ingot.BootID) (parts map[string]int64) {
	s.sending.mu.Lock()
	defer s.sending.mu.Unlock()
	for p, part := range s.sending.boots[boot] {
		if parts == nil {
			parts = map[string]int64{}
		}
		parts[part] += p.n.Load()
	}
	return parts
}

// turn waits until up to want bytes may be sent and returns how many.
func (p *paced) turn(want int64) (int64, error) {
	n, err := p.server.pace.turn(p.ctx, want, p.server.admission.inside())
	if err != nil {
		return 0, err
	}
	err = p.control.SetWriteDeadline(time.Now().Add(p.server.timeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return n, nil
}

// Write sends bytes from memory.
func (p *paced) Write(b []byte) (written int, err error) {
	for len(b) > 0 {
		n, err := p.turn(int64(len(b)))
		if err != nil {
			return written, err
		}
		m, err := p.ResponseWriter.Write(b[:n])
		p.n.Add(int64(m))
		written, b = written+m, b[m:]
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// ReadFrom sends from a file. Each window is an io.LimitedReader directly over the
// file, which package net recognises and passes to sendfile(2).
func (p *paced) ReadFrom(r io.Reader) (sent int64, err error) {
	src, ok := r.(*io.LimitedReader)
	to, fast := p.ResponseWriter.(io.ReaderFrom)
	if !ok || !fast {
		return io.Copy(struct{ io.Writer }{p}, r)
	}
	for src.N > 0 {
		n, err := p.turn(src.N)
		if err != nil {
			return sent, err
		}
		m, err := to.ReadFrom(&io.LimitedReader{R: src.R, N: n})
		p.n.Add(m)
		src.N, sent = src.N-m, sent+m
		switch {
		case err != nil:
			return sent, err
		case m < n:
			return sent, io.ErrUnexpectedEOF // the file was truncated meanwhile
		}
	}
	return sent, nil
}
