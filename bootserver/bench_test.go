package bootserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/catalog"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/operator"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/image"
)

// BenchmarkFleet is a server with 10,000 machines whose ledger is full, with a
// million entries: how long it takes to start, to list the machines and to
// explain one, each as an operator's command does, and to decide a packet.
//
//	go test ./bootserver -run '^$' -bench Fleet -benchtime 1x
func BenchmarkFleet(b *testing.B) {
	const machines, boots, entries = 10_000, 10, state.MaxLedger
	root := b.TempDir()
	images, err := image.Open(b.Context(), root)
	if err != nil {
		b.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		b.Fatal(err)
	}
	im := putSmall(b, images, keys, "v1")
	dir := filepath.Join(root, state.Folder) // on bbolt in any case: its file is what is measured
	fill(b, dir, machines, boots, entries, fleet.ImageRef{Image: im.Digest, Name: im.Name.String()})
	st, err := os.Stat(filepath.Join(dir, "ingot.db"))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		start := time.Now()
		s, err := bolt.Open(b.Context(), dir)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "start-ms")
		runtime.GC()
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		b.ReportMetric(float64(mem.HeapAlloc)/(1<<20), "MiB-heap")
		b.ReportMetric(float64(st.Size())/(1<<20), "MiB-file")
		c := catalog.New(images)
		boot := booter.New(booter.Config{State: s, Catalog: c, Keys: signerOf(b, images),
			Loaders: map[string][]byte{"snponly.efi": []byte("a loader")}, Now: time.Now})
		operator := newServer(images, c, s, boot, time.Now, quiet).operator()
		b.ReportMetric(askedOverSocket(b, s, operator), "ls-ms")
		b.ReportMetric(explained(b, operator, machines), "why-ms-p99")
		b.ReportMetric(decided(b, boot, machines), "decision-us-p99")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op") // the metrics above are what is measured
}

