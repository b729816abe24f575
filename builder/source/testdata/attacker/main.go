// Command attacker takes the place of a root's /bin/sh and tries what a hostile maintainer script
// could: to reach the files, processes, devices and networks of the host that builds. It reports
// each attempt on a line, "ingot: NAME: refused" or with what it got.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// say reports the result of an attempt; got is what it reached.
func say(name string, got any, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "ingot: %s: refused: %v\n", name, err)
		return
	}
	fmt.Fprintf(os.Stderr, "ingot: %s: GOT %v\n", name, got)
}

// can reports what a script needs.
func can(name string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "ingot: can %s: NO: %v\n", name, err)
		return
	}
	fmt.Fprintf(os.Stderr, "ingot: can %s: yes\n", name)
}

// target describes what the test has prepared on the host.
type target struct{ canary, tcp, abstract, path, pid string }

func main() {
	if len(os.Args) > 1 && os.Args[1] == "orphan" {
		return
	}
	text, err := os.ReadFile("/.ingot/target")
	if err != nil {
		say("target", "", nil)
		return
	}
	f := strings.Fields(string(text))
	at := target{f[0], f[1], f[2], f[3], f[4]}
	at.files()
	at.devices()
	at.mounts()
	at.networks()
	at.kernel()
	at.processes()
	at.needs()
}

func readable(p string) error {
	_, err := os.ReadFile(p)
	return err
}

// files looks for the canary by every way that leads out of a chroot.
func (t target) files() {
	say("direct", "the canary", readable(t.canary))
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range append(procs, "/proc/self", "/proc/thread-self") {
		for _, way := range []string{"root", "cwd", "root/..", "cwd/../../../.."} {
			say(filepath.Base(p)+"/"+way, "the canary", readable(p+"/"+way+t.canary))
		}
		if fds, err := filepath.Glob(p + "/fd/*"); err == nil {
			for _, fd := range fds {
				say(fd+"/..", "the canary", readable(fd+"/../../../.."+t.canary))
			}
		}
		for _, exe := range []string{"exe", "map_files"} {
			f, err := os.OpenFile(p+"/"+exe, os.O_WRONLY, 0)
			if err == nil {
				f.Close()
			}
			say(filepath.Base(p)+"/"+exe+" for writing", "a program of the host", err)
		}
	}
	for fd := 3; fd < 64; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && !own(fd) {
			say(fmt.Sprintf("descriptor %d", fd), "an open file", nil)
		}
	}
	handle, mount, err := unix.NameToHandleAt(unix.AT_FDCWD, "/.ingot/target", 0)
	if err == nil {
		var root, fd int
		if root, err = unix.Open("/", unix.O_DIRECTORY, 0); err == nil {
			fd, err = unix.OpenByHandleAt(root, handle, unix.O_RDONLY)
			_, _ = fd, mount
		}
	}
	say("open_by_handle_at", "a file by its handle", err)
	escape := func() error {
		if err := os.Mkdir("/jail", 0o755); err != nil {
			return err
		}
		if err := unix.Chroot("/jail"); err != nil {
			return err
		}
		for range 32 {
			if err := unix.Chdir(".."); err != nil {
				return err
			}
		}
		if err := unix.Chroot("."); err != nil {
			return err
		}
		return readable(t.canary)
	}
	say("chroot out", "the canary", escape())
}

// own reports whether a descriptor is one of this program's runtime.
func own(fd int) bool {
	to, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return strings.HasPrefix(to, "anon_inode:")
}

func (t target) devices() {
	for _, d := range []struct {
		name         string
		mode         uint32
		major, minor uint32
	}{{"disk", unix.S_IFBLK, 8, 0}, {"vda", unix.S_IFBLK, 254, 0}, {"loop", unix.S_IFBLK, 7, 0},
		{"mem", unix.S_IFCHR, 1, 1}, {"kmsg", unix.S_IFCHR, 1, 11}, {"null", unix.S_IFCHR, 1, 3}} {
		say("mknod "+d.name, "a device", unix.Mknod("/node-"+d.name, d.mode|0o666, int(unix.Mkdev(d.major, d.minor))))
	}
	list, _ := filepath.Glob("/dev/*")
	for _, d := range list {
		switch filepath.Base(d) {
		case "null", "zero", "full", "random", "urandom", "tty", "shm", "fd", "stdin", "stdout", "stderr":
		default:
			say("device", d, nil)
		}
	}
	_, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	say("the terminal", "/dev/tty", err)
}

