package volumes

import (
	"cmp"
	"fmt"
	"slices"
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
	Stamp  bool // of Mount: write the owner first
	Adopt  bool // of Mount: by a grant
	Reason string
	// of Refuse: what kind of reason
	Problem ingot.VolumeProblem
	// of Refuse: the volume is just not there, and nothing was asked for
	Absent bool
	// of Refuse: what is looked for may still appear
	Missing bool
}

// ErrRefused: a volume that the boot needs cannot be had.
var ErrRefused = rootfs.NewFailure(ingot.FailureVolume, "volume refused")

// Machine is what decisions depend on besides the disks.
type Machine struct {
	Fleet  string          // empty: no server, or one that knows no owners
	ID     ingot.MachineID // empty: no server
	Had    []ingot.Disk    // disks whose volumes the machine used before volumes had owners
	Grants []ingot.Grant
	Now    time.Time // the server's time, from the ticket
}

// owner returns what a volume of the machine says.
func (m Machine) owner(volume string) ingot.VolumeOwner {
	return ingot.VolumeOwner{Fleet: m.Fleet, Machine: m.ID, Volume: volume}
}

// Granted reports whether a grant that is valid names a disk for a volume.
func (m Machine) Granted(volume string) bool {
	return slices.ContainsFunc(m.Grants, func(g ingot.Grant) bool {
		return g.Volume == volume && m.Now.Before(g.Expires)
	})
}

// relation is whose a filesystem is.
type relation uint8

const (
	unowned relation = iota // nothing says whose it is
	ours
	foreign
)

func (m Machine) relation(volume string, d Device) relation {
	want := m.owner(volume)
	switch {
	case m.ID == "": // nobody to compare with
		return unowned
	case d.Owner == nil && d.UUID == volumeUUID(want):
		return ours
	case d.Owner == nil && derived(d.UUID):
		return foreign
	case d.Owner == nil:
		return unowned
	case *d.Owner == want, m.Fleet == "" && d.Owner.Machine == m.ID && d.Owner.Volume == volume:
		return ours
	}
	return foreign
}

// Decide finds the device of a volume among devices, or a disk that a grant names.
func Decide(v ingot.Volume, devices []Device, m Machine) Decision {
	var own, free, others []Device
	for _, d := range holding(v, devices) {
		switch m.relation(v.Name, d) {
		case ours:
			own = append(own, d)
		case unowned:
			free = append(free, d)
		default:
			others = append(others, d)
		}
	}
	switch {
	case len(own) == 1:
		return Decision{Kind: Mount, Device: own[0], Stamp: own[0].Owner == nil && m.Fleet != ""}
	case len(own) > 1:
		return Decision{Problem: ingot.VolumeAmbiguous, Reason: several(v, own)}
	}
	if len(free) == 1 && m.mayTake(v, free[0]) {
		return Decision{Kind: Mount, Device: free[0], Stamp: m.Fleet != ""}
	}
	for _, g := range m.Grants {
		if g.Volume == v.Name {
			return m.granted(v, g, devices)
		}
	}
	switch {
	case len(free) > 1:
		return Decision{Problem: ingot.VolumeAmbiguous, Reason: several(v, free)}
	case len(free) == 1:
		return Decision{Device: free[0], Problem: ingot.VolumeUnowned, Reason: fmt.Sprintf(
			"%s holds %s, which does not say whose it is, and this machine did not use it before", free[0].Name, free[0].Holds)}
	case len(others) > 0:
		return Decision{Device: others[0], Problem: ingot.VolumeForeign,
			Reason: fmt.Sprintf("%s holds %s; nothing was checked, mounted or written",
				others[0].Name, m.whose(others[0]))}
	}
	return Decision{Problem: ingot.VolumeNoDisk, Reason: fmt.Sprintf("no device has %s; %s", wanted(v), present(devices)),
		Absent: true, Missing: true}
}

// mayTake reports whether a machine may use a filesystem that does not say whose it is: one that
// it used before volumes had owners, or that the profile names by disk.
func (m Machine) mayTake(v ingot.Volume, d Device) bool {
	return m.Fleet == "" || v.Serial != "" ||
		slices.ContainsFunc(m.Had, func(h ingot.Disk) bool { return sameDisk(h, d.Disk) && h.Holds == d.Holds })
}

// sameDisk compares by WWN, by serial number, or by what is left where a disk has neither.
func sameDisk(a, b ingot.Disk) bool {
	switch {
	case a.WWN != "" && b.WWN != "":
		return a.WWN == b.WWN && a.Size == b.Size
	case a.Serial != "" && b.Serial != "":
		return a.Serial == b.Serial && a.Size == b.Size
	}
	return a.WWN == b.WWN && a.Serial == b.Serial && a.Name == b.Name && a.Model == b.Model && a.Size == b.Size
}

