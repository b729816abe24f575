package initramfs

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"ingot/builder/tree"
)

// ErrNoModule: the kernel has no module of a name, neither as a file nor built in.
var ErrNoModule = errors.New("the kernel has no such module")

// presets are groups of modules. A folder ends in a slash and is relative to kernel/. Modules of a
// preset that a kernel does not have are skipped.
var presets = map[string][]string{
	// What every boot needs: packets for DHCP, the root, its overlay, volumes;
	"@boot": {"af_packet", "squashfs", "overlay", "loop", "ext4", "crc32c_generic", "efivarfs",
		"dm_mod", "dm_verity", "sha256_generic", "isofs", // for a root on a disk or an ISO
		"drivers/watchdog/", "ipmi_watchdog", "i2c-i801", "lpc_ich", // watchdogs
		"efi_pstore"}, // reports of crashes
	// The devices of common hypervisors.
	"@virtual": {"virtio_net", "virtio_blk", "virtio_scsi", "virtio_pci", "virtio_rng", "virtio_console",
		"nvme", "ahci", "ata_piix", "sd_mod", "sr_mod", "e1000", "e1000e", "vmxnet3", "vmw_pvscsi",
		"hv_netvsc", "hv_storvsc", "xen_netfront", "xen_blkfront", "ena", "gve"},
	// Ethernet cards of servers.
	"@net": {"drivers/net/ethernet/", "drivers/net/phy/", "drivers/net/usb/"},
	// Disks and controllers of servers.
	"@storage": {"drivers/nvme/host/", "drivers/ata/", "drivers/scsi/", "drivers/message/", "drivers/mmc/",
		"drivers/usb/storage/", "drivers/usb/host/", "drivers/md/"},
}

// moduleSet is the part of a kernel's modules that goes into the initramfs.
type moduleSet struct {
	tree    *tree.Tree
	dir     string              // usr/lib/modules/RELEASE
	paths   map[string]string   // module name to path below dir
	deps    map[string][]string // path to the paths it needs, in modules.dep order
	soft    map[string][]string // module name to soft dependencies: names or aliases
	aliases map[string][]string // alias without wildcards to module names
	builtin map[string]bool
	chosen  map[string]bool // paths
	named   map[string]bool // of these, the ones that are wanted by name or folder, not by a preset
	// blacklist are modules whose own aliases count for nothing (modprobe.d(5)).
	blacklist map[string]bool
}

