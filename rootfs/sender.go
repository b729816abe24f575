package rootfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"ingot"
)

// ErrForged is returned for an answer that is not by the server of the boot, although the boot has a
// secret: something on the way answered, or a server that does not know the installation's secret.
var ErrForged = errors.New("the answer does not prove that it is by this boot's server")

// maxAnswer bounds the text of an answer, in bytes.
const maxAnswer = 4 << 10

// Answer is what the server answered to a message.
type Answer struct {
	Status int
	Header http.Header
	Text   []byte // at most 4 KiB
}

// Sender posts messages of one boot to its server. With a secret, it proves them and verifies the
// answers.
type Sender struct {
	server string
	key    ingot.BootKey
	secret ingot.BootSecret
	token  string
	last   atomic.Uint64 // the largest counter that was used or that the server reported
}

// NewSender returns a sender; without a secret, messages are not authenticated.
func NewSender(server string, key ingot.BootKey, secret ingot.BootSecret, token string) *Sender {
	return &Sender{server: server, key: key, secret: secret, token: token}
}

// NewSender returns the sender of the boot.
func (h *Handover) NewSender() *Sender { return NewSender(h.Server, h.Key, h.Secret, h.Ticket.Token) }

// Authenticates reports whether messages are proven.
func (s *Sender) Authenticates() bool { return s.secret != nil }

// counter returns a number larger than all that this boot used before. It is the time since the kernel
// started, suspension included, in nanoseconds (clock_gettime(2), CLOCK_BOOTTIME): programs that start
// again, and a soft reboot, go on where they were without keeping anything. It only falls behind when a
// virtual machine is set back to a snapshot; then the server's answer has the number to go on from.
func (s *Sender) counter() uint64 {
	var t unix.Timespec
	now := uint64(0)
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) == nil {
		now = uint64(t.Nano())
	}
	for {
		last := s.last.Load()
		next := max(now, last+1)
		if s.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// advance makes counters go on after n.
func (s *Sender) advance(n uint64) {
	for last := s.last.Load(); last < n && !s.last.CompareAndSwap(last, n); last = s.last.Load() {
	}
}

// Post posts a message once. A message whose counter another program of this machine has overtaken is
// sent again with a newer one. The error is ErrForged if the answer is not by the server of the boot.
func (s *Sender) Post(ctx context.Context, c *http.Client, part, kind string, body []byte) (Answer, error) {
	for try := 1; ; try++ {
		a, again, err := s.once(ctx, c, part, kind, body)
		if err != nil || !again || try == 3 {
			return a, err
		}
	}
}

// once posts a message. again reports that its counter was not large enough.
func (s *Sender) once(ctx context.Context, c *http.Client, part, kind string, body []byte) (a Answer, again bool,
	err error) {
	m := ingot.Message{Method: http.MethodPost, Path: ingot.BootPath(s.key, part), Body: body}
	req, err := http.NewRequestWithContext(ctx, m.Method, s.server+m.Path, bytes.NewReader(body))
	if err != nil {
		return a, false, err
	}
	req.Header.Set("Content-Type", kind)
	if s.secret != nil {
		m.Counter = s.counter()
		req.Header.Set(ingot.HeaderAuth, s.secret.Prove(m).String())
		req.Header.Set(ingot.HeaderToken, s.token)
	}
	resp, err := c.Do(req)
	if err != nil {
		return a, false, err
	}
	defer resp.Body.Close()
	a = Answer{Status: resp.StatusCode, Header: resp.Header}
	if a.Text, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return a, false, fmt.Errorf("reading the answer for %s: %w", part, err)
	}
	if s.secret == nil {
		return a, false, nil
	}
	p, err := ingot.ParseProof(resp.Header.Get(ingot.HeaderAuth))
	if err != nil || !s.secret.ProvesAnswer(part, ingot.Answer{Status: a.Status, Counter: m.Counter, Newest: p.Counter,
		Body: a.Text}, p.MAC) {
		return a, false, fmt.Errorf("%w: %s to %s: %s", ErrForged, resp.Status, part, bytes.TrimSpace(a.Text))
	}
	s.advance(p.Counter)
	return a, a.Status == http.StatusConflict && p.Counter >= m.Counter, nil
}
