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
	Volume      ingot.Volume
	Device      string // "/dev/vda"; empty when it is not mounted
	Initialised bool
	Adopted     bool   // by a grant
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
func (m Mounter) Mount(ctx context.Context, list []ingot.Volume, on Machine) ([]Result, error) {
	var results []Result
	var failed error
	for _, v := range list {
		r := Result{Volume: v}
		d := Decide(v, List(m.At), on)
		if err := m.carryOut(ctx, v, d, on, &r); err != nil {
			r.Refusal = err.Error()
		}
		if r.Refusal != "" && !v.Optional && failed == nil {
			failed = fmt.Errorf("%w: %s: %s", ErrRefused, v.Name, r.Refusal)
		}
		results = append(results, r)
	}
	return results, failed
}

func (m Mounter) carryOut(ctx context.Context, v ingot.Volume, d Decision, on Machine, r *Result) error {
	switch d.Kind {
	case Initialise:
		m.Log("volume %s: initialising the blank disk %s (%s) as granted", v.Name, d.Device.Name, identity(d.Device.Disk))
		if err := m.initialise(ctx, v, d.Device, on); err != nil {
			return err
		}
		r.Initialised = true
	case Mount:
		if err := m.confirm(ctx, d.Device, "ext4"); err != nil {
			return err
		}
		if err := m.check(ctx, d.Device.Node); err != nil {
			return err
		}
		if d.Stamp {
			if err := writeStamp(d.Device.Node, on.owner(v.Name), d.Device.UUID); err != nil {
				m.Log("volume %s: writing its owner to %s failed: %v", v.Name, d.Device.Name, err)
			} else {
				m.Log("volume %s: %s now says that it belongs to %s", v.Name, d.Device.Name, on.ID)
			}
		}
		r.Adopted = d.Adopt
	default:
		r.Absent = d.Absent
		return errors.New(d.Reason)
	}
	if err := m.mount(v, d.Device.Node); err != nil {
		return err
	}
	r.Device = d.Device.Node
	return nil
}

// initialise makes the filesystem. It looks at the disk once more, and at more of it, so that
// nothing that happened since Decide is overwritten.
func (m Mounter) initialise(ctx context.Context, v ingot.Volume, d Device, on Machine) error {
	probe(&d)
	if d.Holds != blank || d.Partitions > 0 {
		return fmt.Errorf("disk %s is no longer blank; it holds %s; nothing was written", d.Name, d.Holds)
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
		return fmt.Errorf("making the filesystem on %s: %w: %s", d.Name, err, out)
	}
	if on.Fleet == "" {
		return nil
	}
	if err := writeStamp(d.Node, owner, volumeUUID(owner)); err != nil {
		return fmt.Errorf("writing the owner to %s: %w", d.Name, err)
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
		return errors.New(notBlank(d, d.Serial))
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
		return fmt.Errorf("%s holds more than one thing, says blkid; nothing was mounted or written. "+
			"wipefs %s lists them", d.Name, d.Node)
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
		return fmt.Errorf("%s holds %s, says blkid; nothing was mounted or written", d.Name, cmp.Or(got, "nothing"))
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