func (t target) mounts() {
	for _, d := range []string{"/m", "/m2"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			can("mkdir", err)
		}
	}
	say("mount tmpfs", "a mount", unix.Mount("x", "/m", "tmpfs", 0, ""))
	say("mount proc", "a mount", unix.Mount("x", "/m", "proc", 0, ""))
	say("mount sysfs", "a mount", unix.Mount("x", "/m", "sysfs", 0, ""))
	say("mount bind", "a mount", unix.Mount("/", "/m", "", unix.MS_BIND, ""))
	say("remount proc/sys", "a mount", unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND, ""))
	say("umount", "a mount", unix.Unmount("/proc", unix.MNT_DETACH))
	say("pivot_root", "another root", unix.PivotRoot("/m", "/m"))
	for name, flag := range map[string]int{"mount": unix.CLONE_NEWNS, "network": unix.CLONE_NEWNET,
		"process": unix.CLONE_NEWPID} {
		say("unshare "+name, "a namespace", unix.Unshare(flag))
		if fd, err := unix.Open("/proc/1/ns/"+map[string]string{"mount": "mnt", "network": "net",
			"process": "pid"}[name], unix.O_RDONLY, 0); err == nil {
			say("setns "+name, "a namespace", unix.Setns(fd, flag))
		}
	}
	// A process with one thread, as unshare(2) wants.
	cmd := exec.Command("/bin/sh", "orphan")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS}
	say("a further user namespace", "a namespace", cmd.Run())
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		at := strings.Fields(line)[4]
		if at != "/" && !strings.HasPrefix(at, "/dev") && !strings.HasPrefix(at, "/proc") {
			say("mounted", at, nil)
		}
	}
}

func (t target) networks() {
	dial := func(network, address string) error {
		c, err := net.DialTimeout(network, address, time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}
	say("connect", "the host's loopback", dial("tcp", t.tcp))
	say("connect outside", "a network", dial("udp", "192.0.2.1:9"))
	say("abstract socket", "a process of the host", dial("unix", "@"+t.abstract))
	say("socket file", "a process of the host", dial("unix", t.path))
	_, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	say("raw socket", "packets", err)
}

// kernel tries to change the machine. Nothing that is opened is written, but for harmless values.
func (t target) kernel() {
	for _, p := range []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger",
		"/proc/sys/kernel/hostname", "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/fs/cgroup/cgroup.procs",
		"/proc/sys/vm/drop_caches", "/proc/irq/default_smp_affinity", "/proc/kcore"} {
		f, err := os.OpenFile(p, os.O_WRONLY, 0)
		if err == nil && p != "/proc/sysrq-trigger" {
			f.Close()
		} else if err == nil { // a masked one is /dev/null
			var st unix.Stat_t
			if unix.Fstat(int(f.Fd()), &st) == nil && st.Rdev == unix.Mkdev(1, 3) {
				err = errors.New("it is /dev/null")
			}
		}
		if err == nil && masked(p) {
			err = errors.New("it is /dev/null")
		}
		say("write "+p, "the kernel", err)
	}
	_, err := os.Stat("/sys/kernel")
	say("sysfs", "/sys/kernel", err)
	var now unix.Timeval
	_ = unix.Gettimeofday(&now)
	say("set the clock", "the clock", unix.Settimeofday(&now))
	say("load a module", "the kernel", unix.InitModule([]byte("x"), ""))
	say("host name", "a name", unix.Sethostname([]byte("x")))
	_, err = unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", "ingot-canary", 0)
	say("keyring", "a key of the host", err)
}

func masked(p string) bool {
	var st unix.Stat_t
	return unix.Stat(p, &st) == nil && st.Rdev == unix.Mkdev(1, 3)
}

func (t target) processes() {
	var pid int
	_, _ = fmt.Sscan(t.pid, &pid)
	say("kill", "a process of the host", unix.Kill(pid, unix.SIGTERM))
	say("ptrace", "a process of the host", unix.PtraceAttach(pid))
	say("see", "a process of the host", readable("/proc/"+t.pid+"/status"))
	text, _ := os.ReadFile("/proc/self/uid_map")
	fmt.Fprintf(os.Stderr, "ingot: uid_map: %s\n", strings.Join(strings.Fields(string(text)), " "))
	status, _ := os.ReadFile("/proc/self/status")
	for _, line := range bytes.Split(status, []byte("\n")) {
		if bytes.HasPrefix(line, []byte("Cap")) {
			fmt.Fprintf(os.Stderr, "ingot: %s\n", strings.Join(strings.Fields(string(line)), " "))
		}
	}
}

// needs tries what packages do.
func (t target) needs() {
	can("write", os.WriteFile("/done", []byte("done"), 0o644))
	can("chown", os.Chown("/done", 4321, 1234))
	can("set capabilities", unix.Setxattr("/done", "security.capability",
		[]byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	can("make a FIFO", unix.Mkfifo("/fifo", 0o600))
	for _, p := range []string{"/dev/null", "/dev/stderr", "/dev/full", "/dev/shm/x"} {
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			err = f.Close()
		}
		can("open "+p, err)
	}
	cmd := exec.Command("/bin/sh", "orphan")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 33, Gid: 33}}
	can("become another user", cmd.Run())
}
