package machines

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

const rebootLong = `Order the running systems of machines to reboot in order. The agent of a machine fetches the order
with its next report, within about 40 s, and says how far it is: see ingot why. It boots what it would
boot anyway. Machines that run an image of an older ingot, or are not heard from, take no orders.

With --drain, the agent first runs the drain hooks that the profile of the running image declares, one
after another, each within its time. If one fails or takes too long, the machine does not reboot; with
--drain=best-effort it does. An order that a machine does not fetch within 10 minutes expires. --cancel
withdraws one, as long as the machine has not begun to shut down.

` + wholeNames

// atOnce is the number of machines up to which no --yes is asked for.
const atOnce = 10

// ordered is a boot with an order, and the name of its machine.
type ordered struct {
	api.Boot
	name string
}

func (a *Commands) rebootCommand() *cobra.Command {
	var q api.RebootRequest
	var drain string
	var cancel, yes bool
	c := &cobra.Command{
		Use: "reboot MACHINE...", Short: "order running machines to reboot", Long: rebootLong,
		Example: `  ingot machine reboot node01
  ingot machine reboot node01 --drain --why 'kernel fix'
  ingot machine reboot rack=r1 --drain=best-effort --yes
  ingot machine reboot node01 --cancel`,
		Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			var err error
			if q.Drain, err = parseDrain(drain); err != nil {
				return show.UsageError{Err: err}
			}
			if cancel {
				return a.eachOrdered(ctx, args, func(n string) (api.Boot, error) { return a.Client().CancelReboot(ctx, n) })
			}
			if err := a.fewOrYes(ctx, args, yes); err != nil {
				return err
			}
			return a.eachOrdered(ctx, args, func(n string) (api.Boot, error) { return a.Client().Reboot(ctx, n, q) })
		},
	}
	c.Flags().StringVar(&drain, "drain", "", "run the drain hooks of the image first: required (the same as --drain) or "+
		"best-effort (reboot also if one fails)")
	c.Flags().Lookup("drain").NoOptDefVal = string(ingot.DrainRequired)
	c.Flags().StringVar(&q.Why, "why", "", "reason, recorded with the order")
	c.Flags().BoolVar(&cancel, "cancel", false, "withdraw the order")
	c.Flags().BoolVar(&yes, "yes", false, fmt.Sprintf("reboot more than %d machines at once", atOnce))
	return c
}

// parseDrain reads the value of --drain.
func parseDrain(text string) (ingot.Drain, error) {
	d := ingot.Drain(text)
	if d != ingot.DrainNone && d != ingot.DrainRequired && d != ingot.DrainBestEffort {
		return d, fmt.Errorf("--drain=%s: write --drain, or --drain=best-effort", text)
	}
	return d, nil
}

// fewOrYes returns an error if many machines would reboot at once, and nobody said yes to that.
func (a *Commands) fewOrYes(ctx context.Context, args []string, yes bool) error {
	names, err := a.hosts(ctx, args)
	if err != nil || yes || len(names) <= atOnce {
		return err
	}
	return show.WithHint(show.Usagef("%d machines would reboot at once", len(names)), "give --yes if all of them may be "+
		"away; to change the image of many machines wave by wave: ingot rollout start --help")
}

// eachOrdered asks for the order of each machine and says what became of it.
func (a *Commands) eachOrdered(ctx context.Context, args []string, ask func(string) (api.Boot, error)) error {
	return showEach(ctx, a, args, func(n string) (ordered, error) {
		b, err := ask(n)
		return ordered{b, n}, err
	}, func(w io.Writer, b ordered, _ int, _ bool) {
		fmt.Fprintln(w, show.Plain(b.name+" "+orderedText(b.Ordered)))
	})
}

// orderedText says what is ordered, or that it is not any more.
func orderedText(o *api.Order) string {
	switch {
	case o == nil:
		return "has no order"
	case o.State == ingot.OrderWithdrawn:
		return "does not reboot: the order is withdrawn"
	case o.Drain == ingot.DrainNone:
		return "reboots with its next report, within a minute"
	}
	return fmt.Sprintf("drains (%s) and reboots, from its next report on", strings.Join(o.Hooks, ", "))
}
