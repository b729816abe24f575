package explain

import (
	"fmt"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
)

// Boots that end before a kernel: DHCP, and the first stage that firmware loads.

// noLoader reports whether there is nothing to load for the firmware of a boot.
// A loader in the ROM needs none.
func noLoader(b fleet.Boot) bool { return b.First == "" && !b.Back && b.Stage() == ingot.StageDHCP }

// unanswered explains a machine that did not come past DHCP.
func unanswered(b fleet.Boot, s Story) cause {
	other := s.otherIn(b)
	switch {
	case b.Accepted.IsZero() && other != "":
		return cause{"no DHCPREQUEST after our offer", fmt.Sprintf("another server, %s, answered", other), "ingot network"}
	case noLoader(b):
		return cause{"nothing to load", fmt.Sprintf("this server has no loader for firmware %s", dashed(string(b.Firmware))),
			"ingot loaders"}
	case !b.Accepted.IsZero():
		return unloaded(b, s, other)
	case b.Proxy:
		return cause{"the machine was offered a boot file and got no address",
			"another DHCP server assigns addresses here, and did not answer or its answer was lost; check that server and " +
				"the switch port (STP, VLAN)", "ingot network"}
	}
	return cause{"no DHCPREQUEST after our offer",
		"the offer did not reach it, or it declined the offer; check the switch port (STP, VLAN)", "ingot network"}
}

// otherIn is the DHCP server that answered the machine during a boot and should
// not have: the one that it followed.
func (s Story) otherIn(b fleet.Boot) (name string) {
	for _, o := range s.Others {
		if !o.Expected && !o.At.Before(b.Started) && (b.Ended.IsZero() || !o.At.After(b.Ended)) {
			name = o.Name()
		}
	}
	return name
}

// unloaded explains a machine that has an address, and did not fetch its first
// stage, or not all of it.
func unloaded(b fleet.Boot, s Story, other string) cause {
	file, port := b.First, "TFTP (UDP port 69 and those of transfers)"
	if strings.HasSuffix(string(b.Firmware), "-http") {
		port = "HTTP"
	}
	if b.First == fleet.FirstUKI {
		file = "the UKI of " + b.Image.Name
		if b.Served[partUKI] > 0 {
			return cause{"address given, " + "then silence" + forHow(b, s.Now), partly(partUKI, b, s),
				"ingot boots " + s.Machine.Hostname() + " --timeline"}
		}
	}
	given := "address given"
	if b.Proxy {
		given = "its DHCP server gave it an address"
	}
	c := cause{fmt.Sprintf("%s, then %s was never fetched", given, file),
		fmt.Sprintf("a firewall may block %s, or the machine hangs in its firmware", port), "ingot network"}
	switch {
	case other != "":
		c.means = fmt.Sprintf("another server, %s, answered too, and the machine may have followed that one", other)
	case b.Proxy:
		c.means = fmt.Sprintf("it may have followed its DHCP server, which names another boot file, or a firewall may "+
			"block %s", port)
	}
	return c
}

// partUKI is the UKI among what is served of an image.
const partUKI = "uki.efi"

// stalledPrefix begins the reason of a boot whose first stage stalled. Versions
// that recorded no cause are recognised by it.
const stalledPrefix = "the first stage stalled: "

// stalled explains a boot that ended since the firmware asked from the start
// again although it had accepted an offer.
func stalled(b fleet.Boot) cause {
	what := strings.TrimPrefix(b.Reason, stalledPrefix)
	if b.First == fleet.FirstUKI {
		return cause{strings.ReplaceAll(what, " "+fleet.FirstUKI, " the UKI of "+b.Image.Name),
			"the firmware refused it, as Secure Boot does, or it never reached ingot-init", "ingot image verify " + b.Image.Name}
	}
	return cause{what, "the firmware and this loader are incompatible", "ingot network"}
}
