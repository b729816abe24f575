package testvm

import (
	"context"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
)

// Console is the serial line of a machine: all its output, and input.
type Console struct {
	mu      sync.Mutex
	text    []byte
	read    int           // WaitFor looks from here on
	changed chan struct{} // closed at every change and made anew
	conn    net.Conn
	closed  bool
}

func newConsole() *Console { return &Console{changed: make(chan struct{})} }

// attach reads a connection until its end; the text goes on over power cycles.
func (c *Console) attach(conn net.Conn) {
	c.mu.Lock()
	c.conn, c.closed = conn, false
	c.mu.Unlock()
	go func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := conn.Read(buf)
			c.mu.Lock()
			c.text = append(c.text, buf[:n]...)
			c.closed = err != nil
			close(c.changed)
			c.changed = make(chan struct{})
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

// Text returns all output since the machine was created.
func (c *Console) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// Skip makes WaitFor ignore the output so far.
func (c *Console) Skip() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = len(c.text)
}

// WaitFor waits for output that matches a regular expression, after the match of the previous
// WaitFor, and returns the match and its groups. If the machine or ctx ends, the error contains the
// last lines.
func (c *Console) WaitFor(ctx context.Context, pattern string) ([]string, error) {
	re := regexp.MustCompile(pattern)
	for {
		c.mu.Lock()
		if at := re.FindSubmatchIndex(c.text[c.read:]); at != nil {
			var groups []string
			for i := 0; i < len(at); i += 2 {
				if at[i] < 0 {
					groups = append(groups, "")
					continue
				}
				groups = append(groups, string(c.text[c.read+at[i]:c.read+at[i+1]]))
			}
			c.read += at[1]
			c.mu.Unlock()
			return groups, nil
		}
		changed, closed := c.changed, c.closed
		c.mu.Unlock()
		if closed {
			return nil, fmt.Errorf("waiting for %q: the machine ended; its last output:\n%s", pattern, c.Tail(15))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %q: %w; the last output of the machine:\n%s", pattern, ctx.Err(), c.Tail(15))
		case <-changed:
		}
	}
}

// Send types text.
func (c *Console) Send(text string) error {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return io.ErrClosedPipe
	}
	_, err := io.WriteString(conn, text)
	return err
}

var controlRE = regexp.MustCompile(`\x1b\[[0-9;?=]*[a-zA-Z]|\x1b[()][A-Z0-9]|\r`)

// Tail returns the last n lines without escape sequences.
func (c *Console) Tail(n int) string {
	lines := strings.Split(strings.TrimSpace(controlRE.ReplaceAllString(c.Text(), "")), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return "    " + strings.Join(lines, "\n    ")
}

// Run types a shell command at a root prompt and returns its output and exit code. The shell
// assembles the markers around the output, so that the echo of the typed line does not match.
func (c *Console) Run(ctx context.Context, command string) (output string, code int, err error) {
	c.Skip()
	if err := c.Send("echo @@'begin'; " + command + "; echo @@'end':$?\n"); err != nil {
		return "", 0, fmt.Errorf("typing %q: %w", command, err)
	}
	m, err := c.WaitFor(ctx, `@@begin\r?\n((?s:.*?))@@end:(\d+)`)
	if err != nil {
		return "", 0, fmt.Errorf("running %q: %w", command, err)
	}
	if _, err := fmt.Sscan(m[2], &code); err != nil {
		return "", 0, fmt.Errorf("running %q: %w", command, err)
	}
	return strings.TrimSpace(controlRE.ReplaceAllString(m[1], "")), code, nil
}
