// Package initramfs packs the first root of a machine: one static program as /init, the kernel
// modules that a boot needs with their dependencies, and a few small files. The archive is newc
// (Linux, Documentation/driver-api/early-userspace/buffer-format.rst), compressed with zstd as one
// frame.
//
// Modules are taken from a tree with depmod's indexes and are stored uncompressed: the archive is
// compressed as a whole, so that the machine decompresses once instead of hundreds of times. Microcode of
// processors goes before it, in an uncompressed archive, where the kernel looks for it before anything else
// (Linux, Documentation/arch/x86/microcode.rst). Left out: udev. The package does not know ingot.
package initramfs

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"ingot/builder/tree"
)

// Format changes when the same options give other bytes.
const Format = 3

// Options say what goes into the archive.
type Options struct {
	Init    []byte            // static program, becomes /init
	Modules *tree.Tree        // has usr/lib/modules/RELEASE with the indexes of depmod
	Release string            // kernel release
	Select  []string          // module names, folders below kernel/ with a final slash, presets
	Files   map[string][]byte // further files by absolute path, mode 0644
	// Blacklist are modules whose aliases are left out, so that no device loads them.
	Blacklist []string
	// Parameters of modules, by name, as modprobe.d(5) writes them: "debug=1 mode=2". Those of modules that the archive
	// lacks are left out.
	Parameters map[string]string
	// Early are files of the archive that goes first, by absolute path.
	Early map[string][]byte
	// further programs by absolute path, mode 0755
	Programs map[string][]byte
	Epoch    time.Time // time of every entry
	Small    bool      // 10 % smaller, in four times the time
}

// Info describes what was packed.
type Info struct {
	Modules int   // number of kernel modules
	Bytes   int64 // uncompressed size of the archive's files
}

// Write writes the compressed archive to w. The same options give the same bytes.
func Write(w io.Writer, o Options) (Info, error) {
	set, err := selectModules(o.Modules, o.Release, o.Select)
	if err != nil {
		return Info{}, err
	}
	for _, m := range o.Blacklist {
		set.blacklist[moduleName(m)] = true
	}
	if len(o.Early) > 0 {
		if err := Append(w, o.Early, o.Epoch); err != nil {
			return Info{}, err
		}
	}
	level := zstd.SpeedBetterCompression
	if o.Small {
		level = zstd.SpeedBestCompression
	}
	// One goroutine: the encoder's output is then the same on every machine.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return Info{}, fmt.Errorf("packing initramfs: %w", err)
	}
	a := &archive{w: cpio.NewWriter(z), epoch: o.Epoch, made: map[string]bool{}}
	a.skeleton()
	a.file("/init", 0o755, o.Init)
	for _, name := range sortedKeys(o.Files) {
		a.file(name, 0o644, o.Files[name])
	}
	for _, name := range sortedKeys(o.Programs) {
		a.file(name, 0o755, o.Programs[name])
	}
	if text := set.parameters(o.Parameters); len(text) > 0 {
		a.file(ParametersFile, 0o644, text)
	}
	a.modules(set)
	if a.err == nil {
		a.err = a.w.Close()
	}
	if err := z.Close(); a.err == nil {
		a.err = err
	}
	if a.err != nil {
		return Info{}, fmt.Errorf("packing initramfs: %w", a.err)
	}
	return Info{Modules: len(set.chosen), Bytes: a.bytes}, nil
}

// archive writes entries. The first error stops it.
type archive struct {
	w     *cpio.Writer
	epoch time.Time
	made  map[string]bool // folders
	inode int64
	bytes int64
	err   error
}

// skeleton adds the folders that init mounts on. There is no /dev/console: before devtmpfs is
// mounted it is needed for messages only, and the kernel works without it.
func (a *archive) skeleton() {
	for _, d := range []string{"/dev", "/etc", "/proc", "/run", "/sys", "/sysroot", "/tmp", "/usr/lib/modules"} {
		a.dir(d)
	}
	a.link("/lib", "usr/lib")
}

func (a *archive) modules(set *moduleSet) {
	indexes, err := set.indexes()
	if err != nil && a.err == nil {
		a.err = err
	}
	root := "/" + set.dir
	for _, name := range sortedKeys(indexes) {
		a.file(path.Join(root, name), 0o644, indexes[name])
	}
	for _, p := range set.sorted() {
		b, err := set.read(p)
		if err != nil && a.err == nil {
			a.err = err
		}
		a.file(path.Join(root, plainPath(p)), 0o644, b)
	}
}

func (a *archive) dir(p string) {
	if p == "/" || p == "." || a.made[p] {
		return
	}
	a.dir(path.Dir(p))
	a.made[p] = true
	a.entry(p, cpio.TypeDir|0o755, nil)
}

func (a *archive) file(p string, mode cpio.FileMode, content []byte) {
	a.dir(path.Dir(p))
	a.entry(p, cpio.TypeReg|mode, content)
}

// link writes a symbolic link: newc keeps the target as the entry's content.
func (a *archive) link(p, target string) { a.entry(p, cpio.TypeSymlink|0o777, []byte(target)) }

func (a *archive) entry(p string, mode cpio.FileMode, content []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	h := &cpio.Header{Name: strings.TrimPrefix(p, "/"), Mode: mode, Size: int64(len(content)),
		ModTime: a.epoch, Inode: a.inode, Links: 1}
	if a.err = a.w.WriteHeader(h); a.err != nil {
		return
	}
	_, a.err = a.w.Write(content)
	a.bytes += int64(len(content))
}

func sortedKeys(m map[string][]byte) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Append writes an uncompressed archive with further files. It may follow an archive that ends at a
// multiple of four bytes: the kernel unpacks both. The same files give the same bytes.
func Append(w io.Writer, files map[string][]byte, epoch time.Time) error {
	a := &archive{w: cpio.NewWriter(w), epoch: epoch, made: map[string]bool{}}
	for _, name := range sortedKeys(files) {
		a.file(name, 0o644, files[name])
	}
	if a.err == nil {
		a.err = a.w.Close()
	}
	if a.err != nil {
		return fmt.Errorf("packing further files of an initramfs: %w", a.err)
	}
	return nil
}
