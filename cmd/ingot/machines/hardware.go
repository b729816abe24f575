package machines

import (
	"context"
	"fmt"
	"io"
	"strings"

	"ingot/cmd/ingot/show"

	"ingot"
	"ingot/bootserver/api"
)

// showHardware prints the hardware that machines reported in a boot.
func (a *Commands) showHardware(ctx context.Context, args []string, boot string) error {
	return showEach(ctx, a, args, func(n string) (api.Hardware, error) {
		return a.Client().Hardware(ctx, n, boot)
	}, func(w io.Writer, h api.Hardware, i int, _ bool) {
		if i > 0 {
			fmt.Fprintln(w)
		}
		t := show.Table(w)
		show.Row(t, "boot", string(h.Boot))
		if h.Same != "" && h.Same != h.Boot {
			show.Row(t, "the same since", "boot "+h.Same.Short())
		}
		show.Row(t, "hardware", show.Dash(strings.TrimSpace(h.Facts.Vendor+" "+h.Facts.Product)))
		show.Row(t, "uuid", show.Dash(h.Facts.UUID))
		show.Row(t, "serial", show.Dash(h.Facts.Serial))
		hardwareRows(t, h.Facts)
		for _, c := range h.Changes {
			show.Row(t, "changed", c)
		}
		t.Flush()
	})
}

// hardwareRows prints the parts that a machine reported.
func hardwareRows(t io.Writer, f ingot.Facts) {
	if f.BIOS != "" {
		show.Row(t, "bios", strings.TrimSpace(f.BIOS+" "+f.BIOSDate))
	}
	if f.SecureBoot {
		show.Row(t, "secure boot", "on")
	}
	if f.RAM > 0 || f.RAMInstalled > 0 {
		show.Row(t, "cpu", fmt.Sprintf("%d × %s", f.Cores, show.Dash(f.CPU)))
	}
	switch usable := show.Size(f.RAM); {
	case f.RAMInstalled > 0:
		show.Row(t, "ram", show.Size(f.RAMInstalled)+", usable "+usable)
	case f.RAM > 0:
		show.Row(t, "ram", usable)
	}
	for _, n := range f.NICs {
		words := []string{n.Name, n.MAC, show.Dash(n.Driver), "firmware " + show.Dash(n.Firmware)}
		if n.Speed > 0 {
			words = append(words, fmt.Sprintf("%d Mbit/s", n.Speed))
		}
		if n.Boot {
			words = append(words, "boots")
		}
		show.Row(t, "nic", strings.Join(words, "  "))
	}
	for _, d := range f.Disks {
		text := fmt.Sprintf("%s  %s  %s  holds %s", d.Name, diskID(d), show.Size(d.Size), show.Dash(d.Holds))
		if o := d.Owner; o != nil {
			text += fmt.Sprintf(" of %s", o.Machine)
		}
		show.Row(t, "disk", text)
	}
}

// diskID is what a grant calls a disk.
func diskID(d ingot.Disk) string {
	switch {
	case d.Serial != "":
		return "serial " + d.Serial
	case d.WWN != "":
		return "WWN " + d.WWN
	case d.Path != "":
		return "path " + d.Path
	}
	return "serial -"
}
