// Package profiles reads what operators write: a Profile says which packages,
// files, units, users, kernel, volumes and health checks make an image.
//
// A profile is YAML and read strictly: every unknown key, wrong type and bad
// value is reported at once, with its place and what to write instead.
// Profiles extend profiles; the ones that ingot ships (debian, node, lab) are
// embedded and can be extended by name.
package profiles

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"ingot"
	"ingot/internal/yamlfile"
)

// Profile is one merged profile. Lists of an extending profile are appended to
// those of the profile it extends, scalars replace theirs.
type Profile struct {
	Schema  string     `yaml:"$schema,omitempty" json:"$schema,omitempty" jsonschema_description:"Location of this schema; for editors, ignored by ingot."`
	Name    string     `yaml:"name" json:"name" jsonschema:"required" jsonschema_description:"Name of the profile and of its images: lower-case letters, digits, dashes."`
	Extends OneOrMore  `yaml:"extends,omitempty" json:"extends,omitempty" jsonschema_description:"Profiles to start from, in order: a path relative to this file, or a shipped name (debian, node, lab)."`
	Arch    ingot.Arch `yaml:"arch,omitempty" json:"arch,omitempty" jsonschema:"enum=amd64,enum=arm64" jsonschema_description:"Debian architecture. Default: amd64."`
	Base    Base       `yaml:"base,omitempty" json:"base,omitempty"`
	Layers  []Layer    `yaml:"layers,omitempty" json:"layers,omitempty" jsonschema_description:"File trees laid over the base, in order: tarballs, folders, container images."`
	// Packages to install; a leading dash removes one that an extended profile asked for.
	Packages []string `yaml:"packages,omitempty" json:"packages,omitempty" jsonschema_description:"Debian packages. A leading '-' takes back one that an extended profile asked for."`
	Keep     []string `yaml:"keep,omitempty" json:"keep,omitempty" jsonschema:"enum=docs,enum=man,enum=locales" jsonschema_description:"What of the packages an image leaves out unless it is asked for: docs, man (manual pages), locales (translations)."`
	Files    []File   `yaml:"files,omitempty" json:"files,omitempty" jsonschema_description:"Files to put into the root."`
	Units    Units    `yaml:"units,omitempty" json:"units,omitempty"`
	Users    []User   `yaml:"users,omitempty" json:"users,omitempty" jsonschema_description:"Users to add, or system users (root) to complete."`
	Hostname string   `yaml:"hostname,omitempty" json:"hostname,omitempty" jsonschema_description:"Template of host names: {name} as approved, {mac} 12 digits of the boot card, {serial}. Default: {name}."`
	Kernel   Kernel   `yaml:"kernel,omitempty" json:"kernel,omitempty"`
	Volumes  []Volume `yaml:"volumes,omitempty" json:"volumes,omitempty" jsonschema_description:"Persistent filesystems. Nothing is ever formatted without a grant."`
	Checks   []Check  `yaml:"checks,omitempty" json:"checks,omitempty" jsonschema_description:"Health checks: a boot is healthy when all of them pass."`
	RAM      RAM      `yaml:"ram,omitempty" json:"ram,omitempty"`
	Deadline Duration `yaml:"deadline,omitempty" json:"deadline,omitempty" jsonschema_description:"From the first packet to the report; later counts as silent. Default: 10m."`

	Compression string `yaml:"compression,omitempty" json:"compression,omitempty" jsonschema:"enum=fast,enum=balanced,enum=small" jsonschema_description:"Of root and initramfs: fast to build, balanced (default), or small for releases."`

	// File is the profile's file on disk; empty for one that ingot ships.
	File string `yaml:"-" json:"-"`

	folders map[string]fs.FS // by profile file, the folder that its sources are relative to
}

// The values of Profile.Compression.
const (
	CompressFast     = "fast"
	CompressBalanced = "balanced"
	CompressSmall    = "small"
)

// The words of Profile.Keep.
const (
	KeepDocs    = "docs"    // /usr/share/doc but for copyright files, which always stay, info, lintian, bug
	KeepMan     = "man"     // manual pages
	KeepLocales = "locales" // translations
)

