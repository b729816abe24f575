package machines

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
	"ingot/cmd/ingot/show"
)

// onceFlags are the flags of an assignment for one boot.
type onceFlags struct {
	once, shell, cancel bool
	arguments           []string
	limit               time.Duration
}

func (o *onceFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&o.once, "once", false, "only for the next boot")
	c.Flags().StringArrayVar(&o.arguments, "append", nil, "with --once: a further kernel argument; may be repeated")
	c.Flags().BoolVar(&o.shell, "shell", false, "with --once: a shell in the initramfs, if the image's profile permits it")
	c.Flags().DurationVar(&o.limit, "for", 0, "with --once: how long the boot may take until it is healthy; then the "+
		"machine reboots (default: as other boots, but 1h with --append or --shell)")
	c.Flags().BoolVar(&o.cancel, "cancel", false, "with --once: cancel what the next boot was to do")
}

// check returns an error of flags that do not go together.
func (o *onceFlags) check(c *cobra.Command) error {
	for _, name := range []string{"append", "shell", "for", "cancel"} {
		if c.Flags().Changed(name) && !o.once {
			return show.Usagef("--%s is for one boot: add --once", name)
		}
	}
	n := c.Flags().NArg()
	switch special := len(o.arguments) > 0 || o.shell; {
	case o.cancel && (special || n > 1):
		return show.Usagef("--cancel takes back what the next boot was to do; give it alone with --once")
	case o.once && !o.cancel && !special && n < 2:
		return show.Usagef("--once needs IMAGE, --append or --shell")
	}
	return nil
}

// assignOnce decides what the next boot of machines does, or cancels that.
func (a *Commands) assignOnce(ctx context.Context, o onceFlags, q api.AssignRequest, args []string) error {
	if o.cancel {
		return a.eachMachine(ctx, args[:1], func(n string) (api.Machine, error) { return a.Client().CancelOnce(ctx, n) },
			func(m api.Machine) string { return Called(m) + " boots as before: " + show.Dash(m.Assignment.Name) })
	}
	r := api.OnceRequest{Arguments: o.arguments, Shell: o.shell, Limit: o.limit, Why: q.Why, Force: q.Force}
	if len(args) > 1 {
		r.Image = args[1]
	}
	return a.eachMachine(ctx, args[:1], func(n string) (api.Machine, error) { return a.Client().Once(ctx, n, r) },
		func(m api.Machine) string {
			if m.Once == nil { // it booted at this moment
				return Called(m) + " boots once"
			}
			return fmt.Sprintf("%s boots %s at its next boot only", Called(m), m.Once)
		})
}

// onceText describes what a machine's next boot does.
func onceText(o api.Once) string {
	words := []string{o.String() + ", once"}
	if o.Limit > 0 {
		words = append(words, "healthy within "+o.Limit.String())
	}
	if o.Why != "" {
		words = append(words, o.Why)
	}
	return strings.Join(words, ", ")
}
