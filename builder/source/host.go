package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot/builder/tree"
)

// Host is a running machine, reached by the system's own ssh.
type Host struct {
	Target  string   // [user@]host
	Port    string   // empty: ssh's default
	Options []string // further arguments for ssh
	Root    string   // folder of the host to take as its root; empty: /
	Sudo    bool     // become root with sudo, without a password
	Batch   bool     // do not ask for passwords
}

var hostNameRE = regexp.MustCompile(`^[A-Za-z0-9._:\[\]%-]+$`)

// ParseHost reads ssh://[user@]host[:port].
func ParseHost(s string) (Host, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "ssh" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" ||
		strings.HasPrefix(u.Hostname(), "-") || !hostNameRE.MatchString(u.Hostname()) {
		return Host{}, fmt.Errorf("reading the host %q: write ssh://[USER@]HOST[:PORT]", s)
	}
	h := Host{Target: u.Hostname(), Port: u.Port()}
	if name := u.User.Username(); name != "" {
		if strings.HasPrefix(name, "-") {
			return Host{}, fmt.Errorf("reading the host %q: %q is not a user name", s, name)
		}
		h.Target = name + "@" + h.Target
	}
	return h, nil
}

// String returns the host as ParseHost reads it.
func (h Host) String() string {
	if h.Port == "" {
		return "ssh://" + h.Target
	}
	return "ssh://" + h.Target + ":" + h.Port
}

func (h Host) root() string {
	if h.Root == "" {
		return "/"
	}
	return path.Clean("/" + h.Root)
}

// HostFacts describe a host before anything is captured.
type HostFacts struct {
	UID       int
	Machine   string // as uname -m says
	OSRelease string
	Status    string   // dpkg's status file; empty: not a Debian host
	Extended  string   // apt's extended_states
	Mounts    []Mount  // filesystems on disks below the root, without the root's own
	Swaps     []string // swap files
	Used      int64    // bytes of the root's filesystem
	Folders   []tree.Entry
	tar       string
}

// Mount is one further filesystem of a host.
type Mount struct {
	Path string `json:"path"`
	Type string `json:"type"`
	// Taken: it is captured because it is part of the system, not data.
	Taken bool `json:"taken"`
}

// lookScript prints sections. Of keptFolders it lists folders only.
const lookScript = `root=%s
s() { printf '=== ingot %%s\n' "$1"; }
s uid; id -u
s machine; uname -m
s tar; tar --version 2>/dev/null | head -n 1
s os; cat "$root/etc/os-release" 2>/dev/null || cat "$root/usr/lib/os-release" 2>/dev/null
s status; cat "$root/var/lib/dpkg/status" 2>/dev/null
s extended; cat "$root/var/lib/apt/extended_states" 2>/dev/null
s mounts; cat /proc/self/mountinfo 2>/dev/null
s swaps; tail -n +2 /proc/swaps 2>/dev/null
s used; df -kP "$root" 2>/dev/null | tail -n 1
s folders; cd "$root" && find %s -xdev -type d -printf '%%m %%U %%G %%p\n' 2>/dev/null
s end
`

// keptFolders are searched for folders that services expect.
var keptFolders = []string{"./var/log", "./var/cache", "./var/tmp", "./var/spool", "./var/mail"}

// Look reads the facts of the host.
func (h Host) Look(ctx context.Context) (HostFacts, error) {
	if err := NeedTools("ssh"); err != nil {
		return HostFacts{}, err
	}
	script := fmt.Sprintf(lookScript, quote(h.root()), strings.Join(keptFolders, " "))
	cmd := h.command(ctx, "sh -s")
	cmd.Stdin = strings.NewReader(script)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return HostFacts{}, h.explain(ctx, err, said.String())
	}
	facts, err := parseFacts(out.String(), h.root())
	if err != nil {
		return facts, fmt.Errorf("looking at %s: %w", h, err)
	}
	if facts.UID != 0 {
		return facts, fmt.Errorf("looking at %s: %w; use ssh://root@…, or add --sudo when the user may become root "+
			"without a password", h, ErrNotRoot)
	}
	if !strings.Contains(facts.tar, "GNU tar") {
		return facts, fmt.Errorf("looking at %s: %w: GNU tar is not installed there", h, ErrCapture)
	}
	return facts, nil
}

