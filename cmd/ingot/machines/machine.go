package machines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/internal/natural"
)

func (a *Commands) machineCommand() *cobra.Command {
	return command.Parent("machine", "list, show, approve, label, merge and reboot machines",
		"  ingot machine ls\n  ingot machine show node01",
		a.machineLsCommand(), a.machineShowCommand(), a.approveCommand(), a.labelCommand(), a.renameCommand(),
		a.mergeCommand(), a.rebootCommand(), a.pinCommand(), a.offCommand(), a.retireCommand(), a.forgetCommand(),
		a.importMachinesCommand())
}

func (a *Commands) machineLsCommand() *cobra.Command {
	var outdated bool
	c := &cobra.Command{
		Use: "ls [MACHINE...]", Short: "list machines",
		Long: `List all machines, or those that are named. With --outdated, list those that would boot another
image at a reboot than the one that they run.

` + naming,
		Example: `  ingot machine ls
  ingot machine ls rack=r1,role!=db
  ingot machine ls 'node[01-40]'
  ingot machine ls --outdated rack=r1
  ingot machine ls -o json | jq -r '.[].id'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			list := a.Client().MachinesBrief
			if a.JSON() {
				list = a.Client().Machines // with every field
			}
			ms, err := list(cmd.Context())
			if err == nil && outdated {
				ms, err = a.outdated(cmd.Context(), ms)
			}
			if err != nil {
				return err
			}
			slices.SortStableFunc(ms, byName)
			if len(args) == 0 {
				return a.Show(ms, func(w io.Writer) { machineTable(w, ms, time.Now()) })
			}
			named, empty, failed := among(ms, args)
			if named == nil {
				return failed
			}
			return errors.Join(a.Show(named, func(w io.Writer) {
				if len(named) > 0 {
					machineTable(w, named, time.Now())
				} else if empty != "" {
					fmt.Fprintln(w, show.Plain(empty))
				}
			}), failed)
		},
	}
	c.Flags().BoolVar(&outdated, "outdated", false, "only machines that would boot another image than they run")
	return c
}

// outdated returns the machines that would boot another image at a reboot than the one that they run.
func (a *Commands) outdated(ctx context.Context, all []api.Machine) ([]api.Machine, error) {
	boots, err := a.Client().LatestBoots(ctx)
	if err != nil {
		return nil, err
	}
	runs := map[ingot.BootID]ingot.Digest{}
	for _, b := range boots {
		if b.Outcome == ingot.OutcomeHealthy {
			runs[b.ID] = b.Image.Image
		}
	}
	list := []api.Machine{}
	for _, m := range all {
		next := m.Assignment.Image
		if m.Setback != nil {
			next = m.Setback.To.Image
		}
		if m.Once != nil {
			next = m.Once.Image
		}
		if is := runs[m.Boot]; m.State == api.Approved && is != "" && next != "" && next != is {
			list = append(list, m)
		}
	}
	return list, nil
}

func (a *Commands) machineShowCommand() *cobra.Command {
	var boot string
	c := &cobra.Command{
		Use: "show MACHINE...", Short: "show machines in detail",
		Long: `Show identity, hardware, assignment, grants and the last boots of machines. With --boot,
show the hardware that a machine reported in that boot, and how it differed from the boot
before. With -o json, one machine is an object, and several are a list.

` + naming,
		Example: `  ingot machine show node01
  ingot machine show node01 --boot 3f2a61c0`, Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if boot != "" {
				return a.showHardware(cmd.Context(), args, boot)
			}
			return a.showMachines(cmd.Context(), args)
		},
	}
	c.Flags().StringVar(&boot, "boot", "",
		"show the hardware reported in this boot: its ID or a unique prefix of it")
	return c
}

func (a *Commands) approveCommand() *cobra.Command {
	var req api.ApproveRequest
	c := &cobra.Command{
		Use: "approve MACHINE...", Short: "let a pending machine boot",
		Long: `Approve a pending machine. The same step can name it and assign an image. A machine that
waits at its boot screen retries every few seconds, and then boots.

` + wholeNames,
		Example: "  ingot machine approve m-525400120001 --name node01 --image lab:v1",
		Args:    command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if names, err := a.hosts(ctx, args); err != nil {
				return err
			} else if len(names) > 1 && req.Name != "" {
				return show.Usagef("--name is for one machine; %d are named", len(names))
			}
			return a.eachMachine(ctx, args, func(n string) (api.Machine, error) { return a.Client().Approve(ctx, n, req) },
				func(m api.Machine) string { return Called(m) + " is approved" + assignedTo(m) })
		},
	}
	c.Flags().StringVar(&req.Name, "name", "", "host name of the machine")
	c.Flags().StringVar(&req.Image, "image", "", "image to assign: PROFILE:VERSION or digest")
	addForce(c, &req.Force)
	return c
}

func assignedTo(m api.Machine) string {
	if m.Assignment.Image == "" {
		return "; assign an image: ingot assign " + string(m.ID) + " PROFILE:VERSION"
	}
	return " and will boot " + m.Assignment.Name
}

func (a *Commands) assignCommand() *cobra.Command {
	var q api.AssignRequest
	var o onceFlags
	c := &cobra.Command{
		Use: "assign MACHINE [IMAGE]", Short: "choose the image that a machine boots next",
		Long: `Assign an image to a machine, by digest. It takes effect at the machine's next boot; a
running system is not changed. An image is refused if accounts have other numbers in it than in
the image that used the machine's volumes last, because files on them would belong to others.

With --once, only the next boot is of IMAGE, and the one after it is as before. --append adds a
kernel argument to that boot, and --shell starts a shell on its consoles before it leaves the
initramfs, and when it fails. Without IMAGE, that boot is of the image that the machine boots
anyway. What becomes of it does not count for or against an image. It is used up when the machine
has fetched kernel and initramfs; --cancel takes it back before, and so does another assignment.

` + wholeNames,
		Example: `  ingot assign node01 lab:v2 --why 'kernel fix'
  ingot assign 'node[01-40]' lab:v2
  ingot assign rack=r1 lab:v2
  ingot assign node01 rescue:1 --once
  ingot assign node01 --once --append systemd.unit=rescue.target
  ingot assign node01 --once --cancel`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			if o.once && len(args) == 1 {
				return nil
			}
			return command.ExactArgs("MACHINE", "IMAGE")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if o.once {
				return a.assignOnce(ctx, o, q, args)
			}
			q.Image = args[1]
			a.suggestRollout(ctx, args)
			return a.eachMachine(ctx, args[:1], func(n string) (api.Machine, error) { return a.Client().AssignBy(ctx, n, q) },
				func(m api.Machine) string {
					return fmt.Sprintf("%s boots %s (%s) from its next boot on", Called(m), m.Assignment.Name,
						m.Assignment.Image.Short())
				})
		},
	}
	c.Flags().StringVar(&q.Why, "why", "", "reason, recorded with the assignment")
	addForce(c, &q.Force)
	o.add(c)
	return c
}

// addForce adds the flag for images in which accounts have other numbers.
func addForce(c *cobra.Command, force *bool) {
	c.Flags().BoolVar(force, "force", false, "also if accounts have other numbers than on the machine's volumes")
}

func (a *Commands) rollbackCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "rollback MACHINE", Short: "assign the previous image that was healthy on a machine",
		Long: `Assign the most recent other image that was healthy on this machine. It takes effect at
the machine's next boot.

` + wholeNames,
		Example: "  ingot rollback node01", Args: command.ExactArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			back := a.Client().Rollback
			if force {
				back = a.Client().ForceRollback
			}
			return a.eachMachine(ctx, args, func(n string) (api.Machine, error) { return back(ctx, n) },
				func(m api.Machine) string {
					return fmt.Sprintf("%s goes back to %s (%s) at its next boot", Called(m), m.Assignment.Name,
						m.Assignment.Image.Short())
				})
		},
	}
	addForce(c, &force)
	return c
}

func (a *Commands) grantCommand() *cobra.Command {
	var r api.GrantRequest
	var withdraw bool
	c := &cobra.Command{
		Use: "grant MACHINE VOLUME", Short: "allow one boot to initialise one blank disk",
		Long: `Allow the machine to initialise one disk, named by its serial number, WWN or path, as a
volume. A grant expires, and is used up when a filesystem is made. A disk that is not blank
is refused: one nonzero byte in its first or last MiB, or in one of the samples that are
read between them, is enough.

A volume says on its disk to which machine it belongs. With --adopt, the machine takes over
a volume that belongs to another machine, or that does not say to which; nothing is formatted.

A volume that the machine's image does not declare, and a disk that the machine did not report,
are refused without --force. --withdraw takes back the grant for VOLUME that no boot used yet; a
boot that has it in its ticket may still use it.

` + wholeNames,
		Example: "  ingot grant node01 data --disk S5GXNX0T123456\n" +
			"  ingot grant node01 data --disk S5GXNX0T123456 --adopt\n" +
			"  ingot grant node01 data --withdraw",
		Args: command.ExactArgs("MACHINE", "VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Volume = args[1]
			if withdraw {
				return a.withdrawGrant(cmd, args)
			}
			if r.Disk == "" {
				return show.Usagef("--disk SERIAL is needed; list the disks with: ingot machine show %s", args[0])
			}
			ctx := cmd.Context()
			return a.eachMachine(ctx, args[:1], func(n string) (api.Machine, error) {
				return a.Client().Grant(ctx, n, r)
			},
				func(m api.Machine) string {
					if r.Adopt {
						return fmt.Sprintf("%s may take over volume %q on disk %q, within %s", Called(m), r.Volume, r.Disk, r.For)
					}
					return fmt.Sprintf("%s may initialise disk %q as volume %q, within %s", Called(m), r.Disk, r.Volume, r.For)
				})
		},
	}
	c.Flags().StringVar(&r.Disk, "disk", "", "serial number, WWN or path of the disk")
	c.Flags().DurationVar(&r.For, "for", time.Hour, "how long the grant is valid")
	c.Flags().BoolVar(&r.Adopt, "adopt", false, "take over the volume that the disk holds")
	c.Flags().BoolVar(&r.Force, "force", false, "also for a volume or disk that the machine is not known to have")
	c.Flags().BoolVar(&withdraw, "withdraw", false, "take back the unused grant for VOLUME")
	return c
}

// withdrawGrant takes back the unused grants of machines for a volume.
func (a *Commands) withdrawGrant(c *cobra.Command, args []string) error {
	for _, name := range []string{"disk", "for", "adopt", "force"} {
		if c.Flags().Changed(name) {
			return show.Usagef("--withdraw takes back the grant for VOLUME; give it without --%s", name)
		}
	}
	ctx := c.Context()
	return a.eachMachine(ctx, args[:1], func(n string) (api.Machine, error) {
		return a.Client().WithdrawGrant(ctx, n, args[1])
	}, func(m api.Machine) string {
		return fmt.Sprintf("the grant of %s for volume %q is withdrawn", Called(m), args[1])
	})
}

// Called is the name that people use for a machine.
func Called(m api.Machine) string {
	if m.Name != "" {
		return m.Name
	}
	return string(m.ID)
}

// byName sorts machines as people do: node2 before node10.
func byName(x, y api.Machine) int { return natural.Compare(x.Hostname(), y.Hostname()) }

func machineTable(w io.Writer, ms []api.Machine, now time.Time) {
	if len(ms) == 0 {
		fmt.Fprintln(w, "no machines")
		return
	}
	t := show.Table(w)
	show.Row(t, "MACHINE", "NAME", "STATE", "IMAGE", "RUNS", "LAST SEEN", "ADDRESS", "HARDWARE", "LABELS")
	for _, m := range ms {
		address := ""
		if m.Address.IsValid() {
			address = m.Address.String()
		}
		show.Row(t, string(m.ID), show.Dash(m.Name), marked(m), show.Dash(assigned(m)), show.Dash(runs(m)),
			show.Ago(m.LastSeen, now), show.Dash(address), show.Dash(strings.TrimSpace(m.Facts.Vendor+" "+m.Facts.Product)),
			show.Dash(labels(m)))
	}
	t.Flush()
	if list := silent(ms, now); len(list) > 0 {
		fmt.Fprintf(w, "\nnot heard from: %s\n  → ingot why MACHINE\n", show.Plain(show.Some(list, 8)))
	}
	if list := unauthenticated(ms); len(list) > 0 {
		fmt.Fprintf(w, "\nreports not authenticated, because the images are older: %s\n", show.Plain(show.Some(list, 8)))
	}
	if list := returned(ms); len(list) > 0 {
		fmt.Fprintf(w, "\ncame back after a restore by their own report: %s\n", show.Plain(show.Some(list, 8)))
	}
	for _, m := range ms {
		if m.Ask != nil {
			same, other := m.Ask.Answers(m)
			fmt.Fprintf(w, "\n%s has a question: %s\n  → if it is the same machine: %s; if it is another one: %s\n",
				show.Plain(string(m.ID)), show.Plain(m.Ask.What), show.Plain(same.Command()), show.Plain(other.Command()))
		}
	}
}

// returned lists the machines that came back after a restore, and those of them that wait for approval.
func returned(ms []api.Machine) (names []string) {
	for _, m := range ms {
		switch {
		case m.Returned.IsZero():
		case m.State == api.Approved:
			names = append(names, Called(m))
		default:
			names = append(names, Called(m)+" (approve it: ingot machine approve "+string(m.ID)+")")
		}
	}
	return names
}

// unauthenticated lists the machines that run something and cannot prove what they report.
func unauthenticated(ms []api.Machine) (names []string) {
	for _, m := range ms {
		if m.State == api.Approved && m.LastHealthy.Image != "" && !m.Authenticated {
			names = append(names, Called(m))
		}
	}
	return names
}

// silent lists the machines whose healthy systems send no reports any more.
func silent(ms []api.Machine, now time.Time) (names []string) {
	for _, m := range ms {
		if s := stateOf(m); s == stateSilent || s == stateDown {
			names = append(names, fmt.Sprintf("%s (%s, last report %s)", Called(m), s, show.Ago(m.Latest.Heard, now)))
		}
	}
	return names
}

// Exceptions among the states of approved machines.
const (
	stateSilent = "silent" // it was healthy, and nothing is heard from it any more
	stateDown   = "down"   // its system said that it shuts down, and it has not booted since
)

// stateOf is a machine's state, or the exception that needs attention.
func stateOf(m api.Machine) string {
	switch {
	case m.Ask != nil:
		return "question"
	case m.State == api.Approved && m.Setback != nil && m.Setback.To.Image == "":
		return "held"
	case m.State == api.Approved && m.Latest != nil && m.Latest.Silent:
		return stateSilent
	case m.State == api.Approved && m.Latest != nil && m.Latest.Down:
		return stateDown
	case m.State == api.Approved && m.Setback != nil:
		return "fell back"
	}
	return string(m.State)
}

// marked is the state of a machine, and what operators noted that keeps rollouts from moving it.
func marked(m api.Machine) string {
	text := stateOf(m)
	if m.Pin != nil {
		text += ", pinned"
	}
	if m.Off != nil {
		text += ", marked off"
	}
	return text
}

// assigned names the image of a machine, and the one that it boots once before.
func assigned(m api.Machine) string {
	if m.Once == nil {
		return m.Assignment.Name
	}
	return strings.TrimSpace(m.Assignment.Name + " (once: " + m.Once.Name + ")")
}

// runs names the image of the latest boot. It is marked when it is not the assigned one, and says
// what the boot is if it is not healthy.
func runs(m api.Machine) string {
	l := m.Latest
	if l == nil { // an older server, which names the image last reported healthy
		l = &api.Latest{ImageRef: m.LastHealthy, Outcome: ingot.OutcomeHealthy}
	}
	text := l.Name
	switch {
	case l.Name == "":
		return ""
	case l.Once:
		text += " (once)"
	case l.Image != m.Assignment.Image:
		text += " *"
	}
	switch l.Outcome {
	case ingot.OutcomeOpen:
		text += ", booting"
	case ingot.OutcomeFailed:
		text += ", failed"
	case ingot.OutcomeSilent:
		text += ", no report"
	}
	return text
}

// machineShow asks for a machine; print prints it.
// showMachines prints machines, each with its last boots.
func (a *Commands) showMachines(ctx context.Context, args []string) error {
	type both struct {
		api.Machine
		Boots []api.Boot `json:"boots"`
	}
	c := a.Client()
	return showEach(ctx, a, args, func(n string) (both, error) {
		m, err := c.Machine(ctx, n)
		if err != nil {
			return both{}, err
		}
		boots, err := c.Boots(ctx, string(m.ID), 5)
		return both{m, boots}, err
	}, func(w io.Writer, b both, i int, _ bool) {
		if i > 0 {
			fmt.Fprintln(w)
		}
		machineDetails(w, b.Machine, time.Now())
		if len(b.Boots) > 0 {
			fmt.Fprintln(w, "\nlast boots:")
			bootTable(w, b.Boots, nil, time.Now())
		}
	})
}

func machineDetails(w io.Writer, m api.Machine, now time.Time) {
	t := show.Table(w)
	show.Row(t, "machine", string(m.ID))
	show.Row(t, "name", show.Dash(m.Name))
	show.Row(t, "state", stateOf(m))
	if m.Ask != nil {
		show.Row(t, "question", m.Ask.What)
	}
	show.Row(t, "labels", show.Dash(labels(m)))
	show.Row(t, "uuid", show.Dash(m.UUID))
	show.Row(t, "serial", show.Dash(m.Serial))
	show.Row(t, "mac", strings.Join(m.MACs, ", "))
	show.Row(t, "hardware", show.Dash(strings.TrimSpace(m.Facts.Vendor+" "+m.Facts.Product)))
	hardwareRows(t, m.Facts)
	if m.Port.Relay.IsValid() {
		show.Row(t, "switch port", m.Port.String())
	}
	for f, l := range m.Loaders {
		show.Row(t, "loader", l+" for "+string(f)+", because others stalled")
	}
	for _, f := range m.Trial.Failures {
		show.Row(t, "failure", fmt.Sprintf("boot %s, %s: %s", f.Boot.Short(), show.Ago(f.At, now), f.Reason))
	}
	show.Row(t, "first seen", show.Ago(m.FirstSeen, now))
	show.Row(t, "last seen", show.Ago(m.LastSeen, now))
	show.Row(t, "assigned", assignment(m.Assignment))
	if l := m.Latest; l != nil && l.Image != "" {
		show.Row(t, "runs", fmt.Sprintf("%s, since %s", runs(m), show.Ago(l.Since, now)))
	}
	if m.Once != nil {
		show.Row(t, "next boot", onceText(*m.Once))
	}
	for _, mark := range []struct {
		name string
		is   *api.Mark
	}{{"pinned", m.Pin}, {"off", m.Off}} {
		if is := mark.is; is != nil {
			show.Row(t, mark.name, fmt.Sprintf("%s, by %s: %s", show.Ago(is.Since, now), is.By, show.Dash(is.Why)))
		}
	}
	if s := m.Setback; s != nil && s.To.Image != "" {
		show.Row(t, "fell back", fmt.Sprintf("to %s, %s: %s", s.To.Name, show.Ago(s.At, now), s.Why))
	} else if s != nil {
		show.Row(t, "held", fmt.Sprintf("%s: %s", show.Ago(s.At, now), s.Why))
	}
	if m.LastHealthy.Image != "" {
		show.Row(t, "reports", map[bool]string{true: "authenticated", false: "not authenticated"}[m.Authenticated])
	}
	if !m.Returned.IsZero() {
		show.Row(t, "came back", show.Ago(m.Returned, now)+", by its own report after a restore; check its labels and grants")
	}
	if c := m.Claim; c != nil && now.Before(c.Until) {
		show.Row(t, "boot before", fmt.Sprintf("%s may still run; no grants for the next %s", c.Running.Short(),
			c.Until.Sub(now).Round(time.Second)))
	}
	for _, g := range m.Grants {
		show.Row(t, "grant", grantText(g, now))
	}
	t.Flush()
	if m.Ask != nil {
		same, other := m.Ask.Answers(m)
		fmt.Fprintf(w, "\n  → if it is the same machine: %s; if it is another one: %s\n", show.Plain(same.Command()),
			show.Plain(other.Command()))
	} else if m.State == api.Pending {
		fmt.Fprintf(w, "\n  → ingot machine approve %s --name NAME --image PROFILE:VERSION\n", show.Plain(string(m.ID)))
	}
}

func assignment(as api.Assignment) string {
	if as.Image == "" {
		return "-"
	}
	s := fmt.Sprintf("%s (%s)", as.Name, as.Image.Short())
	if as.Why != "" {
		s += ", " + as.Why
	}
	return s
}
