package machines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/internal/count"
)

func (a *Commands) labelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "label MACHINE KEY=VALUE|KEY-...", Short: "set and remove labels",
		Long: `Set and remove labels of machines. Every command that takes machines also takes a selector
of labels.

` + wholeNames,
		Example: `  ingot machine label 'node[01-40]' rack=r1 role=db
  ingot machine label node07 role-
  ingot assign rack=r1 node:7`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return show.Usagef("%s needs MACHINE and KEY=VALUE, or KEY- to remove one", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q := api.LabelRequest{Set: map[string]string{}}
			for _, l := range args[1:] {
				key, value, set := strings.Cut(l, "=")
				if name, remove := strings.CutSuffix(l, "-"); remove && !set {
					q.Remove = append(q.Remove, name)
				} else if !set {
					return show.Usagef("%q: write KEY=VALUE, or KEY- to remove one", l)
				} else {
					q.Set[key] = value
				}
			}
			ctx := cmd.Context()
			return a.eachMachine(ctx, args[:1], func(n string) (api.Machine, error) { return a.Client().Label(ctx, n, q) },
				func(m api.Machine) string { return fmt.Sprintf("%s: %s", Called(m), show.Dash(labels(m))) })
		},
	}
}

func labels(m api.Machine) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		list = append(list, k+"="+m.Labels[k])
	}
	return strings.Join(list, " ")
}

func (a *Commands) renameCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rename MACHINE NAME", Short: "give a machine another host name",
		Long:    "Give a machine another host name. It takes effect at the machine's next boot.",
		Example: "  ingot machine rename m-525400120001 node01", Args: command.ExactArgs("MACHINE", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.Client().Rename(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.Show(m, func(w io.Writer) {
				fmt.Fprintf(w, "%s is named %s\n", show.Plain(string(m.ID)),
					show.Plain(Called(m)))
			})
		},
	}
}

func (a *Commands) retireCommand() *cobra.Command {
	return &cobra.Command{
		Use: "retire MACHINE...", Short: "stop a machine from booting, and keep its records",
		Long: `A retired machine is refused when it boots; a running system is not changed. To undo it:
ingot machine approve MACHINE

` + wholeNames,
		Example: "  ingot machine retire node07", Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.eachMachine(ctx, args, func(n string) (api.Machine, error) { return a.Client().Retire(ctx, n) },
				func(m api.Machine) string { return Called(m) + " is retired" })
		},
	}
}

func (a *Commands) forgetCommand() *cobra.Command {
	var force, pending bool
	c := &cobra.Command{
		Use: "forget MACHINE...", Short: "delete a machine and its boots",
		Long: `Delete machines and their boots. A deleted machine that boots again is a new one: it waits
for approval. An approved machine is deleted only with --force.

With --pending, delete all machines that wait for approval, except those with a name or an image.
Use it after somebody made the server record thousands of machines that do not exist.

` + wholeNames,
		Example: "  ingot machine forget m-525400120009\n  ingot machine forget --pending", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if pending {
				if err := command.ExactArgs()(cmd, args); err != nil {
					return err
				}
				return a.forgetPending(ctx)
			}
			if err := command.LeastArgs("MACHINE")(cmd, args); err != nil {
				return err
			}
			return a.eachMachine(ctx, args, func(n string) (api.Machine, error) { return a.Client().Forget(ctx, n, force) },
				func(m api.Machine) string { return Called(m) + " is deleted" })
		},
	}
	c.Flags().BoolVar(&force, "force", false, "delete approved machines as well")
	c.Flags().BoolVar(&pending, "pending", false, "without MACHINE: delete all machines that wait for approval")
	return c
}