// command returns the command that runs a shell script on the host.
func (h Host) command(ctx context.Context, words string) *exec.Cmd {
	args := []string{"-T", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o", "LogLevel=ERROR"}
	if h.Batch {
		args = append(args, "-o", "BatchMode=yes")
	}
	if h.Port != "" {
		args = append(args, "-p", h.Port)
	}
	args = append(args, h.Options...)
	if h.Sudo {
		words = "sudo -n " + words
	}
	cmd := exec.CommandContext(ctx, "ssh", append(args, "--", h.Target, words)...)
	cmd.Env = cleanEnviron()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// quote quotes a string as one word for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// explain turns the messages of ssh, sudo or tar into one sentence.
func (h Host) explain(ctx context.Context, err error, said string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	lines := strings.Split(strings.TrimSpace(said), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	login := "ssh " + h.Target
	if h.Port != "" {
		login = "ssh -p " + h.Port + " " + h.Target
	}
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(said, w) })
	}
	switch {
	case has("REMOTE HOST IDENTIFICATION HAS CHANGED"):
		return fmt.Errorf("%w: it has changed since the last connection; find out why, then run: %s", ErrHostKey, login)
	case has("Host key verification failed", "host key is known"):
		return fmt.Errorf("%w: it is not known here; connect once and compare its fingerprint: %s", ErrHostKey, login)
	case has("sudo: a password is required", "sudo: a terminal is required", "not in the sudoers"):
		return fmt.Errorf("%w: sudo asks for a password there (%s); use ssh://root@…, or allow it in sudoers", ErrNotRoot,
			last)
	case has("sudo: command not found", "sudo: not found"):
		return fmt.Errorf("%w: there is no sudo; use ssh://root@…", ErrNotRoot)
	case has("Permission denied (", "Too many authentication failures"):
		return fmt.Errorf("%w: %s; name the user as ssh://USER@HOST, or a key with --identity FILE", ErrNoLogin, last)
	case has("Could not resolve", "Connection refused", "timed out", "No route to host", "Network is unreachable",
		"Connection closed", "Connection reset"):
		return fmt.Errorf("%w: %s", ErrNoHost, last)
	}
	for _, l := range lines { // tar continues after an error and ends with a summary
		if strings.HasPrefix(l, "tar: ") && !strings.Contains(l, "Removing leading") &&
			!strings.Contains(l, "file changed as we read it") {
			last = l
			break
		}
	}
	return fmt.Errorf("%w: %w: %s", ErrCapture, err, last)
}

// parseFacts reads what lookScript printed.
func parseFacts(out, root string) (f HostFacts, err error) {
	sections := map[string]string{}
	for _, s := range strings.Split("\n"+out, "\n=== ingot ")[1:] {
		name, body, _ := strings.Cut(s, "\n")
		sections[name] = body
	}
	if _, ok := sections["end"]; !ok {
		return f, fmt.Errorf("%w: the answer is incomplete", ErrCapture)
	}
	if f.UID, err = strconv.Atoi(strings.TrimSpace(sections["uid"])); err != nil {
		return f, fmt.Errorf("%w: no user id in the answer", ErrCapture)
	}
	f.Machine, f.OSRelease, f.tar = strings.TrimSpace(sections["machine"]), sections["os"], sections["tar"]
	f.Status, f.Extended = sections["status"], sections["extended"]
	f.Mounts = parseMounts(sections["mounts"], root)
	for _, line := range strings.Split(sections["swaps"], "\n") {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == "file" {
			f.Swaps = append(f.Swaps, fields[0])
		}
	}
	if fields := strings.Fields(sections["used"]); len(fields) > 3 {
		kib, _ := strconv.ParseInt(fields[2], 10, 64)
		f.Used = kib << 10
	}
	for _, line := range strings.Split(sections["folders"], "\n") {
		fields := strings.SplitN(line, " ", 4)
		if len(fields) != 4 {
			continue
		}
		mode, err1 := strconv.ParseUint(fields[0], 8, 12)
		uid, err2 := strconv.Atoi(fields[1])
		gid, err3 := strconv.Atoi(fields[2])
		if errors.Join(err1, err2, err3) == nil {
			f.Folders = append(f.Folders, tree.Entry{Path: fields[3], Kind: tree.Dir, Mode: uint32(mode), UID: uid, GID: gid})
		}
	}
	return f, nil
}

