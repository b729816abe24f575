package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ingot/bootserver/api"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
	"ingot/testvm"
)

func (a *Commands) labDir() string { return filepath.Join(a.StoreRoot(), "lab") }

func (a *Commands) labCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "list the lab's machines", Args: command.ExactArgs(), Example: "  ingot lab ls",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.labLs(cmd.Context()) },
	}
	console := &cobra.Command{
		Use: "console NAME", Short: "attach to a machine's serial console (leave with Ctrl-])",
		Args:    command.ExactArgs("NAME"),
		Example: "  ingot lab console bios1",
		RunE:    func(cmd *cobra.Command, args []string) error { return a.labConsole(cmd.Context(), args[0]) },
	}
	power := &cobra.Command{
		Use: "power NAME on|off|cycle|reset", Short: "switch a machine on or off, or reset it",
		Args:    command.ExactArgs("NAME", "on|off|cycle|reset"),
		Example: "  ingot lab power bios1 cycle",
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := a.openLab()
			if err != nil {
				return err
			}
			return l.Power(cmd.Context(), args[0], args[1])
		},
	}
	down := &cobra.Command{
		Use: "down", Short: "stop the lab and remove its machines, disks and network", Args: command.ExactArgs(),
		Example: "  ingot lab down",
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.openLab()
			if err != nil {
				return err
			}
			return l.Down(cmd.Context())
		},
	}
	return command.Parent("lab", "run virtual machines on an isolated LAN", `  ingot lab up
  ingot boots --timeline
  ingot lab console uefi1
  ingot lab down`, a.labUp(), ls, console, power, a.labStorm(), a.stormMachines(), down)
}

// VMs completes the names of the lab's machines.
func (a *Commands) VMs(context.Context) (names []cobra.Completion) {
	l, err := testvm.OpenLab(a.labDir())
	if err != nil {
		return nil
	}
	for _, vm := range l.VMs {
		names = append(names, cobra.CompletionWithDesc(vm.Name, string(vm.Firmware)))
	}
	return names
}

func (a *Commands) openLab() (*testvm.Lab, error) {
	l, err := testvm.OpenLab(a.labDir())
	if errors.Is(err, testvm.ErrNoLab) {
		return nil, show.WithHint(err, "ingot lab up")
	}
	return l, err
}

type labFlags struct {
	bios, uefi int
	image      string
	memory     int   // MiB
	disk       int64 // MiB
}

func (a *Commands) labUp() *cobra.Command {
	var f labFlags
	c := &cobra.Command{
		Use: "up", Short: "start a LAN, a server and machines that boot from it",
		Long: `Start an isolated LAN with a boot server and virtual machines. They run until "ingot lab down".
If the store has no image, lab:v1 is built first. Other commands with the same store use the
server of the lab.

Machines are approved automatically under their names in the lab (bios1, uefi1), and boot --image.
Without --image, machines that an earlier lab with this store had boot what is assigned to them.`,
		Example: `  ingot lab up
  ingot lab up --bios 2 --uefi 2 --image node:2026.11.23-1 --memory 4096`,
		Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.labStart(cmd.Context(), f) },
	}
	c.Flags().IntVar(&f.bios, "bios", 1, "number of machines with BIOS")
	c.Flags().IntVar(&f.uefi, "uefi", 1, "number of machines with UEFI")
	c.Flags().StringVar(&f.image, "image", "", "image to boot (default: the newest lab image)")
	c.Flags().IntVar(&f.memory, "memory", 1024, "memory of each machine in MiB")
	c.Flags().Int64Var(&f.disk, "disk", 256, "size of each machine's blank data disk in MiB; 0: none")
	return c
}

// leastMemory is the least memory of a machine, in MiB: less is too little for firmware and loader.
const leastMemory = 128

func (a *Commands) labStart(ctx context.Context, f labFlags) error {
	switch {
	case f.bios < 0 || f.uefi < 0 || f.bios+f.uefi == 0 || f.bios+f.uefi > 64:
		return show.Usagef("bad number of machines: want 1 to 64")
	case f.memory < leastMemory:
		return show.Usagef("bad --memory %d: want at least %d (MiB)", f.memory, leastMemory)
	}
	im, err := a.labImage(ctx, f.image)
	if err != nil {
		return err
	}
	if err := fits(im, f.memory); err != nil {
		return show.WithHint(err, "ingot lab up --memory %d", needed(im))
	}
	l, err := testvm.NewLab(ctx, a.labDir())
	if errors.Is(err, testvm.ErrLabUp) {
		return show.WithHint(err, "ingot lab ls, or ingot lab down")
	}
	if err != nil {
		return err
	}
	boots, err := a.fillLab(ctx, l, f, im)
	if err != nil {
		return errors.Join(err, l.Down(context.WithoutCancel(ctx)))
	}
	page, err := a.openPage(ctx)
	if err != nil {
		page = "ingot dashboard"
	}
	a.sayUp(boots, page, testvm.Accelerator() == "kvm")
	return a.labLs(ctx)
}