// whose names the owner of a filesystem that is not the machine's.
func (m Machine) whose(d Device) string {
	switch o := d.Owner; {
	case o == nil:
		return d.Holds + " of another machine or volume, as its UUID says"
	case o.Fleet != m.Fleet && m.Fleet != "":
		return fmt.Sprintf("volume %q of machine %s of another ingot server", o.Volume, o.Machine)
	case o.Machine != m.ID:
		return fmt.Sprintf("volume %q of machine %s", o.Volume, o.Machine)
	default:
		return fmt.Sprintf("volume %q of this machine", o.Volume)
	}
}

// several says that devices cannot be told apart. Two paths to one disk have one identity.
func several(v ingot.Volume, devices []Device) string {
	first := devices[0]
	same := func(d Device) bool {
		return d.UUID == first.UUID && sameDisk(d.Disk, first.Disk) && (d.WWN != "" || d.Serial != "")
	}
	if !slices.ContainsFunc(devices, func(d Device) bool { return !same(d) }) {
		return fmt.Sprintf("%s are paths to one disk (multipath), which ingot does not combine; leave one path connected",
			names(devices))
	}
	return fmt.Sprintf("%d devices have %s: %s; unplug or relabel all but one", len(devices), wanted(v), names(devices))
}

// holding returns the devices that look like the volume.
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
func (m Machine) granted(v ingot.Volume, g ingot.Grant, devices []Device) Decision {
	if !m.Now.Before(g.Expires) {
		return Decision{Problem: ingot.VolumeExpired,
			Reason: fmt.Sprintf("the grant for disk %q expired; grant it again", g.Disk)}
	}
	if v.Serial != "" && v.Serial != g.Disk {
		return Decision{Problem: ingot.VolumeWrongGrant,
			Reason: fmt.Sprintf("the grant names disk %q, the profile wants %s", g.Disk, wanted(v))}
	}
	var named []Device
	for _, d := range devices {
		fits := d.Parent == ""
		if g.Adopt {
			fits = d.Filesystem == "ext4" && (d.Label == v.FSLabel() || v.Serial != "")
		}
		if fits && isCalled(d, g.Disk) {
			named = append(named, d)
		}
	}
	switch {
	case len(named) == 0 && g.Adopt:
		return Decision{Missing: true, Problem: ingot.VolumeDiskGone,
			Reason: fmt.Sprintf("the granted disk %q has no ext4 filesystem with the label %q; %s",
				g.Disk, v.FSLabel(), present(devices))}
	case len(named) == 0:
		return Decision{Missing: true, Problem: ingot.VolumeDiskGone,
			Reason: fmt.Sprintf("the granted disk %q is not in this machine; %s", g.Disk, present(devices))}
	case len(named) > 1:
		return Decision{Problem: ingot.VolumeWrongGrant,
			Reason: fmt.Sprintf("%d disks have the serial number, WWN or path %q: %s; nothing was written",
				len(named), g.Disk, names(named))}
	case g.Adopt:
		return Decision{Kind: Mount, Device: named[0], Stamp: m.Fleet != "", Adopt: true}
	case named[0].Holds != blank || named[0].Partitions > 0:
		return Decision{Device: named[0], Problem: ingot.VolumeNotBlank, Reason: notBlank(named[0], g.Disk)}
	}
	return Decision{Kind: Initialise, Device: named[0]}
}

// remedy returns the command that solves a problem with a device.
func remedy(p ingot.VolumeProblem, device string) string {
	return ingot.VolumeResult{Problem: p, Device: device}.Remedy()
}

// notBlank says what to do with a disk whose data may go. A tool that removes signatures only,
// as wipefs does, leaves the disk not blank.
func notBlank(d Device, called string) string {
	return fmt.Sprintf("disk %s (%q) is not blank, it holds: %s; nothing was written. If its data may go: %s", d.Name,
		called, d.Holds, remedy(ingot.VolumeNotBlank, cmp.Or(d.Node, "/dev/"+d.Name)))
}

// isCalled compares with serial number, path, and WWN, of which vendors and tools differ in the
// case and in prefixes such as "naa.".
func isCalled(d Device, name string) bool {
	if name == "" {
		return false
	}
	wwn := d.WWN
	for _, p := range []string{"naa.", "eui.", "nvme.", "t10.", "0x"} {
		wwn = strings.TrimPrefix(wwn, p)
	}
	return d.Serial == name || d.Path == name || strings.EqualFold(d.WWN, name) ||
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
			list = append(list, fmt.Sprintf("%s (%s) holds %s", d.Name, identity(d.Disk), d.Holds))
		}
	}
	if len(list) == 0 {
		return "this machine has no disks"
	}
	return "disks: " + strings.Join(list, ", ")
}

// grantName is what a grant calls a disk.
func grantName(d ingot.Disk) string { return cmp.Or(d.Serial, d.WWN, d.Path) }

// identity says what a grant can call a disk by.
func identity(d ingot.Disk) string {
	switch {
	case d.Serial != "":
		return fmt.Sprintf("serial %q", d.Serial)
	case d.WWN != "":
		return "WWN " + d.WWN
	case d.Path != "":
		return "path " + d.Path
	}
	return "no serial number"
}
