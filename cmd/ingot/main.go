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
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	_ "time/tzdata" // windows of rollouts name time zones, and a small host or container has no tz database

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ingot/bootserver/access"
	"ingot/bootserver/instance"
	"ingot/cmd/ingot/build"
	"ingot/cmd/ingot/client"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/images"
	"ingot/cmd/ingot/lab"
	"ingot/cmd/ingot/show"
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

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return newApp(stdin, stdout, stderr).run(ctx, args)
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *app {
	shared := &command.App{
		Printer: show.Printer{Stdin: stdin, Stdout: stdout, Stderr: stderr},
		Flags: client.Flags{Locate: func(root string) (pid, socket string) {
			i, running := instance.Find(root)
			if !running {
				return "", ""
			}
			return strconv.Itoa(i.PID), i.Socket
		}},
		Version: version,
	}
	i := images.New(shared)
	b := build.New(shared, i.Note)
	return &app{App: shared, images: i, build: b, lab: lab.New(shared, b)}
}

func (a *app) run(ctx context.Context, args []string) int {
	root, stderr := a.rootCommand(), a.Stderr
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	coded := show.CodeError{Code: 1}
	if errors.As(err, &coded) && coded.Err == nil {
		return coded.Code
	}
	fmt.Fprintf(stderr, "ingot: %s\n", harmless.Lines(access.Redact(err.Error())))
	if next := client.NextStep(err); next != "" {
		if strings.HasPrefix(next, "ingot ") {
			next = "run: " + next
		}
		fmt.Fprintf(stderr, "  → %s\n", harmless.Lines(next))
	}
	var usage show.UsageError
	if unknown := strings.HasPrefix(err.Error(), "unknown command"); errors.As(err, &usage) || unknown {
		if list := meant(root, args); unknown && len(list) > 0 {
			fmt.Fprintf(stderr, "  → did you mean: %s\n", strings.Join(list, ", or: "))
		}
		fmt.Fprintf(stderr, "  → see: %s --help\n", commandPath(root, args))
		return 2
	}
	return coded.Code
}

// meant returns the commands that an unknown one may mean: those of its name elsewhere in the tree, else
// those beside it with a similar name.
func meant(root *cobra.Command, args []string) (list []string) {
	c, rest, _ := root.Find(args) // its error is that of the unknown command
	word := firstWord(root, rest)
	if list = named(root, word); len(list) > 0 {
		return list
	}
	c.SuggestionsMinimumDistance = 2
	for _, name := range c.SuggestionsFor(word) {
		list = append(list, c.CommandPath()+" "+name)
	}
	return list
}

// firstWord returns the first of some arguments that is neither a global flag nor its value.
func firstWord(root *cobra.Command, args []string) string {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.AddFlagSet(root.PersistentFlags())
	f.SetInterspersed(false)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	if f.Parse(args) != nil {
		return ""
	}
	return f.Arg(0)
}

// named returns the paths of the commands below c that have a name.
func named(c *cobra.Command, name string) (list []string) {
	for _, sub := range c.Commands() {
		if sub.Name() == name && !sub.Hidden {
			list = append(list, sub.CommandPath())
		}
		list = append(list, named(sub, name)...)
	}
	return list
}

// commandPath names the deepest command that args reach, for the usage hint.
func commandPath(root *cobra.Command, args []string) string {
	c, _, err := root.Find(args)
	if err != nil || c == nil {
		return root.CommandPath()
	}
	return c.CommandPath()
}
