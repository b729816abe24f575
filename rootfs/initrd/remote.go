package initrd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/rootfs"
)

// remote is the client of the boot server's HTTP interface for one boot.
type remote struct {
	base   string // "http://10.99.0.1:80"
	boot   ingot.BootKey
	http   *http.Client
	sender atomic.Pointer[rootfs.Sender] // of messages; with a secret after the ticket
	texts  sync.Mutex                    // held while a text is sent, and from hold to release
	held   bool                          // by hold
}

// hold keeps texts back until release, and waits for one that is under way. As soon as the server
// issues a ticket it refuses messages without the secret, which this machine does not have before it
// verified that ticket.
func (r *remote) hold() {
	r.texts.Lock()
	r.held = true
}

// release ends hold, if it is under way.
func (r *remote) release() {
	if r.held {
		r.held = false
		r.texts.Unlock()
	}
}

func newRemote(base string, boot ingot.BootKey) *remote {
	r := &remote{base: base, boot: boot, http: &http.Client{Transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ResponseHeaderTimeout: 30 * time.Second, DisableCompression: true,
	}}}
	r.authenticate(nil, "")
	return r
}

// authenticate proves messages with a secret from here on; nil: with none.
func (r *remote) authenticate(secret ingot.BootSecret, token string) {
	r.sender.Store(rootfs.NewSender(r.base, r.boot, secret, token))
}

// refusal is an answer of the server that trying again at once does not change.
type refusal struct {
	status int
	text   string
}

func (r refusal) Error() string { return fmt.Sprintf("the server answers %d: %s", r.status, r.text) }

// smallBody bounds the documents that are read into memory, in bytes.
const smallBody = 16 << 20

func (r *remote) do(ctx context.Context, method, part string, body []byte, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.base+ingot.BootPath(r.boot, part), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	resp.Body.Close()
	return nil, refused(resp.StatusCode, resp.Header, text)
}

// refused returns the error of an answer; nil if its status is a success.
func refused(status int, header http.Header, text []byte) error {
	switch err := (refusal{status, string(bytes.TrimSpace(text))}); {
	case status < 300:
		return nil
	case status >= 500 || status == http.StatusTooManyRequests:
		return busy{err, retryAfter(header)}
	default:
		return err
	}
}

// busy is an answer after which the same request may succeed: the server is
// broken, or it serves many and says when to come back.
type busy struct {
	error
	after time.Duration // 0: it does not say
}

func (b busy) Unwrap() error { return b.error }

// longestWait bounds what a server can make a machine wait, whatever it says.
const longestWait = 5 * time.Minute

// retryAfter reads Retry-After (RFC 9110 section 10.2.3) in its form of
// seconds. The form of a date needs a clock, which the machine may not have.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, longestWait)
}

func (r *remote) small(ctx context.Context, method, part string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	resp, err := r.do(ctx, method, part, body, http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, smallBody))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", part, err)
	}
	return b, nil
}

// ticket asks for a ticket.
func (r *remote) ticket(ctx context.Context, q ingot.TicketRequest) (s ingot.SignedTicket, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return s, err
	}
	answer, err := r.small(ctx, http.MethodPost, "ticket", body)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(answer, &s); err != nil {
		return s, fmt.Errorf("parsing the ticket's envelope: %w", err)
	}
	return s, nil
}

// documents fetches manifest, signature and config of an image.
func (r *remote) documents(ctx context.Context, image ingot.Digest) (d imageDocuments, err error) {
	for _, part := range []struct {
		name string
		into *[]byte
	}{{"manifest", &d.OCI}, {"signature", &d.Signature}, {"config", &d.Config}} {
		if *part.into, err = r.small(ctx, http.MethodGet, image.Hex()+"/"+part.name, nil); err != nil {
			return d, fmt.Errorf("fetching the image's %s: %w", part.name, err)
		}
	}
	return d, nil
}

