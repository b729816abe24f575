package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkDHCP compares DHCP servers by four-packet exchanges (DISCOVER, OFFER, REQUEST, ACK), each
// of a new client, which perfdhcp sends through a relay. Every server is a process of its own; ours is
// `ingot serve`. All run on the same machine, in turns, each time without leases.
//
//   - plain: clients that boot nothing. No server probes addresses.
//   - boot: UEFI PXE clients (options 60 and 93) that are told what to boot. ingot has its default
//     settings: it probes addresses, records each machine, its boot and its image, and logs them.
//     dnsmasq and Kea log as their packages do; kea-silent does not.
//   - steady: processor time per exchange at 200 a second.
//   - limit: the highest rate, within a tenth, at which nothing is lost, and the processor time per
//     exchange there; then how many exchanges are completed when 4,000 a second are asked for.
//
// x-NAME is a rate of ours divided by another's, cpu-x-NAME our processor time divided by another's.
//
// INGOT_TEST_OTHER is another build of ingot to compare with, named other; INGOT_TEST_ONLY names the
// servers to measure; INGOT_TEST_PROFILE is where ours writes profiles.
func BenchmarkDHCP(b *testing.B) {
	needs(b, "perfdhcp", "dnsmasq", "kea-dhcp4", "tcpdump")
	for _, kind := range exchangeKinds {
		b.Run(kind.name+"/steady", func(b *testing.B) { benchSteady(b, kind) })
		b.Run(kind.name+"/limit", func(b *testing.B) { benchLimit(b, kind) })
	}
}

// exchangeKind is what clients send, and how servers are set up for them.
type exchangeKind struct {
	name    string
	options []string // of perfdhcp
	boots   bool
}

var exchangeKinds = []exchangeKind{
	{name: "plain"},
	{name: "boot", boots: true, options: []string{
		"-o", "60," + hex.EncodeToString([]byte("PXEClient:Arch:00007:UNDI:003016")), "-o", "93,0007"}},
}

// rival is a DHCP server; start returns its process.
type rival struct {
	name  string
	start func(*dhcpField, exchangeKind) (pid int)
}

func rivals(k exchangeKind) []rival {
	list := []rival{{"ingot", serveIngot("")}, {"dnsmasq", serveDnsmasq}, {"kea", serveKea(k.boots)}}
	if k.boots {
		list = append(list, rival{"kea-silent", serveKea(false)})
	}
	if other := os.Getenv("INGOT_TEST_OTHER"); other != "" {
		list = append(list, rival{"other", serveIngot(other)})
	}
	if only := os.Getenv("INGOT_TEST_ONLY"); only != "" {
		names := strings.Split(only, ",")
		list = slices.DeleteFunc(list, func(r rival) bool { return !slices.Contains(names, r.name) })
	}
	return list
}

// Where the relay is, and the addresses that each server assigns: a quarter of a million, so that
// every exchange is of a new client. The clients' network is behind the relay.
const (
	perfNetwork = "10.64.0.0/14"
	perfRelay   = "10.64.0.2"
	perfFirst   = "10.64.1.0"
	perfLast    = "10.67.255.254"
)

// dhcpField is a network with a host on which perfdhcp runs, which is the relay.
type dhcpField struct{ *field }

