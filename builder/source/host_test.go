package source

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ingot/builder/source/hosttest"
	"ingot/builder/tree"
)

// realSSHD is OpenSSH's server on loopback, as a host that trusts us.
func realSSHD(t *testing.T) Host {
	t.Helper()
	needTool(t, "sshd")
	needTool(t, "ssh")
	h := hosttest.SSHD(t)
	return Host{Target: h.Target, Port: h.Port, Options: h.Options, Batch: true}
}

// hostRoot is a small root with what must stay behind and what must come.
func hostRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for p, content := range map[string]string{
		"etc/os-release": "ID=debian\nVERSION_CODENAME=trixie\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n",
		"etc/app.conf":   "conf", "usr/bin/app": "app",
		"var/lib/dpkg/status": "Package: app\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\n",
		"etc/shadow":          "root:$y$secret:20000:0:99999:7:::\ndaemon:*:1::::::\nops:!:1::::::\n",
		"etc/gshadow":         "root:*::\n",
		"etc/ssh/sshd_config": "Port 22", "etc/ssh/ssh_host_ed25519_key": "SECRET", "etc/machine-id": "0123",
		"etc/hostname": "old", "etc/shadow-": "SECRET",
		"etc/fstab": "UUID=x / ext4", "var/log/app/app.log": "log", "var/log/syslog": "log",
		"var/cache/apt/pkgcache.bin": "cache", "var/lib/dhcp/dhclient.leases": "lease",
		"root/.bash_history": "history", "root/.bashrc": "rc", "root/.ssh/id_ed25519": "SECRET",
		"root/.ssh/authorized_keys": "ssh-ed25519 AAAA", "home/ops/data": "data",
		"home/ops/code/main.go": "code", "srv/www/index.html": "www", "swapfile": "swap", "boot/vmlinuz-1": "kernel",
		"usr/lib/modules/1/x.ko": "module", "proc/1": "x", "dev/x": "x", "tmp/t": "t",
		"opt/it's here/a b": "quoted", "opt/skip/me": "skip", "opt/.wh.odd": "no whiteout: this is no layer",
	} {
		p = filepath.Join(root, p)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	app := filepath.Join(root, "usr/bin/app")
	if err := errors.Join(os.Chown(app, 3, 4), os.Chmod(app, 0o755|os.ModeSetuid),
		os.Link(app, filepath.Join(root, "usr/bin/app2")),
		os.Symlink("app", filepath.Join(root, "usr/bin/app3")), unix.Lsetxattr(app, "user.k", []byte("v"), 0),
		os.Chown(filepath.Join(root, "var/log/app"), 33, 33),
		unix.Chmod(filepath.Join(root, "var/log/app"), 0o2750)); err != nil {
		t.Fatal(err)
	}
	return root
}

func capture(ctx context.Context, t *testing.T, h Host, o CaptureOptions) (*Captured, error) {
	t.Helper()
	facts, err := h.Look(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if o.Spool, err = os.Create(filepath.Join(t.TempDir(), "spool")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Spool.Close() })
	return h.Capture(ctx, facts, o)
}

