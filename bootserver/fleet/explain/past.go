package explain

import (
	"fmt"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// How long it is worth a sentence that a healthy machine started over, and that
// it crashed.
const (
	news      = 24 * time.Hour
	crashNews = 7 * 24 * time.Hour
)

// past says how the last boot ended that was healthy before the latest one: a
// machine that is healthy again, or booting, restarted for some reason. It says no
// more than the ledger knows: resets and power cuts leave no trace.
func (s Story) past() (words, next string) {
	now, _ := s.last()
	which := "The boot before"
	for i := len(s.Boots) - 2; i >= 0; i-- {
		b := s.Boots[i]
		if b.Outcome != ingot.OutcomeHealthy {
			if b.Image.Image != "" { // one that only asked is none that people think of
				which = "Its last healthy boot"
			}
			continue
		}
		words = fmt.Sprintf("%s, of %s, was healthy", which, b.Image.Name)
		if d := heard(b); d > 0 {
			words += " for " + span(d)
		}
		switch {
		case b.Crash != "" && s.Now.Sub(now.Started) > crashNews:
			return "", ""
		case b.Crash != "":
			return words + " and ended in a kernel crash: " + stop(b.Crash),
				"ingot console " + s.Machine.Hostname() + " --boot " + b.ID.Short()
		case which != "The boot before" || now.Image.Image != "" && now.Image.Image != b.Image.Image:
			return "", "" // what failed since then, or another image, is why
		case s.Now.Sub(now.Started) > news:
			return "", ""
		case now.Stage().Rank() < ingot.StageTicket.Rank(): // a crash is reported before the ticket
			return words + "; then the machine restarted.", ""
		}
		return words + "; then the machine restarted without notice: a reboot, a reset, a power cut, or a crash that its " +
			"firmware did not record.", ""
	}
	return "", ""
}

// heard is how long a machine was heard from after it was healthy, by its own
// clock: when it came back says nothing, for it may have been off. It is zero
// when no heartbeat came.
func heard(b fleet.Boot) time.Duration {
	if b.Report == nil {
		return 0
	}
	for _, e := range b.Events {
		if e.Stage == ingot.StageHealthy && e.Error == "" {
			return b.Report.Uptime - e.Uptime
		}
	}
	return 0
}
