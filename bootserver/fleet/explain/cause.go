package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// cause is why a boot did not get further: what was seen, and what that means.
// With several attempts, "on 2 attempts" stands between them.
type cause struct {
	what  string // "kernel and initramfs fetched, then silence for 240 s"
	means string // "image node:7 never reached ingot-init"
	next  string // what may be typed to find out more
}

func (c cause) on(attempts int) string {
	text := c.what
	if attempts > 1 {
		text += fmt.Sprintf(" on %d attempts", attempts)
	}
	if c.means != "" {
		text += ": " + c.means
	}
	return text
}

// causeOf explains a boot that failed, went silent, or does not get on.
func causeOf(b fleet.Boot, s Story) cause {
	if b.Crash != "" {
		return cause{"kernel crashed", b.Crash, "ingot console " + s.Machine.Hostname() + " --boot " + b.ID.Short()}
	}
	if e, ok := lastError(b); ok && (b.Outcome == ingot.OutcomeFailed || b.Open()) {
		return reported(b, e, s)
	}
	if b.Cause == fleet.CauseStalled || b.Cause == "" && strings.HasPrefix(b.Reason, stalledPrefix) {
		return stalled(b)
	}
	return silence(b, s)
}

func lastError(b fleet.Boot) (fleet.Event, bool) {
	for _, e := range slices.Backward(b.Events) {
		if e.Error != "" {
			return e, true
		}
		if e.Stage.Rank() > ingot.StageRoot.Rank() {
			break // it got on after what was wrong before
		}
	}
	return fleet.Event{}, false
}

// silence explains a boot that was not heard from again.
func silence(b fleet.Boot, s Story) cause {
	host, image := s.Machine.Hostname(), b.Image.Name
	quiet := "then silence" + forHow(b, s.Now)
	timeline, console := "ingot boots "+host+" --timeline", "ingot console "+host
	switch b.Stage() {
	case ingot.StageDHCP:
		return unanswered(b, s)
	case ingot.StageLoader:
		if b.First == fleet.FirstUKI {
			return cause{fmt.Sprintf("UKI of %s fetched, %s", image, quiet),
				fmt.Sprintf("the firmware refused it, as Secure Boot does, or %s never reached ingot-init", image), console}
		}
		return cause{fmt.Sprintf("loader %s fetched, %s", b.First, quiet),
			"it never requested its script; another server may answer it, or a firewall may block HTTP", "ingot network"}
	case ingot.StageScript:
		return cause{"script fetched, " + quiet, partly("kernel", b, s), timeline}
	case ingot.StageKernel:
		return cause{"kernel fetched, " + quiet, partly("initramfs", b, s), timeline}
	case ingot.StageInitramfs:
		return cause{"kernel and initramfs fetched, " + quiet, fmt.Sprintf("image %s never reached ingot-init", image),
			console}
	case ingot.StageInit:
		return cause{"ingot-init started, " + quiet, "it never asked for a ticket", console}
	case ingot.StageTicket:
		return cause{"ticket given, " + quiet, partly("root", b, s), console}
	case ingot.StageRoot, ingot.StageVolumes:
		return cause{fmt.Sprintf("root of %s fetched and verified, %s", image, quiet), "it never started systemd", console}
	case ingot.StageSwitch:
		return cause{"systemd was started, " + quiet, fmt.Sprintf("the agent of %s never ran", image), console}
	case ingot.StageAgent:
		return cause{"the system runs, " + quiet, "its health checks did not finish, or it can no longer reach this server",
			console}
	}
	return cause{"only its first packet was received", "", "ingot network"}
}

// forHow is for how long a boot was silent, " for 240 s"; nothing when it began
// again at once.
func forHow(b fleet.Boot, now time.Time) string {
	until := b.Ended
	if b.Open() {
		until = now
	}
	if len(b.Events) == 0 || until.IsZero() {
		return ""
	}
	d := until.Sub(b.Events[len(b.Events)-1].At)
	if d < time.Second {
		return ""
	}
	return " for " + span(d)
}

// span writes a duration as people say it.
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

func dashed(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// partly says how much of a file was fetched, of the image of that boot.
func partly(part string, b fleet.Boot, s Story) string {
	served, needed := b.Served[part], s.Needed[b.Image.Image][part]
	if part == partUKI {
		part = "UKI"
	}
	switch {
	case needed == 0 || served > needed: // it began more than once
		return fmt.Sprintf("%s of the %s were served, not all of it", mib(served), part)
	case served == 0:
		return fmt.Sprintf("not one byte of the %s was asked for", part)
	}
	return fmt.Sprintf("%s of %s of the %s were served", mib(served), mib(needed), part)
}

func mib(n int64) string {
	if n < 10<<20 {
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d MiB", n>>20)
}
