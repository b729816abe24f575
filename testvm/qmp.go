package testvm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// errNotListening: the machine is off, or is still starting.
var errNotListening = errors.New("the socket is not open")

// qmp sends one command over QEMU's machine protocol (QEMU, docs/interop/
// qmp-spec.rst) on a connection of its own. Events are ignored.
func qmp(socket, command string) error {
	c, err := net.DialTimeout("unix", socket, 5*time.Second)
	if err != nil {
		return fmt.Errorf("connecting to QEMU: %w: %w", errNotListening, err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return fmt.Errorf("using QMP: %w", err)
	}
	r := bufio.NewReader(c)
	if _, err := r.ReadBytes('\n'); err != nil { // the greeting
		return fmt.Errorf("using QMP: %w", err)
	}
	for _, cmd := range []string{"qmp_capabilities", command} {
		if _, err := fmt.Fprintf(c, `{"execute":%q}`+"\n", cmd); err != nil {
			return fmt.Errorf("running QMP command %s: %w", cmd, err)
		}
		if err := qmpAnswer(r, cmd); err != nil {
			return err
		}
	}
	return nil
}

func qmpAnswer(r *bufio.Reader, command string) error {
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("running QMP command %s: %w", command, err)
		}
		var m struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("running QMP command %s: %w", command, err)
		}
		switch {
		case m.Error != nil:
			return fmt.Errorf("running QMP command %s: %s", command, m.Error.Desc)
		case m.Return != nil:
			return nil
		}
	}
}
