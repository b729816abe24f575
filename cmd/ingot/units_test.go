package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/internal/wire"
	"ingot/testvm/storm"
)

// TestUnits: systemd itself reads the units, and finds them hardened.
func TestUnits(t *testing.T) {
	wire.Need(t, "systemd-analyze")
	dir := t.TempDir()
	copies := copyUnits(t, dir, "/usr/bin/env", "") // the program need not be installed for this
	if out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"},
		copies...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// Exposure from 0 to 10, in tenths here: 2.0 with what it cannot do without.
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager",
		filepath.Join(dir, "ingot.service")).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// copyUnits copies the packaged units into a folder, changed for the path of
// another program and additional flags.
func copyUnits(t *testing.T, dir, program, flags string) (copies []string) {
	t.Helper()
	units, err := filepath.Glob("../../packaging/systemd/*.s[eo][rc]*")
	if err != nil || len(units) < 4 {
		t.Fatalf("%d units, %v; want the service and its sockets", len(units), err)
	}
	for _, u := range units {
		text, err := os.ReadFile(u)
		if err != nil {
			t.Fatal(err)
		}
		here := strings.ReplaceAll(string(text), "/usr/bin/ingot serve", "/usr/bin/ingot serve"+flags)
		copies = append(copies, filepath.Join(dir, filepath.Base(u)))
		if err := os.WriteFile(copies[len(copies)-1], []byte(strings.ReplaceAll(here, "/usr/bin/ingot", program)),
			0o644); err != nil {
			t.Fatal(err)
		}
	}
	return copies
}

// TestSandbox: systemd starts the server by the packaged units, with their
// sockets and within their sandbox, and machines boot: no system call, file or
// socket that it needs is denied. It runs as process 1 of namespaces in which
// it can change nothing of this host.
func TestSandbox(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "/lib/systemd/systemd", "unshare", "nsenter", "ss")
	f := newField(t, 2<<20)
	f.write(settings + "api: {metrics: \"10.99.0.1:9100\"}\n")
	m := f.startSystemd()
	f.until("systemd to have started the server", func() bool {
		state := m.show("ActiveState")
		return state == "active" || state == "failed"
	})
	if got := m.show("StatusText"); got != "serving" {
		why, _ := m.in("systemctl", "status", "--no-pager", "ingot.service") // it fails when the service did
		t.Fatalf("the server says of itself %q; want serving\n%s\n%s", got, why, m.log())
	}
	status := m.run("cat", "/proc/"+m.show("MainPID")+"/status")
	for _, want := range []string{"\nUid:\t64999\t", "\nCapEff:\t0000000000003400\n", "\nNoNewPrivs:\t1\n",
		"\nSeccomp:\t2\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("the server runs as\n%s; want %q", status, want)
		}
	}
	most, err := f.lan.Command(f.ctx, "cat", "/proc/sys/net/core/somaxconn").Output()
	if err != nil {
		t.Fatal(err)
	}
	// The queues of connections that are not accepted yet are as long as the kernel
	// allows, for sockets of systemd and for those that the server opened.
	for port, want := range map[int]string{80: "0.0.0.0:80", 9100: "10.99.0.1:9100"} {
		list := f.sockets("-t", port)
		if len(list) != 1 || list[0][3] != want || list[0][2] != strings.TrimSpace(string(most)) {
			t.Errorf("at port %d ss shows %q; want %s with a queue of %s", port, list, want, most)
		}
	}
	f.startStorm(storm.Config{Machines: 6, Spread: time.Second, Timeout: 2 * time.Minute})()
	m.run("systemctl", "reload", "ingot.service")
	if restarts, state := m.show("NRestarts"), m.show("SubState"); restarts != "0" || state != "running" {
		t.Errorf("after machines booted and a reload the server is %s, restarted %s times\n%s", state, restarts, m.log())
	}
	m.run("systemctl", "stop", "ingot.service")
	if got := m.show("Result"); got != "success" {
		t.Errorf("the server ended with %s\n%s", got, m.log())
	}
}

