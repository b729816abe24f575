// Command ingot-init is the machine's one binary. As PID 1 of the initramfs it
// boots the machine; as "ingot-init agent" in the booted system it reports what
// runs there.
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

const usage = `ingot-init boots a machine: it is process 1 of ingot's initramfs, and the agent afterwards.

Usage:
  ingot-init agent              report the health of the booted system to the server
  ingot-init guard LIMIT FROM   reboot unless the boot is healthy within LIMIT; FROM is the
                                number of the first kernel message to send to the server

The initramfs and the units of the image start both. LIMIT is a duration.

Example:
  ingot-init guard 5m0s 812

Exit codes: 0 done, 1 failed, 2 wrong usage.

What this binary can do; the builder reads it from the file and writes it into the manifest:
  ` + ingot.MarkAuthenticated + `
  ` + ingot.MarkSuccessors + `
  ` + ingot.MarkArguments + `
  ` + ingot.MarkShell + `
  ` + ingot.MarkOrders + `
`

func run(ctx context.Context, args []string, stderr io.Writer) int {
	if len(args) == 3 && args[0] == "guard" {
		return runGuard(ctx, args[1], args[2], stderr)
	}
	if len(args) != 1 || args[0] != "agent" {
		fmt.Fprint(stderr, usage)
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if err := agent.Run(ctx, log); err != nil {
		fmt.Fprintf(stderr, "ingot-init: %v\n", err)
		return 1
	}
	return 0
}

// runGuard watches a boot; from is the first kernel message that was not sent yet.
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
