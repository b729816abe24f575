package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ingot"
)

const (
	boardA = "d1b2c3a4-0000-4000-8000-52540012000a"
	boardB = "d1b2c3a4-0000-4000-8000-52540012000b"
	boardC = "d1b2c3a4-0000-4000-8000-52540012000c"
)

// TestLearn: what a machine tells is compared with what is known of it, and of
// others; what nobody or everybody has tells nothing.
func TestLearn(t *testing.T) {
	b := Machine{ID: "m-b", Name: "node02", State: Approved, UUID: boardB, Serial: "SB"}
	twins := []Machine{{ID: "m-x", State: Approved, Serial: "S2"}, {ID: "m-y", State: Approved, Serial: "S2"}}
	retired := Machine{ID: "m-r", State: Retired, Serial: "S2"}
	for name, c := range map[string]struct {
		uuid, serial string // of the machine
		f            ingot.Facts
		others       []Machine
		ask          ingot.MachineID // "": it gets its ticket
		words        string
	}{
		"the same":   {"", "S1", ingot.Facts{Serial: "S1"}, nil, "", ""},
		"first told": {"", "", ingot.Facts{Serial: "S1", UUID: boardA}, nil, "", ""},
		"another serial number": {"", "S1", ingot.Facts{Serial: "S2"}, nil,
			"m", "its serial number changed from S1 to S2"},
		"a placeholder":                        {"", "S1", ingot.Facts{Serial: "To be filled by O.E.M."}, nil, "", ""},
		"another serial number, with the UUID": {boardA, "S1", ingot.Facts{Serial: "S2", UUID: boardA}, nil, "", ""},
		"the UUID in the other order of bytes": {swappedUUID(boardA), "S1", ingot.Facts{Serial: "S2", UUID: boardA},
			nil, "", ""},
		"a UUID only now": {"", "S1", ingot.Facts{Serial: "S2", UUID: boardA}, nil, "", ""},
		"another serial number, a blank UUID": {"", "S1",
			ingot.Facts{Serial: "S2", UUID: "00000000-0000-0000-0000-000000000000"}, nil, "m",
			"its serial number changed from S1 to S2"},
		"another board": {boardA, "S1", ingot.Facts{Serial: "S2", UUID: boardC}, nil,
			"m", "its UUID changed from " + boardA + " to " + boardC},
		"another UUID, and the serial number": {boardA, "S1", ingot.Facts{Serial: "S1", UUID: boardC}, nil, "", ""},
		"another UUID, no serial number":      {boardA, "S1", ingot.Facts{UUID: boardC}, nil, "", ""},
		"the serial number of another": {"", "", ingot.Facts{Serial: "SB"}, []Machine{b}, "m-b",
			"reports SB, the serial number of node02"},
		"that of a retired one":                     {"", "S1", ingot.Facts{Serial: "S2"}, []Machine{retired}, "m-r", ""},
		"one that two others have":                  {"", "", ingot.Facts{Serial: "S2"}, twins, "", ""},
		"one that it has with another":              {"", "S2", ingot.Facts{Serial: "S2"}, twins[:1], "", ""},
		"one of its own, before that of two others": {"", "S2", ingot.Facts{Serial: "S3"}, twins, "", ""},
		"the board of another": {"", "", ingot.Facts{UUID: boardB, Serial: "SB"}, []Machine{b}, "m-b",
			"reports the UUID of node02"},
		"the UUID of another, its own serial": {"", "S1", ingot.Facts{UUID: boardB, Serial: "S1"}, []Machine{b}, "",
			""},
		"a UUID that is shared, another serial": {boardB, "S1", ingot.Facts{UUID: boardB, Serial: "S2"}, []Machine{b},
			"m", "its serial number changed from S1 to S2"},
		"a UUID that is shared, another's serial": {boardB, "S1", ingot.Facts{UUID: boardB, Serial: "SB"}, []Machine{b},
			"m-b", "serial number of node02"},
	} {
		m := Machine{ID: "m", State: Approved, UUID: c.uuid, Serial: c.serial}
		got, _ := Learn(m, c.f, c.others, t0)
		if (got.Ask == nil) != (c.ask == "") || got.Ask != nil &&
			(got.Ask.With != c.ask || !strings.Contains(got.Ask.What, c.words)) {
			t.Errorf("%s: asks %+v; want about %q: %s", name, got.Ask, c.ask, c.words)
		}
		if (got.State == Pending) != (c.ask != "") || got.Ask != nil && (got.UUID != c.uuid || got.Serial != c.serial) {
			t.Errorf("%s: it is %s with %q %q", name, got.State, got.UUID, got.Serial)
		}
		if got.UUID != "" && got.UUID != c.uuid && slices.ContainsFunc(c.others, func(o Machine) bool {
			return o.UUID == got.UUID
		}) {
			t.Errorf("%s: it took the UUID of another", name)
		}
		got = Answer(got, t0)
		got.State = Approved
		if again, _ := Learn(got, c.f, c.others, t0); again.Ask != nil {
			t.Errorf("%s: asked again: %+v", name, again.Ask)
		}
	}
	a := Machine{ID: "m", State: Approved, UUID: boardA, Serial: "S1"}
	for _, f := range []ingot.Facts{{UUID: boardC, Serial: "S2"}, {UUID: boardA, Serial: "S1"}} { // swapped, and back
		asked, _ := Learn(a, f, nil, t0)
		if asked.Ask == nil {
			t.Fatalf("%+v is not asked about", f)
		}
		asked = Answer(asked, t0)
		asked.State = Approved
		if a, _ = Learn(asked, f, nil, t0); a.UUID != f.UUID || a.Serial != f.Serial {
			t.Errorf("after the answer the board is %s %s; want that of %+v", a.UUID, a.Serial, f)
		}
	}
}

