package main

import (
	"context"
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
		Use: "ls", Short: "list machines", Args: exactArgs(),
		Example: "  ingot machine ls\n  ingot machine ls -o json | jq -r '.[].id'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ms, err := a.client().Machines(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(ms, func(w io.Writer) { machineTable(w, ms, time.Now()) })
		},
	}
	show := &cobra.Command{
		Use: "show MACHINE", Short: "what is known of one machine",
		Long:    "Show one machine: identity, hardware as it last told it, assignment, grants, last boots.\nMACHINE is an id, name, MAC address, UUID or a unique beginning of one.",
		Example: "  ingot machine show node01", Args: exactArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.machineShow(cmd.Context(), args[0]) },
	}
	return group("machine", "list, show and approve machines", ls, show, a.approveCommand())
}

func (a *app) approveCommand() *cobra.Command {
	var req api.ApproveRequest
	c := &cobra.Command{
		Use: "approve MACHINE", Short: "let a pending machine boot",
		Long:    "Approve a machine that asked to boot. It may be named and assigned an image in\nthe same step; its waiting screen asks again every few seconds and then boots.",
		Example: "  ingot machine approve m-525400120001 --name node01 --image lab:v1",
		Args:    exactArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.client().Approve(cmd.Context(), args[0], req)
			if err != nil {
				return err
			}
			return a.show(m, func(w io.Writer) {
				fmt.Fprintf(w, "%s is approved%s\n", plain(called(m)), plain(assignedTo(m)))
			})
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
		Long:    "Pin an image to a machine by digest. It takes effect at the machine's next boot;\nnothing running is touched.",
		Example: "  ingot assign node01 lab:v2 --why 'kernel fix'", Args: exactArgs("MACHINE", "IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.client().Assign(cmd.Context(), args[0], args[1], why)
			if err != nil {
				return err
			}
			return a.show(m, func(w io.Writer) {
				fmt.Fprintf(w, "%s boots %s (%s) from its next boot on\n", plain(called(m)), plain(m.Assignment.Name), plain(m.Assignment.Image.Short()))
			})
		},
	}
	c.Flags().StringVar(&why, "why", "", "reason, kept with the assignment")
	return c
}

func (a *app) rollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rollback MACHINE", Short: "assign the last other image that was healthy on a machine",
		Long:    "Assign the last image that reported healthy on this very machine and is not the one\nassigned now. It takes effect at the machine's next boot.",
		Example: "  ingot rollback node01", Args: exactArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.client().Rollback(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.show(m, func(w io.Writer) {
				fmt.Fprintf(w, "%s goes back to %s (%s) at its next boot\n", plain(called(m)), plain(m.Assignment.Name), plain(m.Assignment.Image.Short()))
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
byte that is not zero in its first or last MiB, is refused all the same.`,
		Example: "  ingot grant node01 data --disk S5GXNX0T123456",
		Args:    exactArgs("MACHINE", "VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if disk == "" {
				return usagef("--disk SERIAL is needed: a grant names one disk; `ingot machine show %s` lists them", args[0])
			}
			m, err := a.client().Grant(cmd.Context(), args[0], args[1], disk, ttl)
			if err != nil {
				return err
			}
			return a.show(m, func(w io.Writer) {
				fmt.Fprintf(w, "the next boot of %s may initialise disk %q as volume %q, within %s\n",
					plain(called(m)), disk, args[1], ttl)
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
	row(t, "MACHINE", "NAME", "STATE", "IMAGE", "RUNS", "LAST SEEN", "ADDRESS", "HARDWARE")
	for _, m := range ms {
		address := ""
		if m.Address.IsValid() {
			address = m.Address.String()
		}
		row(t, string(m.ID), dash(m.Name), string(m.State), dash(m.Assignment.Name), dash(runs(m)),
			ago(m.LastSeen, now), dash(address), dash(strings.TrimSpace(m.Facts.Vendor+" "+m.Facts.Product)))
	}
	t.Flush()
}

// runs names the image last reported healthy, marked when it is not the assigned one.
func runs(m fleet.Machine) string {
	if m.LastHealthy.Image != "" && m.LastHealthy.Image != m.Assignment.Image {
		return m.LastHealthy.Name + " *"
	}
	return m.LastHealthy.Name
}

func (a *app) machineShow(ctx context.Context, ref string) error {
	c := a.client()
	m, err := c.Machine(ctx, ref)
	if err != nil {
		return err
	}
	boots, err := c.Boots(ctx, string(m.ID), 5)
	if err != nil {
		return err
	}
	type both struct {
		fleet.Machine
		Boots []fleet.Boot `json:"boots"`
	}
	return a.show(both{m, boots}, func(w io.Writer) {
		machineDetails(w, m, time.Now())
		if len(boots) > 0 {
			fmt.Fprintln(w, "\nlast boots:")
			bootTable(w, boots, nil, time.Now())
		}
	})
}

func machineDetails(w io.Writer, m fleet.Machine, now time.Time) {
	t := tabs(w)
	row(t, "machine", string(m.ID))
	row(t, "name", dash(m.Name))
	row(t, "state", string(m.State))
	row(t, "uuid", dash(m.UUID))
	row(t, "serial", dash(m.Serial))
	row(t, "mac", strings.Join(m.MACs, ", "))
	row(t, "hardware", dash(strings.TrimSpace(m.Facts.Vendor+" "+m.Facts.Product)))
	if m.Facts.RAM > 0 {
		row(t, "cpu", fmt.Sprintf("%d × %s", m.Facts.Cores, m.Facts.CPU))
		row(t, "ram", size(m.Facts.RAM))
	}
	for _, d := range m.Facts.Disks {
		row(t, "disk", fmt.Sprintf("%s  serial %s  %s  holds %s", d.Name, dash(d.Serial), size(d.Size), dash(d.Holds)))
	}
	if m.Port.Relay.IsValid() {
		row(t, "switch port", m.Port.String())
	}
	for f, l := range m.Loaders {
		row(t, "loader", l+" for "+string(f)+", since others stalled")
	}
	row(t, "first seen", ago(m.FirstSeen, now))
	row(t, "last seen", ago(m.LastSeen, now))
	row(t, "assigned", assignment(m.Assignment))
	for _, g := range m.Grants {
		row(t, "grant", grantText(g, now))
	}
	t.Flush()
	if m.State == fleet.Pending {
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