// Base is what the root begins with: a Debian suite that packages come from,
// or a whole tree.
type Base struct {
	Suite      string   `yaml:"suite,omitempty" json:"suite,omitempty" jsonschema_description:"Debian suite that packages come from: trixie, bookworm, …"`
	Components []string `yaml:"components,omitempty" json:"components,omitempty" jsonschema_description:"Archive components. Default: main."`
	OCI        string   `yaml:"oci,omitempty" json:"oci,omitempty" jsonschema_description:"Container image to start from instead of a suite: REGISTRY/NAME:TAG, or ./PATH of an OCI layout or docker save archive."`
	Tar        string   `yaml:"tar,omitempty" json:"tar,omitempty" jsonschema_description:"Tarball of a whole root to start from instead of a suite: plain, gzip, xz or zstd."`
	Dir        string   `yaml:"dir,omitempty" json:"dir,omitempty" jsonschema_description:"Folder that holds a whole root to start from instead of a suite; owners are kept."`

	At Place `yaml:"-" json:"-"`
}

// Layer is a file tree to lay over what is there already: one of OCI, Tar and
// Dir. A path is relative to the profile's folder.
type Layer struct {
	OCI    string `yaml:"oci,omitempty" json:"oci,omitempty" jsonschema_description:"Container image: REGISTRY/NAME:TAG, or ./PATH of an OCI layout or docker save archive."`
	Tar    string `yaml:"tar,omitempty" json:"tar,omitempty" jsonschema_description:"Tarball: plain, gzip, xz or zstd."`
	Dir    string `yaml:"dir,omitempty" json:"dir,omitempty" jsonschema_description:"Folder."`
	Into   string `yaml:"into,omitempty" json:"into,omitempty" jsonschema_description:"Absolute path in the root that the tree is laid at. Default: /."`
	Owners string `yaml:"owners,omitempty" json:"owners,omitempty" jsonschema:"enum=keep,enum=root" jsonschema_description:"Of the files: keep those of the tree, or give all to root. Default: root for a folder, keep otherwise."`

	At Place `yaml:"-" json:"-"`
}

// File is one file of the root, given inline or from the profile's folder.
type File struct {
	Path    string `yaml:"path" json:"path" jsonschema:"required" jsonschema_description:"Absolute path in the root."`
	Content string `yaml:"content,omitempty" json:"content,omitempty" jsonschema_description:"Content of the file."`
	Source  string `yaml:"source,omitempty" json:"source,omitempty" jsonschema_description:"File below the profile's folder to take the content from."`
	Link    string `yaml:"link,omitempty" json:"link,omitempty" jsonschema_description:"Make a symbolic link to this target."`
	Mode    Mode   `yaml:"mode,omitempty" json:"mode,omitempty" jsonschema_description:"Octal, quoted: \"0644\" (default)."`
	Owner   string `yaml:"owner,omitempty" json:"owner,omitempty" jsonschema_description:"User name or number. Default: root."`
	Group   string `yaml:"group,omitempty" json:"group,omitempty" jsonschema_description:"Group name or number. Default: root."`

	At Place `yaml:"-" json:"-"` // where the profile asks for it
}

// Units are systemd units to enable or to mask.
type Units struct {
	Enable  []string `yaml:"enable,omitempty" json:"enable,omitempty" jsonschema_description:"Units to enable, by their own [Install] section."`
	Disable []string `yaml:"disable,omitempty" json:"disable,omitempty" jsonschema_description:"Units to disable that a package enables."`
	Mask    []string `yaml:"mask,omitempty" json:"mask,omitempty" jsonschema_description:"Units that must never start."`
}

// User is a login.
type User struct {
	Name           string   `yaml:"name" json:"name" jsonschema:"required"`
	UID            int      `yaml:"uid,omitempty" json:"uid,omitempty" jsonschema_description:"Default: the next free one from 1000."`
	Comment        string   `yaml:"comment,omitempty" json:"comment,omitempty"`
	Groups         []string `yaml:"groups,omitempty" json:"groups,omitempty" jsonschema_description:"Additional groups, which must exist in the root."`
	Shell          string   `yaml:"shell,omitempty" json:"shell,omitempty" jsonschema_description:"Default: /bin/bash."`
	Home           string   `yaml:"home,omitempty" json:"home,omitempty" jsonschema_description:"Default: /home/NAME."`
	PasswordHash   string   `yaml:"passwordHash,omitempty" json:"passwordHash,omitempty" jsonschema_description:"crypt(5) hash, as mkpasswd prints it. Without one, no password works."`
	AuthorizedKeys []string `yaml:"authorizedKeys,omitempty" json:"authorizedKeys,omitempty" jsonschema_description:"SSH public keys."`

	At Place `yaml:"-" json:"-"`
}

