package source

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ingot/builder/accounts"
	"ingot/builder/tree"
)

// InstallOptions say how packages become a tree.
type InstallOptions struct {
	Arch     string
	Epoch    time.Time
	Keep     []string          // KeepDocs, KeepMan, KeepLocales
	Preseed  []string          // lines of debconf-set-selections(1)
	Accounts accounts.List     // numbers of the accounts that packages make; nil: their tools choose
	Work     string            // scratch folder, removed by the caller
	Unpacked func()            // called when the packages are unpacked and a processor is free; may be nil
	Progress func(line string) // called with what is being done; may be nil
}

// installFormat changes when the same packages give another tree.
const installFormat = 2

// InstallKey returns what the result of Install depends on besides the packages.
func InstallKey(keep []string) string {
	kept := slices.Clone(keep)
	slices.Sort(kept)
	return fmt.Sprintf("install-%d keep=%s", installFormat, strings.Join(slices.Compact(kept), ","))
}

var (
	//go:embed install.sh
	installScript string
	//go:embed setup.sh
	setupScript string
	//go:embed confine.pl
	confineScript string
	//go:embed configure.sh
	configureScript string
)

// Install makes a tree of exactly the given packages and writes it as a tar to the file out. It
// uses no network.
//
// The packages are unpacked here, in parallel. dpkg's database is written as dpkg --unpack leaves
// it. Then the root's own dpkg configures everything at once, confined: it is root of namespaces in
// which nothing of the host can be reached, neither files nor processes, devices or networks.
// quirks.go lists what differs from an installation by apt.
func Install(ctx context.Context, c Cache, list []Package, out string, o InstallOptions) error {
	if err := NeedTools("xz", "tar", "mount", "unshare", "perl"); err != nil {
		return err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	u, err := o.read(ctx, c, list)
	if err != nil {
		return err
	}
	if o.Unpacked != nil {
		o.Unpacked()
	}
	extra, err := o.extra(c, u)
	if err != nil {
		return err
	}
	return o.run(ctx, u, extra, out)
}

// read reads all packages and decides where their files go.
func (o InstallOptions) read(ctx context.Context, c Cache, list []Package) (*unpacked, error) {
	spool := filepath.Join(o.Work, "packages")
	if err := os.MkdirAll(spool, 0o755); err != nil {
		return nil, fmt.Errorf("reading packages: %w", err)
	}
	debs, err := readDebs(ctx, c, list, spool,
		func(done int) { o.Progress(fmt.Sprintf("reading %d of %d packages", done, len(list))) })
	if err != nil {
		return nil, err
	}
	u, err := layOut(debs, o.Keep)
	if err != nil {
		return nil, fmt.Errorf("unpacking packages: %w", err)
	}
	return u, nil
}

// extra returns the files that only the installation itself needs.
func (o InstallOptions) extra(c Cache, u *unpacked) ([]controlFile, error) {
	var preinst, table bytes.Buffer
	var extra []controlFile
	byName := map[string]*deb{}
	for _, d := range u.debs {
		byName[d.Name] = d
	}
	for _, d := range scriptOrder(u.debs) {
		if d.script("preinst") == nil || u.late[d] {
			continue
		}
		fmt.Fprintf(&preinst, "%s %s %s\n", d.Name, d.Arch, strings.Join(d.needs(byName), " "))
		for _, f := range append(d.control, controlFile{"control", 0o644, []byte(d.record)}) {
			extra = append(extra, controlFile{".ingot/new/" + d.Name + "/" + f.name, f.mode, f.content})
		}
	}
	stood := quirks
	if o.Accounts != nil {
		stood = slices.Concat(quirks, numbered)
		extra = append(extra, controlFile{accounts.UIDs, 0o644, o.Accounts.Numbers(accounts.User)},
			controlFile{accounts.GIDs, 0o644, o.Accounts.Numbers(accounts.Group)})
	}
	for _, q := range stood {
		fmt.Fprintln(&table, q.path, q.stub)
	}
	extra = append(extra, []controlFile{{".ingot/configure", 0o755, []byte(configureScript)},
		{".ingot/preinst", 0o644, preinst.Bytes()}, {".ingot/quirks", 0o644, table.Bytes()}}...)
	if len(o.Preseed) > 0 {
		extra = append(extra, controlFile{".ingot/debconf", 0o600, []byte(strings.Join(o.Preseed, "\n") + "\n")})
	}
	for name, text := range stubs {
		extra = append(extra, controlFile{".ingot/stub/" + name, 0o755, []byte(text)})
	}
	if own := policy(u); own != "" {
		extra = append(extra, controlFile{own, 0o755, []byte("#!/bin/sh\nexit 101\n")})
	}
	for d := range u.late {
		content, err := os.ReadFile(c.Path(d.Package))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", d.Name, err)
		}
		extra = append(extra, controlFile{".ingot/late/" + d.Name + ".deb", 0o644, content})
	}
	return extra, nil
}

