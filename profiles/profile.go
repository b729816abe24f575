// Package profiles reads profiles: a Profile lists the packages, files, units, users, kernel,
// volumes and health checks of an image.
//
// A profile is YAML and is read strictly: all unknown keys, wrong types and bad values are reported
// together, each with its place and what to write instead. Profiles extend profiles; those that
// ingot ships (debian, node, lab, rescue) are embedded and can be extended by name. The package leaves out
// resolving and building, which packages builder and lock do.
package profiles

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"ingot"
	"ingot/internal/yamlfile"
)

// Profile is one merged profile. Lists of an extending profile are appended to those of the profile
// it extends, scalars replace theirs, and "-NAME" takes back what has that name. The comments of the
// fields, here and below, are also the descriptions of the JSON schema.
type Profile struct {
	// Location of this schema; for editors, ignored by ingot.
	Schema string `yaml:"$schema,omitempty" json:"$schema,omitempty"`
	// Name of the profile and of its images: lower-case letters, digits, dashes.
	Name string `yaml:"name" json:"name" jsonschema:"required"`
	// Profiles to start from, in order: a path relative to this file, or a shipped name (debian, node,
	// lab, rescue).
	Extends OneOrMore `yaml:"extends,omitempty" json:"extends,omitempty"`
	// Variables with their defaults, for ${NAME} in texts, templates and conditions. A profile that extends
	// this one, or --set, gives other values. A plan has what became of them.
	Vars map[string]Var `yaml:"vars,omitempty" json:"-"`
	// Debian architecture. Default: amd64.
	Arch ingot.Arch `yaml:"arch,omitempty" json:"arch,omitempty" jsonschema:"enum=amd64,enum=arm64"`
	// What the root starts from: a Debian suite, or a whole tree.
	Base Base `yaml:"base,omitempty" json:"base,omitempty"`
	// File trees on top of the base, in order: tarballs, folders, container images.
	Layers []Layer `yaml:"layers,omitempty" json:"layers,omitempty"`
	// Archives of Debian packages besides that of the suite. Only signed ones are used.
	Repositories []Repository `yaml:"repositories,omitempty" json:"repositories,omitempty"`
	// Debian packages: NAME, NAME=VERSION with * for any text, NAME/SUITE such as NAME/trixie-backports,
	// or ./FILE.deb below the profile's folder. -NAME takes back one of a profile that this one extends.
	Packages []string `yaml:"packages,omitempty" json:"packages,omitempty"`
	// Install what the packages recommend as well. Default: false.
	Recommends *bool `yaml:"recommends,omitempty" json:"recommends,omitempty"`
	// Files of packages to keep that images leave out by default: docs, man (manual pages), locales
	// (translations).
	Keep []string `yaml:"keep,omitempty" json:"keep,omitempty" jsonschema:"enum=docs,enum=man,enum=locales"`
	// Answers to the questions that packages ask while they are installed, each a line of
	// debconf-set-selections(1): PACKAGE QUESTION TYPE VALUE. -PACKAGE QUESTION takes one back.
	Debconf []string `yaml:"debconf,omitempty" json:"debconf,omitempty"`
	// Files and folders of packages and layers that the root must not have: absolute paths or patterns, in
	// which * matches within a name. Each must match something.
	Remove []string `yaml:"remove,omitempty" json:"remove,omitempty"`
	// Files to put into the root.
	Files []File `yaml:"files,omitempty" json:"files,omitempty"`
	// systemd units to enable, to disable or to mask.
	Units Units `yaml:"units,omitempty" json:"units,omitempty"`
	// Users to add, or users that packages make (root, postgres) to complete.
	Users []User `yaml:"users,omitempty" json:"users,omitempty"`
	// Groups to add, or groups that packages make to give a number.
	Groups []Group `yaml:"groups,omitempty" json:"groups,omitempty"`
	// Template of host names: {name} is the machine's name, {mac} 12 digits of the card that booted,
	// {serial} the serial number. Default: {name}.
	Hostname string `yaml:"hostname,omitempty" json:"hostname,omitempty"`
	// Language and formats of programs: C.UTF-8, or a UTF-8 locale such as de_DE.UTF-8, which the package
	// locales makes.
	Locale string `yaml:"locale,omitempty" json:"locale,omitempty"`
	// Time zone of programs, a name of the package tzdata: Europe/Berlin. Default: what packages set, UTC.
	Timezone string `yaml:"timezone,omitempty" json:"timezone,omitempty"`
	// Keyboard of the console. It needs the package console-setup.
	Keyboard Keyboard `yaml:"keyboard,omitempty" json:"keyboard,omitzero"`
	// Settings of the kernel by name, as sysctl.d(5): net.ipv4.ip_forward: 1. A setting without a value
	// takes an inherited one back.
	Sysctl map[string]*string `yaml:"sysctl,omitempty" json:"sysctl,omitempty"`
	// Swap in memory. For swap on a disk, enable a unit of type swap.
	Swap Swap `yaml:"swap,omitempty" json:"swap,omitzero"`
	// The kernel, its modules in the initramfs, and its command line.
	Kernel Kernel `yaml:"kernel,omitempty" json:"kernel,omitempty"`
	// Persistent filesystems. Nothing is ever formatted without a grant.
	Volumes []Volume `yaml:"volumes,omitempty" json:"volumes,omitempty"`
	// Folders that need a plain filesystem, such as those of container runtimes: on the volume that is
	// mounted there, else in memory, and then empty after a boot. The folders of containerd, Docker,
	// Podman, Buildah and CRI-O are added when the image has these programs.
	Scratch []string `yaml:"scratch,omitempty" json:"scratch,omitempty"`
	// Health checks: a boot is healthy when all of them pass.
	Checks []Check `yaml:"checks,omitempty" json:"checks,omitempty"`
	// Commands that prepare a machine for a reboot, run one after another by an order to reboot with
	// --drain.
	Drain []Hook `yaml:"drain,omitempty" json:"drain,omitempty"`
	// Memory that the image may need.
	RAM RAM `yaml:"ram,omitempty" json:"ram,omitempty"`
	// Programs that change the root while the image is built.
	Scripts Scripts `yaml:"scripts,omitempty" json:"scripts,omitzero"`
	// Secrets that all machines of this image share.
	Secrets Secrets `yaml:"secrets,omitempty" json:"secrets,omitzero"`
	// Put busybox into the initramfs, and permit `ingot assign --once --shell` to start it as a shell on
	// the consoles of a machine. It needs the package busybox-static. Default: false.
	RescueShell *bool `yaml:"rescueShell,omitempty" json:"rescueShell,omitempty"`
	// Time from the boot script to the report. A boot without a report by then ends as silent.
	// Default: 10m.
	Deadline Duration `yaml:"deadline,omitempty" json:"deadline,omitempty"`

	// Compression of root and initramfs: fast to build, balanced (default), or small for releases.
	Compression Compression `yaml:"compression,omitempty" json:"compression,omitempty"`

	// File is the profile's file on disk; empty for one that ingot ships.
	File string `yaml:"-" json:"-"`
	// Parents are the profiles that this one extends, directly or not, the nearest first.
	Parents []Parent `yaml:"-" json:"-"`

	folders map[string]fs.FS // by profile file, the folder that its sources are relative to
	origins map[string]Place // by key, where a value is written
	data    map[string]any   // values of variables, for templates
}

