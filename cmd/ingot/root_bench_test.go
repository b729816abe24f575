package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ingot/image"
	"ingot/testvm/storm"
)

const rootSize, rootClients = 300 << 20, 64

// BenchmarkRoot compares with nginx. 64 machines have booted up to their scripts: each has its own
// address and the key of its own boot. They fetch the root of their image, 300 MB, from `ingot
// serve`, and the same file from nginx, in turns: two processes on one host, the machines on
// another. ratio is our throughput divided by nginx's; cpu-ratio is processor time for the same
// bytes, ours divided by nginx's.
//
// INGOT_TEST_OTHER is another build of ingot to compare with.
func BenchmarkRoot(b *testing.B) {
	needs(b, "nginx", "curl")
	ours := beginIngot(b, "ingot", "")
	servers := []*rootServer{ours, beginNginx(b, ours)}
	if other := os.Getenv("INGOT_TEST_OTHER"); other != "" {
		servers = append(servers, beginIngot(b, "other", other))
	}
	for _, s := range servers {
		s.fetch(b) // the page cache, the processor and the windows of the kernel are warm
	}
	rounds := 0
	for b.Loop() {
		for range 5 {
			for _, s := range servers {
				s.fetch(b)
			}
			slices.Reverse(servers)
			rounds++
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, s := range servers {
		speed := func(i int) float64 { return rootSize * rootClients / s.took[i+1].Seconds() / 1e6 }
		cost := func(i int) float64 { return s.cost[i+1].Seconds() * 1000 / (rootSize * rootClients / 1e9) }
		b.ReportMetric(median(rounds, speed), s.name+"-MB/s")
		b.ReportMetric(median(rounds, cost), s.name+"-cpu-ms/GB")
		if s != ours {
			b.ReportMetric(median(rounds, func(i int) float64 {
				return s.took[i+1].Seconds() / ours.took[i+1].Seconds()
			}), "ratio/"+s.name)
			b.ReportMetric(median(rounds, func(i int) float64 {
				return ours.cost[i+1].Seconds() / s.cost[i+1].Seconds()
			}), "cpu-ratio/"+s.name)
		}
	}
}

// median is that of n values.
func median(n int, value func(i int) float64) float64 {
	var list []float64
	for i := range n {
		list = append(list, value(i))
	}
	slices.Sort(list)
	if n%2 == 0 {
		return (list[n/2-1] + list[n/2]) / 2
	}
	return list[n/2]
}

// needs skips a benchmark without a program that it compares with; in CI it fails.
func needs(b *testing.B, programs ...string) {
	b.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("CI") != "" {
			b.Fatalf("%s is not installed; run scripts/setup bench", name)
		}
		b.Skipf("%s is not installed; run scripts/setup bench", name)
	}
}

// rootServer is one server with its clients.
type rootServer struct {
	name  string
	pid   int
	from  string // the URL of the file; empty: each machine has its own
	crowd *fetchers
	took  []time.Duration
	cost  []time.Duration // processor time of the server's processes
}

// fetch lets all clients fetch the root once.
func (s *rootServer) fetch(b *testing.B) {
	b.Helper()
	before := processTime(b, s.pid)
	s.took = append(s.took, s.crowd.fetch(b, s.from))
	s.cost = append(s.cost, processTime(b, s.pid)-before)
}

// beginIngot starts `ingot serve` of this test binary, or of another build, and the machines.
func beginIngot(b *testing.B, name, build string) *rootServer {
	b.Helper()
	f := newFieldOf(b, sizes{loader: 300_000, kernel: 1 << 20, initramfs: 1 << 20, root: rootSize}, time.Hour)
	f.build = build
	f.serve()
	f.endGently()
	s := &rootServer{name: name, pid: f.pid, crowd: &fetchers{field: f}}
	s.crowd.start(b)
	return s
}

// endGently lets the server write its profile when the benchmark ends.
func (f *field) endGently() {
	pid, ended := f.pid, f.ended
	f.t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended
		<-ended
	})
}

