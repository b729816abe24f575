package bootserver

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"ingot"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// fataler is a test, of rapid or not.
type fataler interface {
	Helper()
	Fatal(...any)
}

// everything is all that a state knows: what requests could change.
func everything(t fataler, st state.Store) string {
	t.Helper()
	changes, _, err := st.Changes(state.Query{Audit: true, Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	boots, err := st.Boots("", 0)
	if err != nil {
		t.Fatal(err)
	}
	// Those that began at the same time have no order of their own.
	slices.SortFunc(boots, func(a, b fleet.Boot) int {
		return cmp.Or(cmp.Compare(a.Machine, b.Machine), cmp.Compare(a.Number, b.Number), cmp.Compare(a.ID, b.ID))
	})
	// What the file forgot may be in memory still, until it is tidied.
	of := map[ingot.MachineID]int{}
	for _, b := range boots {
		of[b.Machine]++
	}
	boots = slices.DeleteFunc(boots, func(b fleet.Boot) bool {
		of[b.Machine]--
		return of[b.Machine] >= state.BootsPerMachine
	})
	entries, _, err := st.Changes(state.Query{Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	leases, err := st.Leases()
	if err != nil {
		t.Fatal(err)
	}
	var consoles []string
	for _, b := range boots {
		text, err := st.Console(b.ID)
		if err != nil {
			t.Fatal(err)
		}
		consoles = append(consoles, text)
	}
	// That somebody had a backup is noted, and is no change.
	changes = slices.DeleteFunc(changes, func(c fleet.Change) bool { return c.Code == fleet.ActionServerBackup })
	if len(changes) == 0 {
		changes = nil
	}
	for i := range changes {
		changes[i].Seq = 0
	}
	for i := range entries { // their numbers go on when a backup is restored
		entries[i].Seq = 0
	}
	slices.SortStableFunc(entries, func(a, b fleet.Change) int { // of one moment, each machine's are in order
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Machine, b.Machine))
	})
	return string(mustJSON(t, []any{st.Machines(), boots, consoles, leases, st.Credentials(), entries, changes}))
}

func mustJSON(t fataler, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// copy is the state's file.
func (s *history) copy() []byte {
	var file bytes.Buffer
	if err := s.state.Backup(&file); err != nil {
		s.t.Fatal(err)
	}
	return file.Bytes()
}

// unchanged compares what the server knows with what it knew.
func (s *history) unchanged(before []byte, what string) {
	s.t.Helper()
	if bytes.Equal(before, s.copy()) {
		return // nothing was written
	}
	was := s.begin(before)
	defer was.Close()
	s.same(everything(s.t, was), everything(s.t, s.state), what)
}

// begin opens a copy of a state.
func (s *history) begin(file []byte) state.Store {
	dir, err := os.MkdirTemp(s.dir, "copy-")
	if err != nil {
		s.t.Fatal(err)
	}
	st, err := openCopy(dir, file)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// same shows where two texts begin to differ.
func (s *history) same(before, after, what string) {
	s.t.Helper()
	if before == after {
		return
	}
	i := 0
	for i < min(len(before), len(after)) && before[i] == after[i] {
		i++
	}
	from := max(0, i-300)
	s.t.Fatalf("%s changed\n… %s …\nto\n… %s …", what, before[from:min(len(before), i+300)],
		after[from:min(len(after), i+300)])
}

// ask sends one request to a handler. Text goes as it is, other bodies as JSON.
func ask(t fataler, h http.Handler, method, path string, body any) (int, string) {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		r = bytes.NewReader(mustJSON(t, b))
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, r))
	return w.Code, w.Body.String()
}

// getsChangeNothing asks for all that can be read: by operators, and of boots
// that are over.
func (s *history) getsChangeNothing() {
	before := s.copy()
	s.asked++
	ref := "nobody"
	if machines := s.state.Machines(); len(machines) > 0 { // each in its turn
		ref = string(machines[s.asked%len(machines)].ID)
	}
	for _, path := range s.reads {
		if path == "/v1/backup" && s.asked%8 > 0 { // which is noted, and costs the most
			continue
		}
		if status, text := ask(s.t, s.rest, "GET", strings.ReplaceAll(path, "{ref}", ref), nil); status >= 500 {
			s.t.Fatalf("GET %s of %s = %d %s", path, ref, status, text)
		}
	}
	for _, id := range s.old[max(0, len(s.old)-3):] {
		b, _ := s.state.Boot(id)
		if m, _ := s.state.Machine(b.Machine); m.Boot == id {
			continue // after a restore
		}
		for _, method := range []string{"GET", "HEAD"} {
			for _, part := range []string{"script", "ticket", "report", b.Image.Image.Hex() + "/kernel",
				b.Image.Image.Hex() + "/root"} {
				if status, text := s.ask(method, s.BootKey(id), part, nil); status == 200 &&
					!strings.Contains(text, "boot is over") && method == "GET" {
					s.t.Fatalf("%s %s of a boot that is over = %d %s", method, part, status, text)
				}
			}
		}
	}
	if _, err := s.WouldAnswer(s.computers[s.asked%len(s.computers)].sighting(s.asked%3 == 0)); err != nil {
		s.t.Fatal(err)
	}
	s.unchanged(before, "what only asks")
}

// restarts: the server knows what it knew.
func (s *history) restarts() {
	before := everything(s.t, s.state)
	if err := s.state.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.open()
	s.same(before, everything(s.t, s.state), "a restart")
}

// twins begins a second server with a backup of the first one, as if the first
// had just restarted, and asks both the same: what a computer boots, why
// machines are as they are, and what becomes of boots whose time is over. Both
// say and do the same.
func (s *history) twins(t *rapid.T) {
	c := s.any(t)
	facts := s.facts(t, c)
	wait := time.Duration(rapid.Int64Range(0, int64(15*time.Minute)).Draw(t, "wait"))
	twin := s.twin()
	defer twin.state.Close()
	s.same(everything(s.t, s.state), everything(s.t, twin.state), "a start from a backup")
	says := func(b party) (text string) {
		for _, m := range b.state.Machines() {
			y, err := b.operator.Why(string(m.ID))
			if err != nil {
				s.t.Fatal(err)
			}
			text += string(mustJSON(s.t, y)) + "\n"
		}
		return text
	}
	s.same(says(s.party), says(twin), "what is said of machines")
	s.leaves(c)
	one, other := attempt(s.t, s.party, c, facts), attempt(s.t, twin, c, facts)
	sameID := strings.NewReplacer(string(s.BootKey(other.boot)), string(s.BootKey(one.boot)), string(other.boot),
		string(one.boot)).Replace
	fresh := func(at attempted) string { // of a boot that is only thought of, nobody knows the key
		if _, loader, ok := strings.Cut(at.would, `"Loader"`); ok {
			return loader
		}
		return at.would
	}
	s.same(fresh(one), fresh(other), "what a computer would boot")
	s.same(one.script, sameID(other.script), "the script")
	s.same(one.ticket, sameID(other.ticket), "the ticket")
	s.began(c, one)
	s.clock = s.clock.Add(wait)
	s.Expire()
	twin.Expire()
	s.same(everything(s.t, s.state), sameID(everything(s.t, twin.state)), "a boot, and the time that passed,")
	s.same(says(s.party), sameID(says(twin)), "what is said of machines then")
}

// twin is another server that begins with what this one knows.
func (s *history) twin() party { return s.with(s.begin(s.copy()), catalog.New(s.images)) }
