package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// openPage starts a program that opens the lab's dashboard to a browser, and returns the link. It ends a
// minute after the lab's server.
func (a *Commands) openPage(ctx context.Context) (link string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, "--store", a.StoreRoot(), "dashboard")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives this command, and its terminal
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("opening the dashboard: %w", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = cmd.Wait() // it printed nothing, so it ended
		return "", fmt.Errorf("opening the dashboard: %w", err)
	}
	return strings.TrimSpace(line), cmd.Process.Release()
}