// Kernel chooses the kernel and what the initramfs carries of it.
type Kernel struct {
	Package   string   `yaml:"package,omitempty" json:"package,omitempty" jsonschema_description:"Debian package, a meta package such as linux-image-amd64 or a versioned one."`
	Modules   []string `yaml:"modules,omitempty" json:"modules,omitempty" jsonschema_description:"Modules of the initramfs: names, folders below kernel/ that end in '/', or presets: @boot, @virtual, @net, @storage."`
	Arguments []string `yaml:"arguments,omitempty" json:"arguments,omitempty" jsonschema_description:"Kernel command line."`
	Suite     string   `yaml:"suite,omitempty" json:"suite,omitempty" jsonschema_description:"Debian suite that the kernel comes from. Default: the suite of the base, or trixie when the base is no suite."`
}

// Volume is a persistent filesystem. See ingot.Volume.
type Volume struct {
	Name       string `yaml:"name" json:"name" jsonschema:"required"`
	Label      string `yaml:"label,omitempty" json:"label,omitempty" jsonschema_description:"Filesystem label to look for. Default: the name."`
	Serial     string `yaml:"serial,omitempty" json:"serial,omitempty" jsonschema_description:"Serial number or WWN of the disk, instead of a label."`
	Filesystem string `yaml:"filesystem,omitempty" json:"filesystem,omitempty" jsonschema:"enum=ext4"`
	Mount      string `yaml:"mount" json:"mount" jsonschema:"required" jsonschema_description:"Absolute path in the root."`
	Options    string `yaml:"options,omitempty" json:"options,omitempty" jsonschema_description:"Mount options, comma separated: noatime,nodev."`
	Optional   bool   `yaml:"optional,omitempty" json:"optional,omitempty" jsonschema_description:"Boot without it when it is not there."`
	Identity   bool   `yaml:"identity,omitempty" json:"identity,omitempty" jsonschema_description:"Keeps machine-id and SSH host keys. Default: the first volume."`

	At Place `yaml:"-" json:"-"`
}

// Check is one health check. See ingot.Check.
type Check struct {
	Name    string   `yaml:"name" json:"name" jsonschema:"required"`
	Units   []string `yaml:"units,omitempty" json:"units,omitempty" jsonschema_description:"systemd units that must be active; '@system': start-up finished and no unit failed."`
	TCP     string   `yaml:"tcp,omitempty" json:"tcp,omitempty" jsonschema_description:"host:port that must accept connections."`
	HTTP    string   `yaml:"http,omitempty" json:"http,omitempty" jsonschema_description:"URL that must answer 2xx."`
	Command []string `yaml:"command,omitempty" json:"command,omitempty" jsonschema_description:"Program and arguments that must exit 0."`
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty" jsonschema_description:"Of one attempt. Default: 10s."`
	Within  Duration `yaml:"within,omitempty" json:"within,omitempty" jsonschema_description:"How long attempts may go on. Default: 2m."`

	At Place `yaml:"-" json:"-"`
}

// RAM bounds the memory that an image may need.
type RAM struct {
	Budget  Bytes `yaml:"budget,omitempty" json:"budget,omitempty" jsonschema_description:"Memory of the smallest machine that this image is for; the build fails when root, overlay and a running system cannot fit."`
	Overlay Bytes `yaml:"overlay,omitempty" json:"overlay,omitempty" jsonschema_description:"Bound of the writes outside volumes. Default: a quarter of RAM."`
}

// The types of values, faults and places are those of every YAML file of ours.
type (
	Bytes     = yamlfile.Bytes
	Duration  = yamlfile.Duration
	OneOrMore = yamlfile.OneOrMore
	Place     = yamlfile.Place
	Fault     = yamlfile.Fault
	Faults    = yamlfile.Faults
)

// Mode is the permission bits of a file, setuid, setgid and sticky included;
// zero means 0644.
type Mode uint32

// UnmarshalText implements encoding.TextUnmarshaler. The digits are octal
// whether or not they are quoted, so that 0644 and "0644" mean the same.
func (m *Mode) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(strings.TrimPrefix(string(text), "0o"), 8, 32)
	if err != nil || v == 0 || v > 0o7777 {
		return fmt.Errorf("%q is not a file mode; write octal digits such as \"0644\" or \"0755\"", text)
	}
	*m = Mode(v)
	return nil
}

// MarshalJSON writes the octal form.
func (m Mode) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, `"%04o"`, uint32(m)), nil }