// forgetPending deletes all machines that wait for approval and that no operator prepared.
func (a *Commands) forgetPending(ctx context.Context) error {
	list, err := a.Client().MachinesBrief(ctx)
	if err != nil {
		return err
	}
	gone := []api.Machine{}
	for _, m := range list {
		if m.State != api.Pending || m.Name != "" || m.Assignment.Image != "" || m.Once != nil {
			continue
		}
		done, err := a.Client().Forget(ctx, string(m.ID), false) // refused if it was approved meanwhile
		var p api.Problem
		switch {
		case errors.As(err, &p) && (p.Code == api.CodeMachineApproved || p.Code == api.CodeMachineNotFound):
		case err != nil:
			return fmt.Errorf("after %s: %w", count.Of(len(gone), "machine"), err)
		default:
			gone = append(gone, done)
		}
	}
	return a.Show(gone, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s deleted\n", count.Of(len(gone), "pending machine"),
			count.Verb(len(gone), "is", "are"))
	})
}

func (a *Commands) mergeCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "merge NEW MACHINE", Short: "merge a new machine into a known one",
		Long: `A machine that boots with another network card or board is pending as a new machine, with a
question for the operator. Merge it if it is the known machine: that keeps its name, image
and boots, and boots within seconds. Approve it if it is another machine.
NEW must not be approved: an approved machine is never merged away. If NEW ran an image well and
was heard of later than MACHINE, and the server did not ask about the two, the merge is refused
without --force: it is probably the wrong way round. Both are whole IDs, host
names, MAC addresses or UUIDs.`,
		Example: `  ingot machine ls                                # question: … the card is new, or …
  ingot machine merge m-525400120099 node01`,
		Args: command.ExactArgs("NEW", "MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			merge := a.Client().Merge
			if force {
				merge = a.Client().ForceMerge
			}
			m, err := merge(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.Show(m, func(w io.Writer) {
				fmt.Fprintf(w, "%s is %s: cards %s, UUID %s\n", show.Plain(args[0]), show.Plain(Called(m)),
					show.Plain(strings.Join(m.MACs, " ")), show.Plain(show.Dash(m.UUID)))
			})
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also if NEW ran later than MACHINE")
	return c
}

func (a *Commands) importMachinesCommand() *cobra.Command {
	var q api.ImportRequest
	c := &cobra.Command{
		Use: "import FILE", Short: "register machines before their first boot",
		Long: `Register the machines of a list: CSV with a line of column names, or JSON; "-" is standard
input. If anything is wrong, every mistake is reported and nothing is changed. A machine that
is known by MAC address or UUID is updated. Imported machines are approved, unless the list
says pending, they are retired, or they have a question for the operator.`,
		Example: `  cat rack1.csv
  name,mac,uuid,serial,labels,image,state
  node01,52:54:00:12:00:01,,,rack=r1 role=db,node:7,
  node02,52:54:00:12:00:02,,,rack=r1,node:7,pending
  ingot machine import rack1.csv --dry-run
  ingot machine import rack1.csv`,
		Args: command.ExactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readAll(args[0])
			if err != nil {
				return fmt.Errorf("reading the list: %w", err)
			}
			planned, err := fleet.ParsePlanned(text)
			if err != nil {
				return err
			}
			q.Machines = make([]api.Planned, len(planned))
			for i, p := range planned {
				q.Machines[i] = api.Planned(p)
			}
			done, err := a.Client().Import(cmd.Context(), q)
			if err != nil {
				return err
			}
			return a.Show(done, func(w io.Writer) { plannedTable(w, done) })
		},
	}
	c.Flags().BoolVar(&q.DryRun, "dry-run", false, "show what would be done, and change nothing")
	addForce(c, &q.Force)
	return c
}

// readAll reads a file, or standard input for "-".
func (a *Commands) readAll(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(a.Stdin)
	}
	return os.ReadFile(path)
}

func plannedTable(w io.Writer, done api.Imported) {
	count := map[string]int{}
	t := show.Table(w)
	for _, x := range done.Actions {
		count[x.Do]++
		if x.Do != "same" {
			show.Row(t, x.Do, x.Name, string(x.Machine), strings.Join(x.What, "; "))
		}
	}
	t.Flush()
	verb := "imported"
	if done.DryRun {
		verb = "would be imported"
	}
	fmt.Fprintf(w, "%s: %d new, %d changed, %d unchanged\n", verb, count["add"], count["change"],
		count["same"]+count["asks"])
}
