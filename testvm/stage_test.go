//go:build e2e

package testvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/testvm/storm"
)

// The scenes run the real binaries, built by `make build`, as an operator would.
var (
	bin    string // folder of the binaries
	shared string // store with lab:v1 and lab:v2, copied for each scene
)

func TestMain(m *testing.M) {
	switch os.Getenv("INGOT_TEST_IS") {
	case "fleet":
		if err := storm.ServeFleet(context.Background(), os.Args[1], os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "browser":
		if err := readPage(os.Args[1], os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code, err := stageAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "building the stage:", err)
		code = 1
	}
	os.Exit(code)
}

// stageAll builds two images once for all scenes.
func stageAll(m *testing.M) (int, error) {
	var err error
	if bin, err = filepath.Abs("../bin"); err != nil {
		return 1, err
	}
	if _, err := os.Stat(filepath.Join(bin, "ingot")); err != nil {
		return 1, fmt.Errorf("%w; run make build", err)
	}
	if shared, err = os.MkdirTemp("", "ingot-scenes-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(shared)
	if out, err := ingotCommand(context.Background(), shared, "loaders").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("fetching the loaders: %w\n%s", err, out)
	}
	for _, v := range []string{"v1", "v2"} {
		profile := filepath.Join(shared, v+".yaml")
		text := "name: lab\nextends: lab\nfiles:\n  - path: /etc/ingot-version\n    content: |\n      " + v + "\n"
		if err := os.WriteFile(profile, []byte(text), 0o644); err != nil {
			return 1, err
		}
		start := time.Now()
		out, err := ingotCommand(context.Background(), shared, "build", profile, "--version", v).CombinedOutput()
		if err != nil {
			return 1, fmt.Errorf("building lab:%s: %w\n%s", v, err, out)
		}
		fmt.Printf("built lab:%s in %.1f s\n", v, time.Since(start).Seconds())
	}
	before, err := ingotCommand(context.Background(), shared, "image", "ls", "-o", "json").Output()
	if err != nil {
		return 1, fmt.Errorf("listing the shared images: %w", err)
	}
	code := m.Run()
	after, err := ingotCommand(context.Background(), shared, "image", "ls", "-o", "json").Output()
	if err != nil {
		return 1, fmt.Errorf("listing the shared images: %w", err)
	}
	if !bytes.Equal(before, after) {
		return 1, fmt.Errorf("a scene changed the images that all scenes share; it needs a copy (copyStore):\n%s", after)
	}
	return code, nil
}

// copyStore makes a store with the images of another one.
func copyStore(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "--archive", "--link", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copying the store: %v: %s", err, out)
	}
}

func ingotCommand(ctx context.Context, store string, args ...string) *exec.Cmd {
	return programCommand(ctx, filepath.Join(bin, "ingot"), store, args...)
}

func programCommand(ctx context.Context, program, store string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, program, append([]string{"--store", store}, args...)...)
}

// stage is one LAN with one server and the machines of one scene.
type stage struct {
	t       testing.TB
	ctx     context.Context
	lan     *LAN
	dir     string
	store   string
	program string // ingot, or that of before
	api     *api.Client
	server  *exec.Cmd
	log     *safeBuffer
}

// safeBuffer collects the server's log.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newStage makes a LAN and a store with the shared images. Evidence of a scene
// that fails is kept, and its place is printed.
func newStage(t testing.TB) *stage {
	t.Helper()
	return newStageFor(t, 8*time.Minute)
}

func newStageFor(t testing.TB, limit time.Duration) *stage {
	t.Helper()
	return newStageOn(t, limit, DefaultPrefix)
}

