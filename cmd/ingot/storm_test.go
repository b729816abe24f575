package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/instance"
	"ingot/image"
	"ingot/testvm"
	"ingot/testvm/storm"
)

// TestMain lets the test binary be ingot, for tests that run it in network
// namespaces.
func TestMain(m *testing.M) {
	switch os.Getenv("INGOT_TEST_IS") {
	case "datagram":
		fmt.Fprintln(os.Stderr, passDatagram(os.Args[1], os.Args[2:]))
		os.Exit(1)
	case "fetchers":
		if err := runFetchers(context.Background(), os.Args[1], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "fleet":
		if err := storm.ServeFleet(context.Background(), os.Args[1], os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "readers":
		if err := runReaders(context.Background(), os.Args[1], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "ingot":
		if path := os.Getenv("INGOT_TEST_PROFILE"); path != "" && slices.Contains(os.Args, "serve") {
			os.Exit(profiled(path))
		}
		if clock := os.Getenv("INGOT_TEST_CLOCK"); clock != "" {
			a := newApp(os.Stdin, os.Stdout, os.Stderr)
			a.Now = newSteppedClock(clock).now
			os.Exit(a.run(context.Background(), os.Args[1:]))
		}
		main()
	}
	os.Exit(m.Run())
}

// profiled is main with profiles that are written when it ends: of the processor to path, and of
// allocations to path.mem.
func profiled(path string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := writeProfile(path, func(f io.Writer) error { return pprof.StartCPUProfile(f) }, func(io.Writer) error {
		run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
		pprof.StopCPUProfile()
		return nil
	})
	if err == nil {
		err = writeProfile(path+".mem", func(f io.Writer) error { return pprof.Lookup("allocs").WriteTo(f, 0) })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func writeProfile(path string, steps ...func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for _, step := range steps {
		if err := step(f); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// field is a LAN with a server on one side and room for a crowd on the other.
type field struct {
	t      testing.TB
	ctx    context.Context
	lan    *testvm.LAN
	crowd  *testvm.Host
	dir    string
	store  string
	config string
	server *exec.Cmd
	env    []string // of the server, besides the test's own
	build  string   // program of the server; empty: this test binary
	ended  <-chan error
	pid    int
	log    lines
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

const settings = `dhcp:
  interfaces: [{name: br0, mode: full, probe: 10ms}]
  networks:
    - name: crowd
      interface: br0
      subnets: [{prefix: 10.99.0.0/16, pools: [10.99.16.0-10.99.31.255]}]
boots: {approveAll: true, image: "storm:v1"}
`

// sizes of what machines load, in bytes.
type sizes struct{ loader, kernel, initramfs, root int }

// newField makes LAN, store and image; root is the size of the image's root in
// bytes.
func newField(t testing.TB, root int) *field {
	t.Helper()
	return newFieldOf(t, sizes{loader: 300_000, kernel: 1 << 20, initramfs: 2 << 20, root: root}, 8*time.Minute)
}

// newFieldOf makes a field that is there for some time.
func newFieldOf(t testing.TB, size sizes, limit time.Duration) *field {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	dir, err := os.MkdirTemp("", "ingot-storm-") // its path is short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // for a server that is not root
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	lan, err := testvm.NewLAN(ctx, testvm.Options{Dir: dir, Prefix: netip.MustParsePrefix("10.99.0.1/16")})
	if err != nil {
		t.Fatal(err)
	}
	f := &field{t: t, ctx: ctx, lan: lan, dir: dir, store: filepath.Join(dir, "store"), config: filepath.Join(dir,
		"ingot.yaml")}
	t.Cleanup(func() {
		lan.Close()
		cancel()
		if t.Failed() {
			t.Logf("the server's log ends:\n%s", f.log.String()[max(0, len(f.log.String())-3000):])
		}
		os.RemoveAll(dir)
	})
	if f.crowd, err = lan.NewHost(ctx, "crowd0", netip.MustParsePrefix("10.99.255.254/16")); err != nil {
		t.Fatal(err)
	}
	f.write(settings)
	f.fill(size, "v1")
	return f
}

func (f *field) write(config string) {
	f.t.Helper()
	if err := os.WriteFile(f.config, []byte(config), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// fill puts a loader and images of some versions into the store, and returns their digests.
func (f *field) fill(size sizes, versions ...string) (digests []ingot.Digest) {
	f.t.Helper()
	random := rand.NewChaCha8([32]byte{5})
	file := func(path string, size int) string {
		b := make([]byte, size)
		_, _ = random.Read(b)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			f.t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			f.t.Fatal(err)
		}
		return path
	}
	file(filepath.Join(f.store, "loaders", "snponly.efi"), size.loader)
	if err := os.WriteFile(filepath.Join(f.store, "loaders", "lock.json"), []byte("{}"), 0o644); err != nil {
		f.t.Fatal(err)
	}
	images, err := image.Open(f.ctx, f.store)
	if err != nil {
		f.t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(f.store, "keys"))
	if err != nil {
		f.t.Fatal(err)
	}
	in := filepath.Join(f.dir, "in")
	defer os.RemoveAll(in)
	for _, version := range versions {
		features := []ingot.Feature{ingot.FeatureAuthenticated}
		if version == orderly {
			features = append(features, ingot.FeatureOrders)
		}
		im, err := images.Put(f.ctx, &ingot.ImageManifest{Schema: 1, Profile: "storm", Version: version,
			Features: features}, image.Files{
			Kernel: file(in+"/kernel", size.kernel), Initramfs: file(in+"/initramfs", size.initramfs), Root: file(in+"/root",
				size.root), Plan: file(in+"/plan", 100)}, keys.Release.Secret)
		if err != nil {
			f.t.Fatal(err)
		}
		digests = append(digests, im.Digest)
	}
	return digests
}

// asIngot makes a command of this test binary be ingot.
func asIngot(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(os.Environ(), "INGOT_TEST_IS=ingot", "INGOT_STORE=")
	return cmd
}

// serve starts the server and waits until it is ready.
func (f *field) serve() {
	f.t.Helper()
	before := len(f.log.String())
	f.ended = f.start()
	f.until("the server to get ready", func() bool {
		select {
		case err := <-f.ended:
			f.t.Fatalf("the server ended: %v\n%s", err, f.log.String())
		default:
		}
		return strings.Contains(f.log.String()[before:], "ingot machine ls")
	})
}

// start starts the server; before is what runs it, such as setpriv.
func (f *field) start(before ...string) (ended <-chan error) {
	f.t.Helper()
	argv := append(before, cmp.Or(f.build, os.Args[0]), "--store", f.store, "serve", "--config", f.config)
	cmd := asIngot(f.lan.Command(f.ctx, argv[0], argv[1:]...))
	cmd.Env = append(cmd.Env, f.env...)
	cmd.Stderr = &f.log
	if err := f.lan.Start(cmd); err != nil {
		f.t.Fatal(err)
	}
	f.server, f.pid = cmd, cmd.Process.Pid // nsenter and setpriv become it: they exec
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	return end
}

// until waits for what has no signal to wait on.
func (f *field) until(what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("waiting for %s", what)
		}
	}
}

// serverPID is the process of the running server.
func (f *field) serverPID() string {
	f.t.Helper()
	i, _ := instance.Find(f.store)
	return strconv.Itoa(i.PID)
}

// api speaks to the server.
func (f *field) api() *api.Client { return api.Dial(filepath.Join(f.store, "ingot.sock")) }

// startStorm powers machines on; wait returns how it went, and all must be healthy.
func (f *field) startStorm(c storm.Config) (wait func() storm.Result) {
	f.t.Helper()
	c.Card = cmp.Or(c.Card, f.crowd.Card)
	conf, err := json.Marshal(c)
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := asIngot(f.crowd.Command(f.ctx, os.Args[0], "lab", "storm-machines", string(conf)))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := f.lan.Start(cmd); err != nil {
		f.t.Fatal(err)
	}
	return func() (r storm.Result) {
		f.t.Helper()
		if err := cmd.Wait(); err != nil {
			f.t.Fatalf("the storm ended: %v\n%s", err, errs.String())
		}
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			f.t.Fatalf("reading how the storm went: %v: %s", err, out.String())
		}
		if r.Healthy != c.Machines {
			f.t.Errorf("%d of %d machines are healthy: %v", r.Healthy, c.Machines, r.Failed)
		}
		return r
	}
}

// usage is what a process has used of memory and processor.
type usage struct {
	anonymous int64 // bytes of RAM that are not the page cache's
	cpu       time.Duration
}

func (f *field) usage() (u usage) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.pid)) // gone: zero
	for l := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(l, "RssAnon:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			u.anonymous = kb << 10
		}
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", f.pid))
	if _, after, ok := strings.Cut(string(stat), ") "); ok {
		if fields := strings.Fields(after); len(fields) > 13 {
			user, _ := strconv.ParseInt(fields[11], 10, 64)
			system, _ := strconv.ParseInt(fields[12], 10, 64)
			u.cpu = time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
		}
	}
	return u
}

// BenchmarkStorm is 10, 100 and 1,000 machines powered on at once, against one
// server, over a real LAN of two network namespaces: how time, processor and
// memory grow. All must be healthy.
func BenchmarkStorm(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f := newField(b, 4<<20)
			f.serve()
			for b.Loop() {
				before, most, done := f.usage(), int64(0), make(chan struct{})
				wait := f.startStorm(storm.Config{Machines: n, Spread: time.Second, Timeout: 4 * time.Minute})
				var watching sync.WaitGroup
				watching.Go(func() {
					for {
						most = max(most, f.usage().anonymous)
						select {
						case <-done:
							return
						case <-time.After(20 * time.Millisecond):
						}
					}
				})
				r := wait()
				close(done)
				watching.Wait()
				b.Logf("mean of each stage: %v", r.Stages)
				b.ReportMetric(float64(r.Healthy), "healthy")
				b.ReportMetric(r.Elapsed.Seconds(), "s/all")
				b.ReportMetric(r.Median.Seconds(), "s/median")
				b.ReportMetric((f.usage().cpu-before.cpu).Seconds()*1000/float64(n), "cpu-ms/machine")
				b.ReportMetric(float64(most)/(1<<20), "MiB-anonymous")
				b.ReportMetric(float64(r.Busy), "come-backs")
			}
		})
	}
}
