package memory

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
)

// data is what is stored, as records.
type data struct {
	Schema   int
	Records  map[view.Table]map[string][]byte
	Consoles map[ingot.BootID][]string
	Cut      map[ingot.BootID]int // pieces of a console before which some are missing
	Identity []byte
	Name     string // of the ledger
	Restored uint64 // the last Change that came with a backup

	history map[ingot.MachineID]map[ingot.BootID]bool
	staged  []*large
}

func newData() *data {
	return &data{Schema: record.Schema, Records: map[view.Table]map[string][]byte{}, Consoles: map[ingot.BootID][]string{},
		Cut:      map[ingot.BootID]int{},
		Identity: make([]byte, 32), Name: "0", history: map[ingot.MachineID]map[ingot.BootID]bool{}}
}

func (d *data) has(k view.Key) bool { return d.Records[k.Table][k.Key] != nil }

func (d *data) put(k view.Key, b []byte) {
	if d.Records[k.Table] == nil {
		d.Records[k.Table] = map[string][]byte{}
	}
	d.Records[k.Table][k.Key] = b
	if k.Table == view.Audit && len(d.Records[view.Audit]) > state.MaxAudit {
		delete(d.Records[view.Audit], d.sorted(view.Audit)[0])
	}
}

func (d *data) remove(k view.Key) { delete(d.Records[k.Table], k.Key) }

// sorted are the keys of a table.
func (d *data) sorted(t view.Table) []string { return slices.Sorted(maps.Keys(d.Records[t])) }

func sortedKeys(puts map[view.Key]any) []view.Key {
	return slices.SortedFunc(maps.Keys(puts), func(a, b view.Key) int {
		return cmp.Or(strings.Compare(string(a.Table), string(b.Table)), strings.Compare(a.Key, b.Key))
	})
}

// size is about how many bytes are stored.
func (d *data) size() (n int) {
	for _, t := range d.Records {
		for _, b := range t {
			n += len(b)
		}
	}
	return n
}

// lastSeq is the last sequence number of the ledger.
func (d *data) lastSeq() (last uint64) {
	for _, t := range []view.Table{view.Ledger, view.Audit} {
		for k := range d.Records[t] {
			last = max(last, binary.BigEndian.Uint64([]byte(k)))
		}
	}
	return last
}

func (d *data) boot(id ingot.BootID) (fleet.Boot, bool) {
	b := d.Records[view.Boots][string(id)]
	if b == nil {
		return fleet.Boot{}, false
	}
	boot, err := record.DecodeBoot(b)
	return boot, err == nil
}

// index lists the boots of each machine, and adds the latest of each to a view.
func (d *data) index(v *view.View) error {
	d.history = map[ingot.MachineID]map[ingot.BootID]bool{}
	for id := range d.Records[view.Boots] {
		b, ok := d.boot(ingot.BootID(id))
		if !ok {
			return fmt.Errorf("%w: boot %s", state.ErrDamaged, id)
		}
		d.remember(b)
	}
	for machine := range d.history {
		list := d.bootsOf(machine)
		v.AddBoot(list[len(list)-1])
	}
	for _, id := range v.MissingBoots() {
		if b, ok := d.boot(id); ok {
			v.AddBoot(b)
		}
	}
	return nil
}

func (d *data) remember(b fleet.Boot) {
	if d.history[b.Machine] == nil {
		d.history[b.Machine] = map[ingot.BootID]bool{}
	}
	d.history[b.Machine][b.ID] = true
}

// bootsOf are the boots of a machine by their numbers; for an empty id all by their start.
func (d *data) bootsOf(machine ingot.MachineID) (list []fleet.Boot) {
	if machine == "" {
		for id := range d.Records[view.Boots] {
			b, _ := d.boot(ingot.BootID(id))
			list = append(list, b)
		}
	}
	for id := range d.history[machine] {
		b, _ := d.boot(id)
		list = append(list, b)
	}
	sortBoots(list, machine == "")
	return list
}

func sortBoots(list []fleet.Boot, all bool) {
	slices.SortFunc(list, func(a, b fleet.Boot) int {
		return strings.Compare(state.PlaceOf(a, all).Key(), state.PlaceOf(b, all).Key())
	})
}

