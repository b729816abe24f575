package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"ingot/bootserver/api"
	"ingot/builder"
	"ingot/cmd/ingot/show"
	"ingot/internal/scratch"
	"ingot/testvm"
	"ingot/testvm/storm"
)

// Trial boots a simulated machine as far as its script, from a server of its own
// with the loaders of the store at root, on a network of its own. skipped says
// why it could not be tried, failed why the machine would not have booted; both
// have a hint.
func Trial(ctx context.Context, root string) (took time.Duration, skipped, failed error) {
	loaders := filepath.Join(root, "loaders")
	if set, err := builder.StoredLoaders(root); err != nil {
		return 0, show.WithHint(errors.New("there are no loaders to try"), "ingot loaders"), nil
	} else if len(set.Damaged) > 0 { // the server of the trial would fetch them again, and doctor changes nothing
		return 0, show.WithHint(builder.ErrLoaders, "ingot loaders"), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	dir, err := scratch.New("ingot-doctor-")
	if err != nil {
		return 0, show.WithHint(err, "make room in the folder for temporary files, or name another one: TMPDIR"), nil
	}
	defer dir.Remove()
	lan, err := testvm.NewLAN(ctx, testvm.Options{Dir: dir.Path})
	if err != nil {
		return 0, show.WithHint(err, "run it as root"), nil
	}
	defer lan.Close()
	took, log, err := try(ctx, lan, dir.Path, loaders)
	if err != nil {
		return 0, nil, show.WithHint(err, "the log of the trial's server ends: %s", lastLine(log))
	}
	return took, nil, nil
}

func lastLine(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return lines[len(lines)-1]
}

// try runs server and machine on a LAN; log is what the server logged.
func try(ctx context.Context, lan *testvm.LAN, dir, loaders string) (took time.Duration, log string, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, "", err
	}
	store := filepath.Join(dir, "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		return 0, "", err
	}
	if err := os.Symlink(loaders, filepath.Join(store, "loaders")); err != nil {
		return 0, "", err
	}
	host, err := lan.NewHost(ctx, "patient0", netip.PrefixFrom(lan.Prefix.Addr().Next(), lan.Prefix.Bits()))
	if err != nil {
		return 0, "", err
	}
	file, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return 0, "", err
	}
	defer file.Close()
	server := lan.Command(ctx, self, "--store", store, "serve", "--config=", "--interface", testvm.Bridge,
		"--mode", "full")
	server.Stderr = file
	if err := lan.Start(server); err != nil {
		return 0, "", err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Wait() // lan.Close ends it
	}()
	err = untilReady(ctx, api.Dial(filepath.Join(store, "ingot.sock")), ended)
	if err == nil {
		machine := host.Command(ctx, self, "lab", "storm-machines")
		took, err = bootSimulated(machine, storm.Config{Machines: 1, First: 1, Card: host.Card, Script: true,
			Timeout: 45 * time.Second})
	}
	text, _ := os.ReadFile(file.Name()) // without it, there is no log to show
	return took, string(text), err
}

// untilReady waits until the server answers; ended is closed when it has ended.
func untilReady(ctx context.Context, c *api.Client, ended <-chan struct{}) error {
	for {
		if _, err := c.Version(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the trial's server does not get ready")
		case <-ended:
			return errors.New("the trial's server ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// bootSimulated boots one simulated machine; cmd is ingot lab storm-machines.
func bootSimulated(cmd *exec.Cmd, c storm.Config) (took time.Duration, err error) {
	conf, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	var out bytes.Buffer
	cmd.Args, cmd.Stdout = append(cmd.Args, string(conf)), &out
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("running the simulated machine: %w", err)
	}
	var r storm.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return 0, fmt.Errorf("reading the result of the simulated machine: %w", err)
	}
	for why := range r.Failed {
		return 0, errors.New(why)
	}
	if r.Healthy != 1 {
		return 0, errors.New("the simulated machine did not come as far as its script")
	}
	return r.Last, nil
}
