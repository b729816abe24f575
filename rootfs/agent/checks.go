package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"time"

	"ingot"
)

// wholeSystem is the unit that stands for all: start-up is done and no unit failed.
const wholeSystem = "@system"

// System is what the agent asks of the service manager.
type System interface {
	// State is what systemctl is-system-running says.
	State(ctx context.Context) (string, error)
	// Failed lists failed units.
	Failed(ctx context.Context) []string
	// Active is the output of systemctl is-active.
	Active(ctx context.Context, unit string) (string, error)
	// Reboot asks for a reboot in good order.
	Reboot(ctx context.Context) error
	// Outside returns what runs a program outside of the agent's own confinement: its unit sees the file
	// system read-only, and no home directories.
	Outside(argv []string) []string
}

type systemctl struct{}

// word runs systemctl and returns its output. Its exit code adds nothing to that; the error is of a
// systemctl that was ended by a signal or said nothing.
func (systemctl) word(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", args...).Output()
	word := strings.TrimSpace(string(out))
	var exit *exec.ExitError
	switch {
	case err == nil:
		return word, nil
	case !errors.As(err, &exit):
		return "", err
	case !exit.Exited() || word == "":
		return "", fmt.Errorf("systemctl %s: %w: %s", args[0], err, bytes.TrimSpace(exit.Stderr))
	}
	return word, nil
}

// State implements System. Other than is-system-running, show needs no D-Bus daemon: that one is stopped at
// the same time as the agent.
func (s systemctl) State(ctx context.Context) (string, error) {
	return s.word(ctx, "show", "--property=SystemState", "--value")
}

func (s systemctl) Failed(ctx context.Context) []string {
	out, err := s.word(ctx, "list-units", "--state=failed", "--plain", "--no-legend")
	if err != nil {
		return nil
	}
	var units []string
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Fields(line); len(f) > 0 {
			units = append(units, f[0])
		}
	}
	return units
}

func (s systemctl) Active(ctx context.Context, unit string) (string, error) {
	return s.word(ctx, "is-active", unit)
}

func (s systemctl) Reboot(ctx context.Context) error {
	return exec.CommandContext(ctx, "systemctl", "--no-block", "reboot").Run()
}

// Outside implements System: in the mount namespace of the service manager. The program stays one of the
// agent's unit, and ends with it.
func (systemctl) Outside(argv []string) []string {
	return append([]string{"nsenter", "--target", "1", "--mount", "--"}, argv...)
}

const (
	defaultTimeout = 10 * time.Second
	defaultWithin  = 2 * time.Minute
)

// checkUntilDecided runs all checks at the same time, each again until it
// passes or its time is over.
func (a *Agent) checkUntilDecided(ctx context.Context) []ingot.CheckResult {
	return a.checkAll(func(c ingot.Check) ingot.CheckResult {
		within := c.Within
		if within <= 0 {
			within = defaultWithin
		}
		start := time.Now()
		for {
			began := time.Now()
			r := a.check(ctx, c)
			r.Duration = time.Since(start)
			if r.OK || time.Since(start) > within || ctx.Err() != nil {
				return r
			}
			select {
			case <-ctx.Done():
			case <-time.After(max(500*time.Millisecond, time.Since(began))): // a busy machine starts no faster for being asked
			}
		}
	})
}

// checkOnce runs every check one time, for a heartbeat.
func (a *Agent) checkOnce(ctx context.Context) []ingot.CheckResult {
	return a.checkAll(func(c ingot.Check) ingot.CheckResult {
		start := time.Now()
		r := a.check(ctx, c)
		r.Duration = time.Since(start)
		return r
	})
}

func (a *Agent) checkAll(one func(ingot.Check) ingot.CheckResult) []ingot.CheckResult {
	checks := a.Handover.Image.Checks
	results := make([]ingot.CheckResult, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i] = one(c) })
	}
	wg.Wait()
	return results
}

// check is one attempt at one check.
func (a *Agent) check(ctx context.Context, c ingot.Check) ingot.CheckResult {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var err error
	switch {
	case len(c.Units) > 0:
		err = a.checkUnits(ctx, c.Units)
	case c.TCP != "":
		err = checkTCP(ctx, c.TCP)
	case c.HTTP != "":
		err = checkHTTP(ctx, c.HTTP)
	case len(c.Command) > 0:
		err = checkCommand(ctx, c.Command)
	default:
		err = errors.New("the check has nothing to run")
	}
	if err != nil {
		return ingot.CheckResult{Name: c.Name, Detail: err.Error()}
	}
	return ingot.CheckResult{Name: c.Name, OK: true}
}

func (a *Agent) checkUnits(ctx context.Context, units []string) error {
	for _, u := range units {
		if u == wholeSystem {
			state, err := a.System.State(ctx)
			if err != nil {
				return err
			}
			if state != "running" {
				return fmt.Errorf("the system is %s %s", state, strings.Join(a.System.Failed(ctx), ", "))
			}
			continue
		}
		state, err := a.System.Active(ctx, u)
		if err != nil {
			return err
		}
		if state != "active" {
			return fmt.Errorf("%s is %s", u, state)
		}
	}
	return nil
}

func checkTCP(ctx context.Context, address string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

func checkHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

func checkCommand(ctx context.Context, argv []string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err == nil {
		return nil
	}
	const most = 200
	if out = bytes.TrimSpace(out); len(out) > most {
		out = out[len(out)-most:]
	}
	return withOutput(fmt.Errorf("%s: %w", argv[0], err), out)
}

// withOutput adds to the error of a program what it printed, if anything.
func withOutput(err error, out []byte) error {
	if len(out) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, out)
}