// putBoot stores a boot. Of a machine's boots the oldest are removed, and the consoles of
// more.
func (d *data) putBoot(b fleet.Boot) {
	old, had := d.boot(b.ID)
	if had && old.Machine != b.Machine {
		delete(d.history[old.Machine], b.ID)
	}
	d.put(view.Key{Table: view.Boots, Key: string(b.ID)}, encoded(b))
	d.remember(b)
	if had {
		return
	}
	list := d.bootsOf(b.Machine)
	for i, b := range list {
		if i == len(list)-state.ConsolesPerMachine-1 {
			delete(d.Consoles, b.ID)
		}
		if i < len(list)-state.BootsPerMachine && !d.current(b) {
			d.dropBoot(b, list[i+1:])
		}
	}
}

// current reports whether a boot is one that its machine may run.
func (d *data) current(b fleet.Boot) bool {
	text, ok := d.Records[view.Machines][string(b.Machine)]
	if !ok {
		return false
	}
	m, err := record.DecodeMachine(text)
	return err == nil && m.Current(b.ID)
}

// dropBoot removes a boot and what only it refers to.
func (d *data) dropBoot(b fleet.Boot, left []fleet.Boot) {
	d.remove(view.Key{Table: view.Boots, Key: string(b.ID)})
	delete(d.history[b.Machine], b.ID)
	delete(d.Consoles, b.ID)
	if !slices.ContainsFunc(left, func(o fleet.Boot) bool { return o.Facts == b.Facts }) {
		d.remove(view.Key{Table: view.Facts, Key: string(b.Facts)})
	}
}

// forget removes the past of a machine.
func (d *data) forget(machine ingot.MachineID) {
	for _, b := range d.bootsOf(machine) {
		d.dropBoot(b, nil)
	}
	delete(d.history, machine)
}

// addPiece appends to a console, of which the beginning and the end are kept.
func (d *data) addPiece(p view.Piece) {
	list := append(d.Consoles[p.Boot], p.Text)
	total := 0
	for _, text := range list {
		total += len(text)
	}
	head := 0
	for i := 0; i < len(list)-1 && total > state.MaxConsole; {
		if head += len(list[i]); head <= state.ConsoleHead {
			i++
			continue
		}
		total -= len(list[i])
		list = slices.Delete(list, i, i+1)
		d.Cut[p.Boot] = i
	}
	d.Consoles[p.Boot] = list
}

func (d *data) console(id ingot.BootID) string {
	var text strings.Builder
	for i, piece := range d.Consoles[id] {
		if i > 0 && d.Cut[id] == i {
			text.WriteString("[… some of it was not kept …]\n")
		}
		text.WriteString(piece)
	}
	return text.String()
}

// past implements view.Past.
type past struct{ *Store }

// Boot implements view.Past.
func (p past) Boot(id ingot.BootID) (fleet.Boot, bool) { return p.data.boot(id) }

// Boots implements view.Past.
func (p past) Boots(machine ingot.MachineID) ([]fleet.Boot, error) { return p.boots(machine), nil }

// Facts implements view.Past.
func (p past) Facts(id ingot.BootID) []byte { return p.data.Records[view.Facts][string(id)] }

// boots merges what is stored with what a transaction has put into the view.
func (s *Store) boots(machine ingot.MachineID) []fleet.Boot {
	list := slices.DeleteFunc(s.data.bootsOf(machine), func(b fleet.Boot) bool { _, is := s.view.Boot(b.ID); return is })
	list = append(list, s.view.BootsOf(machine)...)
	sortBoots(list, machine == "")
	return list
}

// describe says what a transaction wrote, but for numbers that depend on when it was its
// turn, and how many bytes that is.
func describe(tx *view.Tx) (text string, size int, err error) {
	var b strings.Builder
	for _, step := range tx.Steps() {
		for _, m := range step.Moves {
			fmt.Fprintf(&b, "move %s of %s to %s as %d\n", m.Before.ID, m.Before.Machine, m.After.Machine, m.After.Number)
		}
		if step.Forget != "" {
			fmt.Fprintf(&b, "forget %s\n", step.Forget)
		}
		for _, k := range sortedKeys(step.Puts) {
			var value []byte
			switch v := step.Puts[k].(type) {
			case nil:
			case []byte:
				value = v
			case view.Piece:
				k.Key, value = string(v.Boot), []byte(v.Text)
			case fleet.Change:
				v.Seq, k.Key = 0, ""
				value, err = record.Encode(v)
			default:
				value, err = record.Encode(v)
			}
			if err != nil {
				return "", 0, err
			}
			size += len(value)
			fmt.Fprintf(&b, "%s %q %s\n", k.Table, k.Key, value)
		}
	}
	return b.String(), size, nil
}