// ShellPackage is the Debian package of the shell that PermitsShell is about.
const ShellPackage = "busybox-static"

// PermitsShell reports whether the profile permits a shell in the initramfs.
func (p *Profile) PermitsShell() bool { return p.RescueShell != nil && *p.RescueShell }

// Parent is a profile that another one extends.
type Parent struct {
	Name string
	File string // its file on disk; empty for one that ingot ships
}

// Compression says how hard root and initramfs are compressed.
type Compression string

// The values of Compression.
const (
	CompressFast     Compression = "fast"
	CompressBalanced Compression = "balanced"
	CompressSmall    Compression = "small"
)

// The words of Profile.Keep.
const (
	KeepDocs    = "docs"    // /usr/share/doc but for copyright files, which always stay, info, lintian, bug
	KeepMan     = "man"     // manual pages
	KeepLocales = "locales" // translations
)

// Base is what the root starts from: a Debian suite that packages come from, or a whole tree.
type Base struct {
	// Debian suite that packages come from: trixie, bookworm, …
	Suite string `yaml:"suite,omitempty" json:"suite,omitempty"`
	// Archive components. Default: main.
	Components []string `yaml:"components,omitempty" json:"components,omitempty"`
	// Archive that has the suite, if it is not Debian's: Ubuntu's, for example. Kernel and boot loader stay
	// Debian's.
	Archive Archive `yaml:"archive,omitempty" json:"archive,omitzero"`
	// Container image to start from instead of a suite: REGISTRY/NAME:TAG, or ./PATH of an OCI layout
	// or docker save archive.
	OCI string `yaml:"oci,omitempty" json:"oci,omitempty"`
	// Tarball of a whole root to start from instead of a suite: plain, gzip, xz or zstd.
	Tar string `yaml:"tar,omitempty" json:"tar,omitempty"`
	// Folder that holds a whole root to start from instead of a suite; owners are kept.
	Dir string `yaml:"dir,omitempty" json:"dir,omitempty"`

	At Place `yaml:"-" json:"-"`
}