// TestCaptureHost: a root comes over SSH without what must stay behind.
func TestCaptureHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may log in as root")
	}
	h := realSSHD(t)
	h.Root = hostRoot(t)
	facts, err := h.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(facts.OSRelease, "trixie") || !strings.Contains(facts.Status, "Package: app") ||
		facts.Machine == "" {
		t.Errorf("Look = %+v; want os-release, dpkg's status and the machine", facts)
	}
	c, err := capture(t.Context(), t, h, CaptureOptions{Rules: Excluded()})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range c.Entries() {
		if e.Kind != tree.Dir {
			got = append(got, e.Path)
		}
	}
	want := []string{"etc/app.conf", "etc/gshadow", "etc/os-release", "etc/shadow", "etc/ssh/sshd_config", "opt/.wh.odd",
		"opt/it's here/a b", "opt/skip/me",
		"root/.bashrc", "root/.ssh/authorized_keys", "usr/bin/app", "usr/bin/app2", "usr/bin/app3", "var/lib/dpkg/status"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("captured files (-want +got):\n%s", d)
	}
	if e := c.Get("usr/bin/app"); e.UID != 3 || e.GID != 4 || e.Mode != 0o4755 || e.Xattrs["user.k"] != "v" {
		t.Errorf("usr/bin/app = %+v; want its owner, setuid and attribute", e)
	}
	if e := c.Get("usr/bin/app2"); e.Hard != "usr/bin/app" {
		t.Errorf("usr/bin/app2 is linked to %q", e.Hard)
	}
	for _, p := range []string{"proc", "dev", "tmp", "home", "var/cache/apt", "boot"} {
		if e := c.Get(p); e == nil || e.Kind != tree.Dir {
			t.Errorf("/%s = %+v; want an empty folder", p, e)
		}
	}
	if e := c.Get("var/log/app"); e == nil || e.UID != 33 || e.Mode != 0o2750 {
		t.Errorf("/var/log/app = %+v; want the service's own folder, empty", e)
	}
	shadow, err := c.ReadFile("etc/shadow")
	if err != nil || string(shadow) != "root:*:20000:0:99999:7:::\ndaemon:*:1::::::\nops:!:1::::::\n" ||
		!slices.Equal(c.Passwords, []string{"root"}) {
		t.Errorf("shadow = %q (%v), passwords of %v; want no hash, and root named", shadow, err, c.Passwords)
	}
}

// TestCaptureAsAsked: rules are overridden and added to.
func TestCaptureAsAsked(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may log in as root")
	}
	h := realSSHD(t)
	h.Root = hostRoot(t)
	c, err := capture(t.Context(), t, h, CaptureOptions{Rules: append(Excluded(),
		Rule{Pattern: "/opt/skip", Why: "asked for"}, Rule{Pattern: "/home/ops/data", Why: "asked for"}),
		Include: []string{"/home", "/srv/www", "/etc/machine-id", "/etc/shadow", "/root"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"home/ops/code/main.go", "srv/www/index.html", "etc/machine-id"} {
		if c.Get(p) == nil {
			t.Errorf("/%s was asked for and is not there", p)
		}
	}
	for _, p := range []string{"opt/skip", "home/ops/data", "root/.ssh/id_ed25519",
		"root/.bash_history", "etc/ssh/ssh_host_ed25519_key"} {
		if c.Get(p) != nil {
			t.Errorf("/%s came although a rule leaves it out", p)
		}
	}
	if b, err := c.ReadFile("etc/shadow"); err != nil || !strings.Contains(string(b), "$y$secret") {
		t.Errorf("shadow = %q (%v); want the hash that was asked for", b, err)
	}
	if _, err := capture(t.Context(), t, h, CaptureOptions{Rules: Excluded(),
		Include: []string{"/no/such/thing"}}); !errors.Is(err, ErrCapture) ||
		!strings.Contains(err.Error(), "no/such/thing") {
		t.Errorf("including what is not there: %v; want ErrCapture with its name", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := capture(ctx, t, h, CaptureOptions{Rules: Excluded(), Progress: func(int64) { cancel() }}); !errors.Is(err,
		context.Canceled) {
		t.Errorf("interrupted: %v; want context.Canceled", err)
	}
}

// TestHostsThatRefuse: one clear error each, with the next step.
func TestHostsThatRefuse(t *testing.T) {
	h := realSSHD(t)
	with := func(change func(*Host)) Host {
		g := h
		g.Options = slices.Clone(h.Options)
		change(&g)
		return g
	}
	other := filepath.Join(t.TempDir(), "other")
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other)
	pub, err := os.ReadFile(other + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "known")
	if err := os.WriteFile(changed, fmt.Appendf(nil, "[127.0.0.1]:%s %s", h.Port, pub), 0o600); err != nil {
		t.Fatal(err)
	}
	last := len(h.Options) - 1
	for _, c := range []struct {
		name string
		host Host
		is   error
		says string
	}{
		{"a host key that is not known", with(func(h *Host) { h.Options[last] = "UserKnownHostsFile=/dev/null" }), ErrHostKey,
			"connect once and compare its fingerprint: ssh -p " + h.Port},
		{"a host key that has changed", with(func(h *Host) { h.Options[last] = "UserKnownHostsFile=" + changed }), ErrHostKey,
			"has changed"},
		{"a key that is not known there", with(func(h *Host) { h.Options[3] = other }), ErrNoLogin, "--identity"},
		{"nobody there", with(func(h *Host) { h.Port = "1" }), ErrNoHost, "Connection refused"},
		{"no such name", with(func(h *Host) { h.Target, h.Port = "root@no-such-host.invalid", "" }),
			ErrNoHost, "no-such-host.invalid"},
	} {
		_, err := c.host.Look(t.Context())
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want %q and …%s…", c.name, err, c.is, c.says)
		}
	}
	for said, want := range map[string]error{"sudo: a password is required\n": ErrNotRoot, "bash: line 1: sudo: " +
		"command not found\n": ErrNotRoot, "tar: ./x: Cannot open\n": ErrCapture} {
		if err := h.explain(t.Context(), errors.New("exit status 1"), said); !errors.Is(err, want) {
			t.Errorf("%q = %v; want %v", said, err, want)
		}
	}
	if os.Geteuid() != 0 {
		if _, err := h.Look(t.Context()); !errors.Is(err, ErrNotRoot) || !strings.Contains(err.Error(), "--sudo") {
			t.Errorf("as somebody: %v; want ErrNotRoot", err)
		}
	}
	_, err = parseFacts("=== ingot uid\n1000\n", "/")
	if !errors.Is(err, ErrCapture) {
		t.Errorf("half an answer: %v; want ErrCapture", err)
	}
}

func TestParseHost(t *testing.T) {
	for s, want := range map[string]Host{
		"ssh://web": {Target: "web"}, "ssh://ops@web.example:2222/": {Target: "ops@web.example", Port: "2222"},
	} {
		got, err := ParseHost(s)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("ParseHost(%q): %v %s", s, err, d)
		}
	}
	for _, s := range []string{"web", "ssh://", "http://web", "ssh://web/etc",
		"ssh://-oProxyCommand=x", "ssh://-x@web", "ssh://a b"} {
		if h, err := ParseHost(s); err == nil {
			t.Errorf("ParseHost(%q) = %+v; want an error", s, h)
		}
	}
}

