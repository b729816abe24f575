package initrd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// modules loads the kernel modules of the initramfs, as the builder laid them
// out: plain .ko files and the indexes of depmod cut down to them.
type modules struct {
	dir     string
	paths   map[string]string   // name to path below dir
	deps    map[string][]string // path to paths, the ones to load first last (modules.dep(5))
	soft    map[string][]string // name to names and aliases to load before
	aliases []alias
	loaded  map[string]bool
	options map[string][]string // name to parameters, those of the command line last
	never   map[string]bool     // no device loads these
	load    func(file, parameters string) error
}

type alias struct{ pattern, name string }

// parametersFile has the parameters of modules that the image sets, as options of modprobe.d(5).
const parametersFile = "/etc/modprobe.d/image.conf"

func openModules(release, cmdline string) (*modules, error) {
	m, err := readModules("/usr/lib/modules/"+release, release)
	if err == nil {
		m.configure(parametersFile, cmdline)
	}
	return m, err
}

// configure reads the parameters of modules from a file, and those on the kernel's command line, of which the kernel
// gives modules none: NAME.PARAMETER=VALUE, and modprobe.blacklist=NAME,NAME (modprobe(8), kernel-command-line(7)).
// Modules of module_blacklist= the kernel refuses itself; they are not tried.
func (m *modules) configure(file, cmdline string) {
	for _, f := range fieldsOf(file, 3) {
		m.options[moduleName(f[1])] = append(m.options[moduleName(f[1])], f[2:]...)
	}
	for _, word := range words(cmdline) {
		if key, list, _ := strings.Cut(word, "="); key == "modprobe.blacklist" || key == "module_blacklist" {
			for _, name := range strings.Split(list, ",") {
				m.never[moduleName(name)] = true
			}
			continue
		}
		key, _, _ := strings.Cut(word, "=")
		if name, parameter, is := strings.Cut(key, "."); is && name != "" && parameter != "" {
			m.options[moduleName(name)] = append(m.options[moduleName(name)], word[len(name)+1:])
		}
	}
}

// words splits a kernel command line as the kernel does: at spaces that are not within double quotes, which stay
// (lib/cmdline.c, next_arg).
func words(cmdline string) (list []string) {
	quoted := false
	return strings.FieldsFunc(cmdline, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && unicode.IsSpace(r)
	})
}

func readModules(dir, release string) (*modules, error) {
	m := &modules{dir: dir, paths: map[string]string{}, deps: map[string][]string{},
		soft: map[string][]string{}, loaded: map[string]bool{}, options: map[string][]string{},
		never: map[string]bool{}, load: finit}
	dep, err := os.ReadFile(m.dir + "/modules.dep")
	if err != nil {
		return nil, fmt.Errorf(
			"reading the modules of kernel %s: %w; does the initramfs belong to this kernel?",
			release,
			err,
		)
	}
	for _, line := range strings.Split(string(dep), "\n") {
		if p, needs, ok := strings.Cut(line, ":"); ok {
			m.paths[moduleName(p)] = p
			m.deps[p] = strings.Fields(needs)
		}
	}
	for _, f := range fieldsOf(m.dir+"/modules.alias", 3) {
		m.aliases = append(m.aliases, alias{f[1], moduleName(f[2])})
	}
	for _, f := range fieldsOf(m.dir+"/modules.softdep", 3) {
		before := false
		for _, w := range f[2:] {
			if strings.HasSuffix(w, ":") {
				before = w == "pre:"
			} else if before {
				m.soft[moduleName(f[1])] = append(m.soft[moduleName(f[1])], w)
			}
		}
	}
	return m, nil
}

// fieldsOf reads the lines of a file that have at least so many fields.
func fieldsOf(file string, least int) [][]string {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var lines [][]string
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) >= least && !strings.HasPrefix(line, "#") {
			lines = append(lines, f)
		}
	}
	return lines
}

func moduleName(p string) string {
	name, _, _ := strings.Cut(path.Base(p), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// byName loads a module with what it depends on. A name that is not a module is
// built into the kernel, or its lack shows when it is used.
func (m *modules) byName(name string) error {
	p, ok := m.paths[moduleName(name)]
	if !ok || m.loaded[p] {
		return nil
	}
	deps := m.deps[p]
	for i := len(deps) - 1; i >= 0; i-- {
		if err := m.one(deps[i]); err != nil {
			return err
		}
	}
	return m.one(p)
}

// one loads a module, the ones of whose modules.dep are loaded. Before it come its soft dependencies, which are
// names or aliases (crypto-crc32c) and optional: of several providers, some do not fit this processor
// (modprobe.d(5)).
func (m *modules) one(p string) error {
	if m.loaded[p] {
		return nil
	}
	m.loaded[p] = true
	for _, s := range m.soft[moduleName(p)] {
		names := []string{s}
		if _, is := m.paths[moduleName(s)]; !is {
			names = m.matching(s)
		}
		for _, name := range names {
			_ = m.byName(name)
		}
	}
	return m.load(filepath.Join(m.dir, p), strings.Join(m.options[moduleName(p)], " "))
}

func finit(file, parameters string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("loading module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), parameters, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("loading module %s: %w", moduleName(file), err)
	}
	return nil
}

// forDevices loads the modules for all devices that the kernel shows now and
// returns how many were new. A bus driver brings new devices to light, so it
// is called until it finds no more. One driver that fails must not stop the
// others: its device may not be needed. failed is called with its error.
func (m *modules) forDevices(sys string, failed func(error)) int {
	before := len(m.loaded)
	_ = filepath.WalkDir(sys, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != "modalias" {
			return nil //nolint:nilerr // devices come and go while we look
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return nil //nolint:nilerr // likewise
		}
		for _, name := range m.matching(strings.TrimSpace(string(b))) {
			if err := m.byName(name); err != nil {
				failed(err)
			}
		}
		return nil
	})
	return len(m.loaded) - before
}

// matching returns the modules whose alias patterns match a modalias. The
// patterns are those of fnmatch(3) without flags, where * also matches a slash. A module on the blacklist
// matches nothing.
func (m *modules) matching(modalias string) []string {
	var names []string
	hidden := strings.ReplaceAll(modalias, "/", "\x01")
	for _, a := range m.aliases {
		if m.never[a.name] {
			continue
		}
		if ok, err := path.Match(strings.ReplaceAll(a.pattern, "/", "\x01"), hidden); err == nil && ok {
			names = append(names, a.name)
		}
	}
	return names
}