// Archive is where a suite that is not Debian's comes from.
type Archive struct {
	// Base URLs: http://archive.ubuntu.com/ubuntu. Further ones have the same packages.
	URIs OneOrMore `yaml:"uris,omitempty" json:"uris,omitempty"`
	// Further suites of the archive that packages come from: noble-updates, noble-security.
	Updates OneOrMore `yaml:"updates,omitempty" json:"updates,omitempty"`
	// OpenPGP public key that signs the archive: a file below the profile's folder, or the text that begins
	// with -----BEGIN PGP PUBLIC KEY BLOCK-----.
	Key string `yaml:"key,omitempty" json:"key,omitempty"`

	At Place `yaml:"-" json:"-"`
}

// Layer is a file tree to add to the root: one of OCI, Tar and Dir. Paths are relative to the
// profile's folder.
type Layer struct {
	// Container image: REGISTRY/NAME:TAG, or ./PATH of an OCI layout or docker save archive.
	OCI string `yaml:"oci,omitempty" json:"oci,omitempty"`
	// Tarball: plain, gzip, xz or zstd.
	Tar string `yaml:"tar,omitempty" json:"tar,omitempty"`
	// Folder.
	Dir string `yaml:"dir,omitempty" json:"dir,omitempty"`
	// Absolute path in the root where the tree is added. Default: /.
	Into string `yaml:"into,omitempty" json:"into,omitempty"`
	// Owners of the files: keep those of the tree, or root for all. Default: root for a folder, keep
	// otherwise.
	Owners string `yaml:"owners,omitempty" json:"owners,omitempty" jsonschema:"enum=keep,enum=root"`

	At Place `yaml:"-" json:"-"`
}

// File is one file of the root, given inline or from the profile's folder.
type File struct {
	// Absolute path in the root.
	Path string `yaml:"path" json:"path" jsonschema:"required"`
	// Content of the file.
	Content string `yaml:"content,omitempty" json:"content,omitempty"`
	// File below the profile's folder to take the content from.
	Source string `yaml:"source,omitempty" json:"source,omitempty"`
	// The content is a template of Go's text/template, with the variables as its data: {{.NAME}}.
	Template bool `yaml:"template,omitempty" json:"template,omitempty"`
	// Make a symbolic link to this target.
	Link string `yaml:"link,omitempty" json:"link,omitempty"`
	// Make a folder, or give a folder of a package another owner or mode.
	Directory bool `yaml:"directory,omitempty" json:"directory,omitempty"`
	// Octal, quoted: "0644". Default: 0644, of a new folder 0755, of another folder what it has.
	Mode Mode `yaml:"mode,omitempty" json:"mode,omitempty"`
	// User name or number. Default: root.
	Owner string `yaml:"owner,omitempty" json:"owner,omitempty"`
	// Group name or number. Default: root.
	Group string `yaml:"group,omitempty" json:"group,omitempty"`

	Minus string `yaml:"-" json:"-"` // an entry "-NAME": what has that name is taken back
	At    Place  `yaml:"-" json:"-"` // where the profile asks for it
}

