package bootserver

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ingot"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/state"
	"ingot/image"
	"ingot/internal/yamlfile"
)

// history is a server with two machines, and what a careful observer beside it
// remembers.
type history struct {
	*booter
	t     *rapid.T
	dir   string
	clock time.Time
	names []string
	known map[string]image.Image
	gone  map[ingot.Digest]bool // removed from the store
	at    map[string]*observed  // by MAC
}

// base is where the server of a history is.
const base = "http://10.99.0.1"

// observed is one machine as the observer saw it.
type observed struct {
	client  dhcp.Sighting
	old     []ingot.BootID // boots that are over
	boot    ingot.BootID   // the boot that runs on it
	image   ingot.Digest   // that it runs
	came    bool           // its kernel and initramfs were fetched
	healthy []ingot.Digest // in the order in which they were, the last one last
	moves   int            // changes of what it boots since an operator's word
	next    ingot.Digest   // as last decided
}

// TestHistories plays random histories of boots, reports, crashes, restarts of
// the server, jumps of its clock, messages that come twice or late, and
// commands of operators, and holds what must always hold.
func TestHistories(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of synced writes")
	}
	if given := flag.Lookup("rapid.checks"); given.Value.String() == given.DefValue && os.Getenv("INGOT_TEST_ALL") == "" {
		_ = given.Value.Set("20") // make test is to be short
	}
	h := newHouse(t)
	images := map[string]image.Image{}
	names := []string{"lab:v1", "lab:v2", "lab:v3", "lab:v4"}
	for _, n := range names {
		images[n] = h.put(n[len("lab:"):])
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := &history{t: rt, dir: inMemory(t), names: names, known: images, gone: map[ingot.Digest]bool{}, at: map[string]*observed{},
			clock: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
		if err := errors.Join(os.CopyFS(filepath.Join(s.dir, "images"), os.DirFS(filepath.Join(h.images.Root(), "images"))),
			os.CopyFS(filepath.Join(s.dir, "keys"), os.DirFS(filepath.Join(h.images.Root(), "keys")))); err != nil {
			t.Fatal(err)
		}
		store, err := image.Open(t.Context(), s.dir)
		if err != nil {
			t.Fatal(err)
		}
		s.booter = &booter{images: store, shelf: &shelf{}, keys: h.keys, loaders: h.loaders, port: 80,
			now: func() time.Time { return s.clock }, log: slog.New(slog.DiscardHandler)}
		s.settle(config.Boots{ApproveAll: true, Image: "lab:v1", Attempts: rapid.IntRange(1, 3).Draw(rt, "attempts"), Deadline: yamlfile.Duration(10 * time.Minute),
			After: rapid.SampledFrom([]fleet.After{"", fleet.AfterFallback, fleet.AfterHold, fleet.AfterRetry}).Draw(rt, "after")})
		s.open()
		defer func() { s.state.Close() }()
		for i := range 2 {
			c := client
			c.MAC, c.UUID, c.Address = fmt.Sprintf("52:54:00:12:00:%02x", i+1), "", netip.AddrFrom4([4]byte{10, 99, 0, byte(100 + i)})
			s.at[c.MAC] = &observed{client: c}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":       func(*rapid.T) { s.holds() },
			"boot":   func(t *rapid.T) { s.boots(s.any(t)) },
			"good":   func(t *rapid.T) { o := s.any(t); s.boots(o); s.reports(o, true) },
			"loop":   s.loops,
			"report": func(t *rapid.T) { s.reports(s.any(t), rapid.Bool().Draw(t, "well")) },
			"fail":   func(t *rapid.T) { s.fails(s.any(t)) },
			"late":   s.late,
			"twice":  func(t *rapid.T) { o := s.any(t); s.reports(o, true); s.reports(o, true) },
			"get":    s.gets,
			"wait":   func(t *rapid.T) { s.passes(time.Duration(rapid.Int64Range(0, int64(20*time.Minute)).Draw(t, "wait"))) },
			"jump": func(t *rapid.T) {
				s.passes(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "jump")))
			},
			"restart": func(*rapid.T) { s.restarts() },
			"operate": s.operates,
			"remove":  s.removes,
		})
	})
}

// inMemory is a folder that syncing costs nothing in, where there is one.
func inMemory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "ingot-history-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (s *history) open() {
	st, err := state.Open(s.t.Context(), filepath.Join(s.dir, state.Folder))
	if err != nil {
		s.t.Fatal(err)
	}
	s.state = st
}

