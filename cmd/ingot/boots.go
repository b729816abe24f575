package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/fleet"
)

func (a *app) bootsCommand() *cobra.Command {
	var limit int
	var timeline bool
	c := &cobra.Command{
		Use: "boots [MACHINE]", Short: "list boots and how they went",
		Long: `List the latest boots of one machine or of all, newest last: image, stages reached,
outcome, reason. Of one machine the latest boot is drawn stage by stage; with
--timeline, every boot is.`,
		Example: `  ingot boots                    # every machine
  ingot boots node01 --timeline  # when each stage was reached, bytes, failures
  ingot boots node01 -o json | jq '.[-1].outcome'`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref := ""
			if len(args) == 1 {
				ref = args[0]
			}
			cl := a.client()
			boots, err := a.bootsOf(cmd.Context(), ref, limit)
			if err != nil {
				return err
			}
			names := map[ingot.MachineID]string{}
			if ms, err := cl.MachinesBrief(cmd.Context()); err == nil {
				for _, m := range ms {
					names[m.ID] = called(m)
				}
			}
			return a.show(boots, func(w io.Writer) {
				if timeline {
					timelines(w, boots, names)
					return
				}
				bootTable(w, boots, names, time.Now())
				if ref != "" && len(boots) > 0 {
					fmt.Fprintln(w)
					timelines(w, boots[len(boots)-1:], names)
				}
			})
		},
	}
	c.Flags().IntVarP(&limit, "limit", "n", 20, "number of boots at most (0: all)")
	c.Flags().BoolVarP(&timeline, "timeline", "t", false, "draw each boot stage by stage")
	return c
}

// bootsOf are the boots of the machines that ref names; of all for an empty one.
func (a *app) bootsOf(ctx context.Context, ref string, limit int) (all []fleet.Boot, err error) {
	names := []string{""}
	if ref != "" {
		if names, err = a.hosts(ctx, []string{ref}); err != nil {
			return nil, err
		}
	}
	for _, n := range names {
		boots, err := a.client().Boots(ctx, n, limit)
		if err != nil {
			return nil, err
		}
		all = append(all, boots...)
	}
	return all, nil
}

// bootTable lists boots, oldest first, so that the latest is next to the prompt.
func bootTable(w io.Writer, boots []fleet.Boot, names map[ingot.MachineID]string, now time.Time) {
	if len(boots) == 0 {
		fmt.Fprintln(w, "no boots yet")
		return
	}
	t := tabs(w)
	row(t, "BOOT", "MACHINE", "FIRMWARE", "IMAGE", "STARTED", "TOOK", "STAGE", "OUTCOME", "REASON")
	for _, b := range boots {
		row(t, b.ID.Short(), bootMachine(b, names), dash(string(b.Firmware)), dash(b.Image.Name), ago(b.Started, now),
			took(b), string(b.Stage()), outcome(b), dash(bootReason(b)))
	}
	t.Flush()
}

func bootMachine(b fleet.Boot, names map[ingot.MachineID]string) string {
	if n := names[b.Machine]; n != "" {
		return n
	}
	return string(b.Machine)
}

func outcome(b fleet.Boot) string {
	if b.Outcome == ingot.OutcomeOpen {
		return "under way"
	}
	return string(b.Outcome)
}

// bootReason is why a boot ended as it did, or else the last thing worth a
// look that the machine said, such as a volume that was refused.
func bootReason(b fleet.Boot) string {
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

func took(b fleet.Boot) string {
	if b.Ended.IsZero() {
		return "-"
	}
	return seconds(b.Ended.Sub(b.Started))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// timelines draws each boot: one line per event with its time since the first
// packet, a bar from the event before on the scale of the whole boot, and the
// bytes served.
func timelines(w io.Writer, boots []fleet.Boot, names map[ingot.MachineID]string) {
	for i, b := range boots {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s  %s  %s  %s  %s: %s\n", plain(bootMachine(b, names)), plain(b.ID.Short()), plain(dash(string(b.Firmware))),
			plain(dash(b.Image.Name)), b.Started.Local().Format(time.DateTime), plain(outcome(b)))
		t := tabs(w)
		last, whole := b.Started, length(b)
		for _, e := range b.Events {
			row(t, "  "+string(e.Stage), "+"+seconds(e.At.Sub(b.Started)), bar(last.Sub(b.Started), e.At.Sub(b.Started), whole), eventBytes(e.Bytes), eventText(e))
			last = e.At
		}
		if quiet := b.Ended.Sub(last); quiet > time.Second && b.Outcome == ingot.OutcomeSilent {
			row(t, "  (silence)", "+"+seconds(b.Ended.Sub(b.Started)), strings.ReplaceAll(bar(last.Sub(b.Started), b.Ended.Sub(b.Started), whole), "█", "░"), "", seconds(quiet))
		}
		t.Flush()
		if b.Reason != "" {
			fmt.Fprintf(w, "  → %s\n", plain(b.Reason))
		}
		if b.Crash != "" {
			fmt.Fprintf(w, "  → crashed: %s\n", plain(b.Crash))
		}
		for _, c := range b.Changes {
			fmt.Fprintf(w, "  hardware changed: %s\n", plain(c))
		}
		if b.Report != nil && b.Report.RAMTotal > 0 {
			fmt.Fprintf(w, "  memory in use at the report: %s of %s; measured root %s\n",
				size(b.Report.RAMUsed), size(b.Report.RAMTotal), plain(b.Report.Root.Short()))
		}
	}
}

// length is how long a boot took, until its end or its last event.
func length(b fleet.Boot) time.Duration {
	whole := b.Ended.Sub(b.Started)
	for _, e := range b.Events {
		whole = max(whole, e.At.Sub(b.Started))
	}
	return whole
}

// barWidth is the width of a whole boot, in characters.
const barWidth = 40

// bar is where on the scale of the whole boot something began and ended.
func bar(from, to, whole time.Duration) string {
	at := func(d time.Duration) int {
		return int(min(max(float64(d)/max(float64(whole), 1), 0), 1)*barWidth + 0.5)
	}
	begin, end := at(from), at(to)
	return strings.Repeat(" ", begin) + strings.Repeat("█", end-begin) + strings.Repeat(" ", barWidth-end)
}

func eventBytes(n int64) string {
	if n == 0 {
		return ""
	}
	return size(n)
}

func eventText(e fleet.Event) string {
	if e.Error == "" {
		return e.Detail
	}
	s := "failed: " + e.Error
	if e.Retry {
		s += " (tries again)"
	}
	return s
}

func grantText(g fleet.Grant, now time.Time) string {
	state := "open for " + brief(g.Expires.Sub(now))
	switch {
	case g.Boot != "":
		state = "used by boot " + g.Boot.Short()
	case now.After(g.Expires):
		state = "expired"
	}
	return fmt.Sprintf("volume %s on disk %s, %s", g.Volume, g.Disk, state)
}
