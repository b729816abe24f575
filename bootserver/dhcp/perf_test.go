package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
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
	start func(t *testing.T)
}{
	{"ingot", nil, func(t *testing.T) {
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
	}},
	{"dnsmasq", []string{"dnsmasq"}, func(t *testing.T) {
		startHere(t, "dnsmasq", "-k", "-C", write(t, "conf", "port=0\ninterface=eth1\nbind-interfaces\ndhcp-range=10.96.1.0,10.96.250.255,255.255.0.0,1h\ndhcp-lease-max=100000\nno-ping\nquiet-dhcp\n"),
			"--log-facility=/dev/null", "--dhcp-leasefile=/run/dnsmasq.leases", "--pid-file=", "-u", "root")
	}},
	{"kea", []string{"kea-dhcp4"}, func(t *testing.T) {
		conf := `{"Dhcp4": {"interfaces-config": {"interfaces": ["eth1"]}, "multi-threading": {"enable-multi-threading": true, "thread-pool-size": 2, "packet-queue-size": 64},
"lease-database": {"type": "memfile", "persist": true, "name": "/var/lib/kea/leases4.csv", "lfc-interval": 0}, "loggers": [{"name": "*", "severity": "FATAL"}],
"subnet4": [{"subnet": "10.96.0.0/16", "pools": [{"pool": "10.96.1.0 - 10.96.250.255"}]}]}}`
		startHere(t, "sh", "-c", "mkdir -p /run/kea && KEA_LOCKFILE_DIR=/run/kea exec kea-dhcp4 -c "+write(t, "conf", conf))
	}},
}

// startHere runs a daemon in the test's own namespace.
func startHere(t *testing.T, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
}

var (
	perfReceived = regexp.MustCompile(`(?m)^received packets: (\d+)$`)
	perfDrops    = regexp.MustCompile(`(?m)^drops: (-?\d+)$`)
	perfRate     = regexp.MustCompile(`(?m)^Rate: ([0-9.]+) 4-way`)
)

// perfdhcp runs four-packet exchanges at a rate and returns how many a second
// were completed, and how many packets got lost.
func perfdhcp(t *testing.T, rate int, seconds time.Duration) (perSecond float64, lost int, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), seconds+20*time.Second)
	defer cancel()
	// -W lets the last answers come; -x i is a summary alone.
	b, err := exec.CommandContext(ctx, "ip", "netns", "exec", "load", "perfdhcp", "-4", "-l", "eth0", "-r", strconv.Itoa(rate), "-R", "60000",
		"-p", strconv.Itoa(int(seconds.Seconds())), "-W", "1", "-s", strconv.Itoa(rate), "10.96.0.1").CombinedOutput()
	out = string(b)
	m := perfRate.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("perfdhcp: %v\n%s", err, out)
	}
	perSecond, _ = strconv.ParseFloat(m[1], 64)
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
	for _, s := range perfServers {
		if s.name == name {
			s.start(t)
		}
	}
	var best float64
	eventually(t, "it answers", func() bool { _, lost, _ := perfdhcp(t, 10, time.Second); return lost == 0 })
	rate, step := 1000.0, 2.0
	for range 14 {
		got, lost, out := perfdhcp(t, int(rate), 3*time.Second)
		t.Logf("rate %.0f: %.0f a second, %d lost", rate, got, lost)
		if os.Getenv("INGOT_TEST_PERF_VERBOSE") != "" {
			t.Log(out)
		}
		if lost <= 0 && got > 0.9*rate {
			best = max(best, got)
			rate *= step
			continue
		}
		if step < 1.2 {
			break
		}
		rate = rate / step
		step = 1 + (step-1)/2
		rate *= step
	}
	fmt.Printf("best %.0f\n", best)
}