// moduleName returns the name of the module in a file. The kernel does not distinguish dashes and
// underscores (modprobe(8)).
func moduleName(p string) string {
	name, _, _ := strings.Cut(path.Base(p), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// selectModules reads depmod's indexes and chooses modules with their dependencies.
func selectModules(t *tree.Tree, release string, want []string) (*moduleSet, error) {
	s := &moduleSet{tree: t, dir: "usr/lib/modules/" + release, paths: map[string]string{}, deps: map[string][]string{},
		soft: map[string][]string{}, aliases: map[string][]string{}, builtin: map[string]bool{}, chosen: map[string]bool{},
		named: map[string]bool{}, blacklist: map[string]bool{}}
	if err := s.readIndexes(); err != nil {
		return nil, err
	}
	for _, w := range want {
		if list, ok := presets[w]; ok {
			for _, item := range list {
				s.choose(item, false)
			}
			continue
		}
		if !s.choose(w, true) {
			return nil, fmt.Errorf("choosing module %q of kernel %s: %w", w, release, ErrNoModule)
		}
	}
	return s, nil
}

func (s *moduleSet) readIndexes() error {
	if err := s.lines("modules.dep", func(line string) {
		p, needs, _ := strings.Cut(line, ":")
		s.paths[moduleName(p)] = p
		s.deps[p] = strings.Fields(needs)
	}); err != nil {
		return err
	}
	if err := s.lines("modules.builtin", func(line string) { s.builtin[moduleName(line)] = true }); err != nil {
		return err
	}
	if err := s.lines("modules.alias", func(line string) {
		if f := strings.Fields(line); len(f) == 3 && !strings.ContainsAny(f[1], "*?[") {
			s.aliases[f[1]] = append(s.aliases[f[1]], f[2])
		}
	}); err != nil {
		return err
	}
	return s.lines("modules.softdep", func(line string) {
		f := strings.Fields(line) // softdep NAME pre: A B post: C
		if len(f) < 3 || f[0] != "softdep" {
			return
		}
		for _, w := range f[2:] {
			if !strings.HasSuffix(w, ":") {
				s.soft[moduleName(f[1])] = append(s.soft[moduleName(f[1])], w)
			}
		}
	})
}

func (s *moduleSet) lines(file string, each func(string)) error {
	b, err := s.tree.ReadFile(path.Join(s.dir, file))
	if err != nil {
		return fmt.Errorf("reading kernel modules: %w", err)
	}
	scan := bufio.NewScanner(bytes.NewReader(b))
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if line := scan.Text(); line != "" && line[0] != '#' {
			each(line)
		}
	}
	return scan.Err()
}

// choose adds a module, or every module of a folder, and reports whether the
// kernel has it.
func (s *moduleSet) choose(item string, named bool) bool {
	if folder, ok := strings.CutSuffix(item, "/"); ok {
		found := false
		for p := range s.deps {
			if strings.HasPrefix(p, "kernel/"+folder+"/") {
				s.add(p)
				s.named[p] = s.named[p] || named
				found = true
			}
		}
		return found
	}
	name := moduleName(item)
	p, ok := s.paths[name]
	if ok {
		s.add(p)
		s.named[p] = s.named[p] || named
	}
	return ok || s.builtin[name]
}

func (s *moduleSet) add(p string) {
	if s.chosen[p] {
		return
	}
	s.chosen[p] = true
	for _, d := range s.deps[p] {
		s.add(d)
	}
	for _, soft := range s.soft[moduleName(p)] {
		for _, name := range append([]string{soft}, s.aliases[soft]...) {
			if q, ok := s.paths[moduleName(name)]; ok {
				s.add(q)
			}
		}
	}
}

// sorted returns the chosen paths in order.
func (s *moduleSet) sorted() []string {
	list := make([]string, 0, len(s.chosen))
	for p := range s.chosen {
		list = append(list, p)
	}
	slices.Sort(list)
	return list
}

// plainPath returns the path of the module in the initramfs, without the suffix of a compression.
func plainPath(p string) string {
	base, _, _ := strings.Cut(p, ".ko")
	return base + ".ko"
}

// read returns the uncompressed module at p.
func (s *moduleSet) read(p string) ([]byte, error) {
	b, err := s.tree.ReadFile(path.Join(s.dir, p))
	if err != nil {
		return nil, err
	}
	var r io.Reader = bytes.NewReader(b)
	switch {
	case strings.HasSuffix(p, ".xz"):
		r, err = xz.NewReader(r)
	case strings.HasSuffix(p, ".zst"):
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		return nil, fmt.Errorf("unpacking module %q: %w", p, err)
	}
	if b, err = io.ReadAll(r); err != nil {
		return nil, fmt.Errorf("unpacking module %q: %w", p, err)
	}
	return b, nil
}

// indexes returns modules.dep, .alias, .softdep and .builtin as text, with the lines of the chosen
// modules only, so that the machine has little to read.
func (s *moduleSet) indexes() (map[string][]byte, error) {
	var dep, alias, soft, builtin bytes.Buffer
	names := map[string]bool{}
	for _, p := range s.sorted() {
		names[moduleName(p)] = true
		fmt.Fprintf(&dep, "%s:", plainPath(p))
		for _, d := range s.deps[p] {
			fmt.Fprintf(&dep, " %s", plainPath(d))
		}
		dep.WriteByte('\n')
	}
	if err := s.lines("modules.alias", func(line string) {
		f := strings.Fields(line) // alias PATTERN NAME
		if len(f) == 3 && names[moduleName(f[2])] && !s.blacklist[moduleName(f[2])] {
			fmt.Fprintln(&alias, line)
		}
	}); err != nil {
		return nil, err
	}
	if err := s.lines("modules.softdep", func(line string) {
		if f := strings.Fields(line); len(f) > 1 && names[moduleName(f[1])] {
			fmt.Fprintln(&soft, line)
		}
	}); err != nil {
		return nil, err
	}
	if err := s.lines("modules.builtin", func(line string) { fmt.Fprintln(&builtin, line) }); err != nil {
		return nil, err
	}
	return map[string][]byte{"modules.dep": dep.Bytes(), "modules.alias": alias.Bytes(),
		"modules.softdep": soft.Bytes(), "modules.builtin": builtin.Bytes()}, nil
}

// ParametersFile has the parameters of modules, as options of modprobe.d(5).
const ParametersFile = "/etc/modprobe.d/image.conf"

// parameters returns the lines of ParametersFile for the modules that were chosen.
func (s *moduleSet) parameters(all map[string]string) []byte {
	var lines []string
	for name, text := range all {
		if s.chosen[s.paths[moduleName(name)]] && text != "" {
			lines = append(lines, "options "+moduleName(name)+" "+text+"\n")
		}
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, ""))
}

// Wanted is firmware that a module may load.
type Wanted struct {
	Module string
	File   string // below /lib/firmware, possibly a pattern
	Named  bool   // the module was asked for by name or folder, not by a preset
}

// Firmware returns what modules may load, for a selection as in Options, sorted by module.
func Firmware(t *tree.Tree, release string, want []string) (wanted []Wanted, err error) {
	set, err := selectModules(t, release, want)
	if err != nil {
		return nil, err
	}
	for _, p := range set.sorted() {
		b, err := set.read(p)
		if err != nil {
			return nil, err
		}
		for _, name := range firmwareOf(b) {
			wanted = append(wanted, Wanted{Module: moduleName(p), File: name, Named: set.named[p]})
		}
	}
	return wanted, nil
}

// firmwareOf returns the files that a module may load, by its own account: the entries "firmware=" of the section
// .modinfo (MODULE_FIRMWARE of include/linux/module.h). What is no module has none.
func firmwareOf(module []byte) (names []string) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil
	}
	text, err := section.Data()
	if err != nil {
		return nil
	}
	for _, entry := range strings.Split(string(text), "\x00") {
		if name, is := strings.CutPrefix(entry, "firmware="); is && name != "" {
			names = append(names, name)
		}
	}
	return names
}
