package explain

import (
	"fmt"
	"time"

	"ingot"
	"ingot/bootserver/advice"
	"ingot/bootserver/fleet"
)

// For how long a restart and a crash of a healthy machine are mentioned.
const (
	restartNews = 24 * time.Hour
	crashNews   = 7 * 24 * time.Hour
)

const previousBoot = "The previous boot"

// past says how the last healthy boot before the latest one ended, because a machine
// that is booting, or healthy again, restarted for some reason. It states only what
// was recorded: resets and power failures leave no trace.
func (s Story) past() (words string, next advice.Step) {
	now, _ := s.last()
	which := previousBoot
	for i := len(s.Boots) - 2; i >= 0; i-- {
		b := s.Boots[i]
		if b.Outcome != ingot.OutcomeHealthy {
			if b.Image.Image != "" { // requests without an image are not a boot to an operator
				which = "The last healthy boot"
			}
			continue
		}
		words = fmt.Sprintf("%s (%s) was healthy", which, b.Image.Name)
		if d := heard(b); d > 0 {
			words += " for " + span(d)
		}
		switch {
		case b.Crash != "" && s.Now.Sub(now.Started) > crashNews:
			return "", next
		case b.Crash != "":
			return words + " and ended in a kernel crash: " + stop(b.Crash),
				s.consoleOf(b)
		case b.Auth.Down && which == previousBoot:
			return words + ". Then its system shut down or rebooted.", next
		case which != previousBoot || now.Image.Image != "" && now.Image.Image != b.Image.Image:
			return "", next // a failure since then, or another image, explains the restart
		case s.Now.Sub(now.Started) > restartNews:
			return "", next
		case now.Stage().Rank() < ingot.StageTicket.Rank(): // a crash is reported before the ticket
			return words + ". Then the machine restarted.", next
		}
		return words + ". Then the machine restarted for an unknown reason: a reboot, a reset, a power failure, or a crash " +
			"that its firmware did not record.", next
	}
	return "", next
}

// heard is the time from a machine's first healthy report to its last heartbeat, by
// the machine's own clock. The start of the next boot is no measure, because the
// machine may have been off. It is zero when there was no heartbeat.
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
