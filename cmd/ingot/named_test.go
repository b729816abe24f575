package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
)

// rack is a server with four machines, that remembers what it was asked for.
type rack struct {
	api.Backend
	mu    sync.Mutex
	asked []string
}

var racked = []api.Machine{
	{ID: "m-1", Name: "node01", State: api.Approved, Labels: map[string]string{"rack": "r1", "gpu": "a100"}},
	{ID: "m-2", Name: "node02", State: api.Approved, Labels: map[string]string{"rack": "r1"}},
	{ID: "m-3", Name: "node03", State: api.Approved, Labels: map[string]string{"rack": "r2", "gpu": ""},
		Grants: []api.Grant{{Grant: ingot.Grant{Volume: "data"}, Boot: "used"}, {Grant: ingot.Grant{Volume: "logs"}}}},
	{ID: "m-4", Name: "db", State: api.Approved, Labels: map[string]string{"rack": "r2", "node02": "", "nod": ""}},
}

func (r *rack) find(ref string) (api.Machine, error) {
	var all []fleet.Machine
	for _, m := range racked {
		all = append(all, fleet.Machine{ID: m.ID, Name: m.Name})
	}
	found := fleet.Match(all, ref)
	if len(found) != 1 {
		return api.Machine{}, api.NewProblem(api.CodeMachineNotFound, "no machine matches "+ref)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, found[0].Name)
	i := slices.IndexFunc(racked, func(m api.Machine) bool { return m.ID == found[0].ID })
	return racked[i], nil
}

func (r *rack) Version() string                         { return "test" }
func (r *rack) Machines() []api.Machine                 { return racked }
func (r *rack) LatestBoots() []api.Boot                 { return nil }
func (r *rack) Machine(ref string) (api.Machine, error) { return r.find(ref) }
func (r *rack) Boots(q api.BootsRequest) ([]api.Boot, string, error) {
	m, err := r.find(q.Machine)
	return []api.Boot{{ID: ingot.NewBootID([16]byte{1}), Machine: m.ID}}, "", err
}
func (r *rack) Why(ref string) (api.Why, error) {
	m, err := r.find(ref)
	return api.Why{Machine: m.ID, Name: m.Name, Words: "Words of " + m.Name + "."}, err
}
func (r *rack) Hardware(ref, boot string) (api.Hardware, error) {
	m, err := r.find(ref)
	return api.Hardware{Boot: ingot.BootID(boot), Facts: ingot.Facts{Vendor: "of " + m.Name, RAMInstalled: 192 << 30,
		RAM: 188 << 30}, Changes: []string{"RAM 256 → 192 GiB"}}, err
}
func (r *rack) Console(ref, _ string) (api.Console, error) {
	m, err := r.find(ref)
	return api.Console{Text: "console of " + m.Name}, err
}
func (r *rack) Resume(_ context.Context, ref string) (api.Machine, error) { return r.find(ref) }
func (r *rack) Events(_ context.Context, q api.EventsRequest) (e api.Events, err error) {
	for _, ref := range q.Machines {
		m, err := r.find(ref)
		if err != nil {
			return e, err
		}
		e.Events = append(e.Events, api.Entry{Machine: m.ID, Text: "entry"})
	}
	return e, nil
}
func (r *rack) Capture(_ context.Context, refs []string, w io.Writer, _ int64) error {
	for _, ref := range refs {
		if _, err := r.find(ref); err != nil {
			return err
		}
	}
	_, err := w.Write([]byte("pcap"))
	return err
}

