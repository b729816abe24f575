package booter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/ipxe"
	"ingot/bootserver/state"
	"ingot/image"
)

// Script implements httpboot.Booter: it decides what the machine boots now.
func (b *Booter) Script(id ingot.BootID, base string) (text string, err error) {
	now := b.now()
	err = b.state.Update(func(tx state.Tx) error {
		boot, m, err := lookupBoot(tx, id)
		if err != nil {
			return err
		}
		if boot.ID != m.Boot || !boot.Open() {
			// A loader that outlived its boot: let it begin again.
			text = "#!ipxe\necho ingot: this boot is over, starting again\nsleep 2\nreboot\n"
			return nil
		}
		ref, err := fleet.Next(m)
		if err != nil {
			text = b.waitScript(base, m, boot, err)
			return nil
		}
		if boot.Image.Image != "" && boot.Served["kernel"]+boot.Served["initramfs"] > 0 {
			ref = boot.Image // of which it has files: what was assigned meanwhile is for its next boot
		}
		im, err := b.catalog.Image(ref.Image)
		if err != nil {
			text = b.waitScript(base, m, boot, err)
			return nil
		}
		if boot.Image.Image != ref.Image {
			boot.Image, boot.Root, boot.Order = ref, im.Manifest.Root.Digest, m.Orders
			boot.Deadline = now.Add(b.deadlineOf(im))
		}
		boot = fleet.Record(boot, ingot.Event{Stage: ingot.StageScript, Detail: ref.Name}, now)
		tx.PutBoot(boot)
		text = b.bootScript(base, m, boot, im)
		return nil
	})
	return text, err
}

func (b *Booter) deadlineOf(im image.Image) time.Duration {
	if im.Manifest.Deadline > 0 {
		return im.Manifest.Deadline
	}
	return b.policy.Load().Deadline
}

func (b *Booter) bootScript(base string, m fleet.Machine, boot fleet.Boot, im image.Image) string {
	url := func(part string) string { return b.BootURL(base, boot.ID, im.Digest.Hex()+"/"+part) }
	args := slices.Concat(im.Manifest.Arguments, []string{ingot.ArgServer + "=" + base,
		ingot.ArgBoot + "=" + string(b.BootKey(boot.ID)), ingot.ArgMAC + "=${netX/mac}"})
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "panic=") }) {
		args = append(args, "panic=30") // a kernel that cannot go on must not wait for a person
	}
	return ipxe.Boot{Image: im.Name.String() + " for " + m.Hostname(), Kernel: url("kernel"), Initramfs: url("initramfs"),
		Arguments: args, Again: b.BootURL(base, boot.ID, "script")}.Text()
}

func (b *Booter) waitScript(base string, m fleet.Machine, boot fleet.Boot, why error) string {
	lines := []string{"", "  ingot", fmt.Sprintf("  machine %s  %s", m.ID, strings.Join(m.MACs, " ")), ""}
	switch {
	case m.State == fleet.Retired:
		lines = append(lines, "  This machine is retired. To bring it back, on the server:", fmt.Sprintf("    ingot machine approve %s", m.ID))
	case m.Ask != nil:
		same, other := m.Ask.Answers(m)
		lines = append(lines, "  This machine may be known: "+m.Ask.What+".", "  If it is the same machine, on the server:", "    "+same, "  If it is another one:", "    "+other)
	case errors.Is(why, fleet.ErrNotApproved):
		lines = append(lines, "  This machine is waiting for approval. On the server:",
			fmt.Sprintf("    ingot machine approve %s --name NAME --image PROFILE:VERSION", m.ID))
	case errors.Is(why, fleet.ErrNoImage):
		lines = append(lines, "  This machine is approved and waits for an image. On the server:",
			fmt.Sprintf("    ingot assign %s PROFILE:VERSION", m.ID))
	case errors.Is(why, fleet.ErrHeld):
		lines = append(lines, "  This machine is held: "+m.Setback.Why+".", "  On the server, for why, and to try again or something else:",
			fmt.Sprintf("    ingot why %s", m.Hostname()), fmt.Sprintf("    ingot resume %s", m.Hostname()), fmt.Sprintf("    ingot assign %s PROFILE:VERSION", m.Hostname()))
	default:
		lines = append(lines, "  The image of this machine cannot be served: "+why.Error())
	}
	return ipxe.Wait{Lines: append(lines, ""), Again: b.BootURL(base, boot.ID, "script")}.Text()
}
