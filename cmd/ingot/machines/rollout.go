package machines

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet/rollout"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *Commands) rolloutCommand() *cobra.Command {
	return command.Parent("rollout", "bring an image to many machines, and stop when it harms them",
		"  ingot rollout start node:8 --to rack=r1 --dry-run\n  ingot rollout show r1",
		a.rolloutStartCommand(), a.rolloutLsCommand(), a.rolloutShowCommand(), a.rolloutHistoryCommand(),
		a.rolloutChangeCommand("pause", "stop moving machines until somebody resumes it",
			"Stop moving machines. Those that were moved keep the image, and their boots are counted."),
		a.rolloutChangeCommand("resume", "let a paused or halted rollout go on",
			`Let a rollout go on that was paused, or that halted. What made it halt does not count any more:
the test starts anew, and another machine becomes the canary if the first one was given up.`),
		a.rolloutChangeCommand("abort", "assign to each machine that was moved what it had before",
			`Assign to each machine that the rollout moved what it had before, at once. Machines that an operator
assigned another image since, and pinned ones, stay as they are. Machines boot it when they are
rebooted.`))
}

const rolloutStartLong = `Bring an image to the machines that --to names, wave by wave, and print the plan
first. The first machines are the canaries. A wave ends when its machines became healthy with the
image and stayed so for the time of --bake; then the next one begins. The rollout halts when a canary
is given up, or when boots of the image fail more often than those of other images did in the last 30
days; failures of the network, the server or disks pause it. After that it waits for: ingot rollout
resume or abort.

Machines that were moved are ordered to reboot (--how reboot), with --drain after the drain hooks of
the image that they run. With --how next-boot a wave waits until somebody reboots them, and with --how
auto it does so for machines that take no orders, because an older ingot built their image. A machine
that does not reboot, because a hook failed for example, pauses the rollout. Machines that are off,
held, pinned or retired are left out and block nothing. See docs/ROLLOUTS.md.`

// startFlags are the flags of ingot rollout start.
type startFlags struct {
	api.RolloutRequest
	canary             int
	waves, unavailable string
	drain              string
}

func (a *Commands) rolloutStartCommand() *cobra.Command {
	var f startFlags
	c := &cobra.Command{
		Use: "start IMAGE", Short: "start a rollout, and print its plan",
		Long: rolloutStartLong,
		Example: `  ingot rollout start node:8 --to all --dry-run
  ingot rollout start node:8 --to rack=r1 --canary 2 --waves 10%,50%,100% --max-unavailable 2
  ingot rollout start node:8 --to rack=r1 --how reboot --drain
  ingot rollout start node:8 --to 'node[001-500]' --spread rack --window "Mon-Fri 09:00-16:00 Europe/Berlin"`,
		Args: command.ExactArgs("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.Selector == "" {
				return show.Usagef("name the machines: --to SELECTOR, or --to all")
			}
			if err := f.parse(); err != nil {
				return show.UsageError{Err: err}
			}
			f.Image = args[0]
			p, err := a.Client().StartRollout(cmd.Context(), f.RolloutRequest)
			if err != nil {
				return err
			}
			return a.Show(p, func(w io.Writer) { planText(w, p) })
		},
	}
	f.add(c)
	return c
}

func (f *startFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.Selector, "to", "", "machines: labels such as rack=r1,role!=db, a hostlist such as node[01-40], "+
		"a name, or all")
	fl.IntVar(&f.canary, "canary", rollout.DefaultCanary, "machines of the first wave")
	fl.StringVar(&f.waves, "waves", "10%,50%,100%", "share of the machines that have the image after each wave")
	fl.StringVar(&f.unavailable, "max-unavailable", "10%", "machines of each failure domain that may be unavailable: "+
		"a number or a percentage")
	fl.StringVar(&f.Policy.Spread, "spread", "", "label whose values are failure domains (default: one for all)")
	fl.DurationVar(&f.Policy.Bake, "bake", rollout.DefaultBake, "time for which the machines of a wave must stay healthy")
	fl.DurationVar(&f.Policy.Patience, "patience", rollout.DefaultPatience, "time without progress before it pauses")
	fl.IntSliceVar(&f.Policy.PauseAfter, "pause-after", nil, "waves after which it pauses; 0 is the canary")
	fl.StringVar(&f.Policy.Window, "window", "", `when machines may be moved: "Mon-Fri 09:00-16:00 Europe/Berlin"`)
	fl.StringVar(&f.Policy.How, "how", string(rollout.Auto), "how machines come to boot the image: auto, reboot "+
		"(they are ordered to) or next-boot (somebody reboots them)")
	fl.StringVar(&f.drain, "drain", "", "run drain hooks before a reboot: required (the same as --drain) or best-effort "+
		"(reboot also if one fails)")
	fl.Lookup("drain").NoOptDefVal = string(ingot.DrainRequired)
	fl.IntVar(&f.Policy.Quorum, "quorum", rollout.DefaultQuorum, "percentage of a wave that must become healthy")
	fl.Float64Var(&f.Policy.Test.Usual, "usual-rate", 0, "rate of boots of good images that fail (default: the "+
		"fleet's own of the last 30 days, at least 0.01)")
	fl.Float64Var(&f.Policy.Test.Bad, "bad-rate", 0, "rate of an image that must be stopped (default: ten times "+
		"the usual rate, at most 0.5)")
	fl.Float64Var(&f.Policy.Test.Alpha, "alpha", 0, "probability of stopping a good image, for each test (default 0.003)")
	fl.Float64Var(&f.Policy.Test.Beta, "beta", 0, "probability of not stopping a bad image (default 0.05)")
	fl.BoolVar(&f.DryRun, "dry-run", false, "print the plan, and start nothing")
	addForce(c, &f.Force)
}