// Units are systemd units to enable or to mask.
type Units struct {
	// Rules for the units that packages bring, the first that matches counts: "enable ssh.service",
	// "disable *". They come before the other keys, and are in the root as systemd.preset(5).
	Presets []string `yaml:"presets,omitempty" json:"presets,omitempty"`
	// Units to enable, by their own [Install] section.
	Enable []string `yaml:"enable,omitempty" json:"enable,omitempty"`
	// Units to disable that a package enables.
	Disable []string `yaml:"disable,omitempty" json:"disable,omitempty"`
	// Units that must never start.
	Mask []string `yaml:"mask,omitempty" json:"mask,omitempty"`
	// Settings to add to units, by the name of the unit: a text with sections, as systemd.unit(5)
	// describes for drop-ins. A unit without a text takes an inherited one back.
	DropIns map[string]*string `yaml:"dropIns,omitempty" json:"dropIns,omitempty"`
}

// Keyboard is the keyboard of the console, as keyboard(5) describes it.
type Keyboard struct {
	// Layout: us, de, fr, …
	Layout string `yaml:"layout" json:"layout" jsonschema:"required"`
	// Variant of the layout: nodeadkeys, …
	Variant string `yaml:"variant,omitempty" json:"variant,omitempty"`
	// Model. Default: pc105.
	Model string `yaml:"model,omitempty" json:"model,omitempty"`
	// Options, comma separated: ctrl:nocaps, …
	Options string `yaml:"options,omitempty" json:"options,omitempty"`
}

// Swap is memory for pages that are used little.
type Swap struct {
	// Compressed swap in memory: a part of it such as 50%, or a size such as 4GiB. It needs the package
	// systemd-zram-generator.
	Zram string `yaml:"zram,omitempty" json:"zram,omitempty"`
	// Compression of zram. Default: zstd.
	Algorithm string `yaml:"algorithm,omitempty" json:"algorithm,omitempty" jsonschema:"enum=zstd,enum=lz4,enum=lzo-rle"`
}

// User is a login, or a user that a package makes.
type User struct {
	// Name of the user.
	Name string `yaml:"name" json:"name" jsonschema:"required"`
	// Number of the user, also of one that a package makes. Default: the one in the lock; else, for a
	// login, the next free one from 1000.
	UID int `yaml:"uid,omitempty" json:"uid,omitempty" jsonschema:"minimum=1"`
	// Number of the group of the same name. Default: as for uid.
	GID int `yaml:"gid,omitempty" json:"gid,omitempty" jsonschema:"minimum=1"`
	// Full name or purpose, the fifth field of passwd(5).
	Comment string `yaml:"comment,omitempty" json:"comment,omitempty"`
	// Additional groups, which must exist in the root.
	Groups []string `yaml:"groups,omitempty" json:"groups,omitempty"`
	// Default: /bin/bash.
	Shell string `yaml:"shell,omitempty" json:"shell,omitempty"`
	// Default: /home/NAME.
	Home string `yaml:"home,omitempty" json:"home,omitempty"`
	// crypt(5) hash, as mkpasswd prints it. Without one, no password works.
	PasswordHash string `yaml:"passwordHash,omitempty" json:"passwordHash,omitempty"`
	// SSH public keys.
	AuthorizedKeys []string `yaml:"authorizedKeys,omitempty" json:"authorizedKeys,omitempty"`

	Minus string `yaml:"-" json:"-"` // an entry "-NAME": what has that name is taken back
	At    Place  `yaml:"-" json:"-"`
}

