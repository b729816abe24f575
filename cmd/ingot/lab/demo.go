package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/dashboard"
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
	if err := d.openDashboard(ctx); err != nil {
		return err
	}
	vms, err := d.powerOn(ctx)
	if err != nil {
		return err
	}
	if err := d.loop(ctx, vms); err != nil {
		return err
	}
	return d.table(ctx)
}

// openDashboard prints a link to the dashboard, where the run can be watched until it ends.
func (d *demo) openDashboard(ctx context.Context) error {
	p, err := dashboard.Open(ctx, filepath.Join(d.Store, "ingot.sock"), 0)
	if err != nil {
		return err
	}
	go func() { _ = p.Serve(ctx) }() // without it the demo goes on
	d.say("watch it in a browser on this host: %s", p.Link)
	return nil
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