// parse reads the flags that are texts.
func (f *startFlags) parse() (err error) {
	f.Policy.Canary = &f.canary
	if f.Policy.Drain, err = parseDrain(f.drain); err != nil {
		return err
	}
	if f.Policy.Waves, err = rollout.ParseWaves(f.waves); err != nil {
		return err
	}
	amount, err := rollout.ParseAmount(f.unavailable)
	if err != nil {
		return fmt.Errorf("--max-unavailable: %w", err)
	}
	f.Policy.MaxUnavailable = api.Amount(amount)
	if f.Policy.Window != "" {
		if _, err := rollout.ParseWindow(f.Policy.Window); err != nil {
			return err
		}
	}
	if f.Policy.Bake == 0 { // zero is the default there
		f.Policy.Bake = 1
	}
	return nil
}

func (a *Commands) rolloutLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "list the rollouts that have not ended", Example: "  ingot rollout ls", Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.listRollouts(cmd.Context(), func(r api.Rollout) bool { return r.Ended.IsZero() },
				"no rollout is under way; see: ingot rollout history")
		},
	}
}

func (a *Commands) rolloutHistoryCommand() *cobra.Command {
	return &cobra.Command{
		Use: "history [ROLLOUT]", Short: "list all rollouts, or what happened in one",
		Long: `List all rollouts that the server remembers, the oldest first; or the states that one went through.
The server keeps the last 40 that ended. Every machine that was moved is in: ingot events.`,
		Example: "  ingot rollout history\n  ingot rollout history r7", Args: command.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if len(args) == 0 {
				return a.listRollouts(ctx, func(api.Rollout) bool { return true },
					"there was no rollout; see: ingot rollout start --help")
			}
			r, err := a.Client().Rollout(ctx, args[0])
			if err != nil {
				return err
			}
			return a.Show(append([]api.RolloutEntry{}, r.Log...), func(w io.Writer) { historyTable(w, r.Log) })
		},
	}
}

func (a *Commands) listRollouts(ctx context.Context, wanted func(api.Rollout) bool, none string) error {
	all, err := a.Client().Rollouts(ctx)
	if err != nil {
		return err
	}
	list := []api.Rollout{}
	for _, r := range all {
		if wanted(r) {
			list = append(list, r)
		}
	}
	return a.Show(list, func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, none)
			return
		}
		rolloutTable(w, list, time.Now())
	})
}

func (a *Commands) rolloutShowCommand() *cobra.Command {
	var machines bool
	c := &cobra.Command{
		Use: "show ROLLOUT", Short: "show how far a rollout is, and why it stopped",
		Long: `Show the waves of a rollout, the budget of each failure domain, how close the test is to its two
bounds, and, if it stopped, why: with the machines, and what those that failed have in common and
healthy ones have not.`,
		Example: "  ingot rollout show r7\n  ingot rollout show r7 --machines", Args: command.ExactArgs("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if machines {
				list, err := a.Client().RolloutMachines(ctx, args[0])
				if err != nil {
					return err
				}
				return a.Show(list, func(w io.Writer) { rolloutMachineTable(w, list) })
			}
			r, err := a.Client().Rollout(ctx, args[0])
			if err != nil {
				return err
			}
			return a.Show(r, func(w io.Writer) { rolloutText(w, r, time.Now()) })
		},
	}
	c.Flags().BoolVar(&machines, "machines", false, "list its machines")
	return c
}

