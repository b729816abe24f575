package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// durable keeps leases in the server's real state.
type durable struct{ *state.State }

func (d durable) PutLease(l fleet.Lease) func() error {
	return d.Begin(func(tx *state.Tx) error { tx.PutLease(l); return nil })
}

// perfPool is where each server under test lends addresses, tens of thousands,
// so that every exchange is of a new client.
const perfPool = "10.96.1.0-10.96.250.255"

// perfServers are the servers that are measured, each with leases that are on
// disk, and without tests of addresses, which Kea does not make either.
var perfServers = []struct {
	name  string
	tools []string
	start func(t *testing.T) (pid int)
}{
	{"ingot", nil, func(t *testing.T) int {
		st, err := state.Open(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		r, err := ParseRange(perfPool)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, Config{Interfaces: []Interface{{Name: "eth1", Probe: -1, Quiet: true}}, Networks: []Network{{Name: "perf", Interface: "eth1",
			Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.96.0.0/16"), Pools: []Range{r}}}}}}, durable{st}, scripted{})
		return os.Getpid()
	}},
	{"dnsmasq", []string{"dnsmasq"}, func(t *testing.T) int {
		return startHere(t, "dnsmasq", "-k", "-C", write(t, "conf", "port=0\ninterface=eth1\nbind-interfaces\ndhcp-range=10.96.1.0,10.96.250.255,255.255.0.0,1h\ndhcp-lease-max=100000\nno-ping\nquiet-dhcp\n"),
			"--log-facility=/dev/null", "--dhcp-leasefile=/run/dnsmasq.leases", "--pid-file=", "-u", "root")
	}},
	{"kea", []string{"kea-dhcp4"}, func(t *testing.T) int {
		conf := `{"Dhcp4": {"interfaces-config": {"interfaces": ["eth1"]}, "multi-threading": {"enable-multi-threading": true, "thread-pool-size": 2, "packet-queue-size": 64},
"lease-database": {"type": "memfile", "persist": true, "name": "/var/lib/kea/leases4.csv", "lfc-interval": 0}, "loggers": [{"name": "*", "severity": "FATAL"}],
"subnet4": [{"subnet": "10.96.0.0/16", "pools": [{"pool": "10.96.1.0 - 10.96.250.255"}]}]}}`
		return startHere(t, "sh", "-c", "mkdir -p /run/kea && KEA_LOCKFILE_DIR=/run/kea exec kea-dhcp4 -c "+write(t, "conf", conf))
	}},
}

// startHere runs a daemon in the test's own namespace.
func startHere(t *testing.T, argv ...string) (pid int) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// cpuTime is what a process has used, in user and kernel mode (proc_pid_stat(5)).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * (time.Second / 100)
}

var (
	perfDrops    = regexp.MustCompile(`(?m)^drops: (-?\d+)$`)
	perfReceived = regexp.MustCompile(`(?m)^received packets: (\d+)$`)
)

// perfdhcp runs four-packet exchanges at a rate and returns how many a second
// were completed, and how many packets got lost.
func perfdhcp(t *testing.T, rate int, seconds time.Duration) (perSecond float64, lost int, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), seconds+20*time.Second)
	defer cancel()
	// -W, in µs, lets the last answers come.
	b, err := exec.CommandContext(ctx, "ip", "netns", "exec", "load", "perfdhcp", "-4", "-l", "eth0", "-r", strconv.Itoa(rate), "-R", "60000",
		"-p", strconv.Itoa(int(seconds.Seconds())), "-W", "1000000", "-s", strconv.Itoa(rate), "10.96.0.1").CombinedOutput()
	out = string(b)
	m := perfReceived.FindAllStringSubmatch(out, -1)
	if len(m) != 2 { // of OFFERs and of ACKs
		t.Fatalf("perfdhcp: %v\n%s", err, out)
	}
	acks, _ := strconv.Atoi(m[1][1])
	perSecond = float64(acks) / seconds.Seconds()
	for _, d := range perfDrops.FindAllStringSubmatch(out, -1) {
		n, _ := strconv.Atoi(d[1])
		lost += n
	}
	return perSecond, lost, out
}

// TestPerfHelper measures one server in a network of its own, for
// BenchmarkPerfdhcp: the highest rate at which nothing is lost.
func TestPerfHelper(t *testing.T) {
	name := os.Getenv("INGOT_TEST_PERF")
	if name == "" || os.Getenv(insideWire) == "" {
		t.Skip("only for the benchmark")
	}
	if !onWire(t) {
		return
	}
	run(t, "ip", "netns", "add", "load")
	run(t, "ip", "link", "add", "eth1", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "eth0", "netns", "load")
	run(t, "ip", "address", "add", "10.96.0.1/16", "dev", "eth1")
	run(t, "ip", "link", "set", "eth1", "up")
	in(t, "load", "ip", "address", "add", "10.96.0.2/16", "dev", "eth0")
	in(t, "load", "ip", "link", "set", "eth0", "up")
	pid := 0
	for _, s := range perfServers {
		if s.name == name {
			pid = s.start(t)
		}
	}
	eventually(t, "it answers", func() bool { _, lost, _ := perfdhcp(t, 10, time.Second); return lost == 0 })
	rate, step, best := 500.0, 2.0, 0.0
	for range 12 {
		got, lost, out := perfdhcp(t, int(rate), 2*time.Second)
		t.Logf("rate %.0f: %.0f a second, %d lost", rate, got, lost)
		if os.Getenv("INGOT_TEST_PERF_VERBOSE") != "" {
			t.Log(out)
		}
		if lost <= 0 && got > 0.9*rate {
			best = max(best, got)
			rate *= step
			continue
		}
		if step < 1.3 {
			break
		}
		rate = rate / step
		step = 1 + (step-1)/2
		rate *= step
	}
	// In a flood, what does an exchange cost, and how many come through?
	before := cpuTime(t, pid)
	flood, _, _ := perfdhcp(t, 4000, 4*time.Second)
	cost := float64((cpuTime(t, pid) - before).Microseconds()) / (4 * flood)
	fmt.Printf("best %.0f flood %.0f cpu %.1f\n", best, flood, cost)
}

// BenchmarkPerfdhcp is four-packet exchanges a second with none lost, of ingot,
// dnsmasq and Kea in turn, on the same machine in the same minute; then how many
// come through when 4,000 a second are asked for, and what CPU time each of
// these costs. The ratios are ingot's to the others': more is better.
func BenchmarkPerfdhcp(b *testing.B) {
	need(b, "perfdhcp", "unshare", "ip")
	rate, flood, cpu := map[string]float64{}, map[string]float64{}, map[string]float64{}
	for range b.N {
		for _, s := range perfServers {
			need(b, s.tools...)
			cmd := exec.CommandContext(b.Context(), "unshare", "--net", "--mount", "--propagation", "private", "--kill-child=SIGKILL", "--fork",
				os.Args[0], "-test.run=^TestPerfHelper$", "-test.v", "-test.count=1")
			cmd.Env = append(os.Environ(), insideWire+"=1", "INGOT_TEST_PERF="+s.name)
			out, err := cmd.CombinedOutput()
			var r, f, c float64
			if i := strings.LastIndex(string(out), "\nbest "); err != nil || i < 0 {
				b.Fatalf("%s: %v\n%s", s.name, err, out)
			} else if _, err := fmt.Sscanf(string(out[i:]), "\nbest %f flood %f cpu %f", &r, &f, &c); err != nil {
				b.Fatalf("%s: %v\n%s", s.name, err, out)
			}
			rate[s.name], flood[s.name], cpu[s.name] = rate[s.name]+r, flood[s.name]+f, cpu[s.name]+c
		}
	}
	n := float64(b.N)
	b.ReportMetric(0, "ns/op")
	for _, s := range perfServers {
		b.ReportMetric(rate[s.name]/n, s.name+"-exchanges/s")
		b.ReportMetric(flood[s.name]/n, s.name+"-in-flood/s")
		b.ReportMetric(cpu[s.name]/n, s.name+"-cpu-µs/exchange")
		if s.name != "ingot" {
			b.ReportMetric(rate["ingot"]/max(rate[s.name], 1), "x-"+s.name)
			b.ReportMetric(flood["ingot"]/max(flood[s.name], 1), "x-"+s.name+"-in-flood")
			b.ReportMetric(cpu[s.name]/max(cpu["ingot"], 0.1), "x-"+s.name+"-per-cpu")
		}
	}
}
