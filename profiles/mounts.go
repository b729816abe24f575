package profiles

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// systemFolder is a folder of the root that belongs to the image or to the running system.
type systemFolder struct {
	path  string
	below bool // so does everything in it
	why   string
}

const (
	ofImage  = "it has files of the image, which are others in its next version"
	ofSystem = "the running system mounts it by itself"
)

var systemFolders = []systemFolder{
	{"/", false, "the image is there"},
	{"/proc", true, ofSystem}, {"/sys", true, ofSystem}, {"/dev", true, ofSystem}, {"/run", true, ofSystem},
	{"/var/run", true, "it is a link to /run"}, {"/var/lock", true, "it is a link to /run/lock"},
	{"/usr", true, ofImage}, {"/bin", true, ofImage}, {"/sbin", true, ofImage}, {"/lib", true, ofImage},
	{"/lib32", true, ofImage}, {"/lib64", true, ofImage}, {"/libx32", true, ofImage},
	{"/etc", false, ofImage}, {"/etc/systemd", true, ofImage},
	{"/var", false, ofImage}, {"/var/lib", false, ofImage}, {"/var/lib/dpkg", true, ofImage},
}

// ownFolders are below systemFolders and belong to the operator.
var ownFolders = []string{"/usr/local", "/usr/src"}

// isBelow reports whether a clean absolute path is a folder or something in it.
func isBelow(p, folder string) bool {
	return p == folder || strings.HasPrefix(p, strings.TrimSuffix(folder, "/")+"/")
}

// validateMount checks where something is mounted.
func validateMount(what, p string, at Place, faults *Faults) {
	if !path.IsAbs(p) || path.Clean(p) != p || strings.ContainsAny(p, "\n\x00") {
		faults.Add(at, "write an absolute path such as /srv/data", "%s cannot be mounted at %q", what, p)
		return
	}
	if slices.ContainsFunc(ownFolders, func(own string) bool { return isBelow(p, own) }) {
		return
	}
	for _, f := range systemFolders {
		if p == f.path || f.below && isBelow(p, f.path) {
			faults.Add(at, "write the folder that the data is in, such as /var/lib/postgresql or /srv",
				"%s cannot be mounted at %q: %s", what, p, f.why)
			return
		}
	}
}

// mountOptionRE matches the options of mount(8) and ext4(5) that a volume may have. Others fail at the
// mount, or say what ingot decides (noauto, nofail), or need more than the option (prjquota).
var mountOptionRE = regexp.MustCompile(`^(defaults|rw|ro|atime|noatime|diratime|nodiratime|relatime|strictatime|` +
	`lazytime|nolazytime|dev|nodev|suid|nosuid|exec|noexec|async|sync|dirsync|acl|user_xattr|` +
	`discard|nodiscard|delalloc|nodelalloc|auto_da_alloc|noauto_da_alloc|barrier|barrier=[01]|nobarrier|` +
	`block_validity|noblock_validity|dioread_lock|dioread_nolock|init_itable=[0-9]+|noinit_itable|` +
	`data=(journal|ordered|writeback)|errors=(continue|remount-ro|panic)|` +
	`(commit|stripe|max_batch_time|min_batch_time|inode_readahead_blks|resuid|resgid)=[0-9]+)$`)

// otherOptions are options of fstab that people write, and what to write instead.
var otherOptions = map[string]string{
	"nofail": "write optional: true", "noauto": "leave it out: every volume is mounted before systemd starts",
	"auto": "leave it out", "user": "leave it out", "users": "leave it out", "_netdev": "leave it out",
	"bind": "write scratch: to keep a folder on a volume", "x-systemd.growfs": "grow the filesystem with resize2fs",
}

func validateOptions(v Volume, faults *Faults) {
	if v.Options == "" {
		return
	}
	for o := range strings.SplitSeq(v.Options, ",") {
		if mountOptionRE.MatchString(o) {
			continue
		}
		fix := "write options of mount(8) and ext4(5), such as noatime,nodev,commit=30"
		if name, _, _ := strings.Cut(o, "="); otherOptions[name] != "" {
			fix = otherOptions[name]
		}
		faults.Add(v.At, fix, "volume %q: unknown mount option %q", v.Name, o)
	}
}

// parentsFirst orders volumes so that none hides another that is mounted in it.
func parentsFirst(list []Volume) []Volume {
	var sorted []Volume
	for _, v := range list {
		i := slices.IndexFunc(sorted, func(w Volume) bool { return w.Mount != v.Mount && isBelow(w.Mount, v.Mount) })
		if i < 0 {
			i = len(sorted)
		}
		sorted = slices.Insert(sorted, i, v)
	}
	return sorted
}

// checkScratch checks the folders of one file.
func (d *decoder) checkScratch(p *Profile) {
	for i, s := range p.Scratch {
		s, _ = minus(s)
		at := d.Places[fmt.Sprintf("scratch[%d]", i)]
		validateMount("a folder of scratch", s, at, &d.Faults)
		for _, other := range p.Scratch[:i] {
			validateApart(s, other, at, &d.Faults)
		}
	}
}

// validateScratch checks the folders that volumes keep, of the merged profile.
func (p *Profile) validateScratch(faults *Faults) {
	var before []string
	for _, v := range p.Volumes {
		for _, s := range v.Scratch {
			validateMount(fmt.Sprintf("volume %q: a folder of scratch", v.Name), s, v.At, faults)
			for _, other := range before {
				validateApart(s, other, v.At, faults)
			}
			if isBelow(s, v.Mount) || isBelow(v.Mount, s) {
				faults.Add(v.At, "leave it out: the volume itself is there", "volume %q: the folder %q of scratch and the "+
					"volume's own, %q, are one in the other", v.Name, s, v.Mount)
			}
			before = append(before, s)
		}
	}
}

func validateApart(s, other string, at Place, faults *Faults) {
	if isBelow(s, other) || isBelow(other, s) {
		faults.Add(at, "keep one of them", "the folders %q and %q of scratch are one in the other", other, s)
	}
}
