package view

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// TestCandidatesAreFew: however many machines share a UUID, a serial number, a
// switch port or a card that they report, few are looked at, and few records read.
func TestCandidatesAreFew(t *testing.T) {
	v := New(nil)
	port := fleet.SwitchPort{Relay: netip.MustParseAddr("10.7.0.1"), Circuit: "vlan7"}
	const uuid, card = "d1b2c3a4-0000-4000-8000-525400120001", "02:00:00:00:00:01"
	for i := range 2000 {
		m := fleet.Machine{ID: ingot.MachineID(fmt.Sprint("m-", i)), State: fleet.Approved, MACs: []string{fmt.Sprint(i)},
			UUID: uuid, Serial: "S", Port: port}
		m.Facts.NICs = []ingot.NIC{{MAC: card}}
		if i%2 == 0 {
			m.State, m.Ask = fleet.Pending, &fleet.Question{With: "m-1"}
		}
		v.AddMachine(m)
	}
	read := map[Key]bool{}
	count := func(k Key) { read[k] = true }
	for _, sight := range []fleet.Sighting{{MAC: card, UUID: uuid, Port: port}, {MAC: "77", UUID: uuid, Port: port},
		{MAC: card, Port: port}} {
		if got := v.candidates(sight, count); len(got) > 2*state.MaxPerCard {
			t.Errorf("%d candidates for %+v", len(got), sight)
		}
	}
	if m, ok := v.Find(fleet.Sighting{MAC: "77", UUID: uuid}); !ok || m.ID != "m-77" {
		t.Errorf("among machines that share all but their card, m-77 is found as %q, %t", m.ID, ok)
	}
	reported := ingot.Facts{UUID: uuid, Serial: "S", NICs: []ingot.NIC{{MAC: card}}}
	if got := v.others(v.machines["m-77"], reported, count); len(got) > 8 {
		t.Errorf("%d others", len(got))
	}
	if len(read) > state.MaxRecords {
		t.Errorf("%d records and entries of indexes were read; want at most %d", len(read), state.MaxRecords)
	}
	start := time.Now()
	for range 1000 { // packets
		m := v.machines["m-77"]
		m.LastSeen = m.LastSeen.Add(time.Second)
		v.setMachine(m)
		v.Find(fleet.Sighting{MAC: "77", UUID: uuid, Port: port})
	}
	t.Logf("a packet of one of them takes %s", time.Since(start)/1000)
	for id := range v.machines {
		v.dropMachine(id)
	}
	x := v.index
	if n := len(x.mac) + len(x.unidentified) +
		len(x.reported) + len(x.uuid) + len(x.serial) + len(x.approved) + len(x.port) +
		len(x.image) + x.pending; n > 0 {
		t.Errorf("%d entries of indexes are left of no machine", n)
	}
}