// root opens the root at an offset in bytes.
func (r *remote) root(ctx context.Context, image ingot.Digest, offset int64) (io.ReadCloser, error) {
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	resp, err := r.do(ctx, http.MethodGet, image.Hex()+"/root", nil, header)
	if err != nil {
		return nil, err
	}
	if offset > 0 && resp.StatusCode != http.StatusPartialContent {
		resp.Body.Close()
		return nil, fmt.Errorf("resuming the root at byte %d: the server answered %s, not a range", offset, resp.Status)
	}
	return resp.Body, nil
}

// post sends an event once.
func (r *remote) post(ctx context.Context, e ingot.Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	return r.send(ctx, "events", "application/json", body)
}

// text posts text once; a server that is away is not waited for. See hold.
func (r *remote) text(ctx context.Context, part, text string) error {
	r.texts.Lock()
	defer r.texts.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return r.send(ctx, part, "text/plain; charset=utf-8", []byte(text))
}

// send posts a message once.
func (r *remote) send(ctx context.Context, part, kind string, body []byte) error {
	a, err := r.sender.Load().Post(ctx, r.http, part, kind, body)
	if err != nil {
		return err
	}
	return refused(a.Status, a.Header, a.Text)
}

// patience says how a machine waits for something that is not there now.
type patience struct {
	First, Most time.Duration // pause after the first failure, and the longest
	Total       time.Duration // how long to go on
}

// serverPatience outlasts the restart of a server and a switch that learns STP.
var serverPatience = patience{First: 500 * time.Millisecond, Most: 15 * time.Second, Total: 15 * time.Minute}

// retry calls f until it succeeds, fails for good, or patience ends. The
// pauses grow and are jittered, so that a rack does not ask in step. A server
// that says when to come back is alive: it is asked then, a little later each
// machine for itself, and patience starts again.
func retry(ctx context.Context, p patience, failed func(err error, pause time.Duration), f func() error) error {
	start, pause := time.Now(), p.First
	for {
		err := f()
		if err == nil || ctx.Err() != nil || !passing(err) || time.Since(start) > p.Total {
			return err
		}
		jittered := pause/2 + rand.N(pause)
		if b := (busy{}); errors.As(err, &b) && b.after > 0 {
			jittered = b.after + rand.N(b.after/2+1)
			start, pause = time.Now().Add(jittered), p.First
		}
		failed(err, jittered)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(jittered):
		}
		pause = min(pause*2, p.Most)
	}
}

// passing reports whether err may go away by itself: the network, or a server
// that is restarting. What the server decided, or what failed verification, does not.
func passing(err error) bool {
	var refused refusal
	var netErr net.Error
	switch {
	case errors.As(err, new(busy)):
		return true
	case errors.As(err, &refused), isVerdict(err):
		return false
	case errors.As(err, &netErr), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, errStalled),
		errors.Is(err, rootfs.ErrForged):
		return true
	}
	return false
}

// lasting reports whether another try of this boot meets the same: the machine's memory, keys and
// disks do not change. Another boot may have another ticket.
func lasting(err error) bool {
	switch rootfs.CodeOf(err) {
	case ingot.FailureArguments, ingot.FailureMemory, ingot.FailureVolume, ingot.FailureTicketKey, ingot.FailureImageKey:
		return true
	}
	return false
}

// isVerdict reports whether something is not what it must be.
func isVerdict(err error) bool {
	for _, v := range []error{ErrTicketKey, ErrTicketReplayed, ErrTicketExpired, ErrImageKey, ErrImageDigest, ErrArguments,
		ErrChunk} {
		if errors.Is(err, v) {
			return true
		}
	}
	return false
}

// codeOf is the kind of a failure: the one that it carries, or what it says of
// the server.
func codeOf(err error) ingot.FailureCode {
	switch code := rootfs.CodeOf(err); {
	case code != "":
		return code
	case passing(err):
		return ingot.FailureServerAway
	case errors.As(err, new(refusal)):
		return ingot.FailureServerRefused
	}
	return ""
}