// TestClaimed: who was seen with a card has it.
func TestClaimed(t *testing.T) {
	const mac = "52:54:00:00:00:01"
	m := Machine{ID: "m", Facts: ingot.Facts{NICs: []ingot.NIC{{MAC: strings.ToUpper(mac)}, {MAC: "52:54:00:00:00:02"}}}}
	others := []Machine{{ID: "m-b", MACs: []string{mac}}, {ID: "m-c", MACs: []string{"52:54:00:00:00:02"},
		Ask: &Question{With: "m"}}}
	if got := claimedCards(m, others); !slices.Equal(got, []string{mac + " of m-b"}) {
		t.Errorf("Claimed = %q", got)
	}
}

// TestAnsweredIsBounded and remembers the latest.
func TestAnsweredIsBounded(t *testing.T) {
	m := Machine{ID: "m"}
	for i := range 3 * maxAnswered {
		m.Ask = &Question{About: fmt.Sprint("card ", i)}
		m = Answer(m, t0.Add(time.Duration(i)))
	}
	if len(m.Answered) != maxAnswered || m.answered(fmt.Sprint("card ", 3*maxAnswered-1)).IsZero() {
		t.Errorf("%d answers: %v; want the last %d", len(m.Answered), m.Answered, maxAnswered)
	}
}

