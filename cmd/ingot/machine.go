package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
)

func (a *app) machineCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls [MACHINE...]", Short: "list machines",
		Long:    "List machines: all of them, or those that are named.\n\n" + naming,
		Example: "  ingot machine ls\n  ingot machine ls rack=r1,role!=db\n  ingot machine ls 'node[01-40]'\n  ingot machine ls -o json | jq -r '.[].id'",
		RunE: func(cmd *cobra.Command, args []string) error {
			list := a.client().MachinesBrief
			if a.output == "json" {
				list = a.client().Machines // all that is known
			}
			ms, err := list(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return a.show(ms, func(w io.Writer) { machineTable(w, ms, time.Now()) })
			}
			named, empty, failed := among(ms, args)
			if named == nil {
				return failed
			}
			return errors.Join(a.show(named, func(w io.Writer) {
				if len(named) > 0 {
					machineTable(w, named, time.Now())
				} else if empty != "" {
					fmt.Fprintln(w, plain(empty))
				}
			}), failed)
		},
	}
	var boot string
	show := &cobra.Command{
		Use: "show MACHINE...", Short: "what is known of machines",
		Long: `Show machines: identity, hardware as it last told it, assignment, grants, last boots. With
--boot, the hardware that a machine told in one boot, and what was other than before.

` + naming,
		Example: "  ingot machine show node01\n  ingot machine show node01 --boot 3f2a61c0", Args: leastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown := 0
			_, failed, err := ofEach(cmd.Context(), a, args, func(n string) (struct{}, error) {
				ask := a.machineShow
				if boot != "" {
					ask = func(ctx context.Context, n string) (func() error, error) { return a.hardwareShow(ctx, n, boot) }
				}
				text, err := ask(cmd.Context(), n)
				if err != nil {
					return struct{}{}, err
				}
				if shown++; shown > 1 && a.output != "json" {
					fmt.Fprintln(a.stdout)
				}
				return struct{}{}, text()
			})
			return errors.Join(err, failed)
		},
	}
	show.Flags().StringVar(&boot, "boot", "", "the hardware of this boot, by its id or the beginning of it")
	return group("machine", "list, show, approve, label and merge machines", ls, show, a.approveCommand(), a.labelCommand(), a.renameCommand(),
		a.mergeCommand(), a.retireCommand(), a.forgetCommand(), a.importMachinesCommand())
}

func (a *app) approveCommand() *cobra.Command {
	var req api.ApproveRequest
	c := &cobra.Command{
		Use: "approve MACHINE...", Short: "let a pending machine boot",
		Long:    "Approve a machine that asked to boot. It may be named and assigned an image in\nthe same step; its waiting screen asks again every few seconds and then boots.\n\n" + naming,
		Example: "  ingot machine approve m-525400120001 --name node01 --image lab:v1",
		Args:    leastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if names, err := a.hosts(ctx, args); err != nil {
				return err
			} else if len(names) > 1 && req.Name != "" {
				return usagef("--name names one machine, not %d", len(names))
			}
			return a.eachMachine(ctx, args, func(n string) (fleet.Machine, error) { return a.client().Approve(ctx, n, req) },
				func(m fleet.Machine) string { return called(m) + " is approved" + assignedTo(m) })
		},
	}
	c.Flags().StringVar(&req.Name, "name", "", "host name of the machine")
	c.Flags().StringVar(&req.Image, "image", "", "image to assign: PROFILE:VERSION or digest")
	return c
}

func assignedTo(m fleet.Machine) string {
	if m.Assignment.Image == "" {
		return "; give it an image: ingot assign " + string(m.ID) + " PROFILE:VERSION"
	}
	return " and will boot " + m.Assignment.Name
}