func (s *history) any(t *rapid.T) *observed {
	return s.at[rapid.SampledFrom([]string{"52:54:00:12:00:01", "52:54:00:12:00:02"}).Draw(t, "machine")]
}

func (s *history) machine(o *observed) (fleet.Machine, bool) {
	return s.state.Find(fleet.Sighting{MAC: o.client.MAC})
}

// boots is a reset and all that follows, up to a kernel and an initramfs that
// were fetched, when there are any.
func (s *history) boots(o *observed) {
	if o.boot != "" {
		o.old = append(o.old, o.boot)
	}
	o.boot, o.image, o.came = "", "", false
	if _, err := s.Seen(o.client); err != nil {
		s.t.Fatal(err)
	}
	s.loaderServed(o.client.Address, "snponly.efi", 300_000)
	loader := o.client
	loader.Kind, loader.IPXE = dhcp.Loader, true
	if _, err := s.Seen(loader); err != nil {
		s.t.Fatal(err)
	}
	m, _ := s.machine(o)
	if _, err := s.Script(m.Boot, base); err != nil {
		s.t.Fatal(err)
	}
	b, _ := s.state.Boot(m.Boot)
	o.boot = m.Boot
	if b.Image.Image == "" {
		return
	}
	o.image, o.came = b.Image.Image, true
	if s.gone[o.image] {
		s.t.Fatalf("%s boots %s, which was removed", m.ID, b.Image.Name)
	}
	if i := slices.IndexFunc(s.names, func(n string) bool { return s.known[n].Digest == o.image }); i < 0 {
		s.t.Fatalf("%s boots %s, which nobody knows", m.ID, o.image)
	}
	if o.image != m.Assignment.Image && (len(o.healthy) == 0 || o.healthy[len(o.healthy)-1] != o.image) {
		s.t.Fatalf("%s boots %s: neither assigned nor the one healthy here last", m.ID, b.Image.Name)
	}
	s.Served(o.boot, "kernel", 100, true)
	s.Served(o.boot, "initramfs", 100, true)
	if _, err := s.Ticket(o.boot, ingot.TicketRequest{Nonce: nonce}); err != nil {
		s.t.Fatal(err)
	}
}

// reports is the agent's word.
func (s *history) reports(o *observed, well bool) {
	if o.image == "" {
		return
	}
	m, _ := s.machine(o)
	before, _ := s.state.Boot(o.boot)
	root := before.Root
	if err := s.Report(o.boot, ingot.Report{Boot: o.boot, Root: root, Healthy: well}); err != nil {
		s.t.Fatal(err)
	}
	if after, _ := s.state.Boot(o.boot); m.Boot == o.boot && after.Outcome == ingot.OutcomeHealthy && before.Outcome != ingot.OutcomeHealthy {
		o.healthy = append(o.healthy, o.image)
	}
}

// loops boots again and again into something that fails or is silent.
func (s *history) loops(t *rapid.T) {
	o := s.any(t)
	for range rapid.IntRange(1, 4).Draw(t, "times") {
		s.boots(o)
		switch rapid.SampledFrom([]string{"fail", "unwell", "silent", "reset"}).Draw(t, "how") {
		case "fail":
			s.fails(o)
		case "unwell":
			s.reports(o, false)
		case "silent":
			s.passes(11 * time.Minute)
		}
		s.holds()
	}
}

func (s *history) fails(o *observed) {
	if o.image == "" {
		return
	}
	if err := s.Event(o.boot, ingot.Event{Stage: ingot.StageRoot, Error: "no"}); err != nil {
		s.t.Fatal(err)
	}
}

// late is a word of a boot that is over: it changes no machine.
func (s *history) late(t *rapid.T) {
	o := s.any(t)
	if len(o.old) == 0 {
		return
	}
	old := rapid.SampledFrom(o.old).Draw(t, "old")
	before := s.machines()
	b, ok := s.state.Boot(old)
	if !ok {
		return
	}
	for _, err := range []error{s.Report(old, ingot.Report{Boot: old, Root: b.Root, Healthy: rapid.Bool().Draw(t, "well")}),
		s.Event(old, ingot.Event{Stage: ingot.StageRoot, Error: "late"})} {
		if err != nil && !errors.Is(err, httpboot.ErrRefused) { // the machine began another one
			t.Fatalf("a late word of an old boot: %v", err)
		}
	}
	if after := s.machines(); after != before {
		t.Fatalf("a late word of an old boot changed\n%s\nto\n%s", before, after)
	}
}

