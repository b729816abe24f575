package machines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *Commands) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "why MACHINE...", Short: "explain in a paragraph how a machine is, the cause first",
		Long: `Say in words how a machine is and why: what failed and how often, what it boots
instead, what it waits for. It is made of what the server recorded; nothing is asked
of the machine.

` + naming,
		Example: "  ingot why node01\n  ingot why 'node[01-40]'", Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, failed, err := ofEach(cmd.Context(), a, args, func(n string) (api.Why, error) { return a.Client().Why(cmd.Context(), n) })
			if err != nil {
				return err
			}
			return errors.Join(a.Show(append([]api.Why{}, all...), func(w io.Writer) {
				for _, y := range all {
					if len(all) > 1 || failed != nil {
						fmt.Fprintf(w, "%s: ", show.Plain(y.Name))
					}
					fmt.Fprintln(w, show.Plain(y.Words))
					for _, n := range y.Next {
						fmt.Fprintf(w, "  → %s\n", show.Plain(n))
					}
				}
			}), failed)
		},
	}
}

func (a *Commands) eventsCommand() *cobra.Command {
	var follow bool
	var n int
	c := &cobra.Command{
		Use: "events [MACHINE...]", Short: "what happened: the ledger",
		Long: `List the newest entries of the ledger, of some machines or of all: every step of every
boot, how boots ended, what was decided, what operators changed. The ledger keeps the
last million entries, and none older than 90 days. A line with ! is worth a look.

` + naming,
		Example: "  ingot events -f\n  ingot events node01 -n 200\n  ingot events -f 'node[01-40]'\n  ingot events -f -o json | jq 'select(.bad)'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 1 || n > 10_000 {
				return show.Usagef("-n %d: choose between 1 and 10000", n)
			}
			q := api.EventsRequest{Newest: true, Limit: n}
			names, err := a.hosts(cmd.Context(), args)
			if err != nil {
				return err
			}
			if len(names) > api.MaxNamed {
				return show.Usagef("%d machines are named, and at most %d can be; without a name the entries of all are listed", len(names), api.MaxNamed)
			}
			q.Machines = names
			return a.events(cmd.Context(), q, follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens, until interrupted")
	c.Flags().IntVarP(&n, "number", "n", 50, "how many of the newest to begin with (1 to 10000)")
	return c
}

// events prints entries, and with follow those that come.
func (a *Commands) events(ctx context.Context, q api.EventsRequest, follow bool) error {
	c := a.Client()
	names := map[string]string{}
	if ms, err := c.MachinesBrief(ctx); err == nil {
		for _, m := range ms {
			names[string(m.ID)] = Called(m)
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
		q = api.EventsRequest{Machines: q.Machines, After: e.Last, Ledger: e.Ledger, Wait: 20 * time.Second}
	}
}

// printEvents prints one line per entry: as text, or as JSON.
func (a *Commands) printEvents(list []fleet.Entry, names map[string]string) error {
	for _, e := range list {
		if a.JSON() {
			if err := a.ShowLine(e); err != nil {
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
		if _, err := fmt.Fprintln(a.Stdout, strings.TrimRight(show.Plain(line), " ")); err != nil {
			return err
		}
	}
	return nil
}

func (a *Commands) consoleCommand() *cobra.Command {
	var boot string
	c := &cobra.Command{
		Use: "console MACHINE...", Short: "what kernel and ingot-init said during a boot",
		Long: `Print the kernel's log of a machine's latest boot, with what ingot-init and systemd
said in it, from the first second until the boot was decided; and what the firmware
kept of a crash (pstore), when there was one. Of each boot 64 KiB are kept, the
beginning and the end; of each machine the last 4 boots. Control characters are shown
as \x1b. Of several machines one comes after the other, each under its name.

` + naming,
		Example: "  ingot console node01\n  ingot console node01 --boot 3f2a61c0\n  ingot console rack=r1 | grep -i mce",
		Args:    command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.consoles(cmd.Context(), args, boot)
		},
	}
	c.Flags().StringVar(&boot, "boot", "", "the boot, by its id or the beginning of it (default: the latest)")
	return c
}

// consoles prints what boots of machines said: with more than one, each under
// its name.
func (a *Commands) consoles(ctx context.Context, args []string, boot string) error {
	type told struct {
		name string
		api.Console
	}
	all, failed, err := ofEach(ctx, a, args, func(n string) (told, error) {
		t, err := a.Client().Console(ctx, n, boot)
		if err == nil && t.Text == "" && !a.JSON() {
			err = api.Problem{Status: 404, Detail: fmt.Sprintf("boot %s of %s said nothing to this server", t.Boot.ID.Short(), n),
				Next: "it may not have come as far as its network: ingot why " + n}
		}
		return told{n, t}, err
	})
	if err != nil {
		return err
	}
	alone := len(all) == 1 && failed == nil
	list := []api.Console{}
	for _, t := range all {
		list = append(list, t.Console)
	}
	var v any = list
	if alone {
		v = list[0]
	}
	return errors.Join(a.Show(v, func(w io.Writer) {
		for i, t := range all {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if !alone {
				fmt.Fprintf(w, "==> %s, boot %s\n", show.Plain(t.name), show.Plain(t.Boot.ID.Short()))
			}
			for line := range strings.Lines(t.Text) {
				fmt.Fprintln(w, show.Plain(strings.TrimRight(line, "\n")))
			}
		}
	}), failed)
}

func (a *Commands) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "resume MACHINE...", Short: "try the assigned image again on a machine that gave it up",
		Long:    "Forget the failures of a machine that is held, or that fell back: its assigned image\nis tried again at the next boot. A machine that is held goes on within seconds.\n\n" + naming,
		Example: "  ingot resume node01", Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachMachine(cmd.Context(), args, func(n string) (fleet.Machine, error) { return a.Client().Resume(cmd.Context(), n) },
				func(m fleet.Machine) string {
					return fmt.Sprintf("%s tries %s again", Called(m), show.Dash(m.Assignment.Name))
				})
		},
	}
}