func (a *Commands) rolloutChangeCommand(verb, short, long string) *cobra.Command {
	var why string
	c := &cobra.Command{
		Use: verb + " ROLLOUT", Short: short, Long: long,
		Example: "  ingot rollout " + verb + " r7 --why 'asked by the database team'",
		Args:    command.ExactArgs("ROLLOUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.Client().ChangeRollout(cmd.Context(), args[0], verb, why)
			if err != nil {
				return err
			}
			return a.Show(r, func(w io.Writer) { fmt.Fprintf(w, "%s: %s\n", show.Plain(r.ID), show.Plain(rolloutState(r))) })
		},
	}
	c.Flags().StringVar(&why, "why", "", "reason, recorded with the rollout")
	return c
}

// rolloutState says how far a rollout is: "halted in wave 2 of 3".
func rolloutState(r api.Rollout) string {
	switch rollout.State(r.State) {
	case rollout.Done, rollout.Back, rollout.Aborting, rollout.Planned, rollout.Canary:
		return r.State
	case rollout.Wave:
		return fmt.Sprintf("wave %d of %d", r.Wave, r.Waves-1)
	}
	if r.Wave == 0 {
		return r.State + " in the canary"
	}
	return fmt.Sprintf("%s in wave %d of %d", r.State, r.Wave, r.Waves-1)
}

func (a *Commands) pinCommand() *cobra.Command {
	return a.markCommand("pin", "keep a machine out of rollouts",
		`Keep machines out of rollouts: they are not moved, and nothing waits for them. An operator can
still assign images to them.`, "take part in rollouts again",
		func(ctx context.Context, n, why string) (api.Machine, error) { return a.Client().Pin(ctx, n, why) },
		func(ctx context.Context, n string) (api.Machine, error) { return a.Client().Unpin(ctx, n) },
		func(m api.Machine) *api.Mark { return m.Pin }, "is kept out of rollouts", "takes part in rollouts")
}

func (a *Commands) offCommand() *cobra.Command {
	return a.markCommand("off", "note that a machine is switched off",
		`Note that machines are switched off, or are going to be: rollouts do not wait for them and do not
count them. The note is void as soon as the machine boots.`, "take the note back",
		func(ctx context.Context, n, why string) (api.Machine, error) {
			return a.Client().SwitchOff(ctx, n, why)
		},
		func(ctx context.Context, n string) (api.Machine, error) { return a.Client().SwitchOn(ctx, n) },
		func(m api.Machine) *api.Mark { return m.Off }, "is noted as switched off", "is not noted as switched off")
}

// markCommand is a command that marks machines for rollouts.
func (a *Commands) markCommand(verb, short, long, undo string,
	set func(ctx context.Context, n, why string) (api.Machine, error),
	remove func(ctx context.Context, n string) (api.Machine, error), mark func(api.Machine) *api.Mark,
	marked, not string) *cobra.Command {
	var why string
	var cancel bool
	c := &cobra.Command{
		Use: verb + " MACHINE...", Short: short, Long: long + "\n\n" + wholeNames,
		Example: fmt.Sprintf("  ingot machine %[1]s node07 --why 'broken fan'\n  ingot machine %[1]s node07 --cancel", verb),
		Args:    command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.eachMachine(ctx, args, func(n string) (api.Machine, error) {
				if cancel {
					return remove(ctx, n)
				}
				return set(ctx, n, why)
			}, func(m api.Machine) string {
				is := mark(m)
				if is == nil {
					return Called(m) + " " + not
				}
				text := Called(m) + " " + marked
				if is.Why != "" {
					text += ": " + is.Why
				}
				if d := time.Since(m.LastSeen); verb == "off" && d < time.Minute {
					text += fmt.Sprintf("; but it was heard %s, so it is switched on", show.Ago(m.LastSeen, time.Now()))
				}
				return text
			})
		},
	}
	c.Flags().StringVar(&why, "why", "", "reason, recorded with the machine")
	c.Flags().BoolVar(&cancel, "cancel", false, undo)
	return c
}

// suggestedFrom is the number of machines from which assigning an image at once is a rollout without its
// care.
const suggestedFrom = 10

// suggestRollout says that many machines can be given an image with care.
func (a *Commands) suggestRollout(ctx context.Context, args []string) {
	names, err := a.hosts(ctx, args[:1])
	if err != nil || len(names) <= suggestedFrom || a.JSON() {
		return // what is wrong is reported by the command itself
	}
	fmt.Fprintf(a.Stderr, "%s machines get the image at their next boot, all at once; to stop when it harms some:\n"+
		"  → ingot rollout start %s --to %s --dry-run\n", strconv.Itoa(len(names)), show.Plain(args[1]),
		show.Plain(quoted(args[0])))
}

// quoted returns a word for a shell.
func quoted(word string) string {
	if strings.ContainsAny(word, "[]!* ;&|<>$`\"'\\") {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}