func (a *app) assignCommand() *cobra.Command {
	var why string
	c := &cobra.Command{
		Use: "assign MACHINE IMAGE", Short: "choose the image that a machine boots next",
		Long:    "Pin an image to a machine by digest. It takes effect at the machine's next boot;\nnothing running is touched.\n\n" + naming,
		Example: "  ingot assign node01 lab:v2 --why 'kernel fix'\n  ingot assign 'node[01-40]' lab:v2\n  ingot assign rack=r1 lab:v2", Args: exactArgs("MACHINE", "IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.eachMachine(ctx, args[:1], func(n string) (fleet.Machine, error) { return a.client().Assign(ctx, n, args[1], why) },
				func(m fleet.Machine) string {
					return fmt.Sprintf("%s boots %s (%s) from its next boot on", called(m), m.Assignment.Name, m.Assignment.Image.Short())
				})
		},
	}
	c.Flags().StringVar(&why, "why", "", "reason, kept with the assignment")
	return c
}

func (a *app) rollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rollback MACHINE", Short: "assign the last other image that was healthy on a machine",
		Long:    "Assign the last image that reported healthy on this very machine and is not the one\nassigned now. It takes effect at the machine's next boot.\n\n" + naming,
		Example: "  ingot rollback node01", Args: exactArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return a.eachMachine(ctx, args, func(n string) (fleet.Machine, error) { return a.client().Rollback(ctx, n) },
				func(m fleet.Machine) string {
					return fmt.Sprintf("%s goes back to %s (%s) at its next boot", called(m), m.Assignment.Name, m.Assignment.Image.Short())
				})
		},
	}
}

func (a *app) grantCommand() *cobra.Command {
	var disk string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "grant MACHINE VOLUME", Short: "allow one boot to initialise one blank disk",
		Long: `Allow the machine's next boot to initialise one named disk as a volume. The grant is
used up by one boot and expires by itself. A disk that holds anything, be it one
byte that is not zero in its first or last MiB, is refused all the same.

` + naming,
		Example: "  ingot grant node01 data --disk S5GXNX0T123456",
		Args:    exactArgs("MACHINE", "VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if disk == "" {
				return usagef("--disk SERIAL is needed: a grant names one disk; `ingot machine show %s` lists them", args[0])
			}
			ctx := cmd.Context()
			return a.eachMachine(ctx, args[:1], func(n string) (fleet.Machine, error) { return a.client().Grant(ctx, n, args[1], disk, ttl) },
				func(m fleet.Machine) string {
					return fmt.Sprintf("the next boot of %s may initialise disk %q as volume %q, within %s", called(m), disk, args[1], ttl)
				})
		},
	}
	c.Flags().StringVar(&disk, "disk", "", "serial number or WWN of the disk")
	c.Flags().DurationVar(&ttl, "for", time.Hour, "how long the grant is valid")
	return c
}

// called is the name that people use for a machine.
func called(m fleet.Machine) string {
	if m.Name != "" {
		return m.Name
	}
	return string(m.ID)
}

func machineTable(w io.Writer, ms []fleet.Machine, now time.Time) {
	if len(ms) == 0 {
		fmt.Fprintln(w, "no machine has asked to boot yet")
		return
	}
	t := tabs(w)
	row(t, "MACHINE", "NAME", "STATE", "IMAGE", "RUNS", "LAST SEEN", "ADDRESS", "HARDWARE", "LABELS")
	for _, m := range ms {
		address := ""
		if m.Address.IsValid() {
			address = m.Address.String()
		}
		row(t, string(m.ID), dash(m.Name), stateOf(m), dash(m.Assignment.Name), dash(runs(m)),
			ago(m.LastSeen, now), dash(address), dash(strings.TrimSpace(m.Facts.Vendor+" "+m.Facts.Product)), dash(labels(m)))
	}
	t.Flush()
	for _, m := range ms {
		if m.Ask != nil {
			same, other := m.Ask.Answers(m)
			fmt.Fprintf(w, "\n%s asks: %s\n  → the same machine: %s; another one: %s\n", plain(string(m.ID)), plain(m.Ask.What), plain(same), plain(other))
		}
	}
}