// Group is a group to add, or one that a package makes.
type Group struct {
	// Name of the group.
	Name string `yaml:"name" json:"name" jsonschema:"required"`
	// Number of the group, also of one that a package makes. Default: the one in the lock, else the
	// next free one from 1000.
	GID int `yaml:"gid,omitempty" json:"gid,omitempty" jsonschema:"minimum=1"`

	Minus string `yaml:"-" json:"-"` // an entry "-NAME": what has that name is taken back
	At    Place  `yaml:"-" json:"-"`
}

// Kernel chooses the kernel and its modules in the initramfs.
type Kernel struct {
	// Debian package, a meta package such as linux-image-amd64 or a versioned one.
	Package string `yaml:"package,omitempty" json:"package,omitempty"`
	// Modules of the initramfs: names, folders below kernel/ that end in '/', or presets: @boot,
	// @virtual, @net, @storage.
	Modules []string `yaml:"modules,omitempty" json:"modules,omitempty"`
	// Kernel command line. Spaces are possible within double quotes: dyndbg="file drivers/net/* +p".
	Arguments []string `yaml:"arguments,omitempty" json:"arguments,omitempty"`
	// Modules that the booted system loads, as modules-load.d(5).
	Load []string `yaml:"load,omitempty" json:"load,omitempty"`
	// Modules that no device loads by itself, neither in the initramfs nor later, as blacklist of
	// modprobe.d(5).
	Blacklist []string `yaml:"blacklist,omitempty" json:"blacklist,omitempty"`
	// Parameters of modules by module, as options of modprobe.d(5), in the initramfs and later: e1000e:
	// IntMode=1,1 Debug=2. A module without a value takes back what is inherited.
	Options map[string]*string `yaml:"options,omitempty" json:"options,omitempty"`
	// Files of the root, by absolute path, that the initramfs has as well. Firmware of its modules it has
	// without being asked.
	Initramfs []string `yaml:"initramfs,omitempty" json:"initramfs,omitempty"`
	// Debian suite that the kernel comes from. Default: the suite of the base, or trixie when the base
	// is not a suite of Debian.
	Suite string `yaml:"suite,omitempty" json:"suite,omitempty"`
}

// Secrets says which secrets may be in the image. Everybody who reaches the boot server can read
// them, so a build fails when it finds others.
type Secrets struct {
	// Files that look like a secret, or that package scripts make at random, and may be in the image.
	Allow []AllowedSecret `yaml:"allow,omitempty" json:"allow,omitempty"`
}

// AllowedSecret is a file that looks like a secret, or that package scripts make at random, and may
// be in the image.
type AllowedSecret struct {
	// Absolute path in the root, or a pattern: * matches within a name.
	Path string `yaml:"path" json:"path" jsonschema:"required"`
	// Why it may be the same on all machines.
	Reason string `yaml:"reason" json:"reason" jsonschema:"required"`

	Minus string `yaml:"-" json:"-"` // an entry "-NAME": what has that name is taken back
	At    Place  `yaml:"-" json:"-"`
}

// Allows reports whether a pattern of the list matches the path, or a folder above it.
func (s Secrets) Allows(p string) bool { return s.Reason(p) != "" }

// Reason returns why a path is allowed; empty: it is not.
func (s Secrets) Reason(p string) string {
	for q := path.Clean("/" + p); q != "/"; q = path.Dir(q) {
		for _, a := range s.Allow {
			if ok, _ := path.Match(a.Path, q); ok {
				return a.Reason
			}
		}
	}
	return ""
}