// TestWhereverAMachineIsNamed: hostlists and selectors name machines in every
// command; a word that names a machine is that machine; where a word could be
// both, nothing is guessed.
func TestWhereverAMachineIsNamed(t *testing.T) {
	r := &rack{}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	listen(t, l, r, &access.Keeper{Find: nobody, Now: time.Now})
	commands := [][]string{{"why"}, {"boots"}, {"machine", "show"}, {"console"}, {"events"}, {"resume"}, {"capture"}}
	ask := func(args ...string) (code int, asked, stdout, stderr string) {
		r.asked = nil
		code, stdout, stderr = invoke(t, append(args, "--server", "unix://"+socket)...)
		slices.Sort(r.asked)
		return code, strings.Join(slices.Compact(r.asked), " "), stdout, stderr
	}
	for _, c := range []struct {
		args  []string
		asked string
		code  int
		says  string // on standard error
	}{
		{[]string{"node01"}, "node01", 0, ""},
		{[]string{"node[01-02]"}, "node01 node02", 0, ""},
		{[]string{"node01,db"}, "db node01", 0, ""},
		{[]string{"rack=r1"}, "node01 node02", 0, ""},
		{[]string{"rack=r1,gpu"}, "node01", 0, ""},
		{[]string{"gpu"}, "node01 node03", 0, ""},
		{[]string{"gpu,rack"}, "node01 node03", 0, ""},
		{[]string{"gpu", "node02"}, "node01 node02 node03", 0, ""},
		{[]string{"node02"}, "node02", 0, ""}, // a label, too
		{[]string{"nod"}, "", 1, `"nod" is ambiguous: a label, of db for example, and a prefix of node01`},
		{[]string{"rack=r9"}, "", 1, "no machine has the labels rack=r9"},
		{[]string{"node[01"}, "", 2, "not a list of hosts"},
		{[]string{"nobody"}, "", 1, "no machine matches nobody"},
	} {
		for _, command := range commands {
			code, asked, stdout, stderr := ask(append(slices.Clone(command), c.args...)...)
			if code != c.code || c.code == 0 && asked != c.asked || !strings.Contains(stderr, c.says) {
				t.Errorf("ingot %s %v = %d, asks for %q; want %d, %q and %q\n%s%s", strings.Join(command, " "), c.args, code,
					asked, c.code, c.asked, c.says, stdout, stderr)
			}
		}
	}
	if code, asked, stdout, stderr := ask("machine", "show", "rack=r1", "--boot", "3f2a61c0"); code != 0 ||
		asked != "node01 node02" ||
		!strings.Contains(stdout, "of node02") || !strings.Contains(stdout, "RAM 256 → 192 GiB") || strings.Count(stdout,
		"3f2a61c0") != 2 {
		t.Errorf("the hardware of boots = %d, of %q:\n%s%s", code, asked, stdout, stderr)
	}
	for _, command := range commands[:4] { // those that go on, and say at the end what they could not find
		code, asked, _, stderr := ask(append(slices.Clone(command), "node[01-03]", "node[77-78]", "db")...)
		if code != 1 || asked != "db node01 node02 node03" || !strings.Contains(stderr, "node77") ||
			!strings.Contains(stderr, "node78") || !strings.Contains(stderr, "→ run: ingot machine ls") {
			t.Errorf("ingot %s with two unknown names = %d, asks for %q:\n%s", strings.Join(command, " "), code, asked, stderr)
		}
	}
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"nosuch=1"}, "no machine has the labels nosuch=1\n", 0},
		{[]string{"gpu"}, "node01 node03", 0},
		{[]string{"node[01-02],db"}, "db node01 node02", 0},
		{[]string{"node01", "nobody"}, "node01", 1},
	} {
		code, _, stdout, stderr := ask(append([]string{"machine", "ls"}, c.args...)...)
		var listed []string
		for line := range strings.Lines(stdout) {
			if f := strings.Fields(line); strings.HasPrefix(line, "m-") {
				listed = append(listed, f[1])
			}
		}
		slices.Sort(listed)
		if got := strings.Join(listed, " "); code != c.code || got != c.want && stdout != c.want {
			t.Errorf("ingot machine ls %v = %d\n%s%s; want %d and %s", c.args, code, stdout, stderr, c.code, c.want)
		}
	}
}

// TestOneDocument: with -o json, a command prints one document: an object for one machine, and a list
// for several, also when only one of them was found.
func TestOneDocument(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	listen(t, l, &rack{}, &access.Keeper{Find: nobody, Now: time.Now})
	for _, command := range [][]string{{"machine", "show"}, {"machine", "show", "--boot", "3f2a61c0"}, {"console"},
		{"resume"}} {
		for _, c := range []struct {
			args []string
			list int // length of the list; 0: an object
			code int
		}{
			{[]string{"node01"}, 0, 0},
			{[]string{"rack=r1"}, 2, 0},
			{[]string{"node01", "node02", "db"}, 3, 0},
			{[]string{"node01", "node77"}, 1, 1},
		} {
			code, stdout, stderr := invoke(t, slices.Concat(command, c.args,
				[]string{"--server", "unix://" + socket, "-o", "json"})...)
			var v any
			err := json.Unmarshal([]byte(stdout), &v)
			list, is := v.([]any)
			if err != nil || code != c.code || len(list) != c.list || is != (c.list > 0) {
				t.Errorf("ingot %s %v -o json = %d, %v; want %d and %d in a list\n%s%s", strings.Join(command, " "), c.args, code,
					err, c.code, c.list, stdout, stderr)
			}
		}
	}
}
