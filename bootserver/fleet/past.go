package fleet

import (
	"fmt"
	"time"

	"ingot"
)

// news is how long it is worth a sentence that a healthy machine started over.
const news = 24 * time.Hour

// past says how the last boot ended that was healthy before the latest one: a
// machine that is well again, or on its way, started over for some reason. It
// says no more than the ledger knows: nobody hears of a reset or a power cut.
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
		words = fmt.Sprintf("%s, of %s, was healthy for %s", which, b.Image.Name, span(s.Boots[i+1].Started.Sub(b.Ended)))
		switch {
		case b.Crash != "":
			return words + " and ended in a kernel crash: " + stop(b.Crash), "ingot console " + s.Machine.Hostname() + " --boot " + b.ID.Short()
		case which != "The boot before" || now.Image.Image != "" && now.Image.Image != b.Image.Image:
			return "", "" // what failed since then, or another image, is why
		case s.Now.Sub(now.Started) > news:
			return "", ""
		case now.Stage().Rank() < ingot.StageTicket.Rank(): // a crash is told before the ticket
			return words + "; then the machine started over.", ""
		}
		return words + "; then the machine started over without a word: a reboot, a reset, a power cut, or a crash of which its firmware kept nothing.", ""
	}
	return "", ""
}
