package explain

import (
	"fmt"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// quiet says of a machine that became healthy that its system sends nothing any more, since when, and
// what that means. It is empty if reports come.
func (s Story) quiet(b fleet.Boot) (is, means string) {
	heard := fleet.LastHeard(s.Machine, b)
	ago := span(s.Now.Sub(heard))
	switch {
	case b.Auth.Down:
		return fmt.Sprintf("down since %s: its system said %s ago that it shuts down, and no other boot was seen",
			s.at(heard), ago), "Switch it on, or check that its firmware boots from the network."
	case fleet.Silent(s.Machine, b, s.Served, s.Now):
		means = "It may be off, hung, or unable to reach this server: check its power and its cable"
		if s.Machine.Address.IsValid() {
			means += fmt.Sprintf(", and whether %s answers", s.Machine.Address)
		}
		return fmt.Sprintf("silent since %s: nothing was heard from it for %s, and a report is due every %s", s.at(heard),
			ago, span(ingot.Heartbeat)), means + "."
	case fleet.Silent(s.Machine, b, time.Time{}, s.Now):
		return fmt.Sprintf("silent since %s, before this server started at %s", s.at(heard), s.at(s.Served)),
			"Machines that run report within a minute."
	}
	return "", ""
}

// lastReport says what the latest report of a boot was.
func lastReport(b fleet.Boot) string {
	if b.Report == nil {
		return ""
	}
	for _, k := range b.Report.Checks {
		if !k.OK {
			return fmt.Sprintf("; its last report said that check %s failed: %s", k.Name, k.Detail)
		}
	}
	if full := overlayText(*b.Report); full != "" {
		return "; its last report said that " + full
	}
	return "; its last report was good"
}