// policy returns the path of the program that keeps services from starting (invoke-rc.d(8)); it is
// not part of the tree. Empty: a package ships one.
func policy(u *unpacked) string {
	const path = "usr/sbin/policy-rc.d"
	if _, ships := u.owner[path]; ships {
		return ""
	}
	return path
}

// run installs the packages in a root that is made of their files.
func (o InstallOptions) run(ctx context.Context, u *unpacked, extra []controlFile, out string) error {
	said := &transcript{total: len(u.debs), report: o.Progress}
	return o.confined(ctx, confinedRoot{bytes: u.bytes, leaveOut: policy(u)}, said, out,
		func(ctx context.Context, w io.Writer) error {
			if err := u.writeTo(ctx, w, o.Epoch); err != nil {
				return err
			}
			return u.writeDatabase(w, o.Epoch, extra)
		})
}

// confinedRoot is a root in which scripts run.
type confinedRoot struct {
	bytes    int64  // of its files
	leaveOut string // a file that is not part of the tree; empty: none
}

// confined starts install.sh, writes a root to it as a tar, and reads the tree from it when .ingot/configure
// of the root has run.
func (o InstallOptions) confined(ctx context.Context, r confinedRoot, said *transcript, out string,
	feed func(context.Context, io.Writer) error) error {
	layer, err := os.Create(out)
	if err != nil {
		return fmt.Errorf("installing: %w", err)
	}
	defer layer.Close()
	root, size := filepath.Join(o.Work, "root"), tmpfsSize(r.bytes)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("installing: %w", err)
	}
	cmd, outside, err := inNamespaces(ctx, installScript)
	if err != nil {
		return err
	}
	if size == "" {
		if err := outside.own(root); err != nil {
			return fmt.Errorf("installing: %w", err)
		}
	}
	cmd.Env = append(confinement(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "ROOT="+root,
		"EPOCH="+strconv.FormatInt(o.Epoch.Unix(), 10), "SIZE="+size, "OWN="+r.leaveOut)
	cmd.ExtraFiles = []*os.File{layer}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	err = runFed(ctx, cmd, outside, said, func(ctx context.Context) error {
		defer in.Close()
		w := bufio.NewWriterSize(in, 256<<10)
		if err := feed(ctx, w); err != nil {
			return err
		}
		return w.Flush()
	})
	if err != nil {
		return err
	}
	return layer.Close()
}

// spare is the memory, in bytes, that must be left for everything else, and that scripts may add to
// the unpacked files.
const spare = 512 << 20

// tmpfsSize returns the size of the tmpfs that the root is made in, or "" when there is too little
// memory for it.
func tmpfsSize(content int64) string {
	need := content + content/4 + spare
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return ""
	}
	available, err := strconv.ParseInt(strings.TrimSuffix(field(string(text), "MemAvailable"), " kB"), 10, 64)
	if err != nil || available<<10 < need+spare {
		return ""
	}
	return strconv.FormatInt(need, 10)
}

// keptCapabilities are those that package scripts need: to change owners, modes and users, and to
// give file capabilities. What the kernel lets root do to the machine is not among them.
var keptCapabilities = []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL,
	unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_SETPCAP, unix.CAP_SYS_CHROOT, unix.CAP_AUDIT_WRITE, unix.CAP_SETFCAP}

// confinement returns the environment of install.sh with which it confines the scripts of packages.
func confinement() []string {
	env := []string{"SETUP=" + setupScript, "CONFINE=" + confineScript}
	for name, number := range map[string]int{"PIVOT_ROOT": unix.SYS_PIVOT_ROOT, "UMOUNT2": unix.SYS_UMOUNT2,
		"PRCTL": unix.SYS_PRCTL, "CAPSET": unix.SYS_CAPSET, "KEYCTL": unix.SYS_KEYCTL,
		"SETHOSTNAME": unix.SYS_SETHOSTNAME, "SETSID": unix.SYS_SETSID,
		"CLOSE_RANGE": unix.SYS_CLOSE_RANGE} {
		env = append(env, fmt.Sprintf("SYS_%s=%d", name, number))
	}
	var keep []string
	for _, c := range keptCapabilities {
		keep = append(keep, strconv.Itoa(c))
	}
	return append(env, "KEEP="+strings.Join(keep, " "))
}

