package bootserver

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/catalog"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/operator"
	"ingot/bootserver/state"
	"ingot/image"
)

// history is a server, the computers that boot from it, and what a careful
// observer beside them remembers.
type history struct {
	party
	booting   booter.Config // of the party's Booter
	images    *image.Store
	catalog   *catalog.Catalog
	ca        *access.CA
	t         *rapid.T
	outer     *testing.T
	dir       string
	clock     time.Time
	web       http.Handler     // of the boot network
	rest      http.Handler     // of operators
	reads     []string         // paths of what operators can read
	kept      map[string]*kept // images by name
	names     []string         // of all images
	trusted   map[string]bool  // keys that images may be signed with, by name
	keyring   map[string]image.Keys
	computers []*computer
	lives     map[ingot.MachineID]*life
	waiting   map[ingot.MachineID]fleet.Machine // that may expire, as they were after the last step
	old       []ingot.BootID                    // boots that are over, or gone
	backups   []remembered
	signed    int  // signatures so far: each is another one
	asked     int  // how often all was asked
	mixed     bool // an operator merged machines that are not one
}

// base is where the server of a history is.
const base = "http://10.99.0.1"

// The names of who signs images.
const (
	ownKey     = "ours"     // the store's own release key
	strangeKey = "stranger" // who is trusted only when an operator says so
	noKey      = "nobody"
)

// TestHistories plays random histories of boots, reports, crashes, restarts of
// the server, jumps of its clock, messages that come twice, late or with
// another's key, and commands of operators, and holds what must always hold.
// Sleeps of the server take no time.
func TestHistories(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of writes")
	}
	if given := flag.Lookup("rapid.checks"); given.Value.String() == given.DefValue &&
		os.Getenv("INGOT_TEST_ALL") == "" {
		_ = given.Value.Set("30") // make test is to be short
	}
	h := newHouse(t)
	foreign, err := image.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keyring := map[string]image.Keys{ownKey: h.keys, strangeKey: foreign}
	kept, names := storeImages(h, keyring)
	var reads []string
	for _, r := range api.Routes() {
		if r.Method == http.MethodGet && r.Path != "/v1/openapi.json" { // which takes its time, and does not know the state
			reads = append(reads, r.Path)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(struct{ *testing.T }{t}, func(rt *rapid.T) { // which must not ask for its deadline there
			s := newHistory(t, rt, h, kept, names, keyring)
			s.reads = reads
			defer func() {
				s.state.Close()
				os.RemoveAll(s.dir) // thousands of histories would fill the memory
			}()
			rt.Repeat(map[string]func(*rapid.T){"": func(*rapid.T) { s.holds() }, "step": s.step})
		})
	})
}

// storeImages puts the images of a history into a store.
func storeImages(h *house, keyring map[string]image.Keys) (all map[string]kept, names []string) {
	all = map[string]kept{}
	for _, i := range []struct{ version, signer string }{{"v1", ownKey}, {"v2", ownKey}, {"v3", ownKey},
		{"v4", strangeKey}, {"v5", noKey}} {
		im := putImage(h.t, h.images, keyring[i.signer], i.version)
		names = append(names, im.Name.String())
		all[im.Name.String()] = kept{im, true, i.signer}
	}
	return all, names
}

// putImage puts an image of a history into a store. Two of them verify their kernel arguments.
func putImage(t testing.TB, images *image.Store, keys image.Keys, version string) image.Image {
	if version <= "v2" {
		return putSmall(t, images, keys, version, verifies)
	}
	return putSmall(t, images, keys, version)
}

