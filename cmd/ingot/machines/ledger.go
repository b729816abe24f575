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
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *Commands) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "why MACHINE...", Short: "explain the state of a machine in a paragraph, the cause first",
		Long: `Explain the state of machines: what failed and how often, what they boot instead, what they
wait for. The explanation is made from what the server recorded; no machine is contacted.

` + naming,
		Example: `  ingot why node01
  ingot why 'node[01-40]'`, Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, failed, err := ofEach(cmd.Context(), a, args, func(n string) (api.Why, error) {
				return a.Client().Why(cmd.Context(), n)
			})
			if err != nil {
				return err
			}
			return errors.Join(a.Show(append([]api.Why{}, all...), func(w io.Writer) {
				for _, y := range all {
					if len(all) > 1 || failed != nil {
						fmt.Fprintf(w, "%s: ", show.Plain(y.Name))
					}
					fmt.Fprintln(w, show.Plain(y.Words))
					for _, s := range y.Steps {
						if command := s.Command(); command != "" {
							fmt.Fprintf(w, "  → %s\n", show.Plain(command))
						}
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
		Use: "events [MACHINE...]", Short: "list events: boots, decisions and changes by operators",
		Long: `List the newest entries of the ledger, of all machines or of those that are named: stages of
boots, outcomes, decisions, and what operators changed. The ledger keeps a million entries,
and none older than 90 days. A line with ! reports a problem.

` + naming,
		Example: `  ingot events -f
  ingot events node01 -n 200
  ingot events -f 'node[01-40]'
  ingot events -f -o json | jq 'select(.bad)'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if n < 1 || n > 10_000 {
				return show.Usagef("bad number of entries -n %d: want 1 to 10000", n)
			}
			q := api.EventsRequest{Newest: true, Limit: n}
			names, err := a.hosts(cmd.Context(), args)
			if err != nil {
				return err
			}
			if len(names) > api.MaxNamed {
				return show.Usagef("%d machines are named; want at most %d, or none for the entries of all machines", len(names),
					api.MaxNamed)
			}
			q.Machines = names
			return a.events(cmd.Context(), q, follow)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "print new entries as they come, until interrupted")
	c.Flags().IntVarP(&n, "number", "n", 50, "number of newest entries to begin with (1 to 10000)")
	return c
}

// events prints entries, and with follow new ones as they come.
func (a *Commands) events(ctx context.Context, q api.EventsRequest, follow bool) error {
	c := a.Client()
	names := map[string]string{}
	if ms, err := c.MachinesBrief(ctx); err == nil {
		for _, m := range ms {
			names[string(m.ID)] = Called(m)
		}
	}
	for {
		began := time.Now()
		e, err := c.Events(ctx, q)
		if follow && ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted
		}
		if err != nil {
			return err
		}
		if err := a.printEvents(e.Events, names); err != nil || !follow {
			return err
		}
		if q.Wait > 0 && len(e.Events) == 0 && time.Since(began) < time.Second {
			select { // a server that does not wait must not be asked all the time
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
		}
		q = api.EventsRequest{Machines: q.Machines, After: e.Last, Ledger: e.Ledger, Wait: 20 * time.Second}
	}
}

// printEvents prints one line per entry: as text, or as JSON.
func (a *Commands) printEvents(list []api.Entry, names map[string]string) error {
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
		what := e.Kind
		if e.Stage != "" {
			what = string(e.Stage)
		}
		mark := " "
		if e.Bad {
			mark = "!"
		}
		line := fmt.Sprintf("%s %s %-16s %-8s %-9s %s %s", e.At.Local().Format("2006-01-02 15:04:05.000"), mark, name,
			e.Boot.Short(), what, e.Text, eventBytes(e.Bytes))
		if _, err := fmt.Fprintln(a.Stdout, strings.TrimRight(show.Plain(line), " ")); err != nil {
			return err
		}
	}
	return nil
}

func (a *Commands) consoleCommand() *cobra.Command {
	var boot string
	c := &cobra.Command{
		Use: "console MACHINE...", Short: "print the kernel log of a boot",
		Long: `Print the kernel log of a machine's latest boot, with the messages of ingot-init and systemd
in it, from the start until the outcome of the boot; and the crash that firmware recorded
(pstore), if there was one. The server keeps 64 KiB of each boot, its beginning and end, for
the last 4 boots of a machine. Control characters are printed as \x1b. With several machines,
each log follows a line with the machine's name.

` + naming,
		Example: `  ingot console node01
  ingot console node01 --boot 3f2a61c0
  ingot console rack=r1 | grep -i mce`,
		Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.consoles(cmd.Context(), args, boot)
		},
	}
	c.Flags().StringVar(&boot, "boot", "", "the boot: its ID or a unique prefix of it (default: the latest)")
	return c
}

// consoles prints the consoles of boots; with more than one machine, each under
// its name.
func (a *Commands) consoles(ctx context.Context, args []string, boot string) error {
	type log struct {
		name string
		api.Console
	}
	return showEach(ctx, a, args, func(n string) (log, error) {
		t, err := a.Client().Console(ctx, n, boot)
		if err == nil && t.Text == "" && !a.JSON() {
			err = api.NewProblem(api.CodeNoConsole, fmt.Sprintf("boot %s of %s sent no console to this server",
				t.Boot.ID.Short(), n), "machine", n)
		}
		return log{n, t}, err
	}, func(w io.Writer, t log, i int, alone bool) {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if !alone {
			fmt.Fprintf(w, "==> %s, boot %s\n", show.Plain(t.name), show.Plain(t.Boot.ID.Short()))
		}
		for line := range strings.Lines(t.Text) {
			fmt.Fprintln(w, show.Plain(strings.TrimRight(line, "\n")))
		}
	})
}

func (a *Commands) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "resume MACHINE...", Short: "retry the assigned image on a machine that fell back or is held",
		Long: `Clear the failures of a machine that is held or that fell back, so that its next boot tries
the assigned image again. A held machine continues within seconds.

` + wholeNames,
		Example: "  ingot resume node01", Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachMachine(cmd.Context(), args, func(n string) (api.Machine, error) {
				return a.Client().Resume(cmd.Context(), n)
			},
				func(m api.Machine) string {
					return fmt.Sprintf("%s will try %s again", Called(m), show.Dash(m.Assignment.Name))
				})
		},
	}
}
