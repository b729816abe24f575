package fleet

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"ingot"
)

func TestIdentify(t *testing.T) {
	machines := []Machine{
		{ID: "m-a", Name: "node-a", UUID: "u1", MACs: []string{"52:54:00:00:00:01"},
			Facts: ingot.Facts{NICs: []ingot.NIC{{MAC: "52:54:00:00:00:11"}}}},
		{ID: "m-b", UUID: "u2", MACs: []string{"52:54:00:00:00:02"}},
		{ID: "m-c", MACs: []string{"52:54:00:00:00:03"}}, // a board without a plausible UUID
		{ID: "m-d", UUID: "u4"},                          // imported by its UUID alone
		{ID: "m-e", UUID: "u5", MACs: []string{"52:54:00:00:00:05"}},
		{ID: "m-f", UUID: "u5", MACs: []string{"52:54:00:00:00:06"}}, // boards that share a UUID
		{ID: "m-g", UUID: "u7", MACs: []string{"52:54:00:00:00:07"},
			Facts: ingot.Facts{NICs: []ingot.NIC{{MAC: "52:54:00:00:00:03"}}}},
		{ID: "m-h", MACs: []string{"52:54:00:00:00:08"}, LastSeen: t0}, {ID: "m-i", MACs: []string{"52:54:00:00:00:08"}},
		{ID: "m-j", MACs: []string{"52:54:00:00:00:0a"}, Answered: []Answered{{"card 52:54:00:00:00:0a", t0}}},
		{ID: "m-k", MACs: []string{"52:54:00:00:00:0a"}},
		// who says that it has the UUID of m-a
		{ID: "m-l", UUID: "u1", MACs: []string{"52:54:00:00:00:0c"}, Ask: &Question{With: "m-a"}},
		{ID: "m-n", UUID: "u6", MACs: []string{"52:54:00:00:00:0e"}, Ask: &Question{With: "m-n"}}, // another serial number
	}
	for _, c := range []struct {
		name string
		s    Sighting
		want ingot.MachineID
		ask  ingot.MachineID
	}{
		{"by UUID and card", Sighting{MAC: "52:54:00:00:00:01", UUID: "u1"}, "m-a", ""},
		{"by another card that it told", Sighting{MAC: "52:54:00:00:00:11", UUID: "u1"}, "m-a", ""},
		{"by card alone", Sighting{MAC: "52:54:00:00:00:03"}, "m-c", ""},
		{"a machine that shows its UUID only now", Sighting{MAC: "52:54:00:00:00:03", UUID: "u3"}, "m-c", ""},
		{"imported by UUID", Sighting{MAC: "52:54:00:00:00:97", UUID: "u4"}, "m-d", ""},
		{"one of several with one UUID", Sighting{MAC: "52:54:00:00:00:06", UUID: "u5"}, "m-f", ""},
		{"one more with a UUID that is shared", Sighting{MAC: "52:54:00:00:00:96", UUID: "u5"}, "", ""},
		{"a stranger", Sighting{MAC: "52:54:00:00:00:98", UUID: "u8"}, "", ""},
		{"a stranger without a UUID", Sighting{MAC: "52:54:00:00:00:98"}, "", ""},
		{"a new card in a known board", Sighting{MAC: "52:54:00:00:00:99", UUID: "u1"}, "", "m-a"},
		{"another's card in a known board", Sighting{MAC: "52:54:00:00:00:02", UUID: "u1"}, "", "m-a"},
		{"another's card in a board that told it", Sighting{MAC: "52:54:00:00:00:03", UUID: "u7"}, "", "m-g"},
		{"a card that two have", Sighting{MAC: "52:54:00:00:00:08"}, "", "m-h"},
		{"a card that two have, with a UUID only now", Sighting{MAC: "52:54:00:00:00:08", UUID: "u8"}, "", "m-h"},
		{"a card that two have, of which an operator spoke", Sighting{MAC: "52:54:00:00:00:0a"}, "m-j", ""},
		{"another's card, with the UUID of an import without cards", Sighting{MAC: "52:54:00:00:00:03", UUID: "u4"}, "",
			"m-d"},
		{"who waits, again", Sighting{MAC: "52:54:00:00:00:0c", UUID: "u1"}, "m-l", ""},
		{"who waits, without its UUID", Sighting{MAC: "52:54:00:00:00:0c"}, "m-l", ""},
		{"who waits for its serial number, without its UUID", Sighting{MAC: "52:54:00:00:00:0e"}, "m-n", ""},
		{"a known card in a strange board, while another claims its UUID", Sighting{MAC: "52:54:00:00:00:01", UUID: "u9"},
			"", "m-a"},
		{"a known card in a strange board", Sighting{MAC: "52:54:00:00:00:02", UUID: "u9"}, "", "m-b"},
	} {
		got, ask := Identify(pointers(machines), c.s)
		if (got == nil) != (c.want == "") || got != nil && got.ID != c.want {
			t.Errorf("%s: Identify = %v; want %q", c.name, got, c.want)
		}
		if (ask == nil) != (c.ask == "") || ask != nil && ask.With != c.ask {
			t.Errorf("%s: Identify asks %+v; want about %q", c.name, ask, c.ask)
		}
	}
}

