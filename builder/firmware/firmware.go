// Package firmware finds what the drivers of an initramfs load into their devices, and the microcode of processors, in
// the root of an image: packages and profiles put it there. The kernel looks for it below /lib/firmware (Linux,
// Documentation/driver-api/firmware/fw_search_path.rst).
package firmware

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"ingot/builder/tree"
)

// Dir has firmware, in a root. Its folder updates goes before it.
const Dir = "usr/lib/firmware"

// Find returns the content of files by their names below /lib/firmware, and the names that the root lacks. A name may
// be a pattern, as some drivers have them; it stands for what the root has. Compressed files are unpacked: the kernel
// would do it as well, but the initramfs is compressed as a whole.
func Find(root *tree.Tree, names []string) (files map[string][]byte, missing []string, err error) {
	files = map[string][]byte{}
	for _, name := range names {
		found := []string{name}
		if strings.ContainsAny(name, "*?[") {
			found = matching(root, name)
		}
		if len(found) == 0 {
			missing = append(missing, name)
		}
		for _, f := range found {
			content, is, err := read(root, f)
			switch {
			case err != nil:
				return nil, nil, err
			case is:
				files[f] = content
			default:
				missing = append(missing, f)
			}
		}
	}
	slices.Sort(missing)
	return files, slices.Compact(missing), nil
}

// suffixes of files that the kernel looks for, in its order.
var suffixes = []string{"", ".zst", ".xz"}

// read returns a file by its name below /lib/firmware.
func read(root *tree.Tree, name string) (content []byte, is bool, err error) {
	if path.Clean("/"+name) != "/"+name {
		return nil, false, nil // it leads out of the folder
	}
	for _, dir := range []string{Dir + "/updates", Dir} {
		for _, suffix := range suffixes {
			p := path.Join(dir, name+suffix)
			if e := root.Find(p); e == nil || e.Kind != tree.File {
				continue
			}
			if content, err = root.ReadFile(p); err == nil {
				content, err = unpack(content, suffix)
			}
			if err != nil {
				return nil, false, fmt.Errorf("reading firmware %s: %w", p, err)
			}
			return content, true, nil
		}
	}
	return nil, false, nil
}

func unpack(content []byte, suffix string) ([]byte, error) {
	var r io.Reader = bytes.NewReader(content)
	var err error
	switch suffix {
	case "":
		return content, nil
	case ".xz":
		r, err = xz.NewReader(r)
	default:
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// matching returns the names of files that a pattern matches, without the suffixes of compressions.
func matching(root *tree.Tree, pattern string) (names []string) {
	for _, e := range root.Entries() {
		name, is := strings.CutPrefix(e.Path, Dir+"/")
		if !is {
			continue
		}
		name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(name, "updates/"), ".xz"), ".zst")
		if ok, err := path.Match(pattern, name); err == nil && ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// packages of Debian by the beginnings of the names of what they have: of network cards and storage controllers, whose
// drivers belong into an initramfs.
var packages = []struct{ prefix, name string }{
	{"bnx2x/", "firmware-bnx2x"}, {"bnx2x-", "firmware-bnx2x"}, {"bnx2/", "firmware-bnx2"}, {"bnx2-", "firmware-bnx2"},
	{"liquidio/", "firmware-cavium"}, {"myri10ge_", "firmware-myricom"}, {"netronome/", "firmware-netronome"},
	{"qed/", "firmware-qlogic"}, {"ql2", "firmware-qlogic"}, {"ql8", "firmware-qlogic"}, {"qlogic/", "firmware-qlogic"},
	{"phanfw", "firmware-qlogic"}, {"rtl_nic/", "firmware-realtek"}, {"cxgb3/", "firmware-misc-nonfree"},
	{"cxgb4/", "firmware-misc-nonfree"}, {"tigon/", "firmware-misc-nonfree"}, {"e100/", "firmware-misc-nonfree"},
	{"intel/ice/", "firmware-misc-nonfree"}, {"3com/", "firmware-misc-nonfree"},
	{"adaptec/", "firmware-misc-nonfree"}, {"advansys/", "firmware-misc-nonfree"},
}

// Package returns the Debian package that has a file; empty: it is not known.
func Package(name string) string {
	for _, p := range packages {
		if strings.HasPrefix(name, p.prefix) {
			return p.name
		}
	}
	return ""
}

// Microcode returns the files of an early archive of the initramfs (Linux, Documentation/arch/x86/microcode.rst): the
// microcode of Intel and AMD that the root has, of packages such as intel-microcode and amd64-microcode.
func Microcode(root *tree.Tree) (map[string][]byte, error) {
	intel, amd := &bytes.Buffer{}, &bytes.Buffer{}
	for _, e := range root.Entries() {
		name, is := strings.CutPrefix(e.Path, Dir+"/")
		if !is || e.Kind == tree.Dir {
			continue
		}
		into := intel
		switch dir, file := path.Split(name); {
		case dir == "intel-ucode/" && intelFile(file):
		case dir == "amd-ucode/" && strings.HasPrefix(file, "microcode_amd") && amdFile(file):
			into = amd
		default:
			continue
		}
		content, err := root.ReadFile(e.Path)
		if err == nil {
			content, err = unpack(content, suffixOf(name))
		}
		if err != nil {
			return nil, fmt.Errorf("reading microcode %s: %w", e.Path, err)
		}
		into.Write(content)
	}
	files := map[string][]byte{}
	for name, b := range map[string]*bytes.Buffer{"GenuineIntel.bin": intel, "AuthenticAMD.bin": amd} {
		if b.Len() > 0 {
			files["/kernel/x86/microcode/"+name] = b.Bytes()
		}
	}
	return files, nil
}

func suffixOf(name string) string {
	for _, suffix := range suffixes[1:] {
		if strings.HasSuffix(name, suffix) {
			return suffix
		}
	}
	return ""
}

// intelFile reports whether a file is named FAMILY-MODEL-STEPPING, in hexadecimal digits; Debian marks those that must
// be loaded early with .initramfs.
func intelFile(name string) bool {
	name = strings.TrimSuffix(strings.TrimSuffix(name, suffixOf(name)), ".initramfs")
	parts := strings.Split(name, "-")
	return len(parts) == 3 && !slices.ContainsFunc(parts, func(p string) bool {
		return len(p) != 2 || strings.Trim(p, "0123456789abcdef") != ""
	})
}

func amdFile(name string) bool {
	return strings.HasSuffix(strings.TrimSuffix(name, suffixOf(name)), ".bin")
}
