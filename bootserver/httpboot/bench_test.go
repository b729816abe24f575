package httpboot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// BenchmarkRoot compares with nginx: 64 clients fetch a root of 300 MB at once,
// from one server and then from the other, on the same machine with the same
// clients. ratio is our throughput divided by nginx's; the bar is 0.95.
func BenchmarkRoot(b *testing.B) {
	const size, clients = 300 << 20, 64
	dir := b.TempDir()
	s := &oneBoot{dir: dir}
	s.random(b, "root", size)
	server := New(s, quiet())
	server.SetLimits(Limits{PerBoot: clients, PerClient: 2 * clients}) // all clients are one boot at one address
	ours := start(b, server)
	theirs, version := nginx(b, dir)
	fetchAll(b, ours, part("root"), size, 4) // the page cache and the processor are warm
	fetchAll(b, theirs, "/root", size, 4)
	var ratios, speeds []float64
	for b.Loop() {
		for range 3 {
			a := fetchAll(b, ours, part("root"), size, clients)
			n := fetchAll(b, theirs, "/root", size, clients)
			ratios, speeds = append(ratios, n.Seconds()/a.Seconds()), append(speeds, size*clients/a.Seconds()/1e6)
		}
	}
	slices.Sort(ratios)
	slices.Sort(speeds)
	b.ReportMetric(ratios[len(ratios)/2], "ratio/"+version)
	b.ReportMetric(speeds[len(speeds)/2], "MB/s")
}

// nginx starts Debian's nginx on a port of its own.
func nginx(b *testing.B, root string) (at, version string) {
	b.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		if os.Getenv("CI") != "" {
			b.Fatal("nginx is not installed; run scripts/setup test")
		}
		b.Skip("nginx is not installed")
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	at = l.Addr().String()
	l.Close()
	dir := b.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; user root; pid %[1]s/pid; worker_processes %[4]d; error_log %[1]s/error.log;
events { worker_connections 1024; }
http { access_log off; sendfile on; client_body_temp_path %[1]s/t; proxy_temp_path %[1]s/t;
fastcgi_temp_path %[1]s/t; uwsgi_temp_path %[1]s/t; scgi_temp_path %[1]s/t;
server { listen %[2]s; root %[3]s; } }
`, dir, at, root, runtime.NumCPU())
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, "-p", dir, "-c", conf)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // its workers end with it
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cancel(); _ = cmd.Wait() })
	for range 200 {
		resp, err := http.Head("http://" + at + "/root")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				b.Fatalf("nginx answers %s", resp.Status)
			}
			return at, resp.Header.Get("Server")
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatal("nginx does not answer")
	return "", ""
}

// fetchAll fetches a file with many clients at once and returns the time taken.
// The kernel discards what the clients receive (tcp(7), MSG_TRUNC), so that the
// benchmark measures the server.
func fetchAll(b *testing.B, at, path string, size int64, clients int) time.Duration {
	b.Helper()
	var g errgroup.Group
	begin := time.Now()
	for range clients {
		g.Go(func() error { return fetch(at, path, size) })
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}

func fetch(at, path string, size int64) error {
	c, err := net.Dial("tcp", at)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength != size {
		return fmt.Errorf("%s, %d bytes", resp.Status, resp.ContentLength)
	}
	left := size - int64(r.Buffered())
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	for left > 0 {
		var n int
		var inner error
		err := raw.Read(func(fd uintptr) bool {
			n, inner = discard(int(fd), int(min(left, 1<<20)))
			return !errors.Is(inner, unix.EAGAIN)
		})
		if err != nil || inner != nil || n == 0 {
			return fmt.Errorf("after %d bytes: %w", size-left, errors.Join(err, inner, io.ErrUnexpectedEOF))
		}
		left -= int64(n)
	}
	return nil
}

// nothing is where discarded bytes would go.
var nothing [1 << 20]byte

func discard(fd, n int) (int, error) {
	got, _, err := unix.Recvfrom(fd, nothing[:n], unix.MSG_TRUNC)
	return got, err
}
