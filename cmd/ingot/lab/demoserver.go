package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"ingot/testvm"
)

// serve starts the server as a separate program, as in production.
func (d *demo) serve(ctx context.Context) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	logPath := filepath.Join(d.dir, "server.log")
	log, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	cmd := d.lan.Command(context.WithoutCancel(ctx), self, "--store", d.Store, "serve", "--config=", "--interface",
		testvm.Bridge, "--mode", "full")
	cmd.Stderr = log
	if err := d.lan.Start(cmd); err != nil {
		return nil, err
	}
	stop = func() { endProcess(cmd); log.Close() }
	err = waitForServer(ctx, d.client, func() string { b, _ := os.ReadFile(logPath); return string(b) })
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// endProcess interrupts a program, and kills it if it does not end.
func endProcess(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(os.Interrupt) // it may have ended
	kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_ = cmd.Wait() // how it ended does not matter
}