func newDHCPField(b testing.TB) *dhcpField {
	f := &dhcpField{newField(b, 4<<20)}
	for _, cmd := range []*exec.Cmd{
		f.crowd.Command(f.ctx, "ip", "address", "add", perfRelay+"/14", "dev", f.crowd.Card),
		f.lan.Command(f.ctx, "ip", "route", "add", perfNetwork, "via", "10.99.255.254"),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	return f
}

// run starts a daemon on the host of the servers; it ends with the benchmark.
func (f *dhcpField) run(argv ...string) (pid int) {
	f.t.Helper()
	cmd := f.lan.Command(f.ctx, argv[0], argv[1:]...)
	if err := f.lan.Start(cmd); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func (f *dhcpField) file(name, text string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// serveIngot starts `ingot serve`, with settings that anybody would use: networks, and that machines
// are approved and get an image.
func serveIngot(build string) func(*dhcpField, exchangeKind) int {
	return func(f *dhcpField, k exchangeKind) int {
		probe := ""
		if !k.boots {
			probe = ", probe: off"
		}
		f.write(`dhcp:
  interfaces: [{name: br0` + probe + `}]
  networks:
    - name: perf
      interface: br0
      relays: [` + perfRelay + `]
      subnets: [{prefix: ` + perfNetwork + `, pools: [` + perfFirst + `-` + perfLast + `]}]
boots: {approveAll: true, image: "storm:v1"}
`)
		f.build = build
		f.serve()
		f.endGently()
		return f.pid
	}
}

// serveDnsmasq: by default dnsmasq has at most 1,000 leases and tests each address by a ping of up to
// three seconds, in which it does nothing else.
func serveDnsmasq(f *dhcpField, k exchangeKind) int {
	conf := fmt.Sprintf("port=0\ninterface=br0\nbind-interfaces\ndhcp-range=%s,%s,255.252.0.0,12h\n"+
		"dhcp-lease-max=300000\nno-ping\n", perfFirst, perfLast)
	if k.boots {
		conf += "dhcp-match=set:efi,option:client-arch,7\ndhcp-boot=tag:efi,snponly.efi,,10.99.0.1\n"
	} else {
		conf += "quiet-dhcp\n"
	}
	return f.run("dnsmasq", "-k", "-C", f.file("dnsmasq.conf", conf), "--log-facility="+filepath.Join(f.dir, "log"),
		"--dhcp-leasefile="+filepath.Join(f.dir, "leases"), "--pid-file=", "-u", "root")
}

// serveKea: Kea does not test addresses. It uses both processors. Debian's configuration logs two
// lines for each exchange.
func serveKea(logs bool) func(*dhcpField, exchangeKind) int {
	return func(f *dhcpField, k exchangeKind) int {
		classes, severity := "", "FATAL"
		if logs {
			severity = "INFO"
		}
		if k.boots {
			classes = `"client-classes": [{"name": "efi", "test": "option[93].hex == 0x0007", "next-server": "10.99.0.1",
"boot-file-name": "snponly.efi"}],`
		}
		conf := fmt.Sprintf(`{"Dhcp4": {"interfaces-config": {"interfaces": ["br0"]}, %s
"multi-threading": {"enable-multi-threading": true, "thread-pool-size": 2, "packet-queue-size": 64},
"lease-database": {"type": "memfile", "persist": true, "name": "%s/leases4.csv", "lfc-interval": 0},
"valid-lifetime": 43200,
"loggers": [{"name": "kea-dhcp4", "severity": "%s", "output_options": [{"output": "%[2]s/log"}]}],
"subnet4": [{"id": 1, "subnet": "%[4]s", "pools": [{"pool": "%s - %s"}]}]}}`, classes, f.dir, severity, perfNetwork,
			perfFirst, perfLast)
		return f.run("sh", "-c", "KEA_PIDFILE_DIR="+f.dir+" KEA_LOCKFILE_DIR="+f.dir+" exec kea-dhcp4 -c "+
			f.file("kea.conf", conf))
	}
}

// exchanges is what perfdhcp saw of one run.
type exchanges struct {
	perSecond float64 // completed
	lost      int     // packets
	cost      float64 // processor time of the server, in µs per completed exchange
	out       string
}

var (
	perfDrops    = regexp.MustCompile(`(?m)^drops: (-?\d+)$`)
	perfReceived = regexp.MustCompile(`(?m)^received packets: (\d+)$`)
)

// exchange runs exchanges at a rate with a server. Runs of different numbers have different clients.
func (f *dhcpField) exchange(k exchangeKind, pid, run, rate int, d time.Duration) (e exchanges) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, d+20*time.Second)
	defer cancel()
	// -R clients from -b on; -W, in µs, lets the last answers come.
	args := append([]string{"-4", "-l", perfRelay, "-r", strconv.Itoa(rate), "-R", "1000000",
		"-b", fmt.Sprintf("mac=0c:%02x:00:00:00:00", run), "-p", strconv.Itoa(int(d.Seconds())), "-W", "1000000"},
		k.options...)
	before := processTime(f.t, pid)
	out, err := f.crowd.Command(ctx, "perfdhcp", append(args, "10.99.0.1")...).CombinedOutput()
	used := processTime(f.t, pid) - before
	e.out = string(out)
	m := perfReceived.FindAllStringSubmatch(e.out, -1)
	if len(m) != 2 { // of OFFERs and of ACKs
		f.t.Fatalf("perfdhcp: %v\n%s", err, e.out)
	}
	acks, _ := strconv.Atoi(m[1][1])
	e.perSecond, e.cost = float64(acks)/d.Seconds(), float64(used.Microseconds())/max(float64(acks), 1)
	for _, d := range perfDrops.FindAllStringSubmatch(e.out, -1) {
		n, _ := strconv.Atoi(d[1])
		e.lost += n
	}
	return e
}

// scope is a part of a benchmark that cleans up after itself.
type scope struct {
	testing.TB
	cleanups []func()
}

func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scope) close() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}

// withServer calls f with a server that answers and has no leases.
func withServer(b *testing.B, r rival, k exchangeKind, f func(*dhcpField, int)) {
	b.Helper()
	s := &scope{TB: b}
	defer s.close()
	field := newDHCPField(s)
	pid := r.start(field, k)
	answers := field.watch()
	field.until(r.name+" to answer", func() bool { return field.exchange(k, pid, 1, 10, time.Second).lost == 0 })
	if text := answers(); strings.Contains(text, "snponly.efi") != k.boots {
		b.Fatalf("%s does not answer %s clients as it should:\n%s", r.name, k.name, text)
	}
	f(field, pid)
}

