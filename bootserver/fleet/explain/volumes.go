package explain

import (
	"fmt"
	"slices"

	"ingot"
	"ingot/bootserver/advice"
	"ingot/bootserver/fleet"
)

// VolumeResults returns what a boot reported of its volumes.
func VolumeResults(b fleet.Boot) []ingot.VolumeResult {
	if b.Report != nil && len(b.Report.Volumes) > 0 {
		return b.Report.Volumes
	}
	for _, e := range slices.Backward(b.Events) {
		if len(e.Results) > 0 {
			return e.Results
		}
	}
	return nil
}

// volumes explains the volumes of a boot that are not mounted although a disk is there for them,
// or a grant names one. Optional volumes that are just absent are ordinary.
func (s Story) volumes(b fleet.Boot) (words string, next []advice.Step) {
	for _, r := range VolumeResults(b) {
		if r.Mounted() || r.State == ingot.VolumeAbsent && r.Optional {
			continue
		}
		words += fmt.Sprintf(" Volume %s was %s: %s", r.Volume, r.State, stop(r.Detail))
		means, step := s.remedy(r)
		if means != "" {
			words += " " + means
		}
		if step.Code != "" {
			next = append(next, step)
		}
	}
	return words, next
}

// overlayText says that the overlay of a machine is full; empty if it is not.
func overlayText(r ingot.Report) string {
	if !r.OverlayFull() {
		return ""
	}
	return fmt.Sprintf("its writable overlay is full (%s of %s), so nothing outside of volumes can be written",
		mib(r.OverlayUsed), mib(r.OverlaySize))
}

// prefixed adds a prefix to a text that is not empty.
func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// remedy says what an operator can do about a volume. Commands for the machine itself are in the
// words.
func (s Story) remedy(r ingot.VolumeResult) (words string, next advice.Step) {
	grant := func(code advice.Code) advice.Step {
		return advice.New(code, "machine", s.Machine.Hostname(), "volume", r.Volume, "disk", r.Disk)
	}
	switch r.Problem {
	case ingot.VolumeForeign:
		return "If this machine may have it from now on, let it take the volume over.", grant(advice.AdoptVolume)
	case ingot.VolumeUnowned:
		return "If it is this machine's, let it take the volume over.", grant(advice.AdoptVolume)
	case ingot.VolumeNoDisk, ingot.VolumeDiskGone, ingot.VolumeWrongGrant:
		return "", s.step(advice.ShowMachine)
	case ingot.VolumeExpired:
		return "", grant(advice.GrantDisk)
	case ingot.VolumeNotBlank:
		return fmt.Sprintf("If its data may go, run on the machine: %s; its next boot then uses the grant.", r.Remedy()),
			advice.Step{}
	case ingot.VolumeUnrepaired:
		return fmt.Sprintf("Repair it on the machine, with the volume not mounted: %s.", r.Remedy()), advice.Step{}
	case ingot.VolumeUnseeded:
		return "A new volume gets the image's files at its mount point and needs room for them.", s.step(advice.ShowConsole)
	}
	return "", s.step(advice.ShowConsole)
}