// onDisk are the types of filesystems that hold an installed system.
var onDisk = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "jfs", "reiserfs", "zfs", "bcachefs"}

// systemMounts are the folders that belong to the system when they are
// separate filesystems; others are data.
var systemMounts = []string{"/usr", "/usr/local", "/var", "/var/lib", "/opt", "/etc", "/root"}

// parseMounts reads mountinfo (proc_pid_mountinfo(5)).
func parseMounts(text, root string) []Mount {
	var list []Mount
	seen := map[string]bool{}
	for _, line := range strings.Split(text, "\n") {
		before, after, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(types) == 0 {
			continue
		}
		at := unescapeMount(fields[4])
		if root != "/" {
			if at, ok = strings.CutPrefix(at, root+"/"); !ok {
				continue
			}
			at = "/" + at
		}
		if at == "/" || seen[at] || !slices.Contains(onDisk, types[0]) {
			continue
		}
		seen[at] = true
		list = append(list, Mount{Path: at, Type: types[0], Taken: slices.Contains(systemMounts, at)})
	}
	return list
}

var octalRE = regexp.MustCompile(`\\[0-7]{3}`)

func unescapeMount(s string) string {
	return octalRE.ReplaceAllStringFunc(s, func(o string) string {
		n, err := strconv.ParseUint(o[1:], 8, 8)
		if err != nil {
			return o
		}
		return string([]byte{byte(n)})
	})
}

// Captured is the root of a host.
type Captured struct {
	*tree.Tree
	Newest    int64    // Unix time of the newest file
	Bytes     int64    // received
	Passwords []string // users whose password hash was removed
	Changed   bool     // files changed while they were read
}

// CaptureOptions say what is taken of a host.
type CaptureOptions struct {
	Rules    []Rule
	Include  []string // paths to capture in spite of the rules, and other filesystems
	Spool    *os.File // receives the content; must stay open as long as the tree is used
	Progress func(bytes int64)
}

