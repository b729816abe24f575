package explain

import (
	"fmt"
	"time"

	"ingot"
	"ingot/bootserver/advice"
	"ingot/bootserver/fleet"
)

// conflictNews is for how long a conflict is mentioned.
const conflictNews = 24 * time.Hour

// trust says what is known of whether this machine, and no other host, sent what is reported of it:
// conflicts, an earlier boot that may still run, and reports without authentication.
func (s Story) trust() (words string, next []advice.Step) {
	b, booted := s.last()
	if !booted || s.Machine.State != fleet.Approved {
		return "", nil
	}
	host := s.Machine.Hostname()
	switch c := b.Conflict; {
	case c != nil && s.Now.Sub(c.At) < conflictNews && c.With == "":
		words = fmt.Sprintf("At %s, another host requested a ticket of this boot and got none: two hosts have the MAC "+
			"address or UUID of %s, or one forges them.", s.at(c.At), host)
	case c != nil && s.Now.Sub(c.At) < conflictNews:
		words = fmt.Sprintf("At %s, another host had begun boot %s in the name of %s, while this boot still ran: two hosts "+
			"have its MAC address or UUID, or one forges them. That boot got no grant.", s.at(c.At), c.With.Short(), host)
	}
	if words != "" {
		return words, steps(s.step(advice.ShowTimeline), s.step(advice.ShowNetwork))
	}
	if c := s.Machine.Claim; c != nil && s.Now.Before(c.Until) {
		return fmt.Sprintf("The previous boot (%s) did not say that it shuts down, and may still run: this boot gets no "+
			"grant before %s.", c.Running.Short(), s.at(c.Until)), nil
	}
	if b.Outcome == ingot.OutcomeHealthy && len(b.Auth.Half) == 0 {
		return fmt.Sprintf("Its reports are not authenticated: %s was built before ingot could do that.", b.Image.Name),
			steps(s.stepOf(advice.BuildImage, b))
	}
	return "", nil
}
