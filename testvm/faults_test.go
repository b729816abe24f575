//go:build e2e

package testvm

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/bootserver/api"
	"ingot/image"
)

// stopped waits until a boot failed, and checks that the reason is on the
// console and in the record.
func (s *stage) stopped(vm *VM, reason string) {
	s.t.Helper()
	if _, err := vm.Console.WaitFor(s.ctx, `This machine could not boot`); err != nil {
		s.t.Fatal(err)
	}
	b := s.boot(vm, 1, "the boot to fail", func(b api.Boot) bool { return !b.Open() })
	if b.Outcome != ingot.OutcomeFailed || !strings.Contains(b.Reason, reason) {
		s.t.Errorf("the boot ended %q: %q; want failed: …%s…", b.Outcome, b.Reason, reason)
	}
	// The frame on the console breaks lines; compare without its edges.
	console := words(strings.NewReplacer("|", "", "\r", "").Replace(vm.Console.Text()))
	if !strings.Contains(console, words(reason)) {
		s.t.Errorf("the console does not say %q; it last said:\n%s", reason, vm.Console.Tail(30))
	}
	if out := s.run("boots", vm.id()); !strings.Contains(out, reason) {
		s.t.Errorf("ingot boots does not say %q:\n%s", reason, out)
	}
	if out := strings.ToLower(vm.Console.Text()); strings.Contains(out, "welcome to") {
		s.t.Error("systemd was started all the same")
	}
}

// TestSceneFlippedByte: one bit of the root in the store is wrong. The image is not served, and it is said why.
func TestSceneFlippedByte(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	root := filepath.Join(s.store, "images/blobs/sha256", s.inspect("lab:v1").Manifest.Root.Digest.Hex())
	content, err := os.ReadFile(root)
	if err != nil {
		t.Fatal(err)
	}
	content[20<<20+5] ^= 1
	if err := os.Remove(root); err != nil { // it is a hard link to what other scenes use
		t.Fatal(err)
	}
	if err := os.WriteFile(root, content, 0o644); err != nil {
		t.Fatal(err)
	}
	s.serve("--approve-all", "--image", "lab:v1")
	vm := s.vm(UEFI, 1)
	s.machine(vm, "the machine", func(api.Machine) bool { return true })
	s.until("the damaged image to be named", func() bool {
		return strings.Contains(words(s.run("why", vm.id())), image.Repair)
	})
}

