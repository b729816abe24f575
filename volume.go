package ingot

// VolumeState is what became of a volume in a boot.
type VolumeState string

// The states of a volume.
const (
	VolumeMounted     VolumeState = "mounted"     // as it was found
	VolumeInitialised VolumeState = "initialised" // a filesystem was made, with a grant
	VolumeAdopted     VolumeState = "adopted"     // taken over, with a grant
	VolumeAbsent      VolumeState = "absent"      // there is no disk with it, and no grant
	VolumeRefused     VolumeState = "refused"     // a disk is there, or granted, but not taken
	VolumeFailed      VolumeState = "failed"      // it was to be used, and could not be
)

// VolumeProblem is why a volume is not mounted. Problems are stored and sent: they keep their
// meaning.
type VolumeProblem string

// The problems of volumes.
const (
	VolumeNoDisk       VolumeProblem = "no-disk"      // no disk has it
	VolumeDiskGone     VolumeProblem = "disk-gone"    // the granted disk is not in the machine
	VolumeExpired      VolumeProblem = "expired"      // the grant expired
	VolumeWrongGrant   VolumeProblem = "wrong-grant"  // the grant names another disk than the profile, or several
	VolumeNotBlank     VolumeProblem = "not-blank"    // the granted disk holds something
	VolumeForeign      VolumeProblem = "foreign"      // it belongs to another machine or installation
	VolumeUnowned      VolumeProblem = "unowned"      // it does not say whose it is
	VolumeAmbiguous    VolumeProblem = "ambiguous"    // several devices look like it
	VolumeContents     VolumeProblem = "contents"     // blkid sees something else on the device
	VolumeUnrepaired   VolumeProblem = "unrepaired"   // the filesystem needs a person to repair it
	VolumeNoFilesystem VolumeProblem = "mkfs-failed"  // making the filesystem failed
	VolumeUnmounted    VolumeProblem = "mount-failed" // mounting it failed
	VolumeUnseeded     VolumeProblem = "seed-failed"  // the image's files could not be copied to a new one
)

// VolumeProblems lists every VolumeProblem.
var VolumeProblems = []VolumeProblem{VolumeNoDisk, VolumeDiskGone, VolumeExpired, VolumeWrongGrant, VolumeNotBlank,
	VolumeForeign, VolumeUnowned, VolumeAmbiguous, VolumeContents, VolumeUnrepaired, VolumeNoFilesystem, VolumeUnmounted,
	VolumeUnseeded}

// VolumeResult is what became of one volume in a boot.
type VolumeResult struct {
	Volume   string        `json:"volume"`
	State    VolumeState   `json:"state"`
	Problem  VolumeProblem `json:"problem,omitempty"` // empty if it is mounted
	Optional bool          `json:"optional,omitempty"`
	Device   string        `json:"device,omitempty"` // "/dev/vdb"
	Disk     string        `json:"disk,omitempty"`   // what a grant calls the disk
	Detail   string        `json:"detail,omitempty"` // of a problem, for people
}

// Mounted reports whether the volume can be used.
func (r VolumeResult) Mounted() bool {
	return r.State == VolumeMounted || r.State == VolumeInitialised || r.State == VolumeAdopted
}

// Remedy returns the command that an operator runs on the machine, if one solves the problem; empty:
// none does. It can destroy data.
func (r VolumeResult) Remedy() string {
	switch {
	case r.Device == "":
		return ""
	case r.Problem == VolumeNotBlank:
		return "blkdiscard --force --zeroout " + r.Device
	case r.Problem == VolumeUnrepaired:
		return "e2fsck -y " + r.Device
	}
	return ""
}

// OverlayFull reports whether the overlay, to which everything outside of volumes is written, is
// full or nearly so.
func (r Report) OverlayFull() bool { return r.OverlaySize > 0 && r.OverlayUsed >= r.OverlaySize/100*98 }