func newStageOn(t testing.TB, limit time.Duration, network netip.Prefix) *stage {
	t.Helper()
	dir, err := os.MkdirTemp("", "ingot-scene-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	lan, err := NewLAN(ctx, Options{Dir: dir, Prefix: network})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	s := &stage{t: t, ctx: ctx, lan: lan, dir: dir, store: filepath.Join(dir, "store"),
		program: filepath.Join(bin, "ingot"), log: &safeBuffer{}}
	s.api = api.Dial(filepath.Join(s.store, "ingot.sock"))
	t.Cleanup(func() {
		lan.Close()
		if s.server != nil {
			_ = s.server.Process.Kill() // may be dead by the scene's own hand
		}
		cancel()
		if to := os.Getenv("INGOT_TEST_CAPTURE"); to != "" {
			if err := s.keepQuestions(to); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			_ = os.WriteFile(filepath.Join(dir, "server.log"), []byte(s.log.String()), 0o644)
			for _, vm := range lan.vms {
				t.Logf("console of %s, last lines:\n%s", vm.Name, vm.Console.Tail(25))
			}
			t.Logf("server's log:\n%s", s.log)
			t.Logf("evidence is kept in %s", dir)
			_ = os.RemoveAll(s.store)
			return
		}
		os.RemoveAll(dir)
	})
	capture := lan.Command(context.Background(), "tcpdump", "-i", Bridge, "-U", "-w", filepath.Join(dir, "lan.pcap"),
		"udp port 67 or udp port 69 or udp port 4011 or udp portrange 546-547 or icmp6")
	if err := lan.Start(capture); err != nil {
		t.Fatal(err)
	}
	go func() { _ = capture.Wait() }() // ends with the LAN
	copyStore(t, shared, s.store)
	return s
}

// useStore replaces the scene's store by a copy of another one.
func (s *stage) useStore(from string) {
	s.t.Helper()
	if err := os.RemoveAll(s.store); err != nil {
		s.t.Fatal(err)
	}
	copyStore(s.t, from, s.store)
}

// router answers those that ask for one; see StartRouter.
func (s *stage) router() {
	s.t.Helper()
	if err := s.lan.StartRouter(s.ctx); err != nil {
		s.t.Fatal(err)
	}
}

// serve starts the server and waits until it says that it is ready.
func (s *stage) serve(args ...string) {
	s.t.Helper()
	if !slices.Contains(args, "--config") {
		args = append(args, "--mode", "full") // nobody else is on the LAN
	}
	s.serveOn(append([]string{"--interface", Bridge}, args...)...)
}