// TestSceneStrangersTicket: the server signs with a key that the image does
// not carry.
func TestSceneStrangersTicket(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	for _, name := range []string{"server.key", "server.pub"} {
		if err := os.Remove(filepath.Join(s.store, "keys", name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := image.LoadOrCreateKeys(filepath.Join(s.store, "keys")); err != nil {
		t.Fatal(err)
	}
	s.serve("--approve-all", "--image", "lab:v1")
	s.stopped(s.vm(UEFI, 1), "the ticket's signature is not by the server key in this initramfs")
}

// TestSceneReplacedKeys: all keys were replaced since the image was built, the server's twice, and the
// release key is not on the server any more. The machine boots. Then a backup from before that boot is
// restored, and the machine comes back by its own report.
func TestSceneReplacedKeys(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	s.serve("--approve-all", "--image", "lab:v1")
	s.run("key", "rotate", "server")
	s.run("key", "rotate", "server", "--leaked")
	s.run("key", "rotate", "release", "--leaked")
	if err := os.Remove(filepath.Join(s.store, "keys", "release.key")); err != nil {
		t.Fatal(err)
	}
	if kept, err := filepath.Glob(filepath.Join(s.store, "keys", "server-*.key")); err != nil || len(kept) > 0 {
		t.Errorf("for an image that follows, the server keeps %q (%v)", kept, err)
	}
	backup := filepath.Join(t.TempDir(), "backup.db")
	s.run("backup", backup)
	vm := s.vm(UEFI, 1)
	s.healthy(vm, 1, "lab:v1")
	before, err := s.api.Machine(s.ctx, vm.id())
	if err != nil {
		t.Fatal(err)
	}
	if out := s.run("restore", backup); !strings.Contains(out, "approved machines are not in the backup") {
		t.Errorf("restore says\n%s", out)
	}
	var after api.Machine
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
		if after, err = s.api.Machine(s.ctx, vm.id()); err == nil {
			break
		}
	}
	if err != nil || after.Returned.IsZero() || after.State != api.Approved || after.Boot != before.Boot ||
		after.MachineKey != before.MachineKey {
		t.Errorf("after the restore the machine is %+v, %v\nbefore %+v", after, err, before)
	}
	if out := s.run("machine", "ls"); !strings.Contains(out, "came back after a restore") {
		t.Errorf("machine ls says\n%s", out)
	}
}

// nonceRE matches the number of a request for a ticket.
var nonceRE = regexp.MustCompile(`"[Nn]once":"([0-9a-f]{32})"`)

// TestSceneExpiredTicket: tickets are over before they arrive, because nothing gets through for a while after
// each request.
func TestSceneExpiredTicket(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	s.serve("--approve-all", "--image", "lab:v1", "--ticket-ttl", "5s")
	vm := s.vm(BIOS, 1)
	wire, err := s.lan.NewWire(s.ctx, vm.tap)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = wire.Close() }()
	seen := map[string]bool{}
	var lock sync.Mutex
	wire.Change(func(frame []byte) {
		nonce := nonceRE.FindSubmatch(frame)
		lock.Lock()
		defer lock.Unlock()
		if nonce == nil || seen[string(nonce[1])] {
			return
		}
		seen[string(nonce[1])] = true
		wire.Set(Faults{Loss: 1})
		time.AfterFunc(6*time.Second, func() { wire.Set(Faults{}) })
	})
	s.stopped(vm, "the ticket has expired")
}

// TestSceneServerKilled: the server is killed while the root is on its way.
// The boot completes when it is back, and nothing that was known is lost.
func TestSceneServerKilled(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	s.serve("--approve-all", "--image", "lab:v1")
	vm := s.vm(UEFI, 1)
	if _, err := vm.Console.WaitFor(s.ctx, `ingot: ticket for lab:v1`); err != nil {
		t.Fatal(err)
	}
	before, err := s.api.Machine(s.ctx, vm.id())
	if err != nil {
		t.Fatal(err)
	}
	s.killServer()
	if _, err := vm.Console.WaitFor(s.ctx, `waiting for the server|reporting stage`); err != nil {
		t.Fatal(err)
	}
	s.serve("--approve-all", "--image", "lab:v1")
	s.healthy(vm, 1, "lab:v1")
	after, err := s.api.Machine(s.ctx, vm.id())
	if err != nil {
		t.Fatal(err)
	}
	if before.Address != after.Address || before.Boot != after.Boot || before.MachineKey != after.MachineKey ||
		!before.FirstSeen.Equal(after.FirstSeen) {
		t.Errorf("the machine changed over the kill: %s", cmp.Diff(before, after))
	}
	if b := s.boot(vm, 1, "the boot", func(api.Boot) bool { return true }); b.Events[0].Stage != ingot.StageDHCP {
		t.Errorf("the boot's first event is %q; want dhcp, from before the kill", b.Events[0].Stage)
	}
}

// TestSceneDiskWithData: a grant names a disk that holds somebody's data. Not
// a byte of it changes, and everybody is told.
func TestSceneDiskWithData(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStage(t)
	d := s.disk("data")
	if out, err := exec.Command("mkfs.ext4", "-q", "-L", "somebodys", d.Path).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	before := sum(t, d.Path)
	s.serve()
	vm := s.vm(UEFI, 1, d)
	s.meet(vm)
	s.healthy(vm, 1, "lab:v1") // the volume is optional
	if got := sum(t, d.Path); got != before {
		t.Error("the disk was written to")
	}
	const refusal = `is not blank, it holds: ext4 "somebodys"; nothing was written`
	if out := s.run("boots", "node"); !strings.Contains(out, refusal) {
		t.Errorf("ingot boots does not say %q:\n%s", refusal, out)
	}
	console := words(strings.NewReplacer("|", "", "\r", "").Replace(vm.Console.Text()))
	if !strings.Contains(console, words(refusal)) {
		t.Errorf("the console does not say %q", refusal)
	}
	if out := s.run("machine", "show", "node"); !strings.Contains(out, `holds ext4 "somebodys"`) {
		t.Errorf("ingot machine show does not say what the disk holds:\n%s", out)
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestSceneBuildKilled kills builds at random moments. The store lists whole
// images only, and the next build succeeds and leaves no scratch folder.
func TestSceneBuildKilled(t *testing.T) {
	s := newStage(t)
	before := s.run("image", "ls", "-o", "json")
	rounds := 2
	if os.Getenv("INGOT_TEST_ALL") != "" {
		rounds = 8
	}
	for round := range rounds {
		cmd := ingotCommand(s.ctx, s.store, "build", "lab", "--version", fmt.Sprintf("k%d", round))
		if err := s.lan.Start(cmd); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200*time.Millisecond + rand.N(9*time.Second)) // the moment of the power cut
		_ = cmd.Process.Kill()                                   // it may have finished
		if cmd.Wait() == nil {
			continue
		}
		if got := s.run("image", "ls", "-o", "json"); got != before && round == 0 {
			t.Errorf("after a killed build image ls = %s; want %s", got, before)
		}
	}
	s.run("build", "lab", "--version", "last")
	for _, name := range []string{"lab:v1", "lab:v2", "lab:last"} {
		im := s.inspect(name)
		want := im.Manifest.Root.Digest
		if got := sum(t, filepath.Join(s.store, "images/blobs/sha256", want.Hex())); "sha256:"+got != string(want) {
			t.Errorf("the root of %s is damaged", name)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(s.store, "images/blobs/sha256/.incoming-*")); len(left) > 0 {
		t.Errorf("killed builds left %v", left)
	}
	if d1, d2 := s.inspect("lab:last").Manifest, s.inspect("lab:v1").Manifest; d1.Kernel.Digest != d2.Kernel.Digest {
		t.Errorf("two builds of one kernel package differ: %s, %s", d1.Kernel.Digest, d2.Kernel.Digest)
	}
}

// TestSceneWrongUse: every mistake gets one clear error with the next step and
// the right exit code, and leaves nothing behind.
func TestSceneWrongUse(t *testing.T) {
	s := newStage(t)
	profile := func(text string) string {
		p := filepath.Join(s.dir, "wrong.yaml")
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	tmp := t.TempDir() // of its own: others build on this host
	before := s.run("image", "ls", "-o", "json")
	fails := func(code int, want string, cmd *exec.Cmd) {
		t.Helper()
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
			t.Errorf("%v: %v; want exit code %d\n%s", cmd.Args[1:], err, code, out)
		}
		if !strings.Contains(string(out), want) {
			t.Errorf("%v says\n%s\nwant %q in it", cmd.Args[1:], out, want)
		}
	}
	ingot := func(args ...string) *exec.Cmd {
		cmd := ingotCommand(s.ctx, s.store, args...)
		cmd.Env = append(cmd.Environ(), "TMPDIR="+tmp)
		return cmd
	}
	inLAN := func(args ...string) *exec.Cmd {
		return s.lan.Command(s.ctx, filepath.Join(bin, "ingot"), append([]string{"--store", s.store}, args...)...)
	}
	fails(1, "is neither a file, nor a folder", ingot("build", "nothing-here"))
	fails(1, `wrong.yaml:3:1: unknown key "pakages"; write "packages"`,
		ingot("build", profile("name: x\nextends: lab\npakages: []\n")))
	fails(1, "no-such-package", ingot("build", profile("name: x\nextends: lab\npackages: [no-such-package]\n")))
	fails(1, "no such suite", ingot("plan", profile("name: x\nextends: lab\nbase: {suite: nosuchsuite}\n")))
	fails(1, "does not fit its RAM budget", ingot("build", profile("name: x\nextends: lab\nram: {budget: 300MiB}\n")))
	fails(1, "choose another --version", ingot("build", profile("name: lab\nextends: lab\nhostname: other\n"), "--version",
		"v1"))
	fails(2, "--interface is needed", ingot("serve", "--config="))
	fails(2, "unknown flag: --wrong", ingot("build", "lab", "--wrong"))
	fails(2, "unknown command", ingot("bulid", "lab"))
	fails(1, "no server is running", ingot("machine", "ls"))
	fails(1, "there is no such interface; there are br0", inLAN("serve", "--config=", "--interface", "eth99"))
	fails(1, "is not inside the network 10.99.0.0/24", inLAN("serve", "--config=", "--interface", Bridge, "--range",
		"10.1.0.1-10.1.0.9"))
	s.diskFull(fails)

	holder := s.lan.Command(s.ctx, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface="+Bridge,
		"--bind-dynamic", "--dhcp-range=10.99.0.200,10.99.0.250", "--pid-file=")
	if err := s.lan.Start(holder); err != nil {
		t.Fatal(err)
	}
	s.until("dnsmasq to listen", func() bool {
		out, _ := s.lan.Command(s.ctx, "cat", "/proc/net/udp").Output()
		return strings.Contains(string(out), ":0043 ")
	})
	fails(1, "port 67/udp is taken by dnsmasq", inLAN("serve", "--config=", "--interface", Bridge))
	_ = holder.Process.Kill()
	_ = holder.Wait()

	s.serve()
	fails(1, "another server uses this store: process", inLAN("serve", "--config=", "--interface", Bridge))
	fails(1, `no machine matches "nobody"`, ingot("machine", "show", "nobody"))
	fails(1, `no such image: "lab:v9"; the store has lab:v1, lab:v2`, ingot("assign", "nobody", "lab:v9"))
	if after := s.run("image", "ls", "-o", "json"); after != before {
		t.Errorf("failed commands changed the store:\n%s", cmp.Diff(before, after))
	}
	if left, _ := filepath.Glob(filepath.Join(tmp, "ingot-build-*")); len(left) > 0 {
		t.Errorf("failed builds left %v", left)
	}
}

// diskFull builds with a scratch folder on a file system that is too small.
func (s *stage) diskFull(fails func(int, string, *exec.Cmd)) {
	s.t.Helper()
	if os.Geteuid() != 0 {
		return // mounting needs root; CI has it
	}
	small := filepath.Join(s.dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		s.t.Fatal(err)
	}
	script := fmt.Sprintf("mount -t tmpfs -o size=20m none %s && TMPDIR=%s exec %s --store %s build lab --version full",
		small, small, filepath.Join(bin, "ingot"), s.store)
	fails(1, "free disk space, or move the store", exec.CommandContext(s.ctx, "unshare", "--mount", "sh", "-c", script))
}
