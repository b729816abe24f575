package volumes

import (
	"fmt"
	"strings"
	"time"

	"ingot"
	"ingot/rootfs"
)

// Kind is what to do for a volume.
type Kind uint8

// The kinds of decisions.
const (
	Refuse     Kind = iota // do nothing; Reason says why
	Mount                  // mount Device as it is
	Initialise             // make a filesystem on Device, then mount it
)

// Decision is what to do for one volume. Its zero value refuses.
type Decision struct {
	Kind   Kind
	Device Device
	Reason string
	Absent bool // of Refuse: the volume is just not there, and nothing was asked for
}

// ErrRefused: a volume that the boot needs cannot be had.
var ErrRefused = rootfs.NewFailure(ingot.FailureVolume, "volume refused")

// Decide finds the device of a volume among devices, or a blank disk that a
// grant names. now is the server's time, from the ticket.
func Decide(v ingot.Volume, devices []Device, grants []ingot.Grant, now time.Time) Decision {
	found := holding(v, devices)
	switch {
	case len(found) == 1:
		return Decision{Kind: Mount, Device: found[0]}
	case len(found) > 1:
		return Decision{
			Reason: fmt.Sprintf("%d devices have %s: %s; unplug or relabel all but one", len(found), wanted(v), names(found)),
		}
	}
	for _, g := range grants {
		if g.Volume == v.Name {
			return granted(v, g, devices, now)
		}
	}
	reason := fmt.Sprintf("no device has %s; %s", wanted(v), present(devices))
	return Decision{Reason: reason, Absent: true}
}

// holding returns the devices that hold the volume already.
func holding(v ingot.Volume, devices []Device) []Device {
	var found []Device
	for _, d := range devices {
		if d.Filesystem != "ext4" {
			continue
		}
		if v.Serial != "" && d.Parent == "" && isCalled(d, v.Serial) || v.Serial == "" && d.Label == v.FSLabel() {
			found = append(found, d)
		}
	}
	return found
}

// granted decides for the one disk that a grant names.
func granted(v ingot.Volume, g ingot.Grant, devices []Device, now time.Time) Decision {
	if !now.Before(g.Expires) {
		return Decision{Reason: fmt.Sprintf("the grant for disk %q expired; grant it again", g.Disk)}
	}
	if v.Serial != "" && v.Serial != g.Disk {
		return Decision{Reason: fmt.Sprintf("the grant names disk %q, the profile wants %s", g.Disk, wanted(v))}
	}
	var named []Device
	for _, d := range devices {
		if d.Parent == "" && isCalled(d, g.Disk) {
			named = append(named, d)
		}
	}
	switch {
	case len(named) == 0:
		return Decision{Reason: fmt.Sprintf("the granted disk %q is not in this machine; %s", g.Disk, present(devices))}
	case len(named) > 1:
		return Decision{
			Reason: fmt.Sprintf(
				"%d disks have the serial number or WWN %q: %s; nothing was written",
				len(named),
				g.Disk,
				names(named),
			),
		}
	case named[0].Holds != blank || named[0].Partitions > 0:
		return Decision{
			Device: named[0],
			Reason: fmt.Sprintf(
				"disk %s (%q) is not blank, it holds: %s; nothing was written. If its data may go: wipefs --all /dev/%s",
				named[0].Name,
				g.Disk,
				named[0].Holds,
				named[0].Name,
			),
		}
	}
	return Decision{Kind: Initialise, Device: named[0]}
}

// isCalled compares with serial number and WWN, of which vendors and tools
// differ in the case and in prefixes such as "naa.".
func isCalled(d Device, name string) bool {
	if name == "" {
		return false
	}
	wwn := d.WWN
	for _, p := range []string{"naa.", "eui.", "nvme.", "t10.", "0x"} {
		wwn = strings.TrimPrefix(wwn, p)
	}
	return d.Serial == name || strings.EqualFold(d.WWN, name) ||
		(wwn != "" && strings.EqualFold(wwn, strings.TrimPrefix(name, "0x")))
}

func wanted(v ingot.Volume) string {
	if v.Serial != "" {
		return fmt.Sprintf("the serial number %q", v.Serial)
	}
	return fmt.Sprintf("the label %q", v.FSLabel())
}

func names(devices []Device) string {
	var list []string
	for _, d := range devices {
		list = append(list, d.Name)
	}
	return strings.Join(list, ", ")
}

// present lists what there is instead.
func present(devices []Device) string {
	var list []string
	for _, d := range devices {
		if d.Parent == "" {
			list = append(list, fmt.Sprintf("%s (serial %q) holds %s", d.Name, d.Serial, d.Holds))
		}
	}
	if len(list) == 0 {
		return "this machine has no disks"
	}
	return "disks: " + strings.Join(list, ", ")
}
