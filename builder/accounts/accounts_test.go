package accounts

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const somePasswd = `root:x:0:0::/root:/bin/bash
daemon:x:1:1::/:/x
_apt:x:42:65534::/:/x
postgres:x:102:105::/:/x
broken
munge:x:no:1::/:/x
ops:x:1000:1000::/:/x
fetchmail:x:64001:65534::/:/x
nobody:x:65534:65534::/:/x
`

const someGroups = `root:x:0:
daemon:x:1:
users:x:100:
postgres:x:105:
ssl-cert:x:103:postgres
ops:x:1000:
nogroup:x:65534:
`

func TestRead(t *testing.T) {
	l := Read([]byte(somePasswd), []byte(someGroups))
	want := List{{"_apt", 42, 0}, {"daemon", 1, 1}, {"fetchmail", 64001, 0}, {"nobody", 65534, 0},
		{"nogroup", 0, 65534}, {"ops", 1000, 1000}, {"postgres", 102, 105}, {"ssl-cert", 0, 103},
		{"users", 0, 100}}
	if diff := cmp.Diff(want, l); diff != "" {
		t.Errorf("Read (-want +got):\n%s", diff)
	}
	want = List{{"ops", 1000, 1000}, {"postgres", 102, 105}, {"ssl-cert", 0, 103}}
	if diff := cmp.Diff(want, l.Given()); diff != "" {
		t.Errorf("Given (-want +got):\n%s", diff)
	}
	if got := string(want.Numbers(Group)); got != "ops:1000\npostgres:105\nssl-cert:103\n" {
		t.Errorf("Numbers(Group) = %q", got)
	}
}

// debianChose is what Debian's tools give to new names, one after the other.
func debianChose(names ...string) (l List) {
	for i, name := range names {
		l = l.Set(User, name, 100+i)
		l = l.Set(Group, name, 101+2*i)
	}
	return l
}

// TestNumber: what a name gets depends on neither the order of configuration nor other names, unless
// they lead to the same number.
func TestNumber(t *testing.T) {
	alone := List{}.Number(debianChose("postgres"))
	more := List{}.Number(debianChose("Debian-snmp", "munge", "redis", "bind", "postgres"))
	if alone.Get(User, "postgres") != more.Get(User, "postgres") || alone.Get(User, "postgres") != 0 &&
		alone.Get(User, "postgres") != slotOf("postgres") {
		t.Errorf("postgres is %v alone and %v among others; want %d", alone, more, slotOf("postgres"))
	}
	for _, a := range more {
		if a.UID != a.GID || a.UID < 200 || a.UID > 899 {
			t.Errorf("%+v; want one number from 200 to 899", a)
		}
	}
	// An account that is kept stays, and so does the number of one that is not in this root.
	kept := List{{"gone", slotOf("postgres"), 0}, {"munge", 102, 105}}
	got := kept.Number(debianChose("munge", "postgres"))
	if got.Get(User, "munge") != 102 || got.Get(Group, "munge") != 105 || got.Get(User, "gone") != slotOf("postgres") {
		t.Errorf("kept %v became %v", kept, got)
	}
	if n := got.Get(User, "postgres"); n != after(slotOf("postgres")) {
		t.Errorf("postgres is %d while another account keeps its number; want the next, %d", n,
			after(slotOf("postgres")))
	}
	// Half of an account is known: the other half gets the same number.
	half := List{{"munge", 150, 0}}.Number(List{{"munge", 150, 101}})
	if half.Get(Group, "munge") != 150 {
		t.Errorf("the group of a user with a known number = %v", half)
	}
	// An ordinary user keeps what the package chose, as does a number that a package insists on.
	insists := 200 + (slotOf("odd")-200+350)%700
	got = List{}.Number(List{{"odd", insists, insists}, {"person", 1000, 1000}})
	if got.Get(User, "odd") != insists || got.Get(User, "person") != 1000 {
		t.Errorf("numbers that packages choose became %v", got)
	}
}

// together are names that lead to one number, in the order of names.
func together(t *testing.T, count int) []string {
	t.Helper()
	bySlot := map[int][]string{}
	for i := 0; ; i++ {
		name := fmt.Sprintf("n%05d", i)
		s := slotOf(name)
		if bySlot[s] = append(bySlot[s], name); len(bySlot[s]) == count {
			return bySlot[s]
		}
	}
}

// TestNumberCollisions: of names that lead to one number, the first in the order of names gets it,
// whichever was made first; and a name whose number is its own does not lose it to them.
func TestNumberCollisions(t *testing.T) {
	names := together(t, 3)
	var neighbour string
	for i := 0; neighbour == ""; i++ {
		if name := fmt.Sprintf("z%05d", i); slotOf(name) == after(slotOf(names[0])) {
			neighbour = name
		}
	}
	all := append(slices.Clone(names), neighbour)
	var want List
	for i := range 20 {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		got := List{}.Number(debianChose(all...))
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Fatalf("made in the order %v: %v; want %v", all, got, want)
		}
		if again := got.Number(got); !slices.Equal(again, got) {
			t.Fatalf("numbered again: %v; want %v", again, got)
		}
	}
	home := slotOf(names[0])
	next := after(after(home))
	for name, n := range map[string]int{names[0]: home, neighbour: after(home), names[1]: next, names[2]: after(next)} {
		if want.Get(User, name) != n {
			t.Errorf("%s = %d; want %d", name, want.Get(User, name), n)
		}
	}
}

func TestInherit(t *testing.T) {
	own := List{{"munge", 300, 300}, {"redis", 301, 0}}
	got := own.Inherit(List{{"munge", 400, 400}, {"postgres", 301, 302}, {"redis", 0, 303}})
	// postgres cannot have 301, which is redis'.
	want := List{{"munge", 300, 300}, {"postgres", 0, 302}, {"redis", 301, 303}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Inherit (-want +got):\n%s", diff)
	}
}

func TestCheck(t *testing.T) {
	for name, l := range map[string]List{
		"twice": {{"a", 200, 200}, {"a", 201, 201}}, "order": {{"b", 200, 200}, {"a", 201, 201}},
		"a line":   {{"a:b", 200, 200}},
		"negative": {{"a", -1, 0}}, "one number": {{"a", 200, 0}, {"b", 200, 0}}, "no name": {{"", 200, 0}},
	} {
		if l.Check() == nil {
			t.Errorf("%s: Check(%v) = nil", name, l)
		}
	}
	if err := (List{{"a", 200, 0}, {"b", 0, 200}}).Check(); err != nil {
		t.Errorf("a user and a group with one number: %v", err)
	}
}

func TestChanges(t *testing.T) {
	before, now := List{{"a", 200, 201}, {"b", 202, 0}, {"c", 5, 5}}, List{{"a", 200, 300}, {"b", 0, 4}, {"d", 1, 1}}
	if diff := cmp.Diff([]Change{{Group, "a", 201, 300}}, before.Changes(now)); diff != "" {
		t.Errorf("Changes (-want +got):\n%s", diff)
	}
}