// gets asks for everything that may be asked for.
func (s *history) gets(t *rapid.T) {
	o := s.any(t)
	before := s.machines()
	for _, id := range append(slices.Clone(o.old), o.boot) {
		if id == "" {
			continue
		}
		_, _ = s.Script(id, base) // refusals are answers, too
		for _, im := range s.known {
			_, _ = s.Artifact(id, im.Digest, "kernel")
		}
	}
	_, _ = s.Would(o.client)
	if after := s.machines(); after != before {
		t.Fatalf("a GET changed\n%s\nto\n%s", before, after)
	}
}

func (s *history) passes(d time.Duration) {
	s.clock = s.clock.Add(d)
	s.expire()
}

// restarts: the next decisions are what they would have been.
func (s *history) restarts() {
	before := s.machines()
	if err := s.state.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.open()
	if after := s.machines(); after != before {
		s.t.Fatalf("a restart changed\n%s\nto\n%s", before, after)
	}
}

// operates is an operator's command.
func (s *history) operates(t *rapid.T) {
	o := s.any(t)
	m, known := s.machine(o)
	if !known {
		return
	}
	a := admin{s.booter, &Server{booter: s.booter}}
	var err error
	switch rapid.SampledFrom([]string{"assign", "assign", "rollback", "resume"}).Draw(t, "command") {
	case "assign":
		name := rapid.SampledFrom(s.names).Draw(t, "image")
		if s.gone[s.known[name].Digest] {
			return // refused: there is no such image
		}
		m, err = a.Assign(t.Context(), string(m.ID), name, "")
		if ref, e := fleet.Next(m); err == nil && (e != nil || ref.Name != name) {
			t.Fatalf("assigned %s, boots %s (%v)", name, ref.Name, e)
		}
	case "rollback":
		m, err = a.Rollback(t.Context(), string(m.ID))
	case "resume":
		m, err = a.Resume(t.Context(), string(m.ID))
		if ref, e := fleet.Next(m); err == nil && e == nil && ref.Image != m.Assignment.Image {
			t.Fatalf("resumed %s, boots %s", m.Assignment.Name, ref.Name)
		}
	}
	if err == nil {
		o.moves, o.next = 0, nextOf(m)
	}
}

// removes takes an image out of the store, unless something needs it.
func (s *history) removes(t *rapid.T) {
	d := s.known[rapid.SampledFrom(s.names).Draw(t, "image")].Digest
	if s.gone[d] {
		return
	}
	used := fleet.InUse(s.state.Machines(), s.state.Latest())
	if rapid.Bool().Draw(t, "by force") {
		used = nil
	}
	if _, err := s.booter.images.Remove(t.Context(), string(d), used); (err == nil) != (used[d] == "") {
		t.Fatalf("removing an image that is in use as %q: %v", used[d], err)
	} else if err == nil {
		s.gone[d] = true
	}
}

func nextOf(m fleet.Machine) ingot.Digest {
	ref, err := fleet.Next(m)
	if err != nil {
		return ingot.Digest(err.Error())
	}
	return ref.Image
}

// holds is what always holds.
func (s *history) holds() {
	for _, o := range s.at {
		m, known := s.machine(o)
		if !known {
			continue
		}
		if next := nextOf(m); next != o.next {
			if o.next != "" {
				o.moves++
			}
			o.next = next
		}
		// One move away from an image, and one back when it was only slow.
		if o.moves > 2 {
			s.t.Fatalf("%s changes its image for the %d. time without an operator's word", m.ID, o.moves)
		}
		if m.Setback != nil && m.Setback.To.Image != "" && m.Setback.To.Image != m.LastHealthy.Image {
			s.t.Fatalf("%s falls to %s, past %s, which was healthy here last", m.ID, m.Setback.To.Name, m.LastHealthy.Name)
		}
		if m.Setback != nil && m.Setback.To == m.Setback.Gave {
			s.t.Fatalf("%s gives %s up for itself", m.ID, m.Setback.To.Name)
		}
		if n := len(o.healthy); n > 0 && m.LastHealthy.Image != o.healthy[n-1] {
			s.t.Fatalf("%s remembers %s as healthy last", m.ID, m.LastHealthy.Name)
		}
	}
}

// machines is all that is decided from, but for when machines were seen.
func (s *history) machines() string {
	text := ""
	for _, m := range s.state.Machines() {
		text += fmt.Sprintf("%s %s %+v %+v %+v %+v %v %+v\n", m.ID, m.State, m.Assignment.ImageRef, m.Trial, m.Setback, m.LastHealthy, m.Healthy, nextOf(m))
	}
	return text
}
