package volumes

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ingot"
)

// Result is what became of one volume.
type Result struct {
	ingot.VolumeResult
	Spec ingot.Volume
}

// problem is an error of a kind.
type problem struct {
	kind ingot.VolumeProblem
	error
}

func (p problem) Unwrap() error { return p.error }

// Mounter puts volumes into a root that is mounted but not yet running. The
// tools for filesystems are the root's own.
type Mounter struct {
	Root string // "/sysroot", with /dev in it
	// Image is the image's root alone, read-only; new volumes get its files. Empty: they get none.
	Image string
	At    Paths
	Log   func(format string, args ...any)
	// Progress is called when the check of a filesystem advances; nil if nobody wants to know.
	Progress func(Progress)
}

// Mount decides about every volume and carries it out, in the order of the
// profile. It returns the results and, wrapped in ErrRefused, the first
// volume that is needed and cannot be had.
func (m Mounter) Mount(ctx context.Context, list []ingot.Volume, on Machine) ([]Result, error) {
	var results []Result
	var failed error
	for _, v := range list {
		r := Result{ingot.VolumeResult{Volume: v.Name, Optional: v.Optional}, v}
		d := Decide(v, List(m.At), on)
		r.Device, r.Disk = d.Device.Node, grantName(d.Device.Disk)
		state, err := m.carryOut(ctx, v, d, on)
		r.State = state
		if err != nil {
			r.Detail, r.Problem = err.Error(), ingot.VolumeUnmounted
			var p problem
			if errors.As(err, &p) {
				r.Problem = p.kind
			}
			if !v.Optional && failed == nil {
				failed = fmt.Errorf("%w: %s: %w", ErrRefused, v.Name, err)
			}
		}
		results = append(results, r)
	}
	return results, failed
}

// carryOut returns what became of a volume, also with an error.
func (m Mounter) carryOut(ctx context.Context, v ingot.Volume, d Decision, on Machine) (ingot.VolumeState, error) {
	state := ingot.VolumeMounted
	switch {
	case d.Kind == Initialise:
		state = ingot.VolumeInitialised
		m.Log("volume %s: initialising the blank disk %s (%s) as granted", v.Name, d.Device.Name, identity(d.Device.Disk))
		if err := m.initialise(ctx, v, d.Device, on); err != nil {
			return ingot.VolumeFailed, err
		}
	case d.Kind == Mount:
		if d.Adopt {
			state = ingot.VolumeAdopted
		}
		if err := m.prepare(ctx, v, d, on); err != nil {
			return ingot.VolumeFailed, err
		}
	case d.Absent:
		return ingot.VolumeAbsent, problem{d.Problem, errors.New(d.Reason)}
	default:
		return ingot.VolumeRefused, problem{d.Problem, errors.New(d.Reason)}
	}
	if err := m.mount(v, d.Device.Node); err != nil {
		return ingot.VolumeFailed, err
	}
	if err := m.seed(v, d.Device.Node); err != nil {
		_ = unix.Unmount(filepath.Join(m.Root, v.Mount), unix.MNT_DETACH)
		return ingot.VolumeFailed, err
	}
	return state, nil
}

// prepare checks a volume that is there, and writes its owner if that is due.
func (m Mounter) prepare(ctx context.Context, v ingot.Volume, d Decision, on Machine) error {
	if err := m.confirm(ctx, d.Device, "ext4"); err != nil {
		return err
	}
	if err := m.check(ctx, v.Name, d.Device.Node); err != nil {
		return err
	}
	if !d.Stamp {
		return nil
	}
	if err := writeStamp(d.Device.Node, on.owner(v.Name), d.Device.UUID); err != nil {
		m.Log("volume %s: writing its owner to %s failed: %v", v.Name, d.Device.Name, err)
		return nil
	}
	m.Log("volume %s: %s now says that it belongs to %s", v.Name, d.Device.Name, on.ID)
	return nil
}

