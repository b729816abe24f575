package bootserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// gets posts the facts of the machine's boot and says whether it got a ticket.
func (h *house) gets(m ingot.MachineID, f ingot.Facts) bool {
	h.t.Helper()
	status, body := h.post(h.known(m).Boot, "ticket", ingot.TicketRequest{Nonce: nonce, Facts: f})
	if status != 200 && status != 403 {
		h.t.Fatalf("ticket = %d: %s", status, body)
	}
	return status == 200
}

func (h *house) known(id ingot.MachineID) fleet.Machine {
	h.t.Helper()
	m, known := h.state.Machine(id)
	if !known {
		h.t.Fatalf("machine %s is not known", id)
	}
	return m
}

// stored puts machines into the state as they are.
func (h *house) stored(machines ...fleet.Machine) {
	h.t.Helper()
	err := h.state.Update(func(tx state.Tx) error {
		for _, m := range machines {
			tx.StoreMachine(m)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// ledgered are the texts of a machine's entries.
func (h *house) ledgered(id ingot.MachineID) string {
	h.t.Helper()
	list, _, err := h.state.Changes(state.Query{Machine: id, Newest: true, Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	text := ""
	for _, e := range list {
		text += fmt.Sprintf("%t %s\n", e.Bad(), e)
	}
	return text
}

// TestSerialOfAnother: a machine that tells no UUID and the serial number of
// another one gets no ticket until an operator spoke, and is not asked again.
func TestSerialOfAnother(t *testing.T) {
	for _, answer := range []string{"approve", "merge"} {
		h := newHouse(t)
		h.put("v1")
		h.stored(fleet.Machine{ID: "m-other", Name: "node07", State: fleet.Approved, Serial: "S7",
			MACs: []string{"52:54:00:12:00:77"}, FirstSeen: h.clock, LastSeen: h.clock})
		h.clock = h.clock.Add(time.Minute)
		h.boots(firstMachine)
		if h.gets(machineID, ingot.Facts{Serial: "S7", RAM: 1}) {
			t.Fatal("a machine with the serial number of another got a ticket")
		}
		m := h.known(machineID)
		if m.State != fleet.Pending || m.Ask == nil || m.Ask.With != "m-other" ||
			!strings.Contains(m.Ask.What, "S7, the serial number of node07") || m.Serial != "" {
			t.Fatalf("it is %s, asks %+v; want a question about node07", m.State, m.Ask)
		}
		if h.gets(machineID, ingot.Facts{Serial: "S7", RAM: 1}) {
			t.Error("it got a ticket when it asked again")
		}
		id := ingot.MachineID(machineID)
		var err error
		if answer == "merge" {
			id = "m-other"
			_, err = h.api.Merge(t.Context(), machineID, "m-other")
		} else {
			_, err = h.api.Approve(t.Context(), machineID, api.ApproveRequest{})
		}
		if err != nil {
			t.Fatal(err)
		}
		if answer == "merge" {
			if _, err := h.api.Assign(t.Context(), "m-other", "lab:v1", ""); err != nil {
				t.Fatal(err)
			}
		}
		h.clock = h.clock.Add(time.Hour)
		if h.boots(firstMachine); !h.gets(id, ingot.Facts{Serial: "S7", RAM: 1}) {
			t.Errorf("after %s it is asked again: %+v", answer, h.known(id).Ask)
		}
		if m := h.known(id); m.Serial != "S7" || m.State != fleet.Approved {
			t.Errorf("after %s it is %s with the serial number %q", answer, m.State, m.Serial)
		}
	}
}

// TestUUIDOfAnother: whoever tells the UUID of another machine is not that
// machine, and gets no ticket.
func TestUUIDOfAnother(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.boots(firstMachine)
	h.boots(second)
	two, _ := ingot.MachineIDFromMAC(second.MAC)
	if h.gets(two, ingot.Facts{UUID: firstMachine.UUID}) {
		t.Error("a machine with the UUID of another got a ticket")
	}
	if m := h.known(two); m.State != fleet.Pending || m.UUID == firstMachine.UUID || m.Ask == nil ||
		m.Ask.With != machineID {
		t.Errorf("it is %+v", m)
	}
}

// TestCardOfAnother: a card that a machine tells, and another one was seen
// with, stays the other's; the ledger says so once.
func TestCardOfAnother(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.boots(firstMachine)
	h.boots(second)
	two, _ := ingot.MachineIDFromMAC(second.MAC)
	for range 2 {
		if !h.gets(two, ingot.Facts{UUID: second.UUID, RAM: 1,
			NICs: []ingot.NIC{{MAC: second.MAC}, {MAC: firstMachine.MAC}}}) {
			t.Fatal("no ticket")
		}
		h.clock = h.clock.Add(time.Hour)
		h.boots(second)
	}
	if got := strings.Count(h.ledgered(two),
		"true reports MAC addresses of other machines, which do not identify it: "+firstMachine.MAC); got != 1 {
		t.Errorf("the ledger says %d times that it has another's card:\n%s", got, h.ledgered(two))
	}
	if m, ok := h.state.Find(fleet.Sighting{MAC: firstMachine.MAC}); !ok || m.ID != machineID {
		t.Errorf("the card is found to be of %q", m.ID)
	}
}

// TestPortOfAnother: a stranger at the switch port of a machine that fell
// silent waits, whatever the policy, and who was there is asked about.
func TestPortOfAnother(t *testing.T) {
	port := fleet.SwitchPort{Relay: netip.MustParseAddr("10.7.0.1"), Circuit: "Ethernet7", Remote: "leaf3"}
	at := func(c client.Sighting, p fleet.SwitchPort) client.Sighting { c.Port = p; return c }
	two, _ := ingot.MachineIDFromMAC(second.MAC)
	begin := func() *house {
		h := newHouse(t)
		h.put("v1")
		h.SetPolicy(booter.Policy{ApproveAll: true, Image: "lab:v1"})
		h.seen(at(firstMachine, port))
		return h
	}
	h := begin()
	h.clock = h.clock.Add(time.Hour)
	h.seen(at(second, port))
	m := h.known(two)
	if m.State != fleet.Pending || m.Ask == nil || m.Ask.With != machineID ||
		!strings.Contains(m.Ask.What, "it is connected to the switch port of "+machineID+", Ethernet7 leaf3 via 10.7.0.1") {
		t.Fatalf("a stranger at the port of a silent machine is %s, asks %+v", m.State, m.Ask)
	}
	if merged, err := h.api.Merge(t.Context(), string(two), machineID); err != nil || merged.UUID != second.UUID ||
		merged.State != api.Approved {
		t.Errorf("merged: %+v, %v", merged, err)
	}
	h.clock = h.clock.Add(time.Minute)
	h.seen(at(second, port))
	if n := len(h.state.Machines()); n != 1 {
		t.Errorf("after the answer there are %d machines; want 1", n)
	}

	h = begin()
	h.clock = h.clock.Add(time.Second)
	h.seen(at(second, port))
	if m := h.known(two); m.State != fleet.Approved {
		t.Errorf("a second machine at a port that machines share is %s, asks %+v", m.State, m.Ask)
	}
	h.clock = h.clock.Add(time.Hour)
	third := at(second, port)
	third.MAC, third.UUID = "52:54:00:12:00:03", ""
	h.seen(third)
	if m := h.known("m-525400120003"); m.State != fleet.Approved {
		t.Errorf("a third machine at a port that machines share is %s, asks %+v", m.State, m.Ask)
	}

	h = begin()
	h.clock = h.clock.Add(time.Hour)
	h.seen(at(second, port))
	h.clock = h.clock.Add(time.Minute)
	h.seen(at(firstMachine, port)) // it was only off
	h.clock = h.clock.Add(time.Minute)
	if err := h.Waits(h.known(two).Boot, ingot.Facts{Vendor: "Example Inc."}); err != nil {
		// its waiting screen speaks no DHCP
		t.Fatal(err)
	}
	if m := h.known(two); m.State != fleet.Approved || m.Ask != nil || m.Assignment.Name != "lab:v1" {
		t.Errorf("when both run at one port, the newcomer is %s, asks %+v and gets %q; want it as any other that is new",
			m.State, m.Ask, m.Assignment.Name)
	}
}

// TestMovedToAnotherPort: a known machine boots wherever it is plugged in, and
// the ledger says that it moved, once for each boot that begins elsewhere.
func TestMovedToAnotherPort(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	port := fleet.SwitchPort{Relay: netip.MustParseAddr("10.7.0.1"), Circuit: "Ethernet7"}
	other, six := port, fleet.SwitchPort{Relay: netip.MustParseAddr("fd00:7::1"), Circuit: "7"}
	other.Circuit = "Ethernet8"
	plugged := func(p fleet.SwitchPort) fleet.Machine {
		c := firstMachine
		c.Port = p
		h.seen(c)
		return h.known(machineID)
	}
	boots := func(p fleet.SwitchPort) {
		c := firstMachine
		c.Port = p
		h.boots(c)
		h.clock = h.clock.Add(time.Hour)
		h.Expire()
	}
	boots(port)
	if m := plugged(other); m.State != fleet.Approved || m.Port != other {
		t.Errorf("at another port it is %s, at %s", m.State, m.Port)
	}
	for range 3 { // two relays that hear the same packet
		plugged(port)
		plugged(other)
	}
	if got := h.ledgered(machineID); strings.Count(got, "moved from port") != 1 ||
		!strings.Contains(got, "false moved from port Ethernet7 via 10.7.0.1 to Ethernet8 via 10.7.0.1") {
		t.Errorf("the ledger says\n%s", got)
	}
	h.boots(firstMachine)
	for range 3 { // and ingot-init, which a UKI started
		c := firstMachine
		c.Kind = client.Init
		for _, c.Port = range []fleet.SwitchPort{port, other} {
			if h.seen(c).URL == "" {
				t.Fatal("ingot-init is not told its boot")
			}
		}
	}
	if got := h.ledgered(machineID); strings.Count(got, "moved from port") != 1 {
		t.Errorf("with ingot-init heard by two relays, the ledger says\n%s", got)
	}
	boots(other)
	boots(six)
	if got := h.ledgered(machineID); strings.Count(got, "moved from port") != 1 {
		t.Errorf("the port in words of DHCPv6 is another one:\n%s", got)
	}
}

// TestOneCardManyUUIDs: a stranger cannot make many records of one card.
func TestOneCardManyUUIDs(t *testing.T) {
	h := newHouse(t)
	var err error
	for i := range 2 * state.MaxPerCard {
		c := firstMachine
		c.UUID = fmt.Sprintf("d1b2c3a4-0000-4000-8000-%012x", i+1)
		_, err = h.Observe(c)
	}
	if n := len(h.state.Machines()); n != state.MaxPerCard || err == nil {
		t.Errorf("%d machines with one card, %v; want %d and an error", n, err, state.MaxPerCard)
	}
}

// TestSharedUUIDNamesAll: a UUID that machines share names none of them; what
// is to be typed instead is said.
func TestSharedUUIDNamesAll(t *testing.T) {
	h := newHouse(t)
	h.stored(fleet.Machine{ID: "m-a", Name: "node01", State: fleet.Pending, UUID: firstMachine.UUID},
		fleet.Machine{ID: "m-b", State: fleet.Pending, UUID: firstMachine.UUID})
	_, err := h.api.Forget(t.Context(), firstMachine.UUID, true)
	text, _ := json.Marshal(err)
	if err == nil || !strings.Contains(err.Error()+string(text), "m-a node01, m-b") || len(h.state.Machines()) != 2 {
		t.Errorf("forgetting a UUID of two machines: %v, %s; want both named and none forgotten", err, text)
	}
	ids := func(ref string) (list []string) {
		for _, m := range fleet.Match(h.state.Machines(), ref) {
			list = append(list, string(m.ID))
		}
		return list
	}
	if got := ids(strings.ToUpper(firstMachine.UUID)); !slices.Equal(got, []string{"m-a", "m-b"}) {
		t.Errorf("the UUID in upper case names %q", got)
	}
	if got := ids("node01"); !slices.Equal(got, []string{"m-a"}) {
		t.Errorf("a host name names %q", got)
	}
}

// TestMergeBackwards: a machine that ran later than the one that would stay is not merged away, unless
// the server asked about the two or an operator insists. The advice is what to type instead, and works.
func TestMergeBackwards(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	ran := fleet.Machine{ID: "m-525400990001", Name: "node01", State: fleet.Retired, MACs: []string{"52:54:00:99:00:01"},
		LastHealthy: fleet.ImageRef{Image: im.Digest, Name: "lab:v1"}, FirstSeen: h.clock, LastSeen: h.clock}
	stale := fleet.Machine{ID: "m-525400990002", Name: "node02", State: fleet.Approved,
		MACs: []string{"52:54:00:99:00:02"}, FirstSeen: h.clock, LastSeen: h.clock.Add(-time.Hour)}
	h.stored(ran, stale)
	_, err := h.api.Merge(t.Context(), "node01", "node02")
	var p api.Problem
	const command = "ingot machine retire node02 && ingot machine approve node01 && ingot machine merge node02 node01"
	if !errors.As(err, &p) || p.Code != "merge-backwards" || !strings.Contains(p.Detail, "node01 would vanish, and it is "+
		"the one that ran: lab:v1 was healthy on it") || !strings.Contains(p.Hint(), command) {
		t.Errorf("merging the one that ran: %v (%s); want it refused, with %q", err, p.Hint(), command)
	}
	if _, err := h.api.Retire(t.Context(), "node02"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.Approve(t.Context(), "node01", api.ApproveRequest{}); err != nil {
		t.Fatal(err)
	}
	if m, err := h.api.Merge(t.Context(), "node02", "node01"); err != nil || m.ID != ran.ID || len(m.MACs) != 2 {
		t.Errorf("merging as advised: %+v, %v", m, err)
	}
	asked, known := ran, stale
	asked.ID, asked.Name, asked.MACs, asked.State = "m-525400990003", "", []string{"52:54:00:99:00:03"}, fleet.Pending
	known.ID, known.Name, known.MACs = "m-525400990004", "node04", []string{"52:54:00:99:00:04"}
	asked.Ask = &fleet.Question{With: known.ID, What: "is it the same?"}
	h.stored(asked, known)
	if _, err := h.api.Merge(t.Context(), string(asked.ID), "node04"); err != nil {
		t.Errorf("the answer to a question: %v; want it merged", err)
	}
}
