package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/advice"
	"ingot/bootserver/fleet"
)

// cause is why a boot made no progress: what the server observed and what that
// means, without a capital letter at the start or a full stop at the end.
type cause struct {
	what  string      // "the machine fetched the kernel, then sent nothing for 240 s"
	means string      // "image node:7 did not reach ingot-init"
	next  advice.Step // what shows more
}

// sentences renders the cause of a number of attempts. The first sentence begins
// with a small letter, so that it can follow a colon.
func (c cause) sentences(attempts int) string {
	text := c.what
	if attempts > 1 {
		text += fmt.Sprintf(" (%d attempts)", attempts)
	}
	text = stop(text)
	if c.means != "" {
		text += " " + stop(capitalize(c.means))
	}
	return text
}

// causeOf explains a boot that failed, stopped reporting, or makes no progress.
func causeOf(b fleet.Boot, s Story) cause {
	if b.Crash != "" {
		return cause{"the kernel crashed: " + b.Crash, "",
			s.consoleOf(b)}
	}
	if e, ok := lastError(b); ok {
		c := reported(b, e, s)
		if e.Retry && b.Outcome == ingot.OutcomeSilent {
			c.means = strings.TrimPrefix(c.means+". The machine was retrying, "+thenNothing(b, s.Now), ". ")
		}
		return c
	}
	if b.Cause == fleet.CauseStalled || b.Cause == "" && strings.HasPrefix(b.Reason, stalledPrefix) {
		return stalled(b, s)
	}
	return silence(b, s)
}

// lastError returns the latest error that a boot has not got past: since then, it reached
// neither that stage nor a later one.
func lastError(b fleet.Boot) (fleet.Event, bool) {
	reached := -1 // rank of the highest stage since
	for _, e := range slices.Backward(b.Events) {
		switch {
		case e.Error == "" && e.Stage == ingot.StageAgent: // the agent started, maybe again
			reached = max(reached, e.Stage.Rank()-1)
		case e.Error == "":
			reached = max(reached, e.Stage.Rank())
		case e.Stage.Rank() > reached:
			return e, true
		}
	}
	return fleet.Event{}, false
}

// retries counts the failures of a boot after which ingot-init tried again. Each time, it
// requests another ticket.
func retries(b fleet.Boot) (n int) {
	for _, e := range b.Events {
		if e.Error != "" && e.Retry && e.Stage.Rank() <= ingot.StageSwitch.Rank() {
			n++
		}
	}
	return n
}

// retrying says that the machine tries again in an open boot.
func retrying(b fleet.Boot) string {
	if n := retries(b); n > 1 {
		return fmt.Sprintf(" The machine failed %d times in this boot and is retrying.", n)
	}
	return " The machine is retrying."
}

// gaveUp says how often the machine tried in the last of a number of boots before it
// reported the failure; empty if it tried once.
func gaveUp(b fleet.Boot, attempts int) string {
	e, failed := lastError(b)
	n := retries(b)
	if !failed || e.Retry || e.Stage.Rank() > ingot.StageSwitch.Rank() || n == 0 {
		return ""
	}
	if attempts > 1 {
		return fmt.Sprintf(" The last attempt gave up after %d tries.", n+1)
	}
	return fmt.Sprintf(" The machine gave up after %d tries.", n+1)
}

// silence explains a boot that stopped sending requests and events.
func silence(b fleet.Boot, s Story) cause {
	image, network := b.Image.Name, advice.New(advice.ShowNetwork)
	quiet := ", " + thenNothing(b, s.Now)
	timeline, console := s.step(advice.ShowTimeline), s.step(advice.ShowConsole)
	switch b.Stage() {
	case ingot.StageDHCP:
		return unanswered(b, s)
	case ingot.StageLoader:
		if b.First == fleet.FirstUKI {
			return cause{fmt.Sprintf("the machine fetched the UKI of %s%s", image, quiet),
				fmt.Sprintf("the firmware rejected the UKI (check Secure Boot), or image %s did not reach ingot-init", image),
				console}
		}
		return cause{fmt.Sprintf("the machine fetched loader %s%s", b.First, quiet),
			"the loader did not request its script. Another DHCP server may have answered it, or a firewall may block HTTP",
			network}
	case ingot.StageScript:
		return cause{"the machine fetched its script" + quiet, partly("kernel", b, s), timeline}
	case ingot.StageKernel:
		return cause{"the machine fetched the kernel" + quiet, partly("initramfs", b, s), timeline}
	case ingot.StageInitramfs:
		return cause{"the machine fetched the kernel and initramfs" + quiet,
			fmt.Sprintf("image %s did not reach ingot-init", image), console}
	case ingot.StageInit:
		return cause{"the machine started ingot-init" + quiet, "it did not request a ticket", console}
	case ingot.StageTicket:
		return cause{"the machine got its ticket" + quiet, partly("root", b, s), console}
	case ingot.StageRoot, ingot.StageVolumes:
		if c := b.Events[len(b.Events)-1].Check; c != nil {
			return cause{fmt.Sprintf("the machine was checking the filesystem of volume %s on %s, %d %% done%s", c.Volume,
				c.Device, c.Percent, quiet), "this does not count against " + image, console}
		}
		if b.Once != nil && b.Once.Shell {
			return cause{fmt.Sprintf("a shell ran on the consoles of the machine, with the root of %s", image),
				"nobody left it before the time of this boot was over", console}
		}
		return cause{fmt.Sprintf("the machine fetched and verified the root of %s%s", image, quiet),
			"it did not start systemd", console}
	case ingot.StageSwitch:
		return cause{"the machine started systemd" + quiet, fmt.Sprintf("the agent of %s did not run", image), console}
	case ingot.StageAgent:
		return cause{"the machine started its agent" + quiet,
			"its health checks did not finish, or it can no longer reach this server", console}
	}
	return cause{"the server received only the first packet of the machine", "", network}
}

// thenNothing says for how long a boot sent nothing: "then sent nothing for 240 s".
// A machine that restarted within a second has no such time.
func thenNothing(b fleet.Boot, now time.Time) string {
	until := b.Ended
	if b.Open() {
		until = now
	}
	if len(b.Events) == 0 || until.IsZero() {
		return nothingMore
	}
	d := until.Sub(b.Events[len(b.Events)-1].At)
	if d < time.Second {
		return nothingMore
	}
	return "then sent nothing for " + span(d)
}

// span formats a duration with one unit: "240 s", "12 min", "4 h", "3 days".
func span(d time.Duration) string {
	switch {
	case d < 10*time.Minute:
		return fmt.Sprintf("%d s", int(d.Round(time.Second).Seconds()))
	case d < 3*time.Hour:
		return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
	case d < 72*time.Hour:
		return fmt.Sprintf("%d h", int(d.Round(time.Hour).Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

const nothingMore = "then sent nothing more"

// orUnknown replaces an empty string.
func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// partly says how much of an artifact of its image the server sent to a boot.
func partly(part string, b fleet.Boot, s Story) string {
	served, needed := b.Served[part], s.Needed[b.Image.Image][part]
	if part == partUKI {
		part = "UKI"
	}
	switch {
	case served == 0:
		return fmt.Sprintf("the %s was not requested", part)
	case needed == 0 || served > needed: // the machine began the download more than once
		return fmt.Sprintf("the server sent %s of the %s, but not all of it in one download", mib(served), part)
	}
	return fmt.Sprintf("the server sent %s of the %s %s", mib(served), mib(needed), part)
}

func mib(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
