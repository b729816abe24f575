package view

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/fleet/rollout"
)

// TestEndedRolloutsAreSmall: the machines of a rollout that ended take a tenth of the memory, a part of
// them at a time.
func TestEndedRolloutsAreSmall(t *testing.T) {
	const machines = 10_000
	v := New(nil)
	r := rollout.Rollout{ID: "r1", Number: 1, State: rollout.Wave}
	v.AddRollout(r)
	before := inUse()
	for i := range machines {
		at := time.Unix(int64(i), 0)
		id := ingot.NewBootID([16]byte{byte(i), byte(i >> 8), byte(i * 7), byte(i * 31), byte(i * 77), byte(i * 99)})
		v.AddMember(rollout.Member{Rollout: fmt.Sprint("r", 1), Machine: ingot.MachineID(fmt.Sprintf("m-%012x", i)), Place: i,
			Name: fmt.Sprintf("node%05d", i), Domain: fmt.Sprintf("r%d", i/40), Moved: at, Number: i,
			From:    rollout.Image{Image: ingot.DigestOf([]byte("7")), Name: fmt.Sprint("node:", 7)},
			Results: []rollout.Result{{Boot: id, Seq: i, Class: rollout.Good, At: at}}})
	}
	open := inUse() - before
	v.Forget(nil)
	if r := v.members["r1"]; len(r.packed) != 0 {
		t.Fatal("machines of a rollout that has not ended were packed")
	}
	r.State = rollout.Done
	v.AddRollout(r)
	looks := 0
	for len(v.members["r1"].open) > 0 {
		start := time.Now()
		v.Forget(nil)
		if looks++; looks == 1 {
			t.Logf("packing %d of them takes %s", packedAtOnce, time.Since(start))
		}
		if looks > machines {
			t.Fatal("they are never packed")
		}
	}
	if looks != machines/packedAtOnce {
		t.Errorf("they were packed in %d parts; want %d at once", looks, packedAtOnce)
	}
	packed := inUse() - before
	t.Logf("%d machines take %d KiB, packed %d KiB", machines, open>>10, packed>>10)
	if packed > open/10 {
		t.Errorf("packed they take %d of %d bytes; want a tenth", packed, open)
	}
	start := time.Now()
	if n := len(v.Members("r1")); n != machines {
		t.Errorf("%d members; want %d", n, machines)
	}
	t.Logf("reading them takes %s", time.Since(start))
}

// inUse is the memory in use, in bytes.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
