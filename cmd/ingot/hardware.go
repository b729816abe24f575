package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"ingot"
)

// hardwareShow asks what a machine told of its hardware in a boot; show prints it.
func (a *app) hardwareShow(ctx context.Context, ref, boot string) (show func() error, err error) {
	h, err := a.client().Hardware(ctx, ref, boot)
	if err != nil {
		return nil, err
	}
	return func() error {
		return a.show(h, func(w io.Writer) {
			t := tabs(w)
			row(t, "boot", string(h.Boot))
			if h.Same != "" && h.Same != h.Boot {
				row(t, "the same since", "boot "+h.Same.Short())
			}
			row(t, "hardware", dash(strings.TrimSpace(h.Facts.Vendor+" "+h.Facts.Product)))
			row(t, "uuid", dash(h.Facts.UUID))
			row(t, "serial", dash(h.Facts.Serial))
			hardwareRows(t, h.Facts)
			for _, c := range h.Changes {
				row(t, "changed", c)
			}
			t.Flush()
		})
	}, nil
}

// hardwareRows are what a machine told of its parts at its last boot.
func hardwareRows(t io.Writer, f ingot.Facts) {
	if f.BIOS != "" {
		row(t, "bios", strings.TrimSpace(f.BIOS+" "+f.BIOSDate))
	}
	switch usable := size(f.RAM); {
	case f.RAMInstalled > 0:
		row(t, "cpu", fmt.Sprintf("%d × %s", f.Cores, f.CPU))
		row(t, "ram", size(f.RAMInstalled)+", of it usable "+usable)
	case f.RAM > 0:
		row(t, "cpu", fmt.Sprintf("%d × %s", f.Cores, f.CPU))
		row(t, "ram", usable)
	}
	for _, n := range f.NICs {
		words := []string{n.Name, n.MAC, dash(n.Driver), "firmware " + dash(n.Firmware)}
		if n.Speed > 0 {
			words = append(words, fmt.Sprintf("%d Mbit/s", n.Speed))
		}
		if n.Boot {
			words = append(words, "boots")
		}
		row(t, "nic", strings.Join(words, "  "))
	}
	for _, d := range f.Disks {
		row(t, "disk", fmt.Sprintf("%s  serial %s  %s  holds %s", d.Name, dash(d.Serial), size(d.Size), dash(d.Holds)))
	}
}
