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
	"syscall"

	"ingot/rootfs/agent"
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
	if len(args) != 1 || args[0] != "agent" {
		fmt.Fprintln(stderr, "ingot-init boots a machine as PID 1 of ingot's initramfs.\nusage: ingot-init agent   report the health of a booted system")
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if err := agent.Run(ctx, log); err != nil {
		fmt.Fprintf(stderr, "ingot-init: %v\n", err)
		return 1
	}
	return 0
}
