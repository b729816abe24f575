package initrd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ingot"
)

// sysroot is where the root is put together.
const sysroot = "/sysroot"

// Where the parts of the root are mounted: the image, and the tmpfs that bounds what is written.
const (
	lowerRoot  = ingot.RunDir + "/root"
	overlayDir = ingot.RunDir + "/overlay"
)

// early mounts what everything else needs.
func early() error {
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=20%"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	return os.MkdirAll(ingot.RunDir, 0o755)
}

// memoryFile makes the file that the root is fetched into, on a tmpfs of its
// own that has room for it and no more.
func memoryFile(size int64) (*os.File, error) {
	dir := filepath.Join(ingot.RunDir, "image")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("allocating memory for the root: %w", err)
	}
	_ = unix.Unmount(dir, unix.MNT_DETACH) // of an attempt before this one
	data := fmt.Sprintf("mode=0700,size=%d", size+1<<20)
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
		return nil, fmt.Errorf("allocating memory for the root: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "root.squashfs"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("allocating memory for the root: %w", err)
	}
	return f, nil
}

// attachLoop makes a read-only block device of a file and returns its path.
func attachLoop(f *os.File) (string, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("attaching the root: %w", err)
	}
	defer control.Close()
	for range 10 { // another process may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("finding a loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		dev, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return "", fmt.Errorf("attaching the root: %w", err)
		}
		config := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY}}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		dev.Close()
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", fmt.Errorf("attaching the root to %s: %w", path, err)
		}
	}
	return "", errors.New("attaching the root: every loop device is busy")
}

// mountRoot mounts the squashfs read-only below a tmpfs overlay of at most
// overlay bytes; zero means a quarter of the memory.
func mountRoot(device string, overlay, ram int64) error {
	if overlay == 0 {
		overlay = ram / 4
	}
	for _, d := range []string{lowerRoot, overlayDir, sysroot} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("mounting the root: %w", err)
		}
	}
	if err := unix.Mount(device, lowerRoot, "squashfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mounting the root's squashfs: %w", err)
	}
	if err := unix.Mount("tmpfs", overlayDir, "tmpfs", 0, fmt.Sprintf("mode=0755,size=%d", overlay)); err != nil {
		return fmt.Errorf("mounting the overlay: %w", err)
	}
	upper, work := filepath.Join(overlayDir, "upper"), filepath.Join(overlayDir, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return fmt.Errorf("mounting the overlay: %w", err)
		}
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lowerRoot, upper, work)
	if err := unix.Mount("ingot", sysroot, "overlay", 0, data); err != nil {
		return fmt.Errorf("mounting the overlay: %w", err)
	}
	return nil
}

// unmountRoot takes down what mountRoot and the volumes put up, for another try.
func unmountRoot() {
	for _, target := range []string{sysroot, overlayDir, lowerRoot} {
		for unix.Unmount(target, unix.MNT_DETACH) == nil {
			continue
		}
	}
}

// switchRoot makes sysroot the root, frees the initramfs, and becomes init.
// It follows switch_root(8): the old root is a rootfs that cannot be pivoted,
// so it is emptied and covered. It returns only on failure.
func switchRoot(init string) error {
	for _, m := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(m, sysroot+m, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s into the new root: %w", m, err)
		}
	}
	if err := os.Chdir(sysroot); err != nil {
		return fmt.Errorf("entering the new root: %w", err)
	}
	if err := emptyInitramfs(); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the new root over the old: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("entering the new root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("entering the new root: %w", err)
	}
	err := unix.Exec(
		init,
		[]string{init},
		[]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "TERM=linux"},
	)
	return fmt.Errorf("starting %s: %w", init, err)
}

// emptyInitramfs gives the memory of the initramfs back. It refuses to work on
// anything but a ramfs or tmpfs, and never crosses into another file system.
func emptyInitramfs() error {
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return fmt.Errorf("reading the initramfs: %w", err)
	}
	if st.Type != unix.RAMFS_MAGIC && st.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("the old root is not an initramfs (type %#x); nothing is removed", st.Type)
	}
	var root unix.Stat_t
	if err := unix.Lstat("/", &root); err != nil {
		return fmt.Errorf("reading the initramfs: %w", err)
	}
	removeSameDevice("/", root.Dev)
	return nil
}

func removeSameDevice(dir string, dev uint64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if unix.Lstat(p, &st) != nil || st.Dev != dev {
			continue
		}
		if e.IsDir() {
			removeSameDevice(p, dev)
		}
		os.Remove(p) // what cannot be removed costs memory, no more
	}
}
