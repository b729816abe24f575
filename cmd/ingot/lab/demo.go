package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/machines"
	"ingot/cmd/ingot/show"
	"ingot/internal/scratch"
	"ingot/testvm"
)

func (a *Commands) demoCommand() *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "show the whole loop with two virtual machines on an isolated LAN",
		Long: `Build three images, boot a BIOS and a UEFI machine into the first, write to their data volumes,
and upgrade both by reboot. Then assign a broken image to the UEFI machine, which falls back by
itself, and roll the BIOS machine back by reboot. At the end, print every boot. The demo uses
only a temporary folder and a network namespace, and removes both, also when interrupted.`,
		Example: "  ingot demo", Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context()) },
	}
}

// demo is one run; its machines run in parallel.
type demo struct {
	*Commands
	dir    string
	lan    *testvm.LAN
	client *api.Client
	start  time.Time
}

type demoMachine struct {
	name  string
	vm    *testvm.VM
	boots int  // that have ended
	heals bool // gets the broken image; the others are rolled back
}

func (m *demoMachine) id() string { return "m-" + strings.ReplaceAll(m.vm.MAC, ":", "") }

func (a *Commands) demo(ctx context.Context) error {
	dir, err := scratch.New("ingot-demo-")
	if err != nil {
		return err
	}
	defer dir.Remove()
	d := &demo{Commands: a, dir: dir.Path, start: time.Now()}
	if err := d.play(ctx); err != nil && ctx.Err() != nil {
		return show.WithHint(errors.New("interrupted; the demo was cleaned up"), "to run it again: ingot demo")
	} else if err != nil {
		return show.Explain(ctx, err)
	}
	return nil
}

// play is the demo from its builds to the table of boots.
func (d *demo) play(ctx context.Context) error {
	d.Store, d.Server = filepath.Join(d.dir, "store"), ""
	d.client = api.Dial(filepath.Join(d.Store, "ingot.sock"))
	err := d.buildImages(ctx)
	if err != nil {
		return err
	}
	d.say("starting an isolated LAN and a server on it")
	if d.lan, err = testvm.NewLAN(ctx, testvm.Options{Dir: d.dir}); err != nil {
		return err
	}
	defer d.lan.Close()
	if err := d.lan.StartRouter(ctx); err != nil {
		return err
	}
	stop, err := d.serve(ctx)
	if err != nil {
		return err
	}
	defer stop()
	vms, err := d.powerOn(ctx)
	if err != nil {
		return err
	}
	if err := d.loop(ctx, vms); err != nil {
		return err
	}
	return d.table(ctx)
}

// say prints a line about the run; beside JSON it goes to standard error.
func (d *demo) say(format string, args ...any) {
	w := d.Stdout
	if d.JSON() {
		w = d.Stderr
	}
	fmt.Fprintf(w, "%7.1f s  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// buildImages builds lab:v1 and lab:v2, which differ in one file, and lab:v3,
// whose kernel finds no program to run and panics at once.
func (d *demo) buildImages(ctx context.Context) error {
	if err := d.build.FetchLoaders(ctx); err != nil {
		return err
	}
	profile := filepath.Join(d.dir, "lab.yaml") // one file and one lock, so that apt runs once
	for _, v := range []string{"v1", "v2", "v3"} {
		d.say("building lab:%s", v)
		text := fmt.Sprintf("name: lab\nextends: lab\nfiles:\n  - path: /etc/ingot-demo\n    content: |\n      %s\n", v)
		if v == "v3" {
			text += "kernel: {arguments: [rdinit=/nothing, panic=1]}\n"
		}
		if err := os.WriteFile(profile, []byte(text), 0o644); err != nil {
			return err
		}
		if _, err := d.build.Build(ctx, profile, v); err != nil {
			return err
		}
	}
	return nil
}

// serve starts the server as a separate program, as in production.
func (d *demo) serve(ctx context.Context) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	logPath := filepath.Join(d.dir, "server.log")
	log, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	cmd := d.lan.Command(context.WithoutCancel(ctx), self, "--store", d.Store, "serve", "--config=", "--interface",
		testvm.Bridge)
	cmd.Stderr = log
	if err := d.lan.Start(cmd); err != nil {
		return nil, err
	}
	stop = func() { endProcess(cmd); log.Close() }
	err = waitForServer(ctx, d.client, func() string { b, _ := os.ReadFile(logPath); return string(b) })
	if err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// endProcess interrupts a program, and kills it if it does not end.
func endProcess(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(os.Interrupt) // it may have ended
	kill := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_ = cmd.Wait() // how it ended does not matter
}

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
	if _, err := d.client.Grant(ctx, m.id(), "data", "DEMO-"+m.name, time.Hour); err != nil {
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

// until polls the server, because its state has no signal to wait for.
func (d *demo) until(ctx context.Context, ok func() bool) error {
	for !ok() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return nil
}

// table prints every boot: seconds and bytes by stage.
func (d *demo) table(ctx context.Context) error {
	boots, err := d.client.Boots(ctx, "", 0)
	if err != nil {
		return err
	}
	list, err := d.client.Machines(ctx)
	if err != nil {
		return err
	}
	names := map[ingot.MachineID]string{}
	for _, m := range list {
		names[m.ID] = machines.Called(m)
	}
	d.say("done; every boot, in seconds since the stage before:\n")
	return d.Show(boots, func(w io.Writer) { machines.StageTable(w, boots, names) })
}
