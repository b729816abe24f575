package httpboot

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Bounds of the bodies that are read or handled at once, in bytes. The first smallBody bytes of each
// are not counted, since the connections are: what nearly all messages take is there for a machine
// even when others send large bodies.
const (
	smallBody   = 8 << 10
	allBodies   = 16 << 20 // of all clients
	clientBody  = 2 << 20  // of one address
	maxElements = 20_000   // of the lists and objects in one body
)

// slowBody is the time for a body that is not small; a body that is has the server's timeout.
const slowBody = 10 * time.Second

// bodies counts and limits the memory of bodies.
type bodies struct {
	mu      sync.Mutex
	bytes   int64
	clients map[netip.Addr]int64
}

// take takes n more bytes for a client, if there are so many.
func (b *bodies) take(client netip.Addr, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes+n > allBodies || b.clients[client]+n > clientBody {
		return false
	}
	if b.clients == nil {
		b.clients = map[netip.Addr]int64{}
	}
	b.bytes += n
	b.clients[client] += n
	return true
}

func (b *bodies) release(client netip.Addr, n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytes -= n
	if b.clients[client] -= n; b.clients[client] == 0 {
		delete(b.clients, client)
	}
}

// errBusy: the bodies that are handled take all the memory for them.
var errBusy = errors.New("too many large messages are being handled")

// body reads a body of at most most bytes. release must be called when it is not used any more.
func (s *Server) body(w http.ResponseWriter, r *http.Request, most int64) (body []byte, release func(), ok bool) {
	client, held := sender(r), int64(0)
	release = func() { s.bodies.release(client, held) }
	body, err := s.readBody(w, r, most, func(size int64) bool {
		if !s.bodies.take(client, size) {
			return false
		}
		s.bodies.release(client, held) // of the smaller memory that it replaces
		held = size
		return true
	})
	switch large := (*http.MaxBytesError)(nil); {
	case errors.As(err, &large):
		refuse(w, fmt.Sprintf("the body is larger than %d KiB", most>>10), http.StatusRequestEntityTooLarge)
	case errors.Is(err, errBusy):
		s.fail(w, r, &Later{Why: err.Error()})
	case err != nil:
		refuse(w, "reading the body: "+err.Error(), http.StatusBadRequest)
	}
	return body, release, err == nil
}

// readBody reads a body into memory that is doubled as it fills; take is asked for what is not small.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, most int64,
	take func(size int64) bool) ([]byte, error) {
	if r.ContentLength > most {
		return nil, &http.MaxBytesError{Limit: most}
	}
	limited := http.MaxBytesReader(w, r.Body, most)
	body := make([]byte, 0, min(smallBody, max(r.ContentLength, 512)+1))
	for {
		n, err := limited.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case errors.Is(err, io.EOF):
			return body, nil
		case err != nil:
			return nil, err
		case len(body) < cap(body):
			continue
		}
		size := min(2*int64(cap(body)), most+1)
		if size > smallBody {
			if !take(size) {
				return nil, errBusy
			}
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(min(s.timeout, slowBody)))
		}
		body = append(make([]byte, 0, size), body...)
	}
}
