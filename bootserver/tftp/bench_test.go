package tftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// BenchmarkLoader compares with widely used daemons: 64 clients fetch a loader of
// 300 KB repeatedly, from each server in turn, on the same machine with the same
// clients. A ratio is our fetches per second divided by theirs; the bars are 0.8
// for dnsmasq and 1 for tftpd-hpa.
//
// dnsmasq serves only port 69, so the benchmark runs itself again in a network
// namespace. The client is not the library's: a client that does little work
// leaves the processors to the servers.
func BenchmarkLoader(b *testing.B) {
	if os.Getenv("INGOT_TEST_INSIDE") == "" {
		inside(b)
		return
	}
	// tftpd-hpa requires an address on an interface other than loopback.
	const network = "ip link set lo up && ip link add b0 type bridge && " +
		"ip address add 10.99.0.1/24 dev b0 && ip link set b0 up"
	if out, err := exec.Command("sh", "-c", network).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	loader := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(loader)
	dir, err := os.MkdirTemp("", "ingot-tftp-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "loader"), loader, 0o644)); err != nil {
		b.Fatal(err)
	}
	// A process of its own, as the others are.
	daemon(b, os.Args[0], "-test.run=^TestServeForBenchmark$", dir)
	daemon(b, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--listen-address=127.0.0.2",
		"--bind-interfaces", "--user=root", "--enable-tftp", "--tftp-root="+dir, "--tftp-max=1000", "--pid-file=",
		"--log-facility=/dev/null")
	daemon(b, "in.tftpd", "-4", "--foreground", "--address", "127.0.0.3:69", "--secure", "--user", "root", dir)
	servers := []string{"127.0.0.1:69", "127.0.0.2:69", "127.0.0.3:69"}
	for _, at := range servers {
		awaitServer(b, at)
	}
	rates := make([][]float64, len(servers))
	for b.Loop() {
		for range 3 {
			for i, at := range servers {
				rates[i] = append(rates[i], fetchLoaders(b, at, 64, 3, len(loader)))
			}
		}
	}
	for i := range rates {
		slices.Sort(rates[i])
	}
	median := func(i int) float64 { return rates[i][len(rates[i])/2] }
	b.ReportMetric(median(0), "fetches/s")
	b.ReportMetric(median(0)/median(1), "ratio/dnsmasq")
	b.ReportMetric(median(0)/median(2), "ratio/tftpd-hpa")
}

// TestServeForBenchmark is the server that BenchmarkLoader starts.
func TestServeForBenchmark(t *testing.T) {
	if os.Getenv("INGOT_TEST_INSIDE") == "" {
		t.Skip("run by BenchmarkLoader")
	}
	files, err := Load(os.Args[len(os.Args)-1], nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 69})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Files: files, Log: slog.New(slog.DiscardHandler)}
	s.SetLimits(Limits{PerClient: 1000})
	t.Fatal(s.Serve(t.Context(), conn))
}

func inside(b *testing.B) {
	for _, tool := range []string{"dnsmasq", "in.tftpd", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil || os.Geteuid() != 0 {
			if os.Getenv("CI") != "" {
				b.Fatalf("%s, as root, is needed; run scripts/setup bench", tool)
			}
			b.Skipf("%s, as root, is needed", tool)
		}
	}
	args := []string{"--net", "--", os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkLoader$", "-test.benchtime=1x"}
	if p := os.Getenv("INGOT_TEST_PROFILE"); p != "" {
		args = append(args, "-test.cpuprofile="+p)
	}
	cmd := exec.CommandContext(b.Context(), "unshare", args...)
	cmd.Env = append(os.Environ(), "INGOT_TEST_INSIDE=yes")
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for l := range strings.Lines(string(out)) { // its metrics become ours
		if !strings.HasPrefix(l, "BenchmarkLoader") {
			continue
		}
		for f := strings.Fields(l)[2:]; len(f) >= 2; f = f[2:] {
			var v float64
			if _, err := fmt.Sscan(f[0], &v); err == nil && f[1] != "ns/op" {
				b.ReportMetric(v, f[1])
			}
		}
	}
}

// daemon starts a program that ends with the benchmark.
func daemon(b *testing.B, name string, args ...string) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with what it forked
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cancel(); _ = cmd.Wait() })
}

func awaitServer(b *testing.B, at string) {
	b.Helper()
	for range 3 { // each attempt takes up to some seconds
		if err := fetchLoader(at, 300_000, 50*time.Millisecond); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.Fatalf("no TFTP server at %s", at)
}

// fetchLoaders has clients fetch the loader several times each, and returns
// fetches per second.
func fetchLoaders(b *testing.B, at string, clients, times, size int) float64 {
	b.Helper()
	var g errgroup.Group
	begin := time.Now()
	for range clients {
		g.Go(func() error {
			for range times {
				if err := fetchLoader(at, size, time.Second); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
	return float64(clients*times) / time.Since(begin).Seconds()
}

// fetchLoader is a client that works as firmware does, with blocks of 1468 bytes.
func fetchLoader(at string, size int, timeout time.Duration) error {
	server, err := net.ResolveUDPAddr("udp4", at)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: server.IP})
	if err != nil {
		return err
	}
	defer conn.Close()
	to := server.AddrPort()
	packet := []byte("\x00\x01loader\x00octet\x00tsize\x000\x00blksize\x001468\x00")
	if _, err := conn.WriteToUDPAddrPort(packet, to); err != nil {
		return err
	}
	buf, ack, got, silent := make([]byte, 2048), []byte{0, 4, 0, 0}, 0, 0
	for next := uint16(0); ; {
		_ = conn.SetReadDeadline(time.Now().Add(timeout))
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil { // a packet got lost
			if silent++; silent > 60 {
				return fmt.Errorf("block %d: %w", next, err)
			}
			if _, err := conn.WriteToUDPAddrPort(packet, to); err != nil {
				return err
			}
			continue
		}
		switch kind := binary.BigEndian.Uint16(buf); {
		case kind == 6 && next == 0, kind == 3 && binary.BigEndian.Uint16(buf[2:]) == next:
			next++
		case kind == 5:
			return fmt.Errorf("the server answers with error %q", buf[4:n])
		default:
			continue
		}
		to, silent, packet = from, 0, ack
		binary.BigEndian.PutUint16(ack[2:], next-1)
		if _, err := conn.WriteToUDPAddrPort(ack, to); err != nil {
			return err
		}
		if next == 1 {
			continue
		}
		if got += n - 4; n-4 < 1468 {
			if got != size {
				return fmt.Errorf("%d bytes: %w", got, io.ErrUnexpectedEOF)
			}
			return nil
		}
	}
}
