// Command ingot builds read-only operating-system images and network-boots
// machines into them. It is the operator's one binary: builder, boot server
// and client of a running server.
//
// Only this package reads the environment, knows the working directory and
// exits. Exit codes: 0 done, 1 failed, 2 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/internal/harmless"
)

// version is set by the linker; see the Makefile.
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal does not wait for the cleaning up
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// usageError marks errors of the command line itself: exit code 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// hintError is an error for people: what and why, and then the next step.
type hintError struct {
	err  error
	hint string
}

func (e hintError) Error() string { return e.err.Error() }
func (e hintError) Unwrap() error { return e.err }

func withHint(err error, format string, args ...any) error {
	return hintError{err, fmt.Sprintf(format, args...)}
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return (&app{stdin: stdin, stdout: stdout, stderr: stderr}).run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root, stderr := a.rootCommand(), a.stderr
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "ingot: %s\n", harmless.Lines(access.Redact(err.Error())))
	if next := nextStep(err); next != "" {
		fmt.Fprintf(stderr, "  → %s\n", harmless.Lines(next))
	}
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		fmt.Fprintf(stderr, "  → see: %s --help\n", commandPath(root, args))
		return 2
	}
	return 1
}

// nextStep is what to type after an error, where we know it.
func nextStep(err error) string {
	var hint hintError
	var problem api.Problem
	switch {
	case errors.As(err, &hint):
		return hint.hint
	case errors.As(err, &problem):
		return problem.Next
	case errors.Is(err, api.ErrNoServer):
		return "ingot serve --interface IF, or name the server's store with --store or INGOT_STORE"
	case errors.Is(err, api.ErrStranger):
		return "was the server set up anew? Compare the fingerprint that its administrator sees (ingot api fingerprint), and: ingot context add"
	case errors.Is(err, fs.ErrPermission):
		return "run it as root, or as the user that the store belongs to"
	}
	return ""
}

// commandPath names the deepest command that args reach, for the usage hint.
func commandPath(root *cobra.Command, args []string) string {
	c, _, err := root.Find(args)
	if err != nil || c == nil {
		return root.CommandPath()
	}
	return c.CommandPath()
}

// app carries what every command needs: the streams and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time // the server's clock; nil means time.Now

	store   string // --store
	server  string // --server
	context string // --context
	output  string // -o
	verbose bool
}

const rootLong = `ingot turns a short profile into a read-only operating-system image and
network-boots machines into it. An upgrade is a reboot, a rollback is a reboot,
data lives on volumes that booting cannot destroy.`

const rootExample = `  ingot build lab --version v1              # profile → image lab:v1
  ingot serve --interface eth1              # DHCP, TFTP and HTTP on one network
  ingot machine ls                          # who asked to boot
  ingot machine approve m-525400120001 --name node01 --image lab:v1
  ingot boots node01                        # every boot, stage by stage
  ingot assign node01 lab:v2                # upgrade at the next reboot
  ingot rollback node01                     # back to the last healthy image`

const exitCodes = "\nExit codes: 0 done, 1 failed, 2 wrong usage.\n"

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "ingot", Short: "build immutable images, network-boot machines into them",
		Long: rootLong, Example: rootExample,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := root.PersistentFlags()
	f.StringVar(&a.store, "store", "", "folder of images, keys and state (default: $INGOT_STORE, else "+defaultStore()+")")
	f.StringVar(&a.server, "server", "", "running server to talk to: unix:///PATH (default: $INGOT_SERVER, else the context, else the one of the store)")
	f.StringVar(&a.context, "context", "", "server to talk to, by the name that ingot context add gave it (default: $INGOT_CONTEXT, else the one in use)")
	f.StringVarP(&a.output, "output", "o", "table", "output format: table or json")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "log more to standard error")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.output != "table" && a.output != "json" {
			return usagef("unknown output format %q: want table or json", a.output)
		}
		return nil
	}
	root.SetUsageTemplate(root.UsageTemplate() + exitCodes)
	root.AddCommand(a.buildCommand(), a.planCommand(), a.importCommand(), a.verifyCommand(), a.imageCommand(), a.keyCommand(), a.serveCommand(), a.configCommand(), a.loadersCommand(),
		a.machineCommand(), a.networkCommand(), a.assignCommand(), a.rollbackCommand(), a.grantCommand(), a.resumeCommand(), a.bootsCommand(),
		a.whyCommand(), a.eventsCommand(), a.consoleCommand(), a.backupCommand(), a.restoreCommand(),
		a.contextCommand(), a.tokenCommand(), a.auditCommand(), a.apiCommand(), a.doctorCommand(), a.captureCommand(),
		a.labCommand(), a.demoCommand(), a.profileCommand(), a.versionCommand())
	return root
}

// exactArgs is cobra.ExactArgs with our exit code and the names of what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s needs %s", cmd.CommandPath(), strings.Join(names[len(args):], " and "))
		}
		if len(args) > len(names) {
			return usagef("%s takes %d argument(s), got %q", cmd.CommandPath(), len(names), args)
		}
		return nil
	}
}

func maxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("%s takes at most %d argument(s), got %q", cmd.CommandPath(), n, args)
		}
		return nil
	}
}

// group is a command that only holds others.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short}
	c.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("unknown command %q for %q", args[0], cmd.CommandPath())
		}
		return nil
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	c.AddCommand(sub...)
	return c
}

// storeRoot is the folder of images, keys and state.
func (a *app) storeRoot() string {
	for _, s := range []string{a.store, os.Getenv("INGOT_STORE")} {
		if s == "" {
			continue
		}
		if abs, err := filepath.Abs(s); err == nil {
			return abs
		}
		return s
	}
	return defaultStore()
}

func defaultStore() string {
	if os.Geteuid() == 0 {
		return "/var/lib/ingot"
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "ingot")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "ingot-store"
	}
	return filepath.Join(home, ".local", "share", "ingot")
}

// cacheDir is where downloads and intermediate results live.
func cacheDir() string {
	d, err := os.UserCacheDir()
	if err != nil {
		// A service or a CI job may run without HOME.
		return filepath.Join(os.TempDir(), "ingot-cache")
	}
	return filepath.Join(d, "ingot")
}

func (a *app) logger() *slog.Logger {
	level := slog.LevelInfo
	if a.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
}
