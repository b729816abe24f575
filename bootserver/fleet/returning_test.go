package fleet

import (
	"errors"
	"testing"
	"time"
)

// TestReturning: a boot that the state does not know comes back only if its ticket was issued after
// a backup was taken and before it was restored, and nothing speaks against it.
func TestReturning(t *testing.T) {
	at := func(minute int) time.Time { return t0.Add(time.Duration(minute) * time.Minute) }
	restore := Restore{Taken: at(10), At: at(20), Complete: true}
	partly := Restore{Taken: at(5), At: at(30)}
	known := func(s State) *Machine { return &Machine{ID: "m-1", State: s, MACs: []string{"a"}} }
	for name, c := range map[string]struct {
		r    Returning
		want State // empty: ErrNotLost
	}{
		"lost, with its machine":          {Returning{Restores: []Restore{restore}}, Approved},
		"lost, its machine is known":      {Returning{Restores: []Restore{restore}, Machine: known(Approved)}, Approved},
		"lost, its machine asked again":   {Returning{Restores: []Restore{restore}, Machine: known(Pending)}, Approved},
		"lost, its machine is retired":    {Returning{Restores: []Restore{restore}, Machine: known(Retired)}, ""},
		"nothing was restored":            {Returning{}, ""},
		"before the backup":               {Returning{Restores: []Restore{{Taken: at(15), At: at(20), Complete: true}}}, ""},
		"the latest Change of the backup": {Returning{Restores: []Restore{{Taken: at(12), At: at(20), Complete: true}}}, ""},
		"after the restore":               {Returning{Restores: []Restore{{Taken: at(1), At: at(11), Complete: true}}}, ""},
		"the audit log was lost":          {Returning{Restores: []Restore{partly}}, Pending},
		"and again, with an audit log":    {Returning{Restores: []Restore{partly, restore}}, Pending},
		"the audit log, machine is known": {Returning{Restores: []Restore{partly}, Machine: known(Approved)}, Approved},
		"another restore":                 {Returning{Restores: []Restore{restore, {Taken: at(40), At: at(50)}}}, Approved},
		"removed since":                   {Returning{Restores: []Restore{restore}, Removed: at(13)}, ""},
		"removed at that time":            {Returning{Restores: []Restore{restore}, Removed: at(12)}, ""},
		"removed before, and added again": {Returning{Restores: []Restore{restore}, Removed: at(11)}, Approved},
		"another machine has its card":    {Returning{Restores: []Restore{restore}, Other: true}, ""},
		"a later boot of it has a ticket": {Returning{Restores: []Restore{restore}, Machine: known(Approved),
			Latest: Boot{ID: "b", Ticket: at(13)}}, ""},
		"an earlier boot of it has one": {Returning{Restores: []Restore{restore}, Machine: known(Approved),
			Latest: Boot{ID: "b", Ticket: at(9)}}, Approved},
		"a later boot of it has no ticket": {Returning{Restores: []Restore{restore}, Machine: known(Pending),
			Latest: Boot{ID: "b", Started: at(21)}}, Approved},
		"a question about it is still open": {Returning{Restores: []Restore{restore}, Machine: &Machine{ID: "m-1",
			State: Pending, Ask: &Question{}}}, Pending},
	} {
		c.r.Boot, c.r.Passport = "b2", Passport{Machine: "m-1", Name: "node01", MACs: []string{"a"}, Number: 3, Image: v1,
			Ticket: at(12)}
		d, err := c.r.Decide(BootPolicy{Deadline: time.Minute}, Images{}, at(60))
		if c.want == "" {
			if !errors.Is(err, ErrNotLost) {
				t.Errorf("%s: %v; want ErrNotLost", name, err)
			}
			continue
		}
		if err != nil || d.Machine.State != c.want || d.Machine.Boot != "b2" || d.Boot.Image != v1 || d.Boot.Number < 3 ||
			!d.Machine.Returned.Equal(at(60)) || !d.MachineChanged() || !d.BootChanged() {
			t.Errorf("%s: %v, %+v; want %s", name, err, d, c.want)
		}
		for _, older := range d.Older {
			if older.Open() {
				t.Errorf("%s: boot %s is still open", name, older.ID)
			}
		}
	}
}
