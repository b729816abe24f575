package machines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
	"ingot/cmd/ingot/show"
)

func (a *Commands) bootsCommand() *cobra.Command {
	var limit int
	var timeline bool
	c := &cobra.Command{
		Use: "boots [MACHINE...]", Short: "list boots: image, stage, outcome and reason",
		Long: `List the latest boots of all machines, or of those that are named, newest last: image,
stages reached, outcome, reason. For one machine, the latest boot is drawn stage by stage;
with --timeline, every boot is: one bar for each stage, on the scale of the whole boot, with
the bytes served. For a file that was not completely fetched, ▒ is the part that was served
and · the rest; ░ is the time without a report until the deadline.

` + naming,
		Example: `  ingot boots                    # every machine
  ingot boots node01 --timeline  # when each stage was reached, bytes, failures
  ingot boots 'node[01-40]' -n 1 # the latest of each
  ingot boots node01 -o json | jq '.[-1].outcome'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return show.Usagef("bad number of boots -n %d: want 0 (all) or more", limit)
			}
			ctx, cl := cmd.Context(), a.Client()
			boots, failed, err := a.bootsOf(ctx, args, limit)
			if err != nil {
				return err
			}
			names := map[ingot.MachineID]string{}
			if ms, err := cl.MachinesBrief(ctx); err == nil {
				for _, m := range ms {
					names[m.ID] = Called(m)
				}
			}
			drawn := boots
			if !timeline && !a.JSON() {
				drawn = nil
				if latest := len(boots) - 1; latest >= 0 && len(args) > 0 && boots[0].Machine == boots[latest].Machine {
					drawn = boots[latest:]
				}
			}
			views := a.withNeeded(ctx, drawn)
			if a.JSON() {
				return errors.Join(a.Show(views, nil), failed)
			}
			return errors.Join(a.Show(nil, func(w io.Writer) {
				if !timeline {
					bootTable(w, boots, names, time.Now())
				}
				if !timeline && len(views) > 0 {
					fmt.Fprintln(w)
				}
				timelines(w, views, names, time.Now())
			}), failed)
		},
	}
	c.Flags().IntVarP(&limit, "limit", "n", 20, "maximum number of boots, for each machine that is named (0: all)")
	c.Flags().BoolVarP(&timeline, "timeline", "t", false, "draw each boot stage by stage")
	return c
}

// bootsOf returns the boots of the machines that arguments name, or of all.
func (a *Commands) bootsOf(ctx context.Context, args []string, limit int) (all []api.Boot, failed, err error) {
	if len(args) == 0 {
		all, err = a.Client().Boots(ctx, "", limit)
		return all, nil, err
	}
	each, failed, err := ofEach(ctx, a, args, func(n string) ([]api.Boot, error) {
		return a.Client().Boots(ctx, n, limit)
	})
	return slices.Concat(each...), failed, err
}

// bootView is a boot with the sizes of its image's artifacts in bytes, if the
// server still has that image.
type bootView struct {
	api.Boot
	Needed map[string]int64 `json:"needed,omitempty"`
}

// withNeeded adds the sizes of the images. Without an answer of the server they
// stay empty.
func (a *Commands) withNeeded(ctx context.Context, boots []api.Boot) []bootView {
	needed := map[ingot.Digest]map[string]int64{"": nil}
	views := make([]bootView, len(boots))
	for i, b := range boots {
		if _, known := needed[b.Image.Image]; !known {
			im, err := a.Client().Image(ctx, string(b.Image.Image))
			if err != nil {
				im.Needed = nil
			}
			needed[b.Image.Image] = im.Needed
		}
		views[i] = bootView{b, needed[b.Image.Image]}
	}
	return views
}

// bootTable lists boots, oldest first, so that the latest is next to the prompt.
func bootTable(w io.Writer, boots []api.Boot, names map[ingot.MachineID]string, now time.Time) {
	if len(boots) == 0 {
		fmt.Fprintln(w, "no boots yet")
		return
	}
	t := show.Table(w)
	show.Row(t, "BOOT", "MACHINE", "FIRMWARE", "IMAGE", "STARTED", "TOOK", "STAGE", "OUTCOME", "REASON")
	for _, b := range boots {
		show.Row(t, b.ID.Short(), bootMachine(b, names), show.Dash(string(b.Firmware)), show.Dash(bootImage(b)),
			show.Ago(b.Started, now),
			took(b), string(b.Stage()), outcome(b), show.Dash(bootReason(b)))
	}
	t.Flush()
}

// bootImage names the image of a boot, and marks a boot that was not an ordinary one of it.
func bootImage(b api.Boot) string {
	if b.Once != nil {
		return b.Image.Name + " (once)"
	}
	return b.Image.Name
}

func bootMachine(b api.Boot, names map[ingot.MachineID]string) string {
	if n := names[b.Machine]; n != "" {
		return n
	}
	return string(b.Machine)
}

func outcome(b api.Boot) string {
	if b.Outcome == ingot.OutcomeOpen {
		return "under way"
	}
	return string(b.Outcome)
}

// bootReason is why a boot ended as it did, or else the last problem that the
// machine reported, such as a volume that was refused.
func bootReason(b api.Boot) string {
	if b.Reason != "" {
		return b.Reason
	}
	for i := len(b.Events) - 1; i >= 0; i-- {
		e := b.Events[i]
		if e.Error != "" {
			return e.Error
		}
		if e.Stage == ingot.StageVolumes && e.Detail != "" {
			return e.Detail
		}
	}
	return ""
}

func took(b api.Boot) string {
	if b.Ended.IsZero() {
		return "-"
	}
	return show.Seconds(b.Ended.Sub(b.Started))
}

func eventBytes(n int64) string {
	if n == 0 {
		return ""
	}
	return show.Size(n)
}

func eventText(e api.Event) string {
	if e.Error == "" {
		return e.Detail
	}
	s := "failed: " + e.Error
	if e.Retry {
		s += " (will retry)"
	}
	return s
}

func grantText(g api.Grant, now time.Time) string {
	state := "valid for " + show.Brief(g.Expires.Sub(now))
	switch {
	case g.Boot != "":
		state = "used by boot " + g.Boot.Short()
	case now.After(g.Expires):
		state = "expired"
	}
	if g.Adopt {
		return fmt.Sprintf("take over volume %s on disk %s, %s", g.Volume, g.Disk, state)
	}
	return fmt.Sprintf("volume %s on disk %s, %s", g.Volume, g.Disk, state)
}
