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
	if got := v.others(*v.machines["m-77"], reported, count); len(got) > 8 {
		t.Errorf("%d others", len(got))
	}
	if len(read) > state.MaxRecords {
		t.Errorf("%d records and entries of indexes were read; want at most %d", len(read), state.MaxRecords)
	}
	start := time.Now()
	for range 1000 { // packets
		m := *v.machines["m-77"]
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

// TestSameOfMany: of many machines that share something, a server that has just started finds the same
// ones as a server that has seen them come and go.
func TestSameOfMany(t *testing.T) {
	shared := fleet.SwitchPort{Relay: netip.MustParseAddr("10.7.0.1"), Circuit: "vlan7"}
	address, start := netip.MustParseAddr("10.0.0.9"), time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	const uuid, card = "d1b2c3a4-0000-4000-8000-525400120001", "02:00:00:00:00:01"
	machine := func(i int) fleet.Machine {
		m := fleet.Machine{ID: ingot.MachineID(fmt.Sprintf("m-%02d", i)), State: fleet.Approved, MACs: []string{card},
			UUID: uuid, Serial: "S", Port: shared, Address: address, FirstSeen: start,
			LastSeen: start.Add(time.Duration(i*7%40) * time.Minute)}
		m.Facts.NICs = []ingot.NIC{{MAC: "02:00:00:00:00:02"}}
		return m
	}
	long, fresh := New(nil), New(nil)
	for i := range 40 {
		long.AddMachine(machine(39 - i))
		fresh.AddMachine(machine(i))
	}
	m := machine(3) // leaves and comes back
	m.Serial, m.UUID, m.MACs, m.Address = "", "", nil, netip.Addr{}
	long.setMachine(m)
	long.setMachine(machine(3))
	long.setMachine(machine(5)) // an operator renames what was seen long ago, and back
	facts := ingot.Facts{UUID: uuid, Serial: "S", NICs: []ingot.NIC{{MAC: card}}}
	sight := fleet.Sighting{MAC: card, UUID: uuid, Port: shared}
	describe := func(v *View) string {
		at, _ := v.AtAddress(address)
		text := "at the address: " + string(at.ID) + "\nothers:"
		for _, m := range v.others(machine(9), facts, ignore) {
			text += " " + string(m.ID)
		}
		text += "\ncandidates:"
		for _, m := range v.candidates(sight, ignore) {
			text += " " + string(m.ID)
		}
		return text
	}
	if a, b := describe(long), describe(fresh); a != b {
		t.Errorf("after a while:\n%s\nafter a start:\n%s", a, b)
	}
	if at, _ := fresh.AtAddress(address); !at.LastSeen.Equal(start.Add(39 * time.Minute)) {
		t.Errorf("at the address is %s, seen %s; want the one that was seen last", at.ID, at.LastSeen)
	}
}
