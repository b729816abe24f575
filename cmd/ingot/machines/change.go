package machines

import (
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
)

func (a *Commands) labelCommand() *cobra.Command {
	return &cobra.Command{
		Use: "label MACHINE KEY=VALUE|KEY-...", Short: "set and remove labels",
		Long:    "Labels sort machines into groups: a selector of labels stands wherever a machine is\nnamed.\n\n" + naming,
		Example: "  ingot machine label 'node[01-40]' rack=r1 role=db\n  ingot machine label node07 role-\n  ingot assign rack=r1 node:7",
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
			return a.eachMachine(ctx, args[:1], func(n string) (fleet.Machine, error) { return a.Client().Label(ctx, n, q) },
				func(m fleet.Machine) string { return fmt.Sprintf("%s: %s", Called(m), show.Dash(labels(m))) })
		},
	}
}

func labels(m fleet.Machine) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m.Labels)) {
		list = append(list, k+"="+m.Labels[k])
	}
	return strings.Join(list, " ")
}

func (a *Commands) renameCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rename MACHINE NAME", Short: "give a machine another host name",
		Long:    "Give a machine another host name. Its system has it from its next boot on.",
		Example: "  ingot machine rename m-525400120001 node01", Args: command.ExactArgs("MACHINE", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.Client().Rename(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.Show(m, func(w io.Writer) { fmt.Fprintf(w, "%s is named %s\n", show.Plain(string(m.ID)), show.Plain(Called(m))) })
		},
	}
}

func (a *Commands) retireCommand() *cobra.Command {
	return &cobra.Command{
		Use: "retire MACHINE...", Short: "let a machine not boot any more, and keep what is known of it",
		Long:    "A machine that is retired may not boot; running systems are not touched. `ingot\nmachine approve` brings it back.\n\n" + naming,
		Example: "  ingot machine retire node07", Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.eachMachine(ctx, args, func(n string) (fleet.Machine, error) { return a.Client().Retire(ctx, n) },
				func(m fleet.Machine) string { return Called(m) + " is retired" })
		},
	}
}

func (a *Commands) forgetCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "forget MACHINE...", Short: "forget a machine and all of its boots",
		Long:    "Forget machines. One that asks to boot again is a stranger: it waits for approval.\nAn approved machine is forgotten only with --force.\n\n" + naming,
		Example: "  ingot machine forget m-525400120009", Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.eachMachine(ctx, args, func(n string) (fleet.Machine, error) { return a.Client().Forget(ctx, n, force) },
				func(m fleet.Machine) string { return Called(m) + " is forgotten" })
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also when it is approved")
	return c
}

func (a *Commands) mergeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "merge NEW MACHINE", Short: "say that a new machine is one that is known",
		Long: `A machine that comes back with another card or another board is asked about: it waits
as a new machine. Merging says that it is the known one; it keeps its name, image and
past, and boots within seconds. Approving the new one says that it is another machine.
NEW must not be approved: of a machine that works nothing is lost.`,
		Example: "  ingot machine ls                                # asks: the card … is new\n  ingot machine merge m-525400120099 node01",
		Args:    command.ExactArgs("NEW", "MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.Client().Merge(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.Show(m, func(w io.Writer) {
				fmt.Fprintf(w, "%s is %s: cards %s, UUID %s\n", show.Plain(args[0]), show.Plain(Called(m)), show.Plain(strings.Join(m.MACs, " ")), show.Plain(show.Dash(m.UUID)))
			})
		},
	}
}

func (a *Commands) importMachinesCommand() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "import FILE", Short: "make machines known before they boot for the first time",
		Long: `Read a list of machines, as CSV with a line of column names, or as JSON ("-": standard
input). All of it is taken, or every fault is said and nothing is changed. A machine
that is known already, by card or UUID, is completed. Machines are approved with their
import unless their state says pending, they are retired, or an operator is asked about
them: a list answers no question.`,
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
			list, err := fleet.ParsePlanned(text)
			if err != nil {
				return err
			}
			done, err := a.Client().Import(cmd.Context(), api.ImportRequest{Machines: list, DryRun: dry})
			if err != nil {
				return err
			}
			return a.Show(done, func(w io.Writer) { plannedTable(w, done) })
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "say what would be done, and do nothing")
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
	fmt.Fprintf(w, "%d machines %s: %d new, %d changed, %d as they were\n", len(done.Actions), verb, count["add"], count["change"], count["same"]+count["asks"])
}