// serveOn is serve on the interfaces that the arguments name.
func (s *stage) serveOn(args ...string) {
	s.t.Helper()
	argv := append([]string{"--store", s.store, "serve", "--config="}, args...) // a later --config counts
	cmd := s.lan.Command(context.Background(), s.program, argv...)
	cmd.Stderr = s.log
	before := len(s.log.String())
	if err := s.lan.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	s.server = cmd
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for !strings.Contains(s.log.String()[before:], "serving br0") {
		select {
		case err := <-ended:
			s.t.Fatalf("the server ended: %v\n%s", err, s.log)
		case <-s.ctx.Done():
			s.t.Fatal("the server did not get ready")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// killServer ends the server as a power cut would.
func (s *stage) killServer() {
	s.t.Helper()
	// nsenter has become the server itself: it execs.
	if err := s.server.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	s.until("the server to end", func() bool {
		return errors.Is(s.server.Process.Signal(syscall.Signal(0)), os.ErrProcessDone)
	})
}

// run runs ingot and returns what it prints; it must succeed.
func (s *stage) run(args ...string) string {
	s.t.Helper()
	out, err := programCommand(s.ctx, s.program, s.store, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("ingot %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// vm starts a machine; disks are its data disks.
func (s *stage) vm(f Firmware, n int, disks ...Disk) *VM {
	s.t.Helper()
	return s.start(n, Config{Firmware: f, Disks: disks})
}

// start starts the machine of a number, which makes its name and MAC address.
func (s *stage) start(n int, c Config) *VM {
	s.t.Helper()
	c.Name, c.MAC = fmt.Sprintf("%s%d", strings.ToLower(string(c.Firmware)), n), fmt.Sprintf("52:54:00:12:00:%02x", n)
	vm, err := s.lan.StartVM(s.ctx, c)
	if err != nil {
		s.t.Fatal(err)
	}
	return vm
}

func (s *stage) disk(name string) Disk {
	s.t.Helper()
	d, err := NewDisk(filepath.Join(s.dir, name+".img"), "SER-"+name, 64<<20)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (vm *VM) id() string { return "m-" + strings.ReplaceAll(vm.MAC, ":", "") }

// machine waits until a machine is as ok wants it.
func (s *stage) machine(vm *VM, what string, ok func(api.Machine) bool) api.Machine {
	s.t.Helper()
	for {
		m, err := s.api.Machine(s.ctx, vm.id())
		if err == nil && ok(m) {
			return m
		}
		s.pause(what)
	}
}

// boot waits until the n-th boot of a machine, counted from 1, is as ok wants it.
func (s *stage) boot(vm *VM, n int, what string, ok func(api.Boot) bool) api.Boot {
	s.t.Helper()
	for {
		boots, err := s.api.Boots(s.ctx, vm.id(), 0)
		if err == nil && len(boots) >= n && ok(boots[n-1]) {
			return boots[n-1]
		}
		s.pause(what)
	}
}

// pause waits for state of another process, which has no signal to wait on.
func (s *stage) pause(what string) {
	s.t.Helper()
	select {
	case <-s.ctx.Done():
		s.t.Fatalf("waiting for %s: %v\n%s", what, s.ctx.Err(), s.timelines())
	case <-time.After(100 * time.Millisecond):
	}
}

func (s *stage) timelines() string {
	out, _ := ingotCommand(context.Background(), s.store, "boots", "--timeline").CombinedOutput()
	return string(out)
}

// healthy waits for the end of the n-th boot, which must be healthy and of the image.
func (s *stage) healthy(vm *VM, n int, image string) api.Boot {
	s.t.Helper()
	b := s.boot(vm, n, "the end of a boot", func(b api.Boot) bool { return !b.Open() })
	if b.Outcome != ingot.OutcomeHealthy || b.Image.Name != image {
		s.t.Fatalf("boot %d of %s = %s %q (%s); want %s healthy\n%s", n, vm.Name, b.Image.Name, b.Outcome, b.Reason, image,
			s.timelines())
	}
	s.t.Logf("VM boot: %-4s %s to healthy in %.1f s", vm.Firmware, image, b.Ended.Sub(b.Started).Seconds())
	return b
}

// at runs a command on the machine's serial console; it must succeed.
func (s *stage) at(vm *VM, command string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Minute)
	defer cancel()
	out, code, err := vm.Console.Run(ctx, command)
	if err != nil {
		s.t.Fatal(err)
	}
	if code != 0 {
		s.t.Fatalf("%s on %s: exit code %d\n%s", command, vm.Name, code, out)
	}
	return out
}

// reboot types the command; the shell may be gone before it could say that it
// was obeyed.
func (s *stage) reboot(vm *VM) {
	s.t.Helper()
	vm.Console.Skip()
	if err := vm.Console.Send("systemctl reboot\n"); err != nil {
		s.t.Fatal(err)
	}
}

// login waits for the root prompt of the serial console.
func (s *stage) login(vm *VM) {
	s.t.Helper()
	if _, err := vm.Console.WaitFor(s.ctx, `root@[^#]*# `); err != nil {
		s.t.Fatal(err)
	}
}

// inspect returns the manifest of an image.
func (s *stage) inspect(name string) (im struct {
	Digest   ingot.Digest
	Manifest ingot.ImageManifest
}) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.run("image", "inspect", name, "-o", "json")), &im); err != nil {
		s.t.Fatal(err)
	}
	return im
}

// requireAll skips a scene that only make test-all plays.
func requireAll(t testing.TB) {
	t.Helper()
	if os.Getenv("INGOT_TEST_ALL") == "" {
		t.Skip("played by make test-all")
	}
}

// until waits for what has no signal to wait on.
func (s *stage) until(what string, ok func() bool) {
	s.t.Helper()
	for !ok() {
		s.pause(what)
	}
}