// beginNginx starts nginx beside an ingot, for the same file and machines. Its settings are those of
// Debian's package, but it writes no log of requests.
func beginNginx(b *testing.B, ours *rootServer) *rootServer {
	b.Helper()
	f := ours.crowd.field
	images, err := image.Open(f.ctx, f.store)
	if err != nil {
		b.Fatal(err)
	}
	im, err := images.Get(f.ctx, "storm:v1")
	if err != nil {
		b.Fatal(err)
	}
	s := &rootServer{name: "nginx", from: "http://10.99.0.1:8080/root", crowd: ours.crowd}
	conf := filepath.Join(f.dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; user root; pid %[1]s/nginx.pid; worker_processes %[2]d; error_log %[1]s/error.log;
events { worker_connections 768; }
http { access_log off; sendfile on; tcp_nopush on; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2;
fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5; default_type application/octet-stream;
server { listen 10.99.0.1:8080; location = /root { alias %[3]s; } } }
`, f.dir, runtime.NumCPU(), images.Blob(im.Manifest.Root.Digest))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	cmd := f.lan.Command(f.ctx, "nginx", "-p", f.dir, "-c", conf)
	if err := f.lan.Start(cmd); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // its workers end with it
		_ = cmd.Wait()
	})
	s.pid = cmd.Process.Pid
	f.until("nginx", func() bool {
		head := f.crowd.Command(f.ctx, "curl", "--silent", "--fail", "--head", s.from)
		return head.Run() == nil
	})
	return s
}

// fetchers are machines that have booted up to their scripts, in a process of their own.
type fetchers struct {
	field *field
	in    io.Writer
	out   *bufio.Scanner
}

func (c *fetchers) start(b *testing.B) {
	b.Helper()
	conf, err := json.Marshal(storm.Config{Machines: rootClients, Card: c.field.crowd.Card, Script: true,
		Spread: time.Second})
	if err != nil {
		b.Fatal(err)
	}
	cmd := c.field.crowd.Command(c.field.ctx, os.Args[0], string(conf))
	cmd.Env = append(os.Environ(), "INGOT_TEST_IS=fetchers")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.field.lan.Start(cmd); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	c.in, c.out = in, bufio.NewScanner(out)
	c.line(b)
}

// line reads one line of the process.
func (c *fetchers) line(b *testing.B) string {
	b.Helper()
	if !c.out.Scan() {
		b.Fatalf("the clients ended: %v\n%s", c.out.Err(), c.field.log.String())
	}
	return c.out.Text()
}

// fetch lets all machines fetch a URL, or the roots of their images, and returns the time until the
// last one has all of it.
func (c *fetchers) fetch(b *testing.B, from string) time.Duration {
	b.Helper()
	fmt.Fprintln(c.in, from)
	d, err := time.ParseDuration(c.line(b))
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// booted is a machine that has its script.
type booted struct {
	address net.IP
	root    string // URL of its image's root
}

var kernelOf = regexp.MustCompile(`(?m)^kernel (\S+/)kernel`)

// runFetchers is the process of fetchers. Its configuration is that of a storm. It prints a line when
// the machines have booted, then reads URLs and prints how long it took to fetch each.
func runFetchers(ctx context.Context, text string, in io.Reader, out io.Writer) error {
	var conf storm.Config
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		return err
	}
	var all []booted
	r, err := storm.Run(ctx, conf, func(a storm.Acknowledged) {
		if m := kernelOf.FindStringSubmatch(a.Script); m != nil {
			all = append(all, booted{a.Address.AsSlice(), m[1] + "root"})
		}
	})
	if err != nil || len(all) != conf.Machines {
		return fmt.Errorf("%d of %d machines have a script: %v (%w)", len(all), conf.Machines, r.Failed, err)
	}
	fmt.Fprintln(out, "ready")
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var g errgroup.Group
		begin := time.Now()
		for _, m := range all {
			g.Go(func() error {
				if from := lines.Text(); from != "" {
					return m.fetch(from)
				}
				return m.fetch(m.root)
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		fmt.Fprintln(out, time.Since(begin))
	}
	return nil
}

// fetch fetches a file of the size of a root. The kernel discards what is received (tcp(7),
// MSG_TRUNC), so that the server is measured and not the client.
func (m booted) fetch(from string) error {
	at, err := url.Parse(from)
	if err != nil {
		return err
	}
	address := at.Host
	if at.Port() == "" {
		address += ":80"
	}
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: m.address}}).Dial("tcp4", address)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", at.Path, at.Host)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength != rootSize {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // it explains an error
		return fmt.Errorf("%s, %d bytes: %s", resp.Status, resp.ContentLength, strings.TrimSpace(string(text)))
	}
	return discard(c.(*net.TCPConn), rootSize-int64(r.Buffered()))
}

// discard receives so many bytes, which the kernel drops.
func discard(c *net.TCPConn, left int64) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	nothing := make([]byte, 1<<20)
	for left > 0 {
		var n int
		var inner error
		err := raw.Read(func(fd uintptr) bool {
			n, _, inner = unix.Recvfrom(int(fd), nothing[:min(left, int64(len(nothing)))], unix.MSG_TRUNC)
			return !errors.Is(inner, unix.EAGAIN)
		})
		if err != nil || inner != nil || n == 0 {
			return fmt.Errorf("%d bytes are missing: %w", left, errors.Join(err, inner, io.ErrUnexpectedEOF))
		}
		left -= int64(n)
	}
	return nil
}

// processTime is the time that a process and its children have used, in user and kernel mode
// (proc_pid_stat(5)). Children that ended are not counted.
func processTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var user, system int
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	sum := time.Duration(user+system) * (time.Second / 100) // USER_HZ
	list, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for _, child := range strings.Fields(string(list)) {
		var id int
		if _, err := fmt.Sscan(child, &id); err != nil {
			t.Fatal(err)
		}
		sum += processTime(t, id)
	}
	return sum
}
