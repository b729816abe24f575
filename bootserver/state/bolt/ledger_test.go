package bolt

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// TestLedger: entries come in their order, of one machine or of all, and a
// change that is refused leaves none.
func TestLedger(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	refused := func() {
		_ = s.Update(func(tx state.Tx) error { tx.Note(fleet.Entry{Text: "refused"}); return errors.New("no") })
	}
	refused() // it takes no number, either: who only asks must not use them up
	for i := range 10 {
		err := s.Update(func(tx state.Tx) error {
			tx.Note(fleet.Entry{At: time.Unix(int64(i), 0), Machine: ingot.MachineID(fmt.Sprint("m-", i%2)), Text: fmt.Sprint(i)})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	refused()
	for _, c := range []struct {
		q    state.Query
		want string
	}{
		{state.Query{}, "0123456789"},
		{state.Query{Limit: 3}, "012"},
		{state.Query{After: 8}, "89"},
		{state.Query{Newest: true, Limit: 3}, "789"},
		{state.Query{Machine: "m-1"}, "13579"},
		{state.Query{Machine: "m-1", Newest: true, Limit: 2}, "79"},
		{state.Query{Machine: "m-"}, ""},
	} {
		list, last, err := s.Ledger(c.q)
		got := ""
		for _, e := range list {
			got += e.Text
		}
		if err != nil || got != c.want || last != 10 {
			t.Errorf("Ledger(%+v) = %s, last %d, %v; want %s", c.q, got, last, err, c.want)
		}
	}
	now := time.Unix(10, 0)
	for _, c := range []struct {
		most int
		age  time.Duration
		want int
	}{{100, time.Hour, 10}, {100, 7 * time.Second, 7}, {3, time.Hour, 3}} {
		if err := s.Trim(now, c.most, c.age); err != nil {
			t.Fatal(err)
		}
		if list, _, err := s.Ledger(state.Query{}); err != nil || len(list) != c.want || list[len(list)-1].Text != "9" {
			t.Errorf("after Trim(%d, %s): %d entries, %v; want the newest %d", c.most, c.age, len(list), err, c.want)
		}
	}
}

// TestOlderVersion: a file without indexes and numbers gets them.
func TestOlderVersion(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	err := s.Update(func(tx state.Tx) error {
		for i := range 5 {
			tx.PutBoot(fleet.Boot{ID: ingot.NewBootID([16]byte{byte(9 - i)}), Machine: "m-1", Started: time.Unix(int64(i), 0), Outcome: ingot.OutcomeFailed})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.write(func(tx *bbolt.Tx) error {
		return firstOf(tx.Bucket(bucketMeta).Delete(keySchema), tx.DeleteBucket(bucketHistory), tx.DeleteBucket(bucketRecent), tx.DeleteBucket(bucketLedger), tx.DeleteBucket(bucketConsole))
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	for _, m := range []ingot.MachineID{"m-1", ""} {
		list, err := s.Boots(m, 0)
		if err != nil || len(list) != 5 || list[0].Number != 1 || list[4].Number != 5 || list[4].Started.Unix() != 4 {
			t.Errorf("boots of %q: %+v, %v; want five, numbered by their start", m, list, err)
		}
	}
	if latest := s.Latest(); len(latest) != 1 || latest[0].Number != 5 {
		t.Errorf("in memory: %+v; want the latest one", latest)
	}
}

// TestMemoryIsBounded: boots that ended leave the memory when a newer one is
// there, and are found all the same.
func TestMemoryIsBounded(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for i := range 10 {
		err := s.Update(func(tx state.Tx) error {
			tx.PutBoot(fleet.Boot{ID: ingot.NewBootID([16]byte{byte(i)}), Machine: "m-1", Number: i + 1, Outcome: ingot.OutcomeHealthy})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s.Forget()
	if n := len(s.Latest()); n != 1 {
		t.Errorf("%d boots are in memory; want the latest one", n)
	}
	if b, ok := s.Boot(ingot.NewBootID([16]byte{3})); !ok || b.Number != 4 {
		t.Errorf("an older boot = %+v, %t", b, ok)
	}
	if list, err := s.Boots("m-1", 0); err != nil || len(list) != 10 {
		t.Errorf("%d boots, %v; want all", len(list), err)
	}
}
