package machines

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/cmd/ingot/show"
)

// timelines draws each boot: one line per event with its time since the first
// packet, a bar since the event before on the scale of the whole boot, and the
// bytes served; then the files that were not completely served.
func timelines(w io.Writer, boots []bootView, names map[ingot.MachineID]string, now time.Time) {
	for i, b := range boots {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s  %s  %s  %s  %s: %s\n", show.Plain(bootMachine(b.Boot, names)), show.Plain(b.ID.Short()),
			show.Plain(show.Dash(string(b.Firmware))),
			show.Plain(show.Dash(b.Image.Name)), b.Started.Local().Format(time.DateTime), show.Plain(outcome(b.Boot)))
		if b.Once != nil {
			fmt.Fprintf(w, "  only this boot: %s\n", show.Plain(b.Once.String()))
		}
		t := show.Table(w)
		last, whole, begun := b.Started, length(b.Boot), partial(b)
		if len(begun) > 0 && b.Open() { // drawn until now
			whole = max(whole, now.Sub(b.Started))
		}
		for _, e := range b.Events {
			show.Row(t, "  "+string(e.Stage), "+"+show.Seconds(e.At.Sub(b.Started)), bar(last.Sub(b.Started),
				e.At.Sub(b.Started), whole), eventBytes(e.Bytes), eventText(e))
			last = e.At
		}
		for _, p := range begun {
			show.Row(t, "  "+p.name, "+"+show.Seconds(whole), partialBar(last.Sub(b.Started), whole, p), p.String())
		}
		if quiet := b.Ended.Sub(last); quiet > time.Second && b.Outcome == ingot.OutcomeSilent {
			show.Row(t, "  (silence)", "+"+show.Seconds(b.Ended.Sub(b.Started)), strings.ReplaceAll(bar(last.Sub(b.Started),
				b.Ended.Sub(b.Started), whole), "█", "░"), show.Seconds(quiet))
		}
		t.Flush()
		if b.Reason != "" {
			fmt.Fprintf(w, "  → %s\n", show.Plain(b.Reason))
		}
		if b.Crash != "" {
			fmt.Fprintf(w, "  → crashed: %s\n", show.Plain(b.Crash))
		}
		for _, c := range b.Changes {
			fmt.Fprintf(w, "  hardware changed: %s\n", show.Plain(c))
		}
		if b.Report != nil && b.Report.RAMTotal > 0 {
			fmt.Fprintf(w, "  memory in use at the report: %s of %s; measured root %s\n",
				show.Size(b.Report.RAMUsed), show.Size(b.Report.RAMTotal), show.Plain(b.Report.Root.Short()))
		}
	}
}

// length is how long a boot took, until its end or its last event.
func length(b api.Boot) time.Duration {
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

// part is a file of an image that was served in part.
type part struct {
	name           string
	served, needed int64 // bytes; needed is 0 when unknown
}

// partial returns the files of a boot's image that were requested and not
// completely served, in the order of a boot.
func partial(b bootView) (list []part) {
	for _, p := range []struct {
		name, artifact string
		stage          ingot.Stage
	}{{"UKI", "uki.efi", ingot.StageLoader}, {"kernel", "kernel", ingot.StageKernel}, {"initramfs", "initramfs",
		ingot.StageInitramfs}, {"root", "root", ingot.StageRoot}} {
		whole := slices.ContainsFunc(b.Events, func(e api.Event) bool { return e.Stage == p.stage && e.Error == "" })
		if n := b.Served[p.artifact]; n > 0 && !whole {
			list = append(list, part{p.name, n, b.Needed[p.artifact]})
		}
	}
	return list
}

// String is "3.0 of 9.1 MiB".
func (p part) String() string {
	served, needed := show.Size(p.served), show.Size(p.needed)
	switch {
	case p.needed == 0:
		return served
	case p.served > p.needed: // fetched more than once
		return served + ", size " + needed
	}
	number, unit, _ := strings.Cut(served, " ")
	if _, same, _ := strings.Cut(needed, " "); same == unit {
		served = number
	}
	return served + " of " + needed
}

// partialBar is a bar since the last event, filled as far as the part was served.
func partialBar(from, whole time.Duration, p part) string {
	room := []rune(bar(from, whole, whole))
	width := 0
	for _, r := range room {
		if r == '█' {
			width++
		}
	}
	full := width
	if p.needed > 0 {
		full = int(min(float64(p.served)/float64(p.needed), 1) * float64(width))
	}
	begin := len(room) - width
	for i := range width {
		room[begin+i] = '·'
		if i < full {
			room[begin+i] = '▒'
		}
	}
	return string(room)
}