// initialise makes the filesystem. It looks at the disk once more, and at more of it, so that
// nothing that happened since Decide is overwritten.
func (m Mounter) initialise(ctx context.Context, v ingot.Volume, d Device, on Machine) error {
	probe(&d)
	if d.Holds != blank || d.Partitions > 0 {
		return problem{ingot.VolumeNotBlank,
			fmt.Errorf("disk %s is no longer blank; it holds %s; nothing was written", d.Name, d.Holds)}
	}
	if err := sampleInside(d); err != nil {
		return err
	}
	if err := m.confirm(ctx, d, ""); err != nil {
		return err
	}
	args := []string{"-q", "-L", v.FSLabel(), "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"}
	owner := on.owner(v.Name)
	if on.Fleet != "" {
		args = append(args, "-U", volumeUUID(owner))
	}
	out, err := m.tool(ctx, "/usr/sbin/mkfs.ext4", append(args, d.Node)...)
	if err != nil {
		return problem{ingot.VolumeNoFilesystem, fmt.Errorf("making the filesystem on %s: %w: %s", d.Name, err, out)}
	}
	if on.Fleet == "" {
		return nil
	}
	if err := writeStamp(d.Node, owner, volumeUUID(owner)); err != nil {
		return problem{ingot.VolumeNoFilesystem, fmt.Errorf("writing the owner to %s: %w", d.Name, err)}
	}
	return nil
}

// sampleInside reads a blank disk at many places.
func sampleInside(d Device) error {
	f, err := os.Open(d.Node)
	if err != nil {
		return fmt.Errorf("reading disk %s: %w", d.Name, err)
	}
	defer f.Close()
	at, err := nonzeroInside(f, d.Size, manySamples)
	if err != nil {
		return fmt.Errorf("reading disk %s: %w", d.Name, err)
	}
	if at >= 0 {
		d.Holds = fmt.Sprintf("unknown data at byte %d", at)
		return problem{ingot.VolumeNotBlank, errors.New(notBlank(d, grantName(d.Disk)))}
	}
	return nil
}

// confirm asks the root's own blkid what a device holds, and refuses if it does not agree. want is
// the type of filesystem, empty for a device that holds nothing.
func (m Mounter) confirm(ctx context.Context, d Device, want string) error {
	out, err := m.tool(ctx, "/usr/sbin/blkid", "-p", "-o", "export", d.Node)
	var exit *exec.ExitError
	switch {
	case errors.Is(err, os.ErrNotExist):
		m.Log("the root has no blkid (package util-linux); what %s holds is not confirmed", d.Node)
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == 8: // blkid(8), "RETURN CODE"
		return problem{ingot.VolumeContents, fmt.Errorf("%s holds more than one thing, says blkid; nothing was mounted or "+
			"written. To list them: wipefs %s", d.Name, d.Node)}
	case errors.As(err, &exit) && exit.ExitCode() == 2:
		out = ""
	case err != nil:
		return fmt.Errorf("asking blkid what %s holds: %w: %s", d.Name, err, out)
	}
	values := map[string]string{}
	for _, line := range strings.Split(out, "\n") {
		if key, value, ok := strings.Cut(line, "="); ok {
			values[key] = value
		}
	}
	if got := cmp.Or(values["TYPE"], values["PTTYPE"]); got != want {
		return problem{ingot.VolumeContents,
			fmt.Errorf("%s holds %s, says blkid; nothing was mounted or written", d.Name, cmp.Or(got, "nothing"))}
	}
	return nil
}

func (m Mounter) mount(v ingot.Volume, device string) error {
	flags, data := mountOptions(v.Options)
	if err := m.mountAt(v.Mount, device, "ext4", flags, data); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", device, v.Mount, err)
	}
	return nil
}

var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"nodev": unix.MS_NODEV, "nosuid": unix.MS_NOSUID, "noexec": unix.MS_NOEXEC, "sync": unix.MS_SYNCHRONOUS,
	"strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME, "dirsync": unix.MS_DIRSYNC,
	// what is so without an option
	"": 0, "defaults": 0, "rw": 0, "atime": 0, "diratime": 0, "dev": 0, "suid": 0, "exec": 0, "async": 0, "nolazytime": 0,
}

// mountOptions splits options as mount(8) does: flags of the kernel, and the
// rest for the filesystem.
func mountOptions(options string) (flags uintptr, data string) {
	var rest []string
	for _, o := range strings.Split(options, ",") {
		if f, ok := mountFlags[o]; ok {
			flags |= f
		} else {
			rest = append(rest, o)
		}
	}
	return flags, strings.Join(rest, ",")
}

// tool runs a program of the root in the root.
func (m Mounter) tool(ctx context.Context, name string, args ...string) (string, error) {
	cmd, err := m.command(ctx, name, args...)
	if err != nil {
		return "the image lacks " + filepath.Base(name), err
	}
	out, err := cmd.CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

func (m Mounter) command(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	if _, err := os.Stat(filepath.Join(m.Root, name)); err != nil {
		return nil, os.ErrNotExist
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Path, cmd.Err = name, nil // it need not exist outside the root
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: m.Root}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8"}
	return cmd, nil
}