// privateSystemd starts systemd as process 1 of namespaces of its own: $1 is
// the field's folder, $2 the program, $3 a name for its control group. Nothing
// but what is mounted here can be written, and no unit of this host is known.
const privateSystemd = `set -e
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/$3
echo $$ > /sys/fs/cgroup/$3/cgroup.procs
exec unshare --pid --fork --kill-child --cgroup --ipc --uts --mount sh -c '
set -e
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system /run/test/field
mount --bind $1 /run/test/field
touch /run/test/ingot
mount --bind $2 /run/test/ingot
cp /run/test/field/units/* /run/systemd/system
for of in passwd group; do
	cp /etc/$of /run/test/$of
	echo "ingot:x:64999:$([ $of = group ] || echo 64999::/:/usr/sbin/nologin)" >> /run/test/$of
	mount --bind /run/test/$of /etc/$of
done
for dir in /tmp /var/tmp /var/lib /var/cache; do mount -t tmpfs tmpfs $dir; done
chmod 1777 /tmp /var/tmp
mkdir /var/lib/ingot
mount --bind /run/test/field/store /var/lib/ingot
mount -o remount,bind,ro /
export container=test SYSTEMD_UNIT_PATH=/run/systemd/system SYSTEMD_GENERATOR_PATH=/run/test/none
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=null --show-status=no
' sh "$1" "$2"
`

// box is a systemd that is process 1 of its own namespaces.
type box struct {
	*field
	pid string // of its systemd, as this process sees it
}

func (f *field) startSystemd() *box {
	f.t.Helper()
	units := filepath.Join(f.dir, "units")
	if err := os.Mkdir(units, 0o755); err != nil {
		f.t.Fatal(err)
	}
	copyUnits(f.t.(*testing.T), units, "/run/test/ingot", " --config /run/test/field/ingot.yaml")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(units, name), []byte(text), 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
	for _, target := range []string{"sysinit", "basic", "sockets", "network-online", "shutdown"} {
		write(target+".target", "[Unit]\nDefaultDependencies=no\n")
	}
	write("multi-user.target",
		"[Unit]\nDefaultDependencies=no\nWants=ingot.service ingot-http.socket ingot-tftp.socket ingot.socket\n")
	service, err := os.OpenFile(filepath.Join(units, "ingot.service"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	fmt.Fprint(service, "[Service]\nEnvironment=INGOT_TEST_IS=ingot\nStandardError=file:/run/test/field/serve.log\n")
	if err := service.Close(); err != nil {
		f.t.Fatal(err)
	}
	group := "ingot-" + filepath.Base(f.dir)
	cmd := f.lan.Command(f.ctx, "unshare", "--mount", "--propagation", "private", "sh", "-c", privateSystemd, "sh", f.dir,
		os.Args[0], group)
	cmd.Stderr = &f.log
	if err := f.lan.Start(cmd); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	m := &box{field: f}
	f.until("systemd to become process 1", func() bool {
		select {
		case err := <-ended:
			wire.Cannot(f.t, fmt.Sprintf("no systemd in namespaces here: %v\n%s", err, f.log.String()))
		default:
		}
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		m.pid = strings.TrimSpace(string(children))
		comm, _ := os.ReadFile("/proc/" + m.pid + "/comm")
		return string(comm) == "systemd\n"
	})
	f.t.Cleanup(func() {
		if pid, err := strconv.Atoi(m.pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // and with it all in its namespace
		}
		if err := <-ended; err != nil {
			f.t.Logf("systemd's namespace: %v", err)
		}
		out, err := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
			"umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup && "+
				"find /sys/fs/cgroup/"+group+" -depth -type d -exec rmdir {} +").CombinedOutput()
		if err != nil {
			f.t.Errorf("removing the control group: %v: %s", err, out)
		}
	})
	return m
}

// in runs a program beside systemd.
func (m *box) in(argv ...string) (string, error) {
	out, err := exec.CommandContext(m.ctx, "nsenter", append([]string{"--target", m.pid, "--mount", "--pid", "--"},
		argv...)...).CombinedOutput()
	return string(out), err
}

// run runs what must succeed.
func (m *box) run(argv ...string) string {
	m.t.Helper()
	out, err := m.in(argv...)
	if err != nil {
		m.t.Errorf("%s: %v: %s\n%s", strings.Join(argv, " "), err, out, m.log())
	}
	return out
}

// show is a property of the service; nothing while systemd is not there yet.
func (m *box) show(property string) string {
	out, err := m.in("systemctl", "show", "--value", "--property="+property, "ingot.service")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// log is what the server wrote.
func (m *box) log() string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "serve.log"))
	return string(b)
}
