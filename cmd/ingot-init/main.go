// Command ingot-init is the machine's one binary. As PID 1 of the initramfs it
// boots the machine; as `ingot-init agent` in the booted system it reports
// what runs there.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"ingot"
	"ingot/rootfs/agent"
	"ingot/rootfs/guard"
	"ingot/rootfs/initrd"
)

func main() {
	ctx := context.Background()
	if os.Getpid() == 1 {
		// Nothing may end PID 1: the kernel would panic. It leaves by exec or reboot.
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		initrd.Run(ctx)
		return
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stderr io.Writer) int {
	if len(args) == 3 && args[0] == "guard" {
		return runGuard(ctx, args[1], args[2], stderr)
	}
	if len(args) != 1 || args[0] != "agent" {
		fmt.Fprintln(
			stderr,
			"ingot-init boots a machine as PID 1 of ingot's initramfs.\nusage: ingot-init agent              report the "+
				"health of a booted system\n       ingot-init guard LIMIT FROM   started by ingot-init: reboot unless healthy "+
				"within LIMIT",
		)
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if err := agent.Run(ctx, log); err != nil {
		fmt.Fprintf(stderr, "ingot-init: %v\n", err)
		return 1
	}
	return 0
}

// runGuard watches a boot; from is where the kernel's log goes on.
func runGuard(ctx context.Context, limit, from string, stderr io.Writer) int {
	g := &guard.Guard{Dir: ingot.RunDir, Reboot: guard.Reset}
	var err error
	if g.Limit, err = time.ParseDuration(limit); err == nil {
		g.From, err = strconv.ParseUint(from, 10, 64)
	}
	if err == nil {
		err = g.Run(ctx)
	}
	if err != nil {
		fmt.Fprintf(stderr, "ingot-init: guarding the boot: %v\n", err)
		return 1
	}
	return 0
}
