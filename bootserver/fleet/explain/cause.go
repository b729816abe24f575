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
		return told(b, e, s)
	}
	if strings.HasPrefix(b.Reason, "the first stage stalled: ") {
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

// verdicts are what ingot-init refuses to run, by the words that it tells (see
// rootfs/initrd), and what an operator makes of them.
var verdicts = []struct{ sign, what, means, next string }{
	{"ticket's signature", "ticket refused", "it is signed by another server key than %s carries, so the image was built for another server", "ingot build --help"},
	{"ticket is not for this", "ticket refused", "it answers another request, as a second server or a proxy that caches would", "ingot network"},
	{"ticket has expired", "ticket refused", "it was too old when it arrived: the network is slow, or boots.ticket short", "ingot config show"},
	{"image's signature", "image refused", "%s is signed by a key that its own initramfs does not know", "ingot image verify %s"},
	{"manifest does not match", "image refused", "what was served for %s is not what was signed", "ingot image verify %s"},
	{"chunk of the root", "root refused", "", "ingot image verify %s"},
}

// told explains a failure that the machine itself told.
func told(b fleet.Boot, e fleet.Event, s Story) cause {
	name, host := b.Image.Name, s.Machine.Hostname()
	fill := func(t string) string { return strings.ReplaceAll(t, "%s", name) }
	for _, v := range verdicts {
		if strings.Contains(e.Error, v.sign) {
			if v.means == "" {
				v.means = e.Error + "; the store's file or the network is damaged"
			}
			return cause{fill(v.what), fill(v.means), fill(v.next)}
		}
	}
	switch e.Stage {
	case ingot.StageHealthy:
		return unwell(b, e, host)
	case ingot.StageVolumes:
		return cause{"volumes not mounted", e.Error, "ingot machine show " + host}
	case ingot.StageAgent:
		return cause{"the system started and did not finish", e.Error, "ingot console " + host}
	case ingot.StageInit, ingot.StageTicket, ingot.StageRoot, ingot.StageSwitch:
		if e.Retry {
			return cause{fmt.Sprintf("ingot-init does not get past stage %s", e.Stage), e.Error, "ingot console " + host}
		}
		return cause{fmt.Sprintf("ingot-init gave up at stage %s", e.Stage), e.Error, "ingot console " + host}
	}
	return cause{fmt.Sprintf("stage %s failed", e.Stage), e.Error, "ingot boots " + host + " --timeline"}
}

// unwell explains a report that was not good.
func unwell(b fleet.Boot, e fleet.Event, host string) cause {
	c := cause{strings.TrimSuffix(e.Error, ": "), "", "ingot console " + host}
	if b.Report == nil {
		return c
	}
	passed, failed := 0, []string{}
	for _, k := range b.Report.Checks {
		if k.OK {
			passed++
		} else {
			failed = append(failed, k.Name)
		}
	}
	if len(failed) > 1 {
		c.means = fmt.Sprintf("%d checks failed in all (%s)", len(failed), strings.Join(failed, ", "))
	} else if passed == 1 {
		c.means = "1 other check passed"
	} else if passed > 1 {
		c.means = fmt.Sprintf("%d other checks passed", passed)
	}
	if len(b.Report.Failed) > 0 {
		c.means = strings.TrimPrefix(c.means+"; failed units: "+strings.Join(b.Report.Failed, ", "), "; ")
	}
	return c
}

// silence explains a boot that was not heard of again.
func silence(b fleet.Boot, s Story) cause {
	host, image := s.Machine.Hostname(), b.Image.Name
	quiet := "then silence" + forHow(b, s.Now)
	timeline, console := "ingot boots "+host+" --timeline", "ingot console "+host
	switch b.Stage() {
	case ingot.StageDHCP:
		return unanswered(b, s)
	case ingot.StageLoader:
		if b.First == fleet.FirstUKI {
			return cause{fmt.Sprintf("UKI of %s fetched, %s", image, quiet), fmt.Sprintf("the firmware refused it, as Secure Boot does, or %s never reached ingot-init", image), console}
		}
		return cause{fmt.Sprintf("loader %s fetched, %s", b.First, quiet), "it never asked for its script; does another server answer it, or does a firewall close HTTP?", "ingot network"}
	case ingot.StageScript:
		return cause{"script fetched, " + quiet, partly("kernel", b, s), timeline}
	case ingot.StageKernel:
		return cause{"kernel fetched, " + quiet, partly("initramfs", b, s), timeline}
	case ingot.StageInitramfs:
		return cause{"kernel and initramfs fetched, " + quiet, fmt.Sprintf("image %s never reached ingot-init", image), console}
	case ingot.StageInit:
		return cause{"ingot-init started, " + quiet, "it never asked for a ticket", console}
	case ingot.StageTicket:
		return cause{"ticket given, " + quiet, partly("root", b, s), console}
	case ingot.StageRoot, ingot.StageVolumes:
		return cause{fmt.Sprintf("root of %s fetched and verified, %s", image, quiet), "it never started systemd", console}
	case ingot.StageSwitch:
		return cause{"systemd was started, " + quiet, fmt.Sprintf("the agent of %s never ran", image), console}
	case ingot.StageAgent:
		return cause{"the system runs, " + quiet, "its checks were never decided, or it cannot reach this server any more", console}
	}
	return cause{"nothing but its first packet was heard", "", "ingot network"}
}

// forHow is for how long a boot was silent, " for 240 s"; nothing when it began
// anew at once.
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
