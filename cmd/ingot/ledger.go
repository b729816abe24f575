package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
)

func (a *app) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "why MACHINE...", Short: "explain in a paragraph how a machine is, the cause first",
		Long: `Say in words how a machine is and why: what failed and how often, what it boots
instead, what it waits for. It is made of what the server recorded; nothing is asked
of the machine.`,
		Example: "  ingot why node01\n  ingot why 'node[01-40]'", Args: leastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := a.hosts(cmd.Context(), args)
			if err != nil {
				return err
			}
			var all []api.Why
			for _, n := range names {
				y, err := a.client().Why(cmd.Context(), n)
				if err != nil {
					return err
				}
				all = append(all, y)
			}
			return a.show(all, func(w io.Writer) {
				for _, y := range all {
					if len(all) > 1 {
						fmt.Fprintf(w, "%s: ", plain(y.Name))
					}
					fmt.Fprintln(w, plain(y.Words))
					for _, n := range y.Next {
						fmt.Fprintf(w, "  → %s\n", plain(n))
					}
				}
			})
		},
	}
}

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	var n int
	c := &cobra.Command{
		Use: "events [MACHINE]", Short: "what happened: the ledger",
		Long: `List the newest entries of the ledger, of one machine or of all: every step of every
boot, how boots ended, what was decided, what operators changed. The ledger keeps the
last million entries, and none older than 90 days.`,
		Example: "  ingot events -f\n  ingot events node01 -n 200\n  ingot events -f -o json | jq 'select(.bad)'",
		Args:    maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := api.EventsRequest{Newest: true, Limit: n}
			if len(args) == 1 {
				q.Machine = args[0]
			}
			return a.events(cmd.Context(), q, follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens, until interrupted")
	c.Flags().IntVarP(&n, "number", "n", 50, "number of entries at most")
	return c
}

// events prints entries, and with follow those that come.
func (a *app) events(ctx context.Context, q api.EventsRequest, follow bool) error {
	c := a.client()
	names := map[string]string{}
	if ms, err := c.MachinesBrief(ctx); err == nil {
		for _, m := range ms {
			names[string(m.ID)] = called(m)
		}
	}
	for {
		e, err := c.Events(ctx, q)
		if follow && ctx.Err() != nil {
			return nil //nolint:nilerr // the end that was asked for
		}
		if err != nil {
			return err
		}
		if err := a.printEvents(e.Events, names); err != nil || !follow {
			return err
		}
		q = api.EventsRequest{Machine: q.Machine, After: e.Last, Ledger: e.Ledger, Wait: 20 * time.Second}
	}
}

// printEvents prints one line per entry: as text, or as JSON.
func (a *app) printEvents(list []fleet.Entry, names map[string]string) error {
	for _, e := range list {
		if a.output == "json" {
			if err := a.line(e); err != nil {
				return err
			}
			continue
		}
		name := string(e.Machine)
		if n := names[name]; n != "" {
			name = n
		}
		what := string(e.Kind)
		if e.Stage != "" {
			what = string(e.Stage)
		}
		mark := " "
		if e.Bad {
			mark = "!"
		}
		line := fmt.Sprintf("%s %s %-16s %-8s %-9s %s %s", e.At.Local().Format("2006-01-02 15:04:05.000"), mark, name, e.Boot.Short(), what, e.Text, eventBytes(e.Bytes))
		if _, err := fmt.Fprintln(a.stdout, strings.TrimRight(plain(line), " ")); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) consoleCommand() *cobra.Command {
	var boot string
	c := &cobra.Command{
		Use: "console MACHINE", Short: "what kernel and ingot-init said during a boot",
		Long: `Print the kernel's log of a machine's latest boot, with what ingot-init and systemd
said in it, from the first second until the boot was decided; and what the firmware
kept of a crash (pstore), when there was one. Of each boot 64 KiB are kept, the
beginning and the end; of each machine the last 4 boots. Control characters are shown
as \x1b.`,
		Example: "  ingot console node01\n  ingot console node01 --boot 3f2a61c0",
		Args:    exactArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := a.client().Console(cmd.Context(), args[0], boot)
			if err != nil {
				return err
			}
			if t.Text == "" && a.output != "json" {
				return withHint(fmt.Errorf("boot %s of %s said nothing to this server", t.Boot.ID.Short(), args[0]),
					"it may not have come as far as its network: ingot why %s", args[0])
			}
			return a.show(t, func(w io.Writer) {
				for line := range strings.Lines(t.Text) {
					fmt.Fprintln(w, plain(strings.TrimRight(line, "\n")))
				}
			})
		},
	}
	c.Flags().StringVar(&boot, "boot", "", "the boot, by its id or the beginning of it (default: the latest)")
	return c
}

func (a *app) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "resume MACHINE...", Short: "try the assigned image again on a machine that gave it up",
		Long:    "Forget the failures of a machine that is held, or that fell back: its assigned image\nis tried again at the next boot. A machine that is held goes on within seconds.",
		Example: "  ingot resume node01", Args: leastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachMachine(cmd.Context(), args, func(n string) (fleet.Machine, error) { return a.client().Resume(cmd.Context(), n) },
				func(m fleet.Machine) string {
					return fmt.Sprintf("%s tries %s again", called(m), dash(m.Assignment.Name))
				})
		},
	}
}
