package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/cmd/ingot/show"
	"ingot/testvm"
)

// demoMachine is a virtual machine of the demo.
type demoMachine struct {
	name  string
	vm    *testvm.VM
	boots int  // that have ended
	heals bool // gets the broken image; the others are rolled back
}

func (m *demoMachine) id() string { return "m-" + strings.ReplaceAll(m.vm.MAC, ":", "") }

// powerOn starts a BIOS and a UEFI machine, each with a blank disk.
func (d *demo) powerOn(ctx context.Context) ([]*demoMachine, error) {
	var machines []*demoMachine
	for i, f := range []testvm.Firmware{testvm.BIOS, testvm.UEFI} {
		name := strings.ToLower(string(f)) + "-1"
		disk, err := testvm.NewDisk(filepath.Join(d.dir, name+".img"), "DEMO-"+name, 256<<20)
		if err != nil {
			return nil, err
		}
		vm, err := d.lan.StartVM(ctx, testvm.Config{Name: name, Firmware: f, MAC: fmt.Sprintf("52:54:00:de:00:%02x", i+1),
			Disks: []testvm.Disk{disk}})
		if err != nil {
			return nil, err
		}
		d.say("powered on %s (%s firmware, a blank disk)", name, f)
		machines = append(machines, &demoMachine{name: name, vm: vm, heals: f == testvm.UEFI})
	}
	return machines, nil
}

// loop runs the life of every machine.
func (d *demo) loop(ctx context.Context, machines []*demoMachine) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range machines {
		g.Go(func() error {
			if err := d.live(ctx, m); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// live is the life of one machine: approve, v1, write, v2, read; and then v3
// and back to v2 by itself, or rolled back to v1. Because two emulated machines
// share few processors, each ending is shown once: the one with more boots by
// the faster firmware.
func (d *demo) live(ctx context.Context, m *demoMachine) error {
	if err := d.until(ctx, func() bool { _, err := d.client.Machine(ctx, m.id()); return err == nil }); err != nil {
		return err
	}
	d.say("%s is pending as %s; approving it with lab:v1", m.name, m.id())
	grant := api.GrantRequest{Volume: "data", Disk: "DEMO-" + m.name, For: time.Hour}
	if _, err := d.client.Grant(ctx, m.id(), grant); err != nil {
		return err
	}
	if _, err := d.client.Approve(ctx, m.id(), api.ApproveRequest{Name: m.name, Image: "lab:v1"}); err != nil {
		return err
	}
	if err := d.healthy(ctx, m, "lab:v1"); err != nil {
		return err
	}
	if err := d.typeIn(ctx, m, "echo 'written under v1' > /data/note; sync"); err != nil {
		return err
	}
	d.say("%s wrote a file on its data volume; assigning lab:v2 and rebooting", m.name)
	if _, err := d.client.Assign(ctx, m.name, "lab:v2", "demo: upgrade"); err != nil {
		return err
	}
	if err := d.reboot(ctx, m, "lab:v2"); err != nil {
		return err
	}
	if err := d.typeIn(ctx, m, "cat /etc/ingot-demo /data/note"); err != nil {
		return err
	}
	if m.heals {
		return d.heal(ctx, m)
	}
	return d.rollBack(ctx, m)
}

// rollBack takes the upgrade back.
func (d *demo) rollBack(ctx context.Context, m *demoMachine) error {
	d.say("%s: rolling back and rebooting", m.name)
	if _, err := d.client.Rollback(ctx, m.name); err != nil {
		return err
	}
	if err := d.reboot(ctx, m, "lab:v1"); err != nil {
		return err
	}
	return d.typeIn(ctx, m, "cat /etc/ingot-demo /data/note")
}

// heal assigns a broken image to the machine, reboots it, and waits without
// intervening until it is healthy again.
func (d *demo) heal(ctx context.Context, m *demoMachine) error {
	d.say("%s: assigning lab:v3, which is broken, rebooting, and not intervening", m.name)
	if _, err := d.client.Assign(ctx, m.name, "lab:v3", "demo: a broken image"); err != nil {
		return err
	}
	m.vm.Console.Skip() // the next prompt is that of the system that comes back
	if err := d.reboot(ctx, m, "lab:v2"); err != nil {
		return err
	}
	y, err := d.client.Why(ctx, m.name)
	if err != nil {
		return err
	}
	d.say("ingot why %s\n             %s", m.name, y.Words)
	return d.typeIn(ctx, m, "cat /etc/ingot-demo /data/note")
}

// typeIn runs one command on the machine's console and shows what it prints.
func (d *demo) typeIn(ctx context.Context, m *demoMachine, command string) error {
	if _, err := m.vm.Console.WaitFor(ctx, `root@[^#]*# `); err != nil {
		return err
	}
	out, code, err := m.vm.Console.Run(ctx, command)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("%q on the console: exit code %d: %s", command, code, out)
	}
	d.say("%s # %s%s", m.name, command, indent(out))
	return nil
}

func indent(out string) string {
	if out == "" {
		return ""
	}
	return "\n             " + strings.Join(strings.Fields(out), " ")
}

// reboot reboots the machine, and waits until it is healthy on the image.
func (d *demo) reboot(ctx context.Context, m *demoMachine, image string) error {
	if err := m.vm.Console.Send("systemctl reboot\n"); err != nil {
		return err
	}
	return d.healthy(ctx, m, image)
}

// healthy waits until the machine is healthy on the image. A boot that fails is
// printed; the machine boots again, as often as the policy allows.
func (d *demo) healthy(ctx context.Context, m *demoMachine, image string) error {
	for range fleet.DefaultAttempts + 1 {
		boot, err := d.ended(ctx, m)
		if err != nil {
			return fmt.Errorf("waiting for boot %d: %w; the console ends:\n%s", m.boots+1, err, m.vm.Console.Tail(12))
		}
		m.boots++
		if boot.Outcome == ingot.OutcomeHealthy {
			if boot.Image.Name != image {
				return fmt.Errorf("boot %d is healthy on %s; want %s", m.boots, boot.Image.Name, image)
			}
			d.say("%s is healthy on %s, %s after its first packet, measured root %s", m.name, image,
				show.Seconds(boot.Ended.Sub(boot.Started)), boot.Report.Root.Short())
			return nil
		}
		d.say("%s: boot %d, of %s: %s: %s", m.name, m.boots, boot.Image.Name, boot.Outcome, boot.Reason)
	}
	return fmt.Errorf("too many boots failed; the console ends:\n%s", m.vm.Console.Tail(12))
}

// ended waits for the end of the machine's next boot.
func (d *demo) ended(ctx context.Context, m *demoMachine) (boot api.Boot, err error) {
	err = d.until(ctx, func() bool {
		boots, err := d.client.Boots(ctx, m.id(), 0)
		if err != nil || len(boots) <= m.boots || boots[m.boots].Open() {
			return false
		}
		boot = boots[m.boots]
		return true
	})
	return boot, err
}