// Capture reads the root of a host: one tar of the root's filesystem and of those that belong to
// the system, and another of the paths of Include. The rules are applied on the host, to save
// transfer, and again here. Password hashes are removed.
func (h Host) Capture(ctx context.Context, facts HostFacts, o CaptureOptions) (*Captured, error) {
	rules := slices.Clone(o.Rules)
	for _, s := range facts.Swaps {
		rules = append(rules, Rule{Pattern: s, Why: whySwap})
	}
	c := &Captured{}
	m := newMerger(o.Spool)
	members := []string{"."}
	for _, mount := range facts.Mounts {
		if mount.Taken {
			members = append(members, "."+mount.Path)
		}
	}
	if err := h.stream(ctx, m, c, o, rules, members); err != nil {
		return nil, err
	}
	if len(o.Include) > 0 {
		members = nil
		for _, p := range o.Include {
			members = append(members, "."+path.Clean("/"+p))
		}
		if err := h.stream(ctx, m, c, o, notCovering(rules, o.Include), members); err != nil {
			return nil, err
		}
	}
	for _, e := range facts.Folders {
		if m.tree.Get(e.Path) == nil && m.tree.Get(path.Dir(e.Path)) != nil && keepsFolder(rules, e.Path) {
			if err := m.tree.Put(e); err != nil {
				return nil, err
			}
		}
	}
	c.Tree, c.Newest = m.tree, m.newest
	if err := dropOwnName(m.tree); err != nil {
		return nil, err
	}
	if !slices.Contains(o.Include, "/etc/shadow") {
		var err error
		if c.Passwords, err = dropPasswords(m.tree); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// keepsFolder reports whether every rule that excludes a folder keeps it as an empty one.
func keepsFolder(rules []Rule, p string) bool {
	return !slices.ContainsFunc(rules, func(r Rule) bool { return !r.Folders && r.Matches(p) })
}

// stream runs tar on the host and adds its entries to the tree.
func (h Host) stream(ctx context.Context, m *merger, c *Captured, o CaptureOptions,
	rules []Rule, members []string) error {
	words := []string{"tar", "--create", "--file=-", "--format=posix", "--numeric-owner", "--one-file-system", "--sparse",
		"--xattrs", "--xattrs-include=user.*", "--xattrs-include=security.capability", "--anchored",
		"--no-wildcards-match-slash", "--wildcards"}
	for _, r := range rules {
		words = append(words, "--exclude=."+r.Pattern)
	}
	words = append(words, "--directory="+h.root(), "--")
	words = append(words, members...)
	for i := range words {
		words[i] = quote(words[i])
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := h.command(ctx, strings.Join(words, " "))
	var said bytes.Buffer
	cmd.Stderr = &said
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting ssh: %w", err)
	}
	wire := &counted{pipe, func(n int64) {
		if c.Bytes += n; o.Progress != nil {
			o.Progress(c.Bytes)
		}
	}}
	var entries []tree.Entry
	readErr := m.read(ctx, bufio.NewReaderSize(wire, 1<<20), func(e tree.Entry) {
		if !excludes(rules, e.Path) {
			entries = append(entries, e)
		}
	})
	if readErr == nil {
		_, readErr = io.Copy(io.Discard, wire)
	}
	if readErr != nil && ctx.Err() == nil {
		// ssh reports why the stream ended, unless the error is on this side.
		if errors.Is(readErr, io.ErrUnexpectedEOF) {
			_ = cmd.Wait()
			return fmt.Errorf("%w: the connection ended early: %s", ErrCapture, strings.TrimSpace(lastLine(said.String())))
		}
		stop()
	}
	waitErr := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(waitErr, &exit) && exit.ExitCode() == 1 { // "Some files differ": they changed while they were read
		c.Changed, waitErr = true, nil
	}
	if readErr != nil {
		return fmt.Errorf("capturing %s: %w", h, readErr)
	}
	if waitErr != nil {
		return h.explain(ctx, waitErr, said.String())
	}
	return m.put(ctx, entries, func(tree.Entry) {})
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// dropPasswords removes the hashes from shadow(5) and gshadow(5) and returns the users that had
// one. SSH keys still work.
func dropPasswords(t *tree.Tree) (users []string, err error) {
	for _, name := range []string{"etc/shadow", "etc/gshadow"} {
		e := t.Find(name)
		if e == nil || e.Kind != tree.File {
			continue
		}
		content, err := t.ReadFile(name)
		if err != nil {
			return nil, err
		}
		lines := strings.SplitAfter(string(content), "\n")
		for i, line := range lines {
			f := strings.Split(line, ":")
			if len(f) < 3 || len(f[1]) < 3 { // "", "*", "!", "!!": no password
				continue
			}
			users = append(users, f[0])
			f[1] = "!"
			if name == "etc/shadow" {
				f[1] = "*" // locked accounts ("!") cannot log in by key either
			}
			lines[i] = strings.Join(f, ":")
		}
		same := *e
		text := []byte(strings.Join(lines, ""))
		same.Size, same.Open = int64(len(text)), tree.Bytes(text)
		if err := t.Put(same); err != nil {
			return nil, err
		}
	}
	return users, nil
}

// WriteTarZstd writes a tree as a canonical tar, compressed with zstd.
func WriteTarZstd(ctx context.Context, w io.Writer, t *tree.Tree, newest int64) error {
	return writeZstd(w, func(w io.Writer) error {
		return t.WriteTar(ctx, w, time.Unix(min(max(newest, 0), maxTime), 0))
	})
}
