package explain

import (
	"fmt"
	"strings"

	"ingot"
	"ingot/bootserver/advice"
	"ingot/bootserver/fleet"
)

// Boots that end before a kernel is fetched: in DHCP, or in their first stage.

// noLoader reports whether the server has no loader for the firmware of a boot.
// An iPXE in the ROM of the card needs none.
func noLoader(b fleet.Boot) bool { return b.First == "" && !b.Back && b.Stage() == ingot.StageDHCP }

// unanswered explains a machine that did not get past DHCP.
func unanswered(b fleet.Boot, s Story) cause {
	other, network := s.otherIn(b), advice.New(advice.ShowNetwork)
	switch {
	case b.Accepted.IsZero() && other != "":
		return cause{noRequest, fmt.Sprintf("another DHCP server, %s, answered", other), network}
	case noLoader(b):
		return cause{"this server has no loader for firmware " + orUnknown(string(b.Firmware)), "",
			advice.New(advice.ShowLoaders)}
	case !b.Accepted.IsZero():
		return unloaded(b, s, other)
	case b.Proxy:
		return cause{"the machine was offered a boot file, but did not get an address",
			"another DHCP server assigns the addresses on this network. It did not answer, or its answer was lost. Check " +
				"that server and the switch port (STP, VLAN)", network}
	}
	return cause{noRequest,
		"the offer did not reach the machine, or the machine declined it. Check the switch port (STP, VLAN)", network}
}

const noRequest = "the machine sent no DHCPREQUEST after our offer"

// otherIn is the DHCP server that answered the machine during a boot and should
// not have; of several, the one whose offer the machine accepted.
func (s Story) otherIn(b fleet.Boot) (name string) {
	for _, o := range s.Others {
		if !o.Expected && !o.At.Before(b.Started) && (b.Ended.IsZero() || !o.At.After(b.Ended)) {
			name = o.Name()
		}
	}
	return name
}

// unloaded explains a machine that has an address but did not fetch all of its
// first stage.
func unloaded(b fleet.Boot, s Story, other string) cause {
	file, port := b.First, "TFTP (UDP port 69 and the ports of its transfers)"
	if strings.HasSuffix(string(b.Firmware), "-http") {
		port = "HTTP"
	}
	if b.First == fleet.FirstUKI {
		file = "the UKI of " + b.Image.Name
		if b.Served[partUKI] > 0 {
			return cause{"the machine got an address and began to fetch " + file + ", " + thenNothing(b, s.Now),
				partly(partUKI, b, s), s.step(advice.ShowTimeline)}
		}
	}
	from := ""
	if b.Proxy {
		from = " from its DHCP server"
	}
	c := cause{fmt.Sprintf("the machine got an address%s, but did not fetch %s", from, file),
		fmt.Sprintf("a firewall may block %s, or the machine hangs in its firmware", port), advice.New(advice.ShowNetwork)}
	switch {
	case other != "":
		c.means = fmt.Sprintf("another DHCP server, %s, answered too, and the machine may have accepted its offer", other)
	case b.Proxy:
		c.means = fmt.Sprintf("it may have used the boot file that its DHCP server names, or a firewall may block %s", port)
	}
	return c
}

// partUKI names the UKI among the artifacts of an image.
const partUKI = "uki.efi"

// stalledPrefix begins the reason of a boot whose first stage stalled. It identifies
// such boots in records of versions that stored no Cause.
const stalledPrefix = "the first stage stalled: "

// stalled explains a boot that ended because the firmware started over with DHCP
// although it had accepted an offer.
func stalled(b fleet.Boot, s Story) cause {
	what := strings.TrimPrefix(b.Reason, stalledPrefix)
	if b.First == fleet.FirstUKI {
		return cause{strings.ReplaceAll(what, " "+fleet.FirstUKI, " the UKI of "+b.Image.Name),
			"the firmware rejected the UKI (check Secure Boot), or the image did not reach ingot-init",
			s.stepOf(advice.VerifyImage, b)}
	}
	return cause{what, "the firmware and this loader are incompatible", advice.New(advice.ShowNetwork)}
}