// outsideID is the id outside of the user and group that are root in the namespaces; 0: those of
// the process that builds.
type outsideID int

// spareIDs is the first of 65536 ids that no user has: the last range that systemd-nspawn takes for
// containers (systemd, UIDS-GIDS.md).
const spareIDs outsideID = 0x6FFF0000

// own gives root in the namespaces a folder on a disk, which it must be able to reach.
func (o outsideID) own(dir string) error {
	if o == 0 {
		return nil
	}
	for up := filepath.Dir(dir); up != "/" && up != "."; up = filepath.Dir(up) {
		if st, err := os.Stat(up); err != nil || st.Mode()&0o001 == 0 {
			return fmt.Errorf("there is too little memory for the root, and %q, above the scratch folder, can be entered "+
				"by its owner only; set TMPDIR to a folder that everybody may enter", up)
		}
	}
	return os.Chown(dir, int(o), int(o))
}

// inNamespaces returns a command that runs a shell script as pid 1 of new user, mount, pid,
// network, ipc, uts and cgroup namespaces, in which it is root. Outside it is the user with the
// returned id.
func inNamespaces(ctx context.Context, script string) (*exec.Cmd, outsideID, error) {
	if os.Geteuid() == 0 {
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", script)
		outside := spareIDs
		if !outside.mapped() { // in a container with few ids
			outside = 0
		}
		ids := []syscall.SysProcIDMap{{HostID: int(outside), Size: 1 << 16}}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
				syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP,
			UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{},
		}
		return cmd, outside, nil
	}
	if err := unshareWorks(ctx); err != nil {
		return nil, 0, err
	}
	cmd := exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "--map-auto", "--mount", "--pid", "--fork",
		"--kill-child", "--net", "--ipc", "--uts", "--cgroup",
		"--propagation", "private", "/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return cmd, 0, nil
}

// mapped reports whether this process may use 65536 ids from o on (user_namespaces(7)).
func (o outsideID) mapped() bool {
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		text, err := os.ReadFile(file)
		if err != nil || !mapsIDs(string(text), int64(o), 1<<16) {
			return false
		}
	}
	return true
}

// mapsIDs reports whether a uid_map has n ids from first on in one of its lines.
func mapsIDs(text string, first, n int64) bool {
	for line := range strings.Lines(text) {
		var inside, outside, length int64
		if _, err := fmt.Sscan(line, &inside, &outside, &length); err == nil && inside <= first && first+n <= inside+length {
			return true
		}
	}
	return false
}

// unshareWorks checks whether building without root can work.
func unshareWorks(ctx context.Context) error {
	if err := NeedTools("newuidmap", "unshare"); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "--map-auto",
		"true").CombinedOutput(); err != nil {
		return fmt.Errorf("building without root needs user namespaces and a range of ids in /etc/subuid and "+
			"/etc/subgid: %s; run as root, or: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER",
			strings.TrimSpace(string(out)))
	}
	return nil
}

// runFed runs cmd while feed writes its input. cmd and everything that it started end when ctx
// does, or when this process dies.
func runFed(ctx context.Context, cmd *exec.Cmd, outside outsideID, said *transcript,
	feed func(context.Context) error) error {
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	stderr, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer stderr.Close()
	defer theirs.Close()
	if outside != 0 { // scripts open it once more, as /dev/stderr
		if err := theirs.Chown(int(outside), int(outside)); err != nil {
			return err
		}
	}
	cmd.Stderr = theirs
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s in new namespaces: %w; building needs them: in a container, allow them or "+
			"run it privileged", cmd.Args[0], err)
	}
	theirs.Close()
	var g errgroup.Group
	g.Go(func() error { return feed(ctx) })
	said.read(stderr)
	fed := g.Wait()
	if err := cmd.Wait(); err != nil || fed != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return said.failure(err, fed)
	}
	return nil
}

// transcript reads the output of the installation.
type transcript struct {
	total, done int
	report      func(string)
	tail        []string
	failed      string // the package or script that failed
	what        error  // what a failure is; nil: ErrScript
}