// Volume is a persistent filesystem. See ingot.Volume.
type Volume struct {
	// Name of the volume: lower-case letters, digits, dashes.
	Name string `yaml:"name" json:"name" jsonschema:"required"`
	// Filesystem label to look for. Default: the name.
	Label string `yaml:"label,omitempty" json:"label,omitempty"`
	// Serial number or WWN of the disk, instead of a label.
	Serial string `yaml:"serial,omitempty" json:"serial,omitempty"`
	// Filesystem of the volume. Default: ext4, the only one.
	Filesystem string `yaml:"filesystem,omitempty" json:"filesystem,omitempty" jsonschema:"enum=ext4"`
	// Absolute path in the root. A new volume gets the image's files there, with their owners. Volumes
	// are mounted in the order of their paths, so one may be in another.
	Mount string `yaml:"mount" json:"mount" jsonschema:"required"`
	// Mount options, comma separated: noatime,nodev.
	Options string `yaml:"options,omitempty" json:"options,omitempty"`
	// Folders elsewhere in the root that are kept on this volume, as those of scratch: /var/lib/docker.
	// Without the volume they are in memory.
	Scratch []string `yaml:"scratch,omitempty" json:"scratch,omitempty"`
	// Boot without it when it is missing.
	Optional bool `yaml:"optional,omitempty" json:"optional,omitempty"`
	// Keeps machine-id and SSH host keys. Default: the first volume.
	Identity bool `yaml:"identity,omitempty" json:"identity,omitempty"`

	Minus string `yaml:"-" json:"-"` // an entry "-NAME": what has that name is taken back
	At    Place  `yaml:"-" json:"-"`
}

// Check is one health check. See ingot.Check.
type Check struct {
	// Name of the check, for reports.
	Name string `yaml:"name" json:"name" jsonschema:"required"`
	// systemd units that must be active; '@system': start-up finished and no unit failed.
	Units []string `yaml:"units,omitempty" json:"units,omitempty"`
	// host:port that must accept connections.
	TCP string `yaml:"tcp,omitempty" json:"tcp,omitempty"`
	// URL that must answer 2xx.
	HTTP string `yaml:"http,omitempty" json:"http,omitempty"`
	// Program and arguments that must exit 0.
	Command []string `yaml:"command,omitempty" json:"command,omitempty"`
	// Time limit of one attempt. Default: 10s.
	Timeout Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
	// Time limit of all attempts. Default: 2m.
	Within Duration `yaml:"within,omitempty" json:"within,omitempty"`

	Minus string `yaml:"-" json:"-"` // an entry "-NAME": what has that name is taken back
	At    Place  `yaml:"-" json:"-"`
}

// Hook is a command that prepares a machine for a reboot. See ingot.Hook.
type Hook struct {
	// Lower-case letters, digits and dashes. A hook of an extended profile with this name is replaced.
	Name string `yaml:"name" json:"name" jsonschema:"required"`
	// Program and arguments, in the image. If it does not exit 0, the machine does not reboot, unless
	// the order says so.
	Command []string `yaml:"command" json:"command" jsonschema:"required"`
	// Time limit. Then the command is ended and has failed. Default: 5m.
	Within Duration `yaml:"within,omitempty" json:"within,omitempty"`

	Minus string `yaml:"-" json:"-"` // an entry "-NAME": what has that name is taken back
	At    Place  `yaml:"-" json:"-"`
}

// RAM bounds the memory that an image may need.
type RAM struct {
	// Memory of the smallest machine that this image is for; the build fails when root, overlay and a
	// running system cannot fit.
	Budget Bytes `yaml:"budget,omitempty" json:"budget,omitempty"`
	// Limit of the files that are written outside volumes. Default: a quarter of RAM.
	Overlay Bytes `yaml:"overlay,omitempty" json:"overlay,omitempty"`
}

// The types of values, faults and places are shared with ingot's other YAML files.
type (
	Bytes     = yamlfile.Bytes
	Duration  = yamlfile.Duration
	OneOrMore = yamlfile.OneOrMore
	Place     = yamlfile.Place
	Fault     = yamlfile.Fault
	Faults    = yamlfile.Faults
)

// Mode is the permission bits of a file, including setuid, setgid and sticky. Zero means 0644.
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

// MarshalText writes the octal form.
func (m Mode) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", uint32(m)), nil }

// MarshalJSON writes the octal form.
func (m Mode) MarshalJSON() ([]byte, error) { return fmt.Appendf(nil, `"%04o"`, uint32(m)), nil }