// labImage finds the image to boot, building one for an empty store.
func (a *Commands) labImage(ctx context.Context, named string) (image.Image, error) {
	s, err := image.Open(ctx, a.StoreRoot())
	if err != nil {
		return image.Image{}, err
	}
	ref := named
	if ref == "" {
		ref = "lab"
	}
	im, err := s.Get(ctx, ref)
	if errors.Is(err, image.ErrNotFound) && named == "" {
		im, err = a.build.Build(ctx, "lab", "v1")
	}
	return im, err
}

// fillLab starts the server and the machines of a lab. boots are the machines as the server knows them.
func (a *Commands) fillLab(ctx context.Context, l *testvm.Lab, f labFlags, im image.Image) (boots []api.Machine,
	err error) {
	if err := a.build.FetchLoaders(ctx); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	err = l.Serve(ctx, []string{self, "--store", a.StoreRoot(), "serve", "--config=", "--interface", testvm.Bridge,
		"--mode", "full", "--approve-all", "--image", im.Name.String()})
	if err != nil {
		return nil, err
	}
	if err := waitForServer(ctx, a.Client(), l.ServerLog); err != nil {
		return nil, err
	}
	machines := f.machines()
	if boots, err = a.approve(ctx, machines, im, f.image != ""); err != nil {
		return nil, err
	}
	if err := a.checkMemory(ctx, boots, f.memory); err != nil {
		return nil, err
	}
	for _, c := range machines {
		if f.disk > 0 {
			d, err := testvm.NewDisk(filepath.Join(l.Folder(), c.Name+".img"), "LAB-"+c.Name, f.disk<<20)
			if err != nil {
				return nil, err
			}
			c.Disks = []testvm.Disk{d}
		}
		if err := l.Add(ctx, c); err != nil {
			return nil, err
		}
	}
	return boots, nil
}

// waitForServer waits until a server that was just started answers.
func waitForServer(ctx context.Context, c *api.Client, log func() string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := c.Version(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the server: %w; its log:\n%s", err, log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// labView is a machine of the lab for people and programs.
type labView struct {
	testvm.LabVM
	Running bool `json:"running"`
	// its name on the server and the image that it boots next; empty if the server does not answer
	Machine string `json:"machine,omitempty"`
	Image   string `json:"image,omitempty"`
}

func (a *Commands) labLs(ctx context.Context) error {
	l, err := a.openLab()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	machines, err := a.Client().MachinesBrief(ctx) // a lab whose server has ended is shown as well
	var views []labView
	for _, vm := range l.VMs {
		v := labView{LabVM: vm, Running: l.Running(vm.Name)}
		if m, known := withCard(machines, vm.MAC); known && err == nil {
			v.Machine, v.Image = m.Hostname(), m.Assignment.Name
		}
		views = append(views, v)
	}
	return a.Show(views, func(w io.Writer) { labTable(w, views) })
}

func labTable(w io.Writer, views []labView) {
	t := show.Table(w)
	show.Row(t, "NAME", "FIRMWARE", "MAC", "MEMORY", "POWER", "IMAGE", "DISK")
	var other []string
	for _, v := range views {
		power, disk := "off", "-"
		if v.Running {
			power = "on"
		}
		if len(v.Disks) > 0 {
			disk = "serial " + v.Disks[0].Serial
		}
		show.Row(t, v.Name, string(v.Firmware), v.MAC, show.Size(int64(v.RAM)<<20), power, show.Dash(v.Image), disk)
		if v.Machine != "" && v.Machine != v.Name {
			other = append(other, v.Name+" is "+v.Machine)
		}
	}
	t.Flush()
	if len(other) > 0 {
		fmt.Fprintf(w, "\nother names on the server: %s\n", show.Plain(strings.Join(other, ", ")))
	}
}

// leaveKey is Ctrl-], as in telnet and virsh.
const leaveKey = 0x1d

func (a *Commands) labConsole(ctx context.Context, name string) error {
	l, err := a.openLab()
	if err != nil {
		return err
	}
	socket, err := l.ConsoleSocket(name)
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return show.WithHint(fmt.Errorf("attaching to %s: %w", name, err), "ingot lab power %s on", name)
	}
	defer conn.Close()
	fmt.Fprintf(a.Stderr, "console of %s; leave with Ctrl-]\r\n", name)
	if f, ok := a.Stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		old, err := term.MakeRaw(int(f.Fd()))
		if err != nil {
			return err
		}
		defer func() { _ = term.Restore(int(f.Fd()), old) }()
	}
	go func() {
		defer conn.Close()
		buf := make([]byte, 256)
		for {
			n, err := a.Stdin.Read(buf)
			for i := range n {
				if buf[i] == leaveKey {
					_, _ = conn.Write(buf[:i])
					return
				}
			}
			if _, werr := conn.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}()
	if _, err := io.Copy(a.Stdout, conn); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
