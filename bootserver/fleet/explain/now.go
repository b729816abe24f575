package explain

import (
	"fmt"

	"ingot"
	"ingot/bootserver/fleet"
)

// What goes on in a boot at this moment.

// inShell reports whether a shell runs in the initramfs of an open boot, which an operator decided: before
// the switch to the root, or after a stage failed. The machine sends nothing until it is left.
func inShell(b fleet.Boot) bool {
	if b.Once == nil || !b.Once.Shell || !b.Open() || len(b.Events) == 0 {
		return false
	}
	e := b.Events[len(b.Events)-1]
	if e.Error != "" {
		return e.Retry && e.Detail != "" // without a detail, the shell was left
	}
	return e.Stage == ingot.StageVolumes && e.Check == nil
}

// shell explains a machine with a shell in its initramfs. left is what it does when that is left.
func (s Story) shell(b fleet.Boot, left string) string {
	words := fmt.Sprintf("A shell runs on the consoles of %s, in the initramfs of %s. When it is left (exit), the "+
		"machine %s", s.Machine.Hostname(), b.Image.Name, left)
	if b.Deadline.After(s.Now) {
		words += fmt.Sprintf("; if nobody leaves it before %s, the watchdog resets the machine", s.at(b.Deadline))
	}
	return words + "."
}

// sent says how much of what is being sent to a boot the server has sent; empty if it sends nothing.
func (s Story) sent(b fleet.Boot) string {
	for _, part := range []string{"root", partUKI, "initramfs", "kernel"} {
		now, is := s.Sending[part]
		if !is {
			continue
		}
		name, sent, needed := part, b.Served[part]+now, s.Needed[b.Image.Image][part]
		if part == partUKI {
			name = "UKI"
		}
		if needed < sent { // the image is gone, or the machine began more than once
			return fmt.Sprintf("the server is sending the %s, %s so far", name, mib(sent))
		}
		return fmt.Sprintf("the server is sending the %s, %s of %s so far", name, mib(sent), mib(needed))
	}
	return ""
}

// ordered says what became of the order to the system of the latest boot; empty if there was none.
func (s Story) ordered() string {
	b, booted := s.last()
	if !booted || b.Ordered == nil || s.Machine.State != fleet.Approved {
		return ""
	}
	o := b.Ordered
	by := o.By
	if o.Rollout != "" {
		by = "rollout " + o.Rollout
	}
	words := fmt.Sprintf("It %s (ordered at %s by %s", o.Text(s.Now), s.at(o.Given), by)
	if o.Why != "" {
		words += ": " + o.Why
	}
	return words + ")."
}
