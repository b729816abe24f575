package volumes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ingot"
)

// Result is what became of one volume.
type Result struct {
	Volume      ingot.Volume
	Device      string // "/dev/vda"; empty when it is not mounted
	Initialised bool
	Refusal     string // why it is not mounted
	Absent      bool   // of a refusal: nothing that looks like it is there
}

// Mounter puts volumes into a root that is mounted but not yet running. The
// tools for filesystems are the root's own.
type Mounter struct {
	Root string // "/sysroot", with /dev in it
	At   Paths
	Log  func(format string, args ...any)
}

// Mount decides about every volume and carries it out, in the order of the
// profile. It returns the results and, wrapped in ErrRefused, the first
// volume that is needed and cannot be had.
func (m Mounter) Mount(
	ctx context.Context,
	list []ingot.Volume,
	grants []ingot.Grant,
	now time.Time,
) ([]Result, error) {
	var results []Result
	var failed error
	for _, v := range list {
		r := Result{Volume: v}
		d := Decide(v, List(m.At), grants, now)
		if err := m.carryOut(ctx, v, d, &r); err != nil {
			r.Refusal = err.Error()
		}
		if r.Refusal != "" && !v.Optional && failed == nil {
			failed = fmt.Errorf("%w: %s: %s", ErrRefused, v.Name, r.Refusal)
		}
		results = append(results, r)
	}
	return results, failed
}

func (m Mounter) carryOut(ctx context.Context, v ingot.Volume, d Decision, r *Result) error {
	switch d.Kind {
	case Initialise:
		m.Log("volume %s: initialising the blank disk %s (serial %q) as granted", v.Name, d.Device.Name, d.Device.Serial)
		if err := m.initialise(ctx, v, d.Device); err != nil {
			return err
		}
		r.Initialised = true
	case Mount:
		if err := m.check(ctx, d.Device.Path); err != nil {
			return err
		}
	default:
		r.Absent = d.Absent
		return errors.New(d.Reason)
	}
	if err := m.mount(v, d.Device.Path); err != nil {
		return err
	}
	r.Device = d.Device.Path
	return nil
}

// initialise makes the filesystem. It looks at the disk once more, so that
// nothing that happened since Decide is overwritten.
func (m Mounter) initialise(ctx context.Context, v ingot.Volume, d Device) error {
	probe(&d)
	if d.Holds != blank || d.Partitions > 0 {
		return fmt.Errorf("disk %s is no longer blank; it holds %s; nothing was written", d.Name, d.Holds)
	}
	out, err := m.tool(
		ctx,
		"/usr/sbin/mkfs.ext4",
		"-q",
		"-L",
		v.FSLabel(),
		"-m",
		"0",
		"-E",
		"lazy_itable_init=1,lazy_journal_init=1",
		d.Path,
	)
	if err != nil {
		return fmt.Errorf("making the filesystem on %s: %w: %s", d.Name, err, out)
	}
	return nil
}

// check repairs what can be repaired without asking (e2fsck(8), -p).
func (m Mounter) check(ctx context.Context, device string) error {
	out, err := m.tool(ctx, "/usr/sbin/e2fsck", "-p", device)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode()&^3 == 0: // 1 and 2: errors were corrected
		m.Log("the filesystem on %s was repaired: %s", device, out)
		return nil
	case errors.Is(err, os.ErrNotExist):
		m.Log("the root has no e2fsck (package e2fsprogs); %s is mounted unchecked", device)
		return nil
	}
	return fmt.Errorf(
		"the filesystem on %s cannot be repaired automatically: e2fsck: %w: %s; boot a rescue image and run e2fsck %s",
		device,
		err,
		out,
		device,
	)
}

func (m Mounter) mount(v ingot.Volume, device string) error {
	target := filepath.Join(m.Root, v.Mount)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", v.Mount, err)
	}
	flags, data := mountOptions(v.Options)
	if err := unix.Mount(device, target, "ext4", flags, data); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", device, v.Mount, err)
	}
	return nil
}

var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"nodev": unix.MS_NODEV, "nosuid": unix.MS_NOSUID, "noexec": unix.MS_NOEXEC, "sync": unix.MS_SYNCHRONOUS,
}

// mountOptions splits options as mount(8) does: flags of the kernel, and the
// rest for the filesystem.
func mountOptions(options string) (flags uintptr, data string) {
	var rest []string
	for _, o := range strings.Split(options, ",") {
		switch f, ok := mountFlags[o]; {
		case ok:
			flags |= f
		case o != "" && o != "defaults" && o != "rw":
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ",")
}

// tool runs a program of the root in the root.
func (m Mounter) tool(ctx context.Context, name string, args ...string) (string, error) {
	if _, err := os.Stat(filepath.Join(m.Root, name)); err != nil {
		return "the image lacks the package e2fsprogs", os.ErrNotExist
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Path, cmd.Err = name, nil // it need not exist outside the root
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: m.Root}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}