var (
	settingUp   = regexp.MustCompile(`^Setting up (\S+) `)
	dpkgFailed  = regexp.MustCompile(`^dpkg: error processing (?:package|archive) (\S+)`)
	ingotFailed = regexp.MustCompile(`^ingot: failed: (\S+): (.*)`)
)

// tailLines is the number of lines that an error shows.
const tailLines = 12

func (t *transcript) read(r io.Reader) {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		line := strings.TrimRight(scan.Text(), " \r")
		if m := settingUp.FindStringSubmatch(line); m != nil {
			t.done++
			t.report(fmt.Sprintf("%d of %d: %s", t.done, t.total, m[1]))
		}
		if s, ok := strings.CutPrefix(line, "ingot: "); ok {
			t.report(s)
		}
		if t.failed == "" && line != "" {
			if t.tail = append(t.tail, line); len(t.tail) > tailLines {
				t.tail = t.tail[1:]
			}
		}
		for _, re := range []*regexp.Regexp{dpkgFailed, ingotFailed} {
			// later packages fail because they depend on the first
			if m := re.FindStringSubmatch(line); m != nil && t.failed == "" {
				t.failed = m[1]
			}
		}
	}
	_, _ = io.Copy(io.Discard, r) // a line is longer than the buffer: read on, so that the child does not block
}

// failure returns the error that the end of the output shows.
func (t *transcript) failure(err, fed error) error {
	text, what := strings.Join(t.tail, "\n  "), t.what
	if what == nil {
		what = ErrScript
	}
	switch {
	case strings.Contains(text, "No space left on device"):
		return fmt.Errorf("installing: %w", syscall.ENOSPC)
	case t.failed != "":
		return fmt.Errorf("%w: %s; its output:\n  %s", what, t.failed, text)
	case fed != nil && !errors.Is(fed, syscall.EPIPE):
		return fed
	}
	return fmt.Errorf("installing: %w:\n  %s", errors.Join(err, fed), text)
}

// Unpack writes the files of one package, as a tar, to the file out. It runs no maintainer scripts.
func Unpack(ctx context.Context, c Cache, p Package, out string) error {
	if err := NeedTools("xz"); err != nil {
		return err
	}
	_, err := readDeb(ctx, c, p, out)
	return err
}

// Script is a program that a profile runs in a root.
type Script struct {
	Name string
	Text string
	Env  []string // NAME=VALUE
}

// RunScripts runs scripts in a root, one after the other, confined as the scripts of packages are, and writes
// the root as they leave it, as a tar, to the file out. It adds to root what the scripts need, and removes it
// again.
func RunScripts(ctx context.Context, root *tree.Tree, list []Script, out string, o InstallOptions) error {
	if err := NeedTools("tar", "mount", "unshare", "perl"); err != nil {
		return err
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	var bytes int64
	for _, e := range root.Entries() {
		bytes += e.Size
	}
	defer root.Remove(".ingot")
	var run strings.Builder
	run.WriteString("umask 022\ncd /\n")
	for i, s := range list {
		text, file := s.Text, fmt.Sprintf(".ingot/scripts/%02d-%s", i+1, s.Name)
		if !strings.HasPrefix(text, "#!") {
			text = "#!/bin/sh -e\n" + text
		}
		if err := root.PutFile(file, 0o755, []byte(text)); err != nil {
			return fmt.Errorf("running the scripts of the profile: %w", err)
		}
		var env strings.Builder
		for _, v := range s.Env {
			name, value, _ := strings.Cut(v, "=")
			fmt.Fprintf(&env, "export %s='%s'; ", name, strings.ReplaceAll(value, "'", `'\''`))
		}
		fmt.Fprintf(&run, "echo 'ingot: script %s'\n(%sexec /%s </dev/null)\ncode=$?\n"+
			"[ $code = 0 ] || { echo \"ingot: failed: %s: exit code $code\"; exit 1; }\n", s.Name, env.String(), file, s.Name)
	}
	if err := errors.Join(root.PutFile(".ingot/configure", 0o755, []byte(run.String())),
		root.PutFile(".ingot/quirks", 0o644, nil)); err != nil {
		return fmt.Errorf("running the scripts of the profile: %w", err)
	}
	said := &transcript{report: o.Progress, what: ErrProfileScript}
	return o.confined(ctx, confinedRoot{bytes: bytes}, said, out, func(ctx context.Context, w io.Writer) error {
		return root.WriteTar(ctx, w, o.Epoch)
	})
}