// fill makes a state as a year of boots would leave it.
func fill(b *testing.B, dir string, machines, boots, entries int, ref fleet.ImageRef) {
	b.Helper()
	s, err := bolt.Open(b.Context(), dir)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now().Add(-30 * 24 * time.Hour)
	stages := ingot.Stages
	for n := range boots {
		const part = state.MaxRecords / 2 // a machine and a boot each
		var waits []func() error
		for first := 0; first < machines; first += part {
			waits = append(waits, s.Begin(func(tx state.Tx) error {
				for i := first; i < min(first+part, machines); i++ {
					at := start.Add(time.Duration(n)*24*time.Hour + time.Duration(i)*time.Second)
					m := benchMachine(i, ref)
					boot := fleet.Boot{ID: ingot.NewBootID([16]byte{byte(i >> 8), byte(i), byte(n)}), Machine: m.ID,
						Number: n + 1, Firmware: m.Firmware, Image: ref, Started: at, First: "snponly.efi"}
					for k, stage := range stages[:len(stages)-1] {
						boot.Events = append(boot.Events, fleet.Event{At: at.Add(time.Duration(k) * time.Second),
							Event: ingot.Event{Stage: stage, Detail: "10.0.0.1", Bytes: 1 << 20}})
					}
					m.Boot = boot.ID
					d := fleet.NewDecision(m, boot, fleet.BootPolicy{}, nil, fleet.Actor{}, at.Add(time.Minute))
					d.Report(ingot.Report{Boot: boot.ID, Healthy: true, RAMTotal: 256 << 30,
						Checks: []ingot.CheckResult{{Name: "ssh", OK: true}}})
					tx.StoreMachine(d.Machine)
					tx.StoreBoot(d.Boot)
					for _, e := range boot.Events {
						tx.Record(fleet.Change{At: e.At, Code: fleet.CodeBootStage, Machine: m.ID, Boot: boot.ID,
							Stage: e.Stage, Detail: e.Detail, Bytes: e.Bytes})
					}
					tx.Record(d.Changes...)
				}
				return nil
			}))
		}
		for _, wait := range waits {
			if err := wait(); err != nil {
				b.Fatal(err)
			}
		}
		s.Forget()
	}
	_, last, err := s.Changes(state.Query{Newest: true, Limit: 1})
	if err != nil {
		b.Fatal(err)
	}
	if last < uint64(entries) {
		b.Fatalf("the ledger has %d entries; want %d", last, entries)
	}
	for { // as the server's tick does
		before, _, _ := s.Changes(state.Query{Limit: 1})
		if err := s.Trim(start, entries, state.LedgerAge); err != nil {
			b.Fatal(err)
		}
		if after, _, _ := s.Changes(state.Query{Limit: 1}); after[0].Seq == before[0].Seq {
			break
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

func benchMachine(i int, ref fleet.ImageRef) fleet.Machine {
	mac := fmt.Sprintf("52:54:01:%02x:%02x:%02x", i>>16&255, i>>8&255, i&255)
	id, _ := ingot.MachineIDFromMAC(mac)
	uuid := fmt.Sprintf("d1b2c3a4-0000-4000-8000-%012x", i)
	m := fleet.Machine{ID: id, Name: fmt.Sprintf("node%05d", i), State: fleet.Approved, UUID: uuid,
		MACs: []string{mac}, Firmware: ingot.FirmwareUEFIx64, MachineKey: fmt.Sprintf("%032x", i),
		Address: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8),
			byte(i)}), Labels: map[string]string{"rack": fmt.Sprintf("r%d", i/40)},
		FirstSeen: time.Unix(int64(1_700_000_000+i),
			0), LastSeen: time.Now(), Assignment: fleet.Assignment{ImageRef: ref}, LastHealthy: ref,
		Facts: ingot.Facts{UUID: uuid, Serial: fmt.Sprint("S", i), Vendor: "Example", Product: "Server",
			BIOS: "Example 1.2", CPU: "Example CPU 32-Core", Cores: 64, RAM: 256 << 30, Kernel: "6.12"}}
	for n := range 4 {
		m.Facts.NICs = append(m.Facts.NICs, ingot.NIC{Name: fmt.Sprint("eth", n),
			MAC: fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", n+1, i>>16&255, i>>8&255, i&255), Driver: "ice"})
		m.Facts.Disks = append(m.Facts.Disks, ingot.Disk{Name: fmt.Sprint("nvme", n),
			Serial: fmt.Sprint("D", i, "-", n), Size: 1 << 42, Model: "Example NVMe", Holds: "blank"})
	}
	return m
}

// askedOverSocket is the milliseconds of `ingot machine ls`, without its start
// as a process and its table.
func askedOverSocket(b *testing.B, s state.Store, o *operator.Operator) float64 {
	b.Helper()
	l, err := net.Listen("unix", filepath.Join(b.TempDir(), "s"))
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{ConnContext: access.Peers{}.ConnContext,
		Handler: api.Handler(o, &access.Keeper{Find: s.Credential, Now: time.Now}, nil)}
	go func() { _ = srv.Serve(l) }() // until it is closed
	defer func() { _ = srv.Close() }()
	c := api.Dial(l.Addr().String())
	start := time.Now()
	list, err := c.MachinesBrief(b.Context())
	if err != nil || len(list) == 0 {
		b.Fatalf("%d machines, %v", len(list), err)
	}
	return float64(time.Since(start).Microseconds()) / 1000
}

// explained is the 99th percentile of `ingot why`, in milliseconds.
func explained(b *testing.B, o *operator.Operator, machines int) float64 {
	b.Helper()
	return percentile(500, func() {
		if y, err := o.Why(fmt.Sprintf("node%05d", rand.N(machines))); err != nil || y.Words == "" {
			b.Fatal(y, err)
		}
	}) / 1000
}

// decided is the 99th percentile of what is decided for a packet, in
// microseconds, without the wait for the disk.
func decided(b *testing.B, boot *booter.Booter, machines int) float64 {
	b.Helper()
	return percentile(20_000, func() {
		m := benchMachine(rand.N(machines), fleet.ImageRef{})
		s := client.Sighting{Client: client.Client{MAC: m.MACs[0], UUID: m.UUID, Kind: client.Firmware,
			Firmware: ingot.FirmwareUEFIx64}, Address: m.Address,
			Loaders: client.DefaultLoaders[ingot.FirmwareUEFIx64], Begins: true}
		if what, err := boot.WouldAnswer(s); err != nil || what.Loader == "" {
			b.Fatal(what, err)
		}
	})
}

func percentile(n int, f func()) (p99us float64) {
	took := make([]time.Duration, n)
	for i := range took {
		start := time.Now()
		f()
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return float64(took[n*99/100].Nanoseconds()) / 1000
}
