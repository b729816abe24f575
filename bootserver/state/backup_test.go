package state

import (
	"bytes"
	"testing"
	"time"

	"ingot/bootserver/fleet"
)

// TestRestoresOfOneSecond: what was there before each of them is kept, also
// when the clock was set back.
func TestRestoresOfOneSecond(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	files := map[string]bool{}
	for i := range 3 {
		name := string(rune('a' + i))
		if err := s.Update(func(tx *Tx) error { tx.PutMachine(fleet.Machine{ID: "m-1", Name: name}); return nil }); err != nil {
			t.Fatal(err)
		}
		kept, err := s.Restore(bytes.NewReader(backup.Bytes()), time.Unix(5, 0))
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckFile(kept); err != nil || files[kept] {
			t.Errorf("Restore keeps %s (%v), as one before it did: %t", kept, err, files[kept])
		}
		files[kept] = true
		if len(s.Machines()) != 0 {
			t.Errorf("after the restore there are %+v; want none", s.Machines())
		}
	}
}
