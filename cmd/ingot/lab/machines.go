package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ingot/bootserver/api"
	"ingot/cmd/ingot/show"
	"ingot/image"
	"ingot/testvm"
)

// machines are the machines of a lab, without disks. A name has the same card in every lab, so that the
// server knows it again.
func (f labFlags) machines() (list []testvm.Config) {
	for group, kind := range []struct {
		firmware testvm.Firmware
		name     string
		count    int
	}{{testvm.BIOS, "bios", f.bios}, {testvm.UEFI, "uefi", f.uefi}} {
		for i := 1; i <= kind.count; i++ {
			list = append(list, testvm.Config{Name: fmt.Sprintf("%s%d", kind.name, i), Firmware: kind.firmware, RAM: f.memory,
				MAC: fmt.Sprintf("52:54:00:99:%02x:%02x", group, i)})
		}
	}
	return list
}

// needed is the memory in MiB that an image needs at least.
func needed(im image.Image) int64 {
	return (max(im.Manifest.MinRAM, im.Manifest.Root.Size) + 1<<20 - 1) >> 20
}

// fits returns an error if an image does not fit into the memory of machines, in MiB.
func fits(im image.Image, memory int) error {
	if need := needed(im); need > int64(memory) {
		return fmt.Errorf("%s requires %d MiB of memory, and the lab's machines would have %d MiB", im.Name, need, memory)
	}
	return nil
}

// withCard returns the machine with a card.
func withCard(machines []api.Machine, mac string) (api.Machine, bool) {
	i := slices.IndexFunc(machines, func(m api.Machine) bool { return slices.Contains(m.MACs, mac) })
	if i < 0 {
		return api.Machine{}, false
	}
	return machines[i], true
}

// approvals are what approves the machines of a lab under their names. Machines that the server knows keep
// the names that operators gave them, and what is assigned to them unless the image was chosen. A name that
// another machine has stays its.
func approvals(machines []testvm.Config, known []api.Machine, im string, chosen bool) (list []api.Planned) {
	for _, c := range machines {
		p := api.Planned{Name: c.Name, MACs: []string{c.MAC}, Image: im}
		m, is := withCard(known, c.MAC)
		if is && m.Name != "" {
			p.Name = m.Name
		}
		if is && m.Assignment.Image != "" && !chosen {
			p.Image = ""
		}
		if slices.ContainsFunc(known, func(o api.Machine) bool { return o.ID != m.ID && o.Hostname() == p.Name }) {
			continue // the server approves it, see fillLab
		}
		list = append(list, p)
	}
	return list
}

// approve approves the machines of a lab before they boot. It returns those that the server knows then.
func (a *Commands) approve(ctx context.Context, machines []testvm.Config, im image.Image,
	chosen bool) (boots []api.Machine, err error) {
	known, err := a.Client().Machines(ctx)
	if err != nil {
		return nil, err
	}
	q := api.ImportRequest{Machines: approvals(machines, known, im.Name.String(), chosen),
		Force: true} // their disks are blank: no account owns anything
	if _, err := a.Client().Import(ctx, q); err != nil {
		return nil, err
	}
	if known, err = a.Client().Machines(ctx); err != nil {
		return nil, err
	}
	for _, c := range machines {
		if m, is := withCard(known, c.MAC); is {
			boots = append(boots, m)
		}
	}
	return boots, nil
}

// checkMemory returns an error if machines that an earlier lab had are to boot an image that does not fit
// into their memory now.
func (a *Commands) checkMemory(ctx context.Context, boots []api.Machine, memory int) error {
	s, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return err
	}
	for _, m := range boots {
		im, err := s.Get(ctx, string(m.Assignment.Image))
		if err != nil {
			continue // ingot why says what is wrong with it
		}
		if err := fits(im, memory); err != nil {
			return show.WithHint(fmt.Errorf("%s is assigned to %s: %w", im.Name, m.Hostname(), err),
				"ingot lab up --memory %d, or choose another image with --image", needed(im))
		}
	}
	return nil
}

// sayUp says what the machines of the lab do now, where its page is or which command opens it, and what can
// be typed next.
func (a *Commands) sayUp(boots []api.Machine, page string, kvm bool) {
	var images []string
	name := "NAME"
	for _, m := range boots {
		if i := m.Assignment.Name; i != "" && !slices.Contains(images, i) {
			images = append(images, i)
		}
		if name == "NAME" {
			name = m.Hostname()
		}
	}
	took := "less than a minute"
	if !kvm {
		took = "a minute or more, because this host has no KVM, and processors are emulated"
	}
	fmt.Fprintf(a.Stderr, "the lab is up; its machines were approved automatically and boot %s now\n"+
		"a boot takes %s\n", show.Plain(strings.Join(images, ", ")), took)
	for _, m := range boots {
		if m.State != api.Approved {
			fmt.Fprintf(a.Stderr, "%s does not boot, because it is %s\n  → ingot machine approve %s\n", show.Plain(m.Hostname()),
				m.State, show.Plain(m.Hostname()))
		}
	}
	for _, next := range []string{page, "ingot machine ls", "ingot boots --timeline", "ingot why " + name,
		"ingot lab console " + name, "ingot lab down"} {
		fmt.Fprintln(a.Stderr, "  → "+show.Plain(next))
	}
}
