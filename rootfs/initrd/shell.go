package initrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"ingot"
)

// A shell runs on the consoles when both allow it: the image, which then has busybox in its initramfs,
// and the ticket, by an operator's decision for one boot. It is root's, and asks for no password.

// offersShell reports whether both the image and the ticket allow a shell.
func (b *boot) offersShell() bool {
	if !b.shell || b.image != nil && !b.image.Has(ingot.FeatureShell) {
		return false
	}
	_, err := os.Stat(ingot.ShellPath)
	return err == nil
}

// shellBefore runs a shell before the switch to the root.
func (b *boot) shellBefore(ctx context.Context) {
	b.report(ctx, ingot.Event{Stage: ingot.StageVolumes, Detail: "a shell runs on the consoles; the boot goes on when " +
		"it is left", Results: b.volumes.Results})
	b.runShell(ctx, "The root is mounted at /sysroot. Leave the shell to go on with the boot: exit")
}

// shellAfter runs a shell after a stage failed.
func (b *boot) shellAfter(ctx context.Context, err error) {
	e := b.failure(err)
	e.Retry, e.Detail = true, "a shell runs on the consoles"
	b.report(ctx, e)
	b.runShell(ctx, "Stage "+string(b.stage)+" failed: "+err.Error(), "Leave the shell to go on: exit")
}

func (b *boot) runShell(ctx context.Context, lines ...string) {
	b.console.frame(append(lines, "When the time of this boot is over, the watchdog resets the machine.")...)
	if b.flush != nil {
		b.flush()
	}
	if out, err := exec.CommandContext(ctx, ingot.ShellPath, "--install", "-s", "/bin").CombinedOutput(); err != nil {
		b.console.say("installing the commands of busybox: %v: %s", err, out)
	}
	consoles := activeConsoles()
	err := shells(ctx, consoles, ingot.ShellPath, "sh")
	b.console.open(consoles)
	if err != nil {
		b.console.say("starting a shell: %v", err)
		return
	}
	b.console.say("the shell was left")
}

// shells runs a shell on each of some consoles until one of them is left.
func shells(ctx context.Context, consoles []string, shell ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	left, running := make(chan struct{}), 0
	var failed []error
	for _, name := range consoles {
		cmd, err := shellOn(ctx, "/dev/"+name, shell)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		running++
		go func() {
			_ = cmd.Wait() // how a shell ends is its operator's business
			left <- struct{}{}
		}()
	}
	if running == 0 {
		return errors.Join(append(failed, errors.New("no console has one"))...)
	}
	for ; running > 0; running-- {
		<-left
		cancel()
	}
	return nil
}

// shellOn starts a shell that a console controls. A console without a device, which would end its shell
// at once, is refused: its settings cannot be read (EIO of a serial port without hardware), or it hung up.
func shellOn(ctx context.Context, console string, shell []string) (*exec.Cmd, error) {
	tty, err := os.OpenFile(console, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer tty.Close()
	if err := reachable(int(tty.Fd())); err != nil {
		return nil, fmt.Errorf("%s: %w", console, err)
	}
	cmd := exec.CommandContext(ctx, shell[0], shell[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = "/", tty, tty, tty
	cmd.Env = []string{"PATH=/bin", "HOME=/", "TERM=linux"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	return cmd, cmd.Start()
}

// reachable reports why a person cannot type on a terminal.
func reachable(fd int) error {
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, 0); err != nil && !errors.Is(err, unix.EINTR) {
		return err
	}
	if poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
		return errors.New("the terminal hung up")
	}
	return nil
}