func newHistory(t *testing.T, rt *rapid.T, h *house, all map[string]kept, names []string,
	keyring map[string]image.Keys) *history {
	s := &history{t: rt, outer: t, dir: inMemory(t), names: names, keyring: keyring, kept: map[string]*kept{},
		trusted: map[string]bool{ownKey: true},
		lives:   map[ingot.MachineID]*life{}, clock: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	for name, i := range all {
		s.kept[name] = &i
	}
	for _, folder := range []string{"images", "keys"} {
		if err := os.CopyFS(filepath.Join(s.dir, folder),
			os.DirFS(filepath.Join(h.images.Root(), folder))); err != nil {
			t.Fatal(err)
		}
	}
	store, err := image.Open(t.Context(), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	s.images, s.catalog = store, catalog.New(store)
	s.ca = h.server.ca
	s.booting = booter.Config{Keys: signerOf(t, h.images), Loaders: h.loaders, Port: 80, Now: s.now}
	s.reloads(rt)
	s.open()
	// One without a UUID; a board with two cards, one after the other; and the
	// first of these cards in another board.
	for i, c := range []struct{ mac, uuid string }{{"52:54:00:12:00:01", ""},
		{"52:54:00:12:00:02", "d1b2c3a4-0000-4000-8000-525400120002"},
		{"52:54:00:12:00:03", "d1b2c3a4-0000-4000-8000-525400120002"}, {"52:54:00:12:00:02",
			"d1b2c3a4-0000-4000-8000-525400120005"}} {
		sight := firstMachine
		sight.MAC, sight.UUID, sight.Address = c.mac, c.uuid, netip.AddrFrom4([4]byte{10, 99, 0, byte(100 + i)})
		s.computers = append(s.computers, &computer{Sighting: sight})
	}
	return s
}

// everybody who asks is an administrator.
type everybody struct{}

func (everybody) Who(*http.Request) (access.Who, error) {
	return access.Who{Kind: access.Local, Name: "root", Scope: access.Admin}, nil
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

// open opens the state and begins a server with it.
func (s *history) open() {
	st, err := openState(filepath.Join(s.dir, state.Folder))
	if err != nil {
		s.t.Fatal(err)
	}
	s.state = st
	s.party = s.with(st, s.catalog)
	s.web, s.rest = httpboot.New(s.Booter, quiet), api.Handler(s.operator, everybody{}, nil)
}

// party is a server without sockets, and what it remembers.
type party struct {
	*booter.Booter
	state    state.Store
	operator *operator.Operator
}

// with begins a server.
func (s *history) with(st state.Store, c *catalog.Catalog) party {
	conf := s.booting
	conf.State, conf.Catalog = st, c
	b := booter.New(conf)
	server := newServer(s.images, c, st, b, s.now, quiet)
	server.ca = s.ca
	server.started = time.Time{} // a twin has heard the machines as long as the server that it is compared with
	return party{b, st, server.operator()}
}

// quiet is a log that goes nowhere.
var quiet = slog.New(slog.DiscardHandler)

func (s *history) now() time.Time { return s.clock }

// reloads takes over how machines boot from now on.
func (s *history) reloads(t *rapid.T) {
	c := booter.Policy{Image: "lab:v1", Attempts: draw(t, indices(4), "attempts"), Deadline: 10 * time.Minute,
		After: draw(t, []fleet.After{"", fleet.AfterFallback, fleet.AfterHold, fleet.AfterRetry}, "after")}
	switch draw(t, []string{"all", "rule", "operator"}, "who approves") {
	case "all":
		c.ApproveAll = true
	case "rule":
		c.Rules = []fleet.Rule{{MAC: "52:54:00:*", Approve: true, Image: "lab:v2"}}
	}
	s.booting.Policy = c
	if s.Booter != nil {
		s.SetPolicy(c)
	}
}

// step is something that happens; what is listed often is likely.
func (s *history) step(t *rapid.T) {
	switch draw(t,
		strings.Fields("boot boot boot good good loop loop upgrade upgrade knock poll report fail fail late forge fetch "+
			"twice crash wait wait jump "+
			"restart twin twin operate operate operate operate operate look look images images reload backup restore"), "step") {
	case "boot":
		s.boots(t, s.any(t))
	case "good":
		c := s.any(t)
		s.boots(t, c)
		s.reports(c, true, true)
	case "loop":
		s.loops(t)
	case "upgrade":
		s.upgrades(t)
	case "knock":
		s.knocks(s.any(t))
	case "poll":
		s.polls(s.any(t))
	case "report":
		s.reports(s.any(t), rapid.Bool().Draw(t, "well"), draw(t, indices(4), "root") > 0)
	case "fail":
		s.fails(s.any(t))
	case "late":
		s.late(t)
	case "forge":
		s.forges(t)
	case "fetch":
		s.fetches(t)
	case "twice":
		c := s.any(t)
		s.reports(c, true, true)
		s.reports(c, true, true)
	case "crash":
		s.crashes(s.any(t))
	case "wait":
		s.passes(time.Duration(rapid.Int64Range(0, int64(20*time.Minute)).Draw(t, "wait")))
	case "jump":
		s.passes(time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "jump")))
	case "restart":
		s.restarts()
	case "twin":
		s.twins(t)
	case "operate":
		s.operates(t)
	case "look":
		s.looks(t)
	case "images":
		s.changesImages(t)
	case "reload":
		s.reloads(t)
	case "backup":
		s.backsUp()
	case "restore":
		s.restores(t)
	}
}

// draw is one of a list, each as likely as the others: rapid prefers what
// comes first.
func draw[T any](t *rapid.T, list []T, what string) T {
	return rapid.Custom(func(t *rapid.T) T {
		x := rapid.Uint64().Draw(t, what) * 0x9e3779b97f4a7c15 // zero stays
		return list[(x^x>>32)%uint64(len(list))]
	}).Draw(t, what)
}

// indices are the numbers below n.
func indices(n int) (list []int) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

func (s *history) any(t *rapid.T) *computer {
	return s.computers[draw(t, []int{0, 0, 0, 1, 1, 1, 2, 3}, "computer")]
}

func (s *history) passes(d time.Duration) {
	s.clock = s.clock.Add(d)
	s.Expire()
	s.Tidy()
}

// machine is what the server takes a computer for.
func (s *history) machine(c *computer) (fleet.Machine, bool) {
	return s.state.Find(fleet.Sighting{MAC: c.MAC, UUID: c.UUID})
}

// ask sends a request to the boot network.
func (s *history) ask(method string, key ingot.BootKey, part string, body any) (int, string) {
	return ask(s.t, s.web, method, ingot.BootPath(key, part), body)
}

// is reports whether err is one of those, or nothing.
func is(err error, list ...error) bool {
	return err == nil || slices.ContainsFunc(list, func(e error) bool { return errors.Is(err, e) })
}

func (c *computer) String() string { return fmt.Sprintf("the computer %s %.4s", c.MAC, c.UUID) }

// sighting is a packet of a computer, as firmware or as its loader.
func (c *computer) sighting(loader bool) client.Sighting {
	s := c.Sighting
	if loader {
		s.Kind, s.IPXE = client.Loader, true
	}
	return s
}
