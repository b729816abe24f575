package booter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/ipxe"
	"ingot/bootserver/state"
	"ingot/image"
)

// Script implements httpboot.Booter: it decides what the machine boots now.
func (b *Booter) Script(id ingot.BootID, base string) (string, error) {
	now, policy, images := b.now(), *b.policy.Load(), b.newImages()
	if boot, known := b.state.Boot(id); known {
		if m, known := b.state.Machine(boot.Machine); known {
			b.lookUpNext(images, m)
		}
	}
	var image ingot.Digest
	var why error // the machine waits
	over := false
	d, err := b.decide(images, func(tx state.Tx) (*fleet.Decision, error) {
		boot, m, err := lookupBoot(tx, id)
		if err != nil {
			return nil, err
		}
		d := fleet.NewDecision(m, boot, policy, images.facts, fleet.Actor{}, now)
		d.Resolve(tx.Others)
		if over = boot.ID != m.Boot || !boot.Open(); !over {
			image, why = d.Script()
		}
		return d, nil
	})
	switch {
	case err != nil:
		return "", err
	case over: // a loader that outlived its boot: let it begin again
		return "#!ipxe\necho ingot: this boot is over, starting again\nsleep 2\nreboot\n", nil
	case why != nil:
		return b.waitScript(base, d.Machine, d.Boot, why), nil
	}
	return b.bootScript(base, d.Machine, d.Boot, images.found[image]), nil
}

func (b *Booter) bootScript(base string, m fleet.Machine, boot fleet.Boot, im image.Image) string {
	url := func(part string) string { return b.BootURL(base, boot.ID, im.Digest.Hex()+"/"+part) }
	args := slices.Concat(im.Manifest.Arguments, boot.Arguments(), []string{ingot.ArgServer + "=" + base,
		ingot.ArgBoot + "=" + string(b.BootKey(boot.ID)), ingot.ArgMAC + "=${netX/mac}"})
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "panic=") }) {
		args = append(args, ingot.ArgPanic)
	}
	return ipxe.Boot{Image: im.Name.String() + " for " + m.Hostname(), Kernel: url("kernel"),
		Initramfs: url("initramfs"),
		Arguments: args, Again: b.BootURL(base, boot.ID, "script")}.Text()
}

func (b *Booter) waitScript(base string, m fleet.Machine, boot fleet.Boot, why error) string {
	lines := []string{"", "  ingot", fmt.Sprintf("  machine %s  %s", m.ID, strings.Join(m.MACs, " ")), ""}
	switch {
	case m.State == fleet.Retired:
		lines = append(lines, "  This machine is retired. To bring it back, on the server:",
			fmt.Sprintf("    ingot machine approve %s", m.ID))
	case m.Ask != nil:
		same, other := m.Ask.Answers(m)
		lines = append(lines, "  This machine may be known: "+m.Ask.What+".",
			"  If it is the same machine, on the server:",
			"    "+same.Command(), "  If it is another one:", "    "+other.Command())
	case errors.Is(why, fleet.ErrNotApproved):
		lines = append(lines, "  This machine is waiting for approval. On the server:",
			fmt.Sprintf("    ingot machine approve %s --name NAME --image PROFILE:VERSION", m.ID))
	case errors.Is(why, fleet.ErrNoImage):
		lines = append(lines, "  This machine is approved and waits for an image. On the server:",
			fmt.Sprintf("    ingot assign %s PROFILE:VERSION", m.ID))
	case errors.Is(why, fleet.ErrHeld):
		lines = append(lines, "  This machine is held: "+m.Setback.Why+".",
			"  On the server, for why, and to try again or something else:",
			fmt.Sprintf("    ingot why %s", m.Hostname()), fmt.Sprintf("    ingot resume %s", m.Hostname()),
			fmt.Sprintf("    ingot assign %s PROFILE:VERSION", m.Hostname()))
	default:
		lines = append(lines, "  The image of this machine cannot be served: "+why.Error())
	}
	return ipxe.Wait{Lines: append(lines, ""), Again: b.BootURL(base, boot.ID, "script")}.Text()
}
