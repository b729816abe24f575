package statetest

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Check is a part of the suite that looks for one kind of fault.
type Check struct {
	Name string
	Run  func(t T, b Backend)
}

// Checks find a backend that loses writes, that lets a transaction commit although another
// one has changed what it read, or an entry of an index, and that stores halves.
var Checks = []Check{
	{"LostWrite", checkLostWrite},
	{"StaleRead", checkStaleRead},
	{"HalfTransaction", checkHalfTransaction},
	{"Phantom", checkPhantom},
}

// workers is how many goroutines run transactions at once, each so many.
const (
	workers = 8
	each    = 40
)

// together runs f in all workers.
func together(t T, f func(worker, i int) error) {
	t.Helper()
	var g errgroup.Group
	for w := range workers {
		g.Go(func() error {
			for i := range each {
				if err := f(w, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatalf("a transaction failed: %v", err)
	}
}

// checkLostWrite: the last acknowledged value of every record is there after a restart.
func checkLostWrite(t T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	const records = 10
	want := map[ingot.MachineID]string{}
	for i := range 10 * records {
		id, name := ingot.MachineID(fmt.Sprint("m-", i%records)), fmt.Sprint("name", i)
		update(t, s, func(tx state.Tx) { tx.StoreMachine(fleet.Machine{ID: id, Name: name}) })
		want[id] = name
	}
	closeStore(t, s)
	s = b.open(t, dir)
	defer closeStore(t, s)
	for id, name := range want {
		if m, _ := s.Machine(id); m.Name != name {
			t.Errorf("machine %s is named %q after a restart; %q was acknowledged last", id, m.Name, name)
		}
	}
}

// checkStaleRead: transactions that read a record, add to it and write it back lose nothing
// of each other, whatever the record is.
func checkStaleRead(t T, b Backend) {
	s := b.open(t, filepath.Join(t.TempDir(), "state"))
	defer closeStore(t, s)
	boot := fleet.Boot{ID: bootID(1), Machine: "m-1", Number: 1}
	update(t, s, func(tx state.Tx) {
		tx.StoreMachine(fleet.Machine{ID: "m-1", Boot: boot.ID})
		tx.StoreBoot(boot)
	})
	together(t, func(w, _ int) error {
		return s.Update(func(tx state.Tx) error {
			if w%2 == 0 {
				m, _ := tx.Machine("m-1")
				m.Orders++
				tx.StoreMachine(m)
				return nil
			}
			x, _ := tx.Boot(boot.ID)
			x.Order++
			tx.StoreBoot(x)
			return nil
		})
	})
	m, _ := s.Machine("m-1")
	x, _ := s.Boot(boot.ID)
	if want := workers / 2 * each; m.Orders != want || x.Order != want {
		t.Errorf("a machine counts %d and a boot %d of %d transactions that added one: some committed on a value that had "+
			"changed", m.Orders, x.Order, want)
	}
}

// checkHalfTransaction: two machines share a sum, from which each transaction moves a part.
// The sum is the same to every reader and after a restart, and of each transaction there are
// all the records.
func checkHalfTransaction(t T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	const sum = 1000
	update(t, s, func(tx state.Tx) {
		tx.StoreMachine(fleet.Machine{ID: "m-a", Orders: sum})
		tx.StoreMachine(fleet.Machine{ID: "m-b"})
	})
	broken := errors.New("the sum is not the same")
	together(t, func(w, i int) error {
		return s.Update(func(tx state.Tx) error {
			from, _ := tx.Machine("m-a")
			to, _ := tx.Machine("m-b")
			if from.Orders+to.Orders != sum {
				return fmt.Errorf("%w: %d and %d", broken, from.Orders, to.Orders)
			}
			from.Orders, to.Orders = from.Orders-1, to.Orders+1
			tx.StoreMachine(from)
			tx.StoreMachine(to)
			tx.Record(note("m-a", fmt.Sprint(w, i)))
			tx.PutLease(fleet.Lease{Address: netip.AddrFrom4([4]byte{10, 0, byte(w), byte(i)})})
			tx.StoreMachine(fleet.Machine{ID: ingot.MachineID(fmt.Sprintf("m-%d-%d", w, i))})
			return nil
		})
	})
	closeStore(t, s)
	s = b.open(t, dir)
	defer closeStore(t, s)
	from, _ := s.Machine("m-a")
	to, _ := s.Machine("m-b")
	if from.Orders+to.Orders != sum || to.Orders != workers*each {
		t.Errorf("after a restart the machines have %d and %d; want %d and %d", from.Orders, to.Orders, sum-workers*each,
			workers*each)
	}
	noted, lent, machines := len(changes(t, s, state.Query{Limit: sum})), len(leases(t, s)), len(s.Machines())-2
	if noted != workers*each || lent != noted || machines != noted {
		t.Errorf("after a restart there are %d Changes, %d leases and %d machines of %d transactions that each made one",
			noted, lent, machines, workers*each)
	}
}

// checkPhantom: what is found by an index cannot change between the look and the write. Of
// many transactions that each look whether a name, a card, an address of a credential or a
// place among those that wait is free, and take it, as many succeed as there is room for.
func checkPhantom(t T, b Backend) {
	s := b.open(t, filepath.Join(t.TempDir(), "state"))
	defer closeStore(t, s)
	const room = 5
	together(t, func(w, i int) error {
		id := ingot.MachineID(fmt.Sprintf("m-%d-%d", w, i))
		mac := fmt.Sprintf("52:54:00:00:00:%02x", i)
		return s.Update(func(tx state.Tx) error {
			m := fleet.Machine{ID: id, State: fleet.Approved, MACs: []string{mac}, FirstSeen: time.Unix(int64(i), 0).UTC()}
			switch {
			case len(tx.MachinesNamed("node"+strconv.Itoa(i))) == 0:
				m.Name = "node" + strconv.Itoa(i)
			case tx.WithCard(mac) < 3:
			case tx.Pending() < room:
				m.State, m.MACs = fleet.Pending, []string{string(id)}
			default:
				return nil
			}
			tx.StoreMachine(m)
			return nil
		})
	})
	names, cards, pending := map[string]int{}, map[string]int{}, 0
	for _, m := range s.Machines() {
		if m.State == fleet.Pending {
			pending++
			continue
		}
		names[m.Name]++
		cards[m.MACs[0]]++
	}
	if pending > room {
		t.Errorf("%d machines wait; each looked whether there are less than %d", pending, room)
	}
	for i := range each {
		name, mac := "node"+strconv.Itoa(i), fmt.Sprintf("52:54:00:00:00:%02x", i)
		if names[name] != 1 || cards[mac] > 3 {
			t.Errorf("%d machines are named %s and %d have the card %s; each looked before", names[name], name, cards[mac], mac)
		}
	}
}