// TestNothingIsGuessed plays sightings and answers. Nobody boots whose parts
// disagree; a newcomer is found again as what it was recorded as; and after an
// answer it is not asked for the same once more.
func TestNothingIsGuessed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var machines []Machine
		now := t0
		find := func(s Sighting) (*Machine, *Question) {
			now = now.Add(time.Second)
			return Identify(pointers(machines), s)
		}
		replace := func(m Machine) {
			machines = append(slices.DeleteFunc(machines, func(o Machine) bool { return o.ID == m.ID }), m)
		}
		t.Repeat(map[string]func(*rapid.T){
			"import": func(t *rapid.T) {
				m := Machine{ID: ingot.MachineID(fmt.Sprint("m-", now.Unix())), State: Approved,
					UUID: rapid.SampledFrom([]string{"u1", "u2"}).Draw(t, "uuid"), LastSeen: now}
				now = now.Add(time.Second)
				machines = append(machines, m)
			},
			"tell": func(t *rapid.T) {
				if len(machines) > 0 {
					m := rapid.SampledFrom(machines).Draw(t, "machine")
					m.Facts.NICs = []ingot.NIC{{MAC: rapid.SampledFrom(cardsOfPlay).Draw(t, "told")}}
					replace(m)
				}
			},
			"see": func(t *rapid.T) {
				s := Sighting{MAC: rapid.SampledFrom(cardsOfPlay).Draw(t, "card"),
					UUID: rapid.SampledFrom([]string{"", "u1", "u2", "u3"}).Draw(t, "uuid")}
				m, ask := find(s)
				if m != nil {
					agrees(t, machines, *m, s)
					replace(AddSighting(*m, s, now))
					return
				}
				if ask != nil && !slices.ContainsFunc(machines, func(o Machine) bool {
					return o.ID == ask.With && !o.Unidentified()
				}) {
					t.Fatalf("asks about nobody: %+v", ask)
				}
				fresh := AddSighting(Machine{ID: ingot.MachineID(fmt.Sprint("m-", now.Unix())), State: Pending,
					Ask: ask, FirstSeen: now}, s, now)
				machines = append(machines, fresh)
				if again, _ := find(s); again == nil || again.ID != fresh.ID {
					t.Fatalf("a newcomer %+v is found as %+v", fresh, again)
				}
				if rapid.Bool().Draw(t, "merge") && ask != nil {
					i := slices.IndexFunc(machines, func(o Machine) bool { return o.ID == ask.With })
					into := Merge(machines[i], fresh, now)
					machines = slices.DeleteFunc(machines, func(o Machine) bool { return o.ID == fresh.ID })
					replace(into)
					fresh = into
				} else {
					fresh = Answer(fresh, now)
					fresh.State = Approved
					replace(fresh)
				}
				if again, q := find(s); again == nil || again.ID != fresh.ID {
					t.Fatalf("after the answer %+v is found as %+v, asks %+v\nof %+v", fresh, again, q, machines)
				}
			},
			"see only": func(t *rapid.T) { // and nobody answers
				s := Sighting{MAC: rapid.SampledFrom(cardsOfPlay).Draw(t, "card"),
					UUID: rapid.SampledFrom([]string{"", "u1", "u2", "u3"}).Draw(t, "uuid")}
				if m, ask := find(s); m == nil {
					machines = append(machines, AddSighting(Machine{ID: ingot.MachineID(fmt.Sprint("m-", now.Unix())), State: Pending,
						Ask: ask, FirstSeen: now}, s, now))
				}
			},
		})
	})
}

var cardsOfPlay = []string{"52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"}

// agrees fails when a machine that may boot was found although parts disagree.
func agrees(t *rapid.T, machines []Machine, m Machine, s Sighting) {
	if m.State != Approved {
		return
	}
	if m.Ask != nil {
		t.Fatalf("%s is approved, and asked about", m.ID)
	}
	uuid := s.UUID
	if shared(pointers(machines), uuid) {
		uuid = ""
	}
	if m.UUID != s.UUID && uuid != "" && m.UUID != "" && !shared(pointers(machines), m.UUID) {
		t.Fatalf("%+v is found to be %+v, of another UUID", s, m)
	}
	seen := slices.Contains(m.MACs, s.MAC)
	if !seen && !slices.Contains(m.ReportedCards(), s.MAC) && len(m.MACs)+len(m.ReportedCards()) > 0 {
		t.Fatalf("%+v is found to be %+v, without that card", s, m)
	}
	for _, o := range machines {
		if o.ID == m.ID || o.Unidentified() || !slices.Contains(o.MACs, s.MAC) {
			continue
		}
		if !seen {
			t.Fatalf("%+v is found to be %+v, and %s was seen with the card", s, m, o.ID)
		}
		if m.UUID != s.UUID && o.UUID == m.UUID && m.answered(aboutCard(s.MAC)).IsZero() {
			t.Fatalf("%+v is found to be %+v, and may be %+v", s, m, o)
		}
	}
}