// TestSamePort: of a stranger at the switch port of a machine an operator is
// asked, when that machine alone had the port and fell silent.
func TestSamePort(t *testing.T) {
	port := SwitchPort{Relay: netip.MustParseAddr("10.7.0.1"), Circuit: "eth7"}
	other := port
	other.Relay = netip.MustParseAddr("10.8.0.1")
	was := Machine{ID: "m-was", Name: "node07", State: Approved, UUID: "u1", MACs: []string{"52:54:00:00:00:07"},
		Port: port, LastSeen: t0}
	as := func(s State, at SwitchPort, name ingot.MachineID) Machine {
		m := was
		m.State, m.Port, m.ID, m.UUID = s, at, name, string(name)
		return m
	}
	stranger := Sighting{MAC: "52:54:00:00:00:99", UUID: "u9", Port: port, At: t0.Add(PortQuiet)}
	soon, direct := stranger, stranger
	soon.At, direct.Port = t0.Add(PortQuiet-1), SwitchPort{}
	for name, c := range map[string]struct {
		machines []Machine
		s        Sighting
		ask      bool
	}{
		"silent":                            {[]Machine{was}, stranger, true},
		"it still speaks":                   {[]Machine{was}, soon, false},
		"not through a relay":               {[]Machine{was}, direct, false},
		"the same name of another relay":    {[]Machine{as(Approved, other, "m-was")}, stranger, false},
		"never allowed to boot":             {[]Machine{as(Pending, port, "m-was")}, stranger, false},
		"retired":                           {[]Machine{as(Retired, port, "m-was")}, stranger, false},
		"two have the port":                 {[]Machine{was, as(Approved, port, "m-b")}, stranger, false},
		"a newcomer and it have the port":   {[]Machine{was, as(Pending, port, "m-b")}, stranger, false},
		"one before it had it, now retired": {[]Machine{was, as(Retired, port, "m-b")}, stranger, true},
		"a known machine at another's place": {[]Machine{was,
			{ID: "m-c", State: Approved, UUID: "u9", MACs: []string{"52:54:00:00:00:99"}}}, stranger, false},
	} {
		found, ask := Identify(pointers(c.machines), c.s)
		if (ask != nil) != c.ask || ask != nil && (ask.With != "m-was" || ask.About != "port eth7 via 10.7.0.1") {
			t.Errorf("%s: Identify = %v, asks %+v; want a question %t", name, found, ask, c.ask)
		}
	}
}

func TestMerge(t *testing.T) {
	into := Machine{ID: "m-a", Name: "node01", State: Approved, UUID: "u1", MACs: []string{"1"}, LastHealthy: v1,
		Assignment: Assignment{ImageRef: v2}, LastSeen: t0}
	got := Merge(into, Machine{ID: "m-b", State: Pending, UUID: "u2", MACs: []string{"2", "1"}, LastSeen: t0.Add(1),
		Boot: "b", Ask: &Question{}}, t0)
	want := into
	want.UUID, want.MACs, want.LastSeen, want.Boot = "u2", []string{"1", "2"}, t0.Add(1), "b"
	want.FirstSeen = got.FirstSeen
	if d := machineDiff(want, got); d != "" {
		t.Errorf("Merge (-want +got):\n%s", d)
	}
}