func TestMounts(t *testing.T) {
	const text = `22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 8:2 / /usr rw - ext4 /dev/sda2 rw
24 22 8:3 / /srv/my\040data rw shared:1 - xfs /dev/sdb rw
25 22 0:5 / /proc rw - proc proc rw
26 22 0:6 / /run rw - tmpfs tmpfs rw
27 22 8:2 / /usr rw - ext4 /dev/sda2 rw
`
	want := []Mount{{"/usr", "ext4", true}, {"/srv/my data", "xfs", false}}
	if d := cmp.Diff(want, parseMounts(text, "/")); d != "" {
		t.Errorf("parseMounts (-want +got):\n%s", d)
	}
	if got := parseMounts(text, "/srv"); len(got) != 1 || got[0].Path != "/my data" {
		t.Errorf("below /srv: %v; want /my data", got)
	}
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		pattern, path  string
		matches, stand bool // in the way of an explicit wish for path
	}{
		{"/home/*", "home/ops/x", true, true}, {"/home/*", "/home", false, true}, {"/root/.ssh/id_*", "/root", false, false},
		{"/etc/ssh/ssh_host_*", "etc/ssh/ssh_host_rsa_key.pub", true, true},
		{"/etc/ssh/ssh_host_*", "etc/ssh/sshd_config", false, false}, {"/swap", "swap/file", true, true},
		{"/swap", "swapfile", false, false}, {"/tmp/*", "tmp", false, true},
	} {
		r := Rule{Pattern: c.pattern}
		if got := r.Matches(c.path); got != c.matches {
			t.Errorf("%s matches %s: %v; want %v", c.pattern, c.path, got, c.matches)
		}
		if got := r.covers(c.path); got != c.stand {
			t.Errorf("%s covers %s: %v; want %v", c.pattern, c.path, got, c.stand)
		}
	}
	seen := map[string]bool{}
	for _, r := range Excluded() {
		if seen[r.Pattern] || r.Why == "" || !filepath.IsAbs(r.Pattern) {
			t.Errorf("the rule %+v is there twice, gives no reason or is not absolute", r)
		}
		seen[r.Pattern] = true
	}
}