// stateOf is a machine's state, and what is out of the ordinary with it.
func stateOf(m fleet.Machine) string {
	switch {
	case m.Ask != nil:
		return "asks"
	case m.State == fleet.Approved && m.Setback != nil && m.Setback.To.Image == "":
		return "held"
	case m.State == fleet.Approved && m.Setback != nil:
		return "fell back"
	}
	return string(m.State)
}

// runs names the image last reported healthy, marked when it is not the assigned one.
func runs(m fleet.Machine) string {
	if m.LastHealthy.Image != "" && m.LastHealthy.Image != m.Assignment.Image {
		return m.LastHealthy.Name + " *"
	}
	return m.LastHealthy.Name
}

// machineShow asks for a machine; show prints it.
func (a *app) machineShow(ctx context.Context, ref string) (show func() error, err error) {
	c := a.client()
	m, err := c.Machine(ctx, ref)
	if err != nil {
		return nil, err
	}
	boots, err := c.Boots(ctx, string(m.ID), 5)
	if err != nil {
		return nil, err
	}
	type both struct {
		fleet.Machine
		Boots []fleet.Boot `json:"boots"`
	}
	return func() error {
		return a.show(both{m, boots}, func(w io.Writer) {
			machineDetails(w, m, time.Now())
			if len(boots) > 0 {
				fmt.Fprintln(w, "\nlast boots:")
				bootTable(w, boots, nil, time.Now())
			}
		})
	}, nil
}

func machineDetails(w io.Writer, m fleet.Machine, now time.Time) {
	t := tabs(w)
	row(t, "machine", string(m.ID))
	row(t, "name", dash(m.Name))
	row(t, "state", stateOf(m))
	if m.Ask != nil {
		row(t, "asks", m.Ask.What)
	}
	row(t, "labels", dash(labels(m)))
	row(t, "uuid", dash(m.UUID))
	row(t, "serial", dash(m.Serial))
	row(t, "mac", strings.Join(m.MACs, ", "))
	row(t, "hardware", dash(strings.TrimSpace(m.Facts.Vendor+" "+m.Facts.Product)))
	hardwareRows(t, m.Facts)
	if m.Port.Relay.IsValid() {
		row(t, "switch port", m.Port.String())
	}
	for f, l := range m.Loaders {
		row(t, "loader", l+" for "+string(f)+", since others stalled")
	}
	for _, f := range m.Trial.Failures {
		row(t, "failure", fmt.Sprintf("boot %s, %s: %s", f.Boot.Short(), ago(f.At, now), f.Reason))
	}
	row(t, "first seen", ago(m.FirstSeen, now))
	row(t, "last seen", ago(m.LastSeen, now))
	row(t, "assigned", assignment(m.Assignment))
	if s := m.Setback; s != nil && s.To.Image != "" {
		row(t, "fell back", fmt.Sprintf("to %s, %s: %s", s.To.Name, ago(s.At, now), s.Why))
	} else if s != nil {
		row(t, "held", fmt.Sprintf("%s: %s", ago(s.At, now), s.Why))
	}
	for _, g := range m.Grants {
		row(t, "grant", grantText(g, now))
	}
	t.Flush()
	if m.Ask != nil {
		same, other := m.Ask.Answers(m)
		fmt.Fprintf(w, "\n  → the same machine: %s; another one: %s\n", plain(same), plain(other))
	} else if m.State == fleet.Pending {
		fmt.Fprintf(w, "\n  → ingot machine approve %s --name NAME --image PROFILE:VERSION\n", plain(string(m.ID)))
	}
}

func assignment(as fleet.Assignment) string {
	if as.Image == "" {
		return "-"
	}
	s := fmt.Sprintf("%s (%s)", as.Name, as.Image.Short())
	if as.Why != "" {
		s += ", " + as.Why
	}
	return s
}