// TestMergeOld: a record that is older than the machine that runs takes nothing
// from it, and fills in what is not known.
func TestMergeOld(t *testing.T) {
	runs := Machine{ID: "m-a", State: Approved, UUID: "u1", MACs: []string{"1"}, LastSeen: t0, FirstSeen: t0, Boot: "runs",
		Facts: ingot.Facts{RAM: 2}}
	old := Machine{ID: "m-b", State: Retired, UUID: "u2", Serial: "S2", MACs: []string{"2"}, LastSeen: t0.Add(-1),
		FirstSeen: t0, Boot: "old", Facts: ingot.Facts{RAM: 1}}
	want := runs
	want.MACs, want.Serial = []string{"1", "2"}, "S2"
	if d := machineDiff(want, Merge(runs, old, t0)); d != "" {
		t.Errorf("Merge of an older one (-want +got):\n%s", d)
	}
}

func TestHostlist(t *testing.T) {
	for in, want := range map[string]string{
		"node01":              "node01",
		"node[01-03]":         "node01 node02 node03",
		"node[8-11],login":    "node8 node9 node10 node11 login",
		"r[1,3]n[01-02]-ipmi": "r1n01-ipmi r1n02-ipmi r3n01-ipmi r3n02-ipmi",
		"n[098-101]":          "n098 n099 n100 n101",
		"52:54:00:12:00:01":   "52:54:00:12:00:01",
	} {
		got, err := Hostlist(in)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("Hostlist(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "a,", "n[1-", "n1]", "n[3-1]", "n[x]", "n[0-99999999]", "n[0-999][0-999]"} {
		if got, err := Hostlist(in); !errors.Is(err, ErrHostlist) {
			t.Errorf("Hostlist(%q) = %d names, %v; want ErrHostlist", in, len(got), err)
		}
	}
}

func TestSelector(t *testing.T) {
	labels := map[string]string{"rack": "r1", "role": "db", "gpu": ""}
	for in, want := range map[string]bool{"rack=r1": true, "rack=r2": false, "rack=r1,role!=db": false, "rack!=r2": true,
		"gpu": true, "tape": false, "tape!=x": true, "tape=x": false} {
		sel, err := ParseSelector(in)
		if err != nil || sel.Matches(labels) != want {
			t.Errorf("%q matches: %v, %v; want %t", in, !want, err, want)
		}
	}
	for _, in := range []string{"", "=x", "a=b c", "a=\x1b[31m"} {
		if _, err := ParseSelector(in); !errors.Is(err, ErrSelector) {
			t.Errorf("ParseSelector(%q) = %v; want ErrSelector", in, err)
		}
	}
}

func FuzzHostlist(f *testing.F) {
	f.Add("node[01-40],a[1,3]b[2]")
	f.Fuzz(func(t *testing.T, s string) {
		if list, err := Hostlist(s); err == nil && (len(list) == 0 || len(list) > MaxHosts) {
			t.Errorf("Hostlist(%q) = %d names", s, len(list))
		}
	})
}

// TestPlaceholders: what many boards share is no identity, and a real one that
// looks a little like it stays one.
func TestPlaceholders(t *testing.T) {
	for _, u := range []string{"00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
		"fefefefe-fefe-fefe-fefe-fefefefefefe",
		"03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009",
		"12345678-1234-5678-90ab-cddeefaabbcc",
		"4c4c4544-0000-2010-8020-80c04f202020", "not a UUID"} {
		if got := ingot.PlausibleUUID(u); got != "" {
			t.Errorf("PlausibleUUID(%s) = %q; want nothing", u, got)
		}
	}
	for _, s := range []string{"", " ", "0", "00000000", "xxxxxxxx", "........", "None", "N/A", "NULL", "INVALID",
		"O.E.M.", "To be filled by O.E.M.", "Default string",
		"Not Available", "Not Present", "Serial Number", "Chassis Serial Number", "System Serial Number", "1234567890"} {
		if got := ingot.PlausibleSerial(s); got != "" {
			t.Errorf("PlausibleSerial(%q) = %q; want nothing", s, got)
		}
	}
	if got := ingot.PlausibleUUID("4C4C4544-004D-3510-8052-B4C04F4A5631"); got != "4c4c4544-004d-3510-8052-b4c04f4a5631" {
		t.Errorf("a Dell with a service tag has the UUID %q", got)
	}
	if got := ingot.PlausibleSerial(" CZ1234567890 "); got != "CZ1234567890" {
		t.Errorf("a real serial became %q", got)
	}
}

// pointers returns pointers to the machines of a list.
func pointers(list []Machine) []*Machine {
	to := make([]*Machine, len(list))
	for i := range list {
		to[i] = &list[i]
	}
	return to
}