// watch returns a function that waits for two answers of a server and returns what is in them.
func (f *dhcpField) watch() func() string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, time.Minute)
	cmd := f.crowd.Command(ctx, "tcpdump", "-n", "-vv", "-c", "2", "-i", f.crowd.Card,
		"src host 10.99.0.1 and udp src port 67")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := f.lan.Start(cmd); err != nil {
		f.t.Fatal(err)
	}
	return func() string {
		defer cancel()
		if err := cmd.Wait(); err != nil {
			f.t.Fatalf("watching answers: %v\n%s", err, errs.String())
		}
		return out.String()
	}
}

// steadyRate is a rate that every server keeps up, of exchanges per second.
const steadyRate = 200

func benchSteady(b *testing.B, k exchangeKind) {
	costs := map[string][]float64{}
	list := rivals(k)
	for b.Loop() {
		for range 3 {
			for _, r := range list {
				withServer(b, r, k, func(f *dhcpField, pid int) {
					e := f.exchange(k, pid, 2, steadyRate, 10*time.Second)
					if e.lost > 0 {
						b.Logf("%s lost %d packets at %d exchanges per second", r.name, e.lost, steadyRate)
					}
					costs[r.name] = append(costs[r.name], e.cost)
				})
			}
			slices.Reverse(list)
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, r := range list {
		of := costs[r.name]
		b.ReportMetric(median(len(of), func(i int) float64 { return of[i] }), r.name+"-cpu-µs/exchange")
		if ours := costs["ingot"]; ours != nil && r.name != "ingot" {
			b.ReportMetric(median(len(of), func(i int) float64 { return ours[i] / of[i] }), "cpu-x-"+r.name)
		}
	}
}

// limits is what a server does at its limit and beyond.
type limits struct {
	best  exchanges // the highest rate at which nothing is lost
	flood exchanges // of floodRate
}

// floodRate is more than every server can do, in exchanges per second.
const floodRate = 4000

func benchLimit(b *testing.B, k exchangeKind) {
	found := map[string][]limits{}
	list := rivals(k)
	for b.Loop() {
		for _, r := range list {
			l := limits{best: lossless(b, r, k)}
			withServer(b, r, k, func(f *dhcpField, pid int) { l.flood = f.exchange(k, pid, 2, floodRate, 4*time.Second) })
			found[r.name] = append(found[r.name], l)
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, r := range list {
		of := found[r.name]
		metric := func(unit, ratio string, value func(limits) float64) {
			b.ReportMetric(median(len(of), func(i int) float64 { return value(of[i]) }), r.name+unit)
			if ours := found["ingot"]; ours != nil && r.name != "ingot" {
				times := func(i int) float64 { return value(ours[i]) / value(of[i]) }
				b.ReportMetric(median(len(of), times), ratio+r.name)
			}
		}
		metric("-exchanges/s", "x-", func(l limits) float64 { return l.best.perSecond })
		metric("-cpu-µs/exchange", "cpu-x-", func(l limits) float64 { return l.best.cost })
		metric("-in-flood/s", "x-in-flood-", func(l limits) float64 { return l.flood.perSecond })
		metric("-cpu-µs/exchange-in-flood", "cpu-x-in-flood-", func(l limits) float64 { return l.flood.cost })
	}
}

// lossless looks for the highest rate, within a tenth, at which nothing is lost in four seconds. Every
// attempt is a new server without leases, since some slow down with each lease that they have; and the
// machine may be busy with others, so that each rate has two attempts.
func lossless(b *testing.B, r rival, k exchangeKind) (best exchanges) {
	b.Helper()
	holds := func(rate float64) (ok bool) {
		for attempt := 0; attempt < 2 && !ok; attempt++ {
			withServer(b, r, k, func(f *dhcpField, pid int) {
				e := f.exchange(k, pid, 2, int(rate), 4*time.Second)
				b.Logf("%s: %.0f asked for, %.0f a second, %d lost, %.0f µs each", r.name, rate, e.perSecond, e.lost, e.cost)
				// When perfdhcp cannot keep up its rate, the round says nothing about the server.
				if ok = e.lost <= 0 && e.perSecond > 0.9*rate; ok && e.perSecond > best.perSecond {
					best = e
				}
			})
		}
		return ok
	}
	low, high := 0.0, 0.0
	for rate := 400.0; rate > 10 && (low == 0 || high == 0 || high/low > 1.1); {
		if holds(rate) {
			low = rate
		} else {
			high = rate
		}
		switch {
		case high == 0:
			rate = 2 * low
		case low == 0:
			rate = high / 2
		default:
			rate = math.Sqrt(low * high)
		}
	}
	return best
}
