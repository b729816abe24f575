package bootserver

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/image"
)

// BenchmarkRollouts is a server with 10,000 machines and 50 rollouts: 40 that ended, each of all machines,
// and 10 of 900 machines each that are paused. It measures what ingot rollout ls, show and start --dry-run
// ask for: for all machines, by 10,000 names, and to an image with volumes where each machine ran an image
// that is in the store no more; one look at all rollouts, as there is one every two seconds; and the memory
// of the machines of the 40 rollouts.
//
//	go test ./bootserver -run '^$' -bench Rollouts -benchtime 1x
func BenchmarkRollouts(b *testing.B) {
	const machines, ended, paused, each = 10_000, 40, 10, 900
	root := b.TempDir()
	images, err := image.Open(b.Context(), root)
	if err != nil {
		b.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		b.Fatal(err)
	}
	v1, v2 := putSmall(b, images, keys, "v1"), putSmall(b, images, keys, "v2")
	putSmall(b, images, keys, "v3", func(m *ingot.ImageManifest) { m.Volumes = []ingot.Volume{{Name: "data"}} })
	s, err := bolt.Open(b.Context(), filepath.Join(root, state.Folder)) // its file is what is measured
	if err != nil {
		b.Fatal(err)
	}
	c := catalog.New(images)
	serverOf := func() *Server {
		boot := booter.New(booter.Config{State: s, Catalog: c, Keys: signerOf(b, images), Now: time.Now})
		return newServer(images, c, s, boot, time.Now, quiet)
	}
	reopen := func() { // what ended is packed then, and nothing waits for the file
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		if s, err = bolt.Open(b.Context(), filepath.Join(root, state.Folder)); err != nil {
			b.Fatal(err)
		}
	}
	from := rollout.Image{Image: v1.Digest, Name: v1.Name.String()}
	fillMachines(b, s, machines, fleet.ImageRef(from))
	to := rollout.Image{Image: v2.Digest, Name: v2.Name.String()}
	reopen()
	before := heap()
	server := serverOf()
	for i := range ended {
		fillRollout(b, s, i+1, rollout.Aborting, from, to, 0, machines)
		for range 2 {
			server.rollouts.Tick(b.Context()) // it ends
		}
	}
	reopen()
	kept := heap() - before
	server = serverOf()
	for i := range paused {
		fillRollout(b, s, ended+i+1, rollout.Paused, from, to, i*each, (i+1)*each)
	}
	o := server.operator()
	measure := func(name string, f func() error) {
		start := time.Now()
		if err := f(); err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, name)
	}
	plan := func(image, selector string) func() error {
		return func() error {
			_, err := o.StartRollout(b.Context(), api.RolloutRequest{Image: image, Selector: selector, DryRun: true})
			return err
		}
	}
	for b.Loop() {
		var list []api.Rollout
		measure("ls-ms", func() error { list = o.Rollouts(); return nil })
		if n := list[0].Count["back"]; len(list) != ended+paused || list[0].State != "back" || n != machines {
			b.Fatalf("%d rollouts; the first is %s, with %d machines", len(list), list[0].State, n)
		}
		measure("show-ended-ms", func() error { _, err := o.Rollout("r1"); return err })
		measure("show-paused-ms", func() error { _, err := o.Rollout(list[ended].ID); return err })
		server.rollouts.Tick(b.Context()) // the first one reads what later ones know
		measure("tick-ms", func() error { server.rollouts.Tick(b.Context()); return nil })
		measure("plan-all-ms", plan("lab:v2", "all"))
		measure("plan-volumes-ms", plan("lab:v3", "all"))
		measure("plan-names-ms", plan("lab:v2", fmt.Sprintf("node[%05d-%05d]", 0, machines-1)))
	}
	b.ReportMetric(float64(kept)/(1<<20), "ended-MiB")
	b.ReportMetric(0, "ns/op") // the metrics above are what is measured
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// heap is the memory in use, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// inBatches calls f for 0 to n-1 in transactions that wait for the disk together.
func inBatches(b *testing.B, s state.Store, n int, f func(tx state.Tx, i int)) {
	b.Helper()
	const part = 40
	var waits []func() error
	for first := 0; first < n; first += part {
		waits = append(waits, s.Begin(func(tx state.Tx) error {
			for i := first; i < min(first+part, n); i++ {
				f(tx, i)
			}
			return nil
		}))
	}
	for _, wait := range waits {
		if err := wait(); err != nil {
			b.Fatal(err)
		}
	}
}

// fillMachines stores machines that run an image well.
func fillMachines(b *testing.B, s state.Store, n int, ref fleet.ImageRef) {
	b.Helper()
	now := time.Now()
	inBatches(b, s, n, func(tx state.Tx, i int) {
		m := benchMachine(i, ref)
		boot := fleet.Boot{ID: ingot.NewBootID([16]byte{byte(i >> 8), byte(i)}), Machine: m.ID, Number: 1, Image: ref,
			Started: now.Add(-time.Hour), Outcome: ingot.OutcomeHealthy, Ended: now.Add(-time.Hour)}
		boot.Auth.Heard = now.Add(time.Hour)
		m.Boot, m.Healthy = boot.ID, []fleet.ImageRef{{Image: ingot.DigestOf([]byte("gone")), Name: "lab:v0"}, ref}
		tx.StoreMachine(m)
		tx.StoreBoot(boot)
	})
}

// fillRollout stores a rollout of some machines, each with the result of a boot. What has been moved is back.
func fillRollout(b *testing.B, s state.Store, number int, in rollout.State, from, to rollout.Image, first, end int) {
	b.Helper()
	now := time.Now()
	name, _ := s.LedgerName()
	r := rollout.Rollout{ID: fmt.Sprint("r", number), Number: number, Generation: 1, Image: to, Selector: "all",
		Policy: rollout.Policy{Canary: 1}.WithDefaults(0, 2), By: "bench", Created: now, Since: now, State: in,
		Before: rollout.Wave, Wave: 3, Waves: 4, Machines: end - first, Ledger: name}
	inBatches(b, s, end-first, func(tx state.Tx, i int) {
		machine := benchMachine(first+i, fleet.ImageRef(from))
		m := rollout.Member{Rollout: r.ID, Machine: machine.ID, Name: machine.Name, Place: i, Wave: 3, From: from}
		if in == rollout.Aborting {
			m.Moved, m.Gone = now, now
			m.Results = []rollout.Result{{Boot: ingot.NewBootID([16]byte{1, byte(number), byte(i >> 8), byte(i)}), Seq: i + 1,
				Class: rollout.Good, At: now}}
		}
		tx.PutMember(m)
	})
	if err := s.Update(func(tx state.Tx) error { tx.PutRollout(r); return nil }); err != nil {
		b.Fatal(err)
	}
}
