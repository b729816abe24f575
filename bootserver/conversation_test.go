package bootserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// house is a server without sockets for packets, and an operator's client.
type house struct {
	*booter.Booter
	t       testing.TB
	state   state.Store
	images  *image.Store
	catalog *catalog.Catalog
	keys    image.Keys
	loaders map[string][]byte
	port    uint16
	web     *httptest.Server
	base    string      // URL of web
	api     *api.Client // of the local administrator
	server  *Server
	clock   time.Time
	said    logs
	log     *slog.Logger // writes to said
}

// logs is where a log goes; nowhere at first.
type logs struct{ w atomic.Pointer[io.Writer] }

func (l *logs) Write(b []byte) (int, error) {
	if w := l.w.Load(); w != nil {
		return (*w).Write(b)
	}
	return len(b), nil
}

// into lets a log be written to w.
func (l *logs) into(w io.Writer) { l.w.Store(&w) }

func newHouse(t testing.TB) *house {
	t.Helper()
	root := t.TempDir()
	images, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, images: images, catalog: catalog.New(images), keys: keys,
		clock:   time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		loaders: map[string][]byte{"snponly.efi": []byte("a loader"), "ipxe.efi": []byte("another")}}
	if h.state, err = openState(filepath.Join(root, "state")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.state.Close() })
	h.log = slog.New(slog.NewTextHandler(&h.said, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.web = httptest.NewUnstartedServer(nil)
	h.begin(netip.MustParseAddrPort(h.web.Listener.Addr().String()).Port())
	h.web.Start()
	t.Cleanup(h.web.Close)
	h.base = h.web.URL
	if h.server.ca, err = access.OpenCA(filepath.Join(root, "keys"), h.now); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(root, "s"))
	if err != nil {
		t.Fatal(err)
	}
	h.serve(l, &http.Server{ConnContext: access.Peers{}.ConnContext})
	h.api = api.Dial(l.Addr().String())
	return h
}

// signerOf returns what signs the tickets of a store.
func signerOf(t testing.TB, store *image.Store) *image.Signer {
	t.Helper()
	s, err := image.OpenSigner(filepath.Join(store.Root(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// begin makes the server, whose URLs have a port.
func (h *house) begin(port uint16) {
	h.port = port
	h.Booter = booter.New(booter.Config{State: h.state, Catalog: h.catalog, Keys: signerOf(h.t, h.images), Port: port,
		Loaders: h.loaders,
		Policy:  booter.Policy{Ticket: time.Minute}, Now: h.now, Log: h.log})
	before := h.server
	h.server = newServer(h.images, h.catalog, h.state, h.Booter, h.now, h.log)
	if before != nil {
		h.server.ca = before.ca
	}
	h.web.Config.Handler = httpboot.New(h.Booter, h.log)
}

// newServer is a server that listens nowhere, around what answers machines.
func newServer(images *image.Store, c *catalog.Catalog, st state.Store, b *booter.Booter, now func() time.Time,
	log *slog.Logger) *Server {
	s := &Server{state: st, catalog: c, booter: b, log: log, conf: Config{Store: images, Now: now, Version: "test"}}
	began := now()
	s.rollouts = operator.NewRollouts(operator.RolloutsConfig{State: st, Catalog: c, Healing: b.HealingPolicy, Now: now,
		Elapsed: func() time.Duration { return now().Sub(began) }, Log: log})
	s.notifier = s.newNotifier(st)
	s.metrics = newMetrics("test", s.figures)
	s.ready.Store(true)
	return s
}

func (h *house) now() time.Time { return h.clock }

// serve answers operators at l.
func (h *house) serve(l net.Listener, s *http.Server) {
	keeper := &access.Keeper{Find: h.state.Credential, Now: h.now,
		Throttle: access.Throttle{Wait: func(context.Context, time.Duration) {}}}
	s.Handler = h.server.pagesBeside(api.Handler(h.server.operator(), keeper, h.server.metrics.seen),
		h.server.operator(), keeper, nil)
	go func() { _ = s.Serve(l) }() // it ends with the test
	h.t.Cleanup(func() { _ = s.Close() })
}

// image puts a small image into the store.
// newHouseOf is a house with a machine that asked, and was approved as node01
// with lab:v1.
func newHouseOf(t testing.TB) *house {
	t.Helper()
	h := newHouse(t)
	h.put("v1")
	h.ask()
	if _, err := h.api.Approve(t.Context(), machineID,
		api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) put(version string) image.Image {
	h.t.Helper()
	return putSmall(h.t, h.images, h.keys, version)
}

func putSmall(t testing.TB, images *image.Store, keys image.Keys, version string,
	changes ...func(*ingot.ImageManifest)) image.Image {
	t.Helper()
	return putPlanned(t, images, keys, version, "plan of "+version, changes...)
}

// putPlanned is putSmall with the text of the plan.
func putPlanned(t testing.TB, images *image.Store, keys image.Keys, version, plan string,
	changes ...func(*ingot.ImageManifest)) image.Image {
	t.Helper()
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	of := func(name string) string { return file(name, name+" of "+version) }
	m := &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: version, Arguments: []string{"quiet"}}
	for _, change := range changes {
		change(m)
	}
	im, err := images.Put(t.Context(), m,
		image.Files{Kernel: of("kernel"), Initramfs: of("initramfs"), Root: of("root"), Plan: file("plan", plan),
			UKI: of("uki")}, keys.Release.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// firstMachine is UEFI firmware that was just given an address and asks what to load.
var firstMachine = client.Sighting{
	Client: client.Client{MAC: "52:54:00:12:00:01", UUID: "d1b2c3a4-0000-4000-8000-525400120001",
		Kind: client.Firmware, Firmware: ingot.FirmwareUEFIx64},
	Address: netip.MustParseAddr("10.99.0.100"), Server: netip.MustParseAddr("127.0.0.1"),
	Loaders: client.DefaultLoaders[ingot.FirmwareUEFIx64], Begins: true}

const machineID = "m-525400120001"

// ask is firmware, TFTP and loader up to the script; it returns the script.
func (h *house) ask() (boot ingot.BootID, script string) {
	h.t.Helper()
	if s, err := h.Observe(firstMachine); err != nil || s.Loader != "snponly.efi" || s.URL != "" {
		h.t.Fatalf("Seen(firmware) = %+v, %v; want a loader and no script", s, err)
	}
	h.LoaderServed(firstMachine.Address, "snponly.efi", 300_000)
	loader := firstMachine
	loader.Kind, loader.IPXE = client.Loader, true
	what, err := h.Observe(loader)
	if err != nil {
		h.t.Fatal(err)
	}
	m, err := h.api.Machine(h.t.Context(), machineID)
	if err != nil {
		h.t.Fatal(err)
	}
	_, body := h.get(what.URL)
	return m.Boot, body
}

func (h *house) get(url string) (int, string) {
	h.t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (h *house) post(boot ingot.BootID, part string, v any) (int, []byte) {
	h.t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.Post(h.base+ingot.BootPath(h.BootKey(boot), part), "application/json", bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, b
}

const nonce = "0123456789abcdef0123456789abcdef"

// TestWholeConversation is one boot as the server sees it, from a stranger's
// first packet to healthy.
func TestWholeConversation(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	boot, script := h.ask()
	if !strings.Contains(script, "ingot machine approve "+machineID) || strings.Contains(script, "kernel ") {
		t.Errorf("a pending machine gets\n%s\nwant a screen that says how to approve it, and no kernel", script)
	}
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "node01"}); err != nil {
		t.Fatal(err)
	}
	if _, script = h.get(h.BootURL(h.base, boot, "script")); !strings.Contains(script, "ingot assign "+machineID) {
		t.Errorf("an approved machine without an image gets\n%s", script)
	}
	if _, err := h.api.Assign(t.Context(), "node01", "lab:v1", "first"); err != nil {
		t.Fatal(err)
	}
	if _, script = h.get(h.BootURL(h.base, boot, "script")); !strings.Contains(script,
		"ingot.boot="+string(h.BootKey(boot))) || !strings.Contains(script, " quiet ") {
		t.Errorf("the boot script is\n%s", script)
	}
	part := func(name string) string { return h.base + ingot.BootPath(h.BootKey(boot), im.Digest.Hex()+"/"+name) }
	for name, want := range map[string]string{"kernel": "kernel of v1", "initramfs": "initramfs of v1",
		"root":     "root of v1",
		"manifest": string(im.OCI), "signature": im.Signature} {
		if status, got := h.get(part(name)); status != 200 || got != want {
			t.Errorf("GET %s = %d, %d bytes; want 200 and %d bytes", name, status, len(got), len(want))
		}
	}
	status, b := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce,
		Facts: ingot.Facts{Serial: "S1", RAM: 1 << 30}})
	var signed ingot.SignedTicket
	var ticket ingot.Ticket
	if err := errors.Join(json.Unmarshal(b, &signed), json.Unmarshal(signed.Ticket, &ticket)); status != 200 ||
		err != nil {
		t.Fatalf("ticket: %d, %v: %s", status, err, b)
	}
	if err := h.keys.Server.Public.Verify(signed.Ticket, signed.Signature); err != nil {
		t.Error(err)
	}
	if ticket.Nonce != nonce || ticket.Image != im.Digest || ticket.Hostname != "node01" ||
		len(ticket.MachineKey) != 32 || ticket.Expires.Sub(ticket.Issued) != time.Minute {
		t.Errorf("ticket = %+v", ticket)
	}
	h.clock = h.clock.Add(30 * time.Second)
	if status, _ := h.post(boot, "events", ingot.Event{Stage: ingot.StageSwitch}); status != 204 {
		t.Errorf("event: %d", status)
	}
	if status, b := h.post(boot, "report", ingot.Report{Boot: boot, Root: im.Manifest.Root.Digest,
		Healthy: true}); status != 204 {
		t.Errorf("report: %d %s", status, b)
	}
	boots, err := h.api.Boots(t.Context(), "node01", 0)
	if err != nil || len(boots) != 1 || boots[0].Outcome != ingot.OutcomeHealthy ||
		boots[0].Served["root"] != int64(len("root of v1")) {
		t.Fatalf("boots = %+v, %v; want one, healthy, with the root's bytes", boots, err)
	}
	var stages []string
	for _, e := range boots[0].Events {
		stages = append(stages, string(e.Stage))
	}
	if got := strings.Join(stages, " "); !strings.HasPrefix(got, "dhcp loader script ") ||
		!strings.HasSuffix(got, "switch healthy") {
		t.Errorf("stages = %s", got)
	}
	if status, _ := h.get(part("root")); status != 403 {
		t.Errorf("GET root after the boot ended = %d; want 403", status)
	}
}

// TestRefusals: what a stranger on the network can ask gets him nothing.
func TestRefusals(t *testing.T) {
	h := newHouse(t)
	v1, v2 := h.put("v1"), h.put("v2")
	boot, _ := h.ask()
	stranger := ingot.NewBootID([16]byte{9})
	path := func(b ingot.BootID, p string) string { return h.base + ingot.BootPath(h.BootKey(b), p) }
	if status, _ := h.get(path(boot, v1.Digest.Hex()+"/kernel")); status != 403 {
		t.Errorf("a pending machine's GET kernel = %d; want 403", status)
	}
	if status, _ := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce}); status != 403 {
		t.Errorf("a pending machine's ticket = %d; want 403", status)
	}
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	h.get(h.BootURL(h.base, boot, "script"))
	for _, c := range []struct {
		url  string
		want int
	}{
		{path(boot, v2.Digest.Hex()+"/kernel"), 403}, // another image
		{path(stranger, "script"), 404},
		{path(stranger, v1.Digest.Hex()+"/root"), 404},
		{path(boot, v1.Digest.Hex()+"/keys"), 404},
		{path(boot, "../../keys/server.key"), 404},
		{path("zz", "script"), 404},
		{h.base + "/", 404},
		{path(boot, v1.Digest.Hex()+"/kernel"), 200},
	} {
		if status, body := h.get(c.url); status != c.want {
			t.Errorf("GET %s = %d %q; want %d", c.url, status, body, c.want)
		}
	}
	for _, c := range []struct {
		name, part string
		v          any
		want       int
	}{
		{"a short nonce", "ticket", ingot.TicketRequest{Nonce: "1"}, 400},
		{"facts of 2 MiB", "ticket", ingot.TicketRequest{Nonce: nonce,
			Facts: ingot.Facts{CPU: strings.Repeat("x", 2<<20)}}, 413},
		{"an unknown stage", "events", ingot.Event{Stage: "rooted"}, 400},
		{"another boot's report", "report", ingot.Report{Boot: stranger}, 400},
	} {
		if status, _ := h.post(boot, c.part, c.v); status != c.want {
			t.Errorf("%s: %d; want %d", c.name, status, c.want)
		}
	}
}

// TestGetChangesNothing: asking is free of consequences for the fleet.
func TestGetChangesNothing(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	boot, _ := h.ask()
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	before, err := json.Marshal(h.state.Machines())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, p := range []string{"script", im.Digest.Hex() + "/kernel", im.Digest.Hex() + "/root",
			im.Digest.Hex() + "/config"} {
			h.get(h.base + ingot.BootPath(h.BootKey(boot), p))
		}
	}
	after, err := json.Marshal(h.state.Machines())
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("GETs changed the machines (%v)\n%s\n%s", err, before, after)
	}
}

// TestAssignedWhileItAsks: a loader that asks for its script again gets the image
// that was assigned meanwhile, or, when it has files of the one before, that one
// to its end.
func TestAssignedWhileItAsks(t *testing.T) {
	h := newHouse(t)
	v1, v2 := h.put("v1"), h.put("v2")
	boot, _ := h.ask()
	if _, err := h.api.Approve(t.Context(), machineID,
		api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	kernel := func(d ingot.Digest) string { return h.base + ingot.BootPath(h.BootKey(boot), d.Hex()+"/kernel") }
	again := func() string {
		t.Helper()
		_, script := h.get(h.base + ingot.BootPath(h.BootKey(boot), "script"))
		return script
	}
	if script := again(); !strings.Contains(script, kernel(v1.Digest)) {
		t.Fatalf("the first script is\n%s", script)
	}
	if _, err := h.api.Assign(t.Context(), machineID, "lab:v2", ""); err != nil {
		t.Fatal(err)
	}
	if script := again(); !strings.Contains(script, kernel(v2.Digest)) {
		t.Errorf("after an assignment the script is\n%s", script)
	}
	if status, text := h.get(kernel(v2.Digest)); status != 200 {
		t.Fatalf("the kernel that the script names = %d %s", status, text)
	}
	if _, err := h.api.Assign(t.Context(), machineID, "lab:v1", ""); err != nil {
		t.Fatal(err)
	}
	if script := again(); !strings.Contains(script, kernel(v2.Digest)) {
		t.Errorf("with a kernel of v2 the script is\n%s", script)
	}
}

// TestResetStartsANewBoot and ends the old one as silent.
func TestResetStartsANewBoot(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	first, _ := h.ask()
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	h.get(h.BootURL(h.base, first, "script"))
	h.clock = h.clock.Add(time.Minute)
	second, _ := h.ask()
	boots, err := h.api.Boots(t.Context(), machineID, 0)
	if err != nil || first == second || len(boots) != 2 || boots[0].Outcome != ingot.OutcomeSilent {
		t.Fatalf("after a reset: %d boots (%v), the first %q; want 2, the first silent", len(boots), err,
			boots[0].Outcome)
	}
	if _, script := h.get(h.BootURL(h.base, first, "script")); !strings.Contains(script, "this boot is over") {
		t.Errorf("the script of an old boot is\n%s", script)
	}
	h.clock = h.clock.Add(time.Hour)
	h.Expire()
	if boots, err = h.api.Boots(t.Context(), machineID, 0); err != nil || boots[1].Outcome != ingot.OutcomeSilent {
		t.Errorf("an hour later the second boot is %q, %v; want silent", boots[1].Outcome, err)
	}
}

// TestPendingIsBounded: strangers cannot fill the state, and cannot keep machines out: a machine that
// a rule approves, or that is known, is always recorded. Records of strangers expire, those that
// asked for nothing soon, and sooner while there is no room.
func TestPendingIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("thousands of synced writes")
	}
	h := newHouse(t)
	flood := func(from int) {
		t.Helper()
		inParts(t, h.state, state.MaxPending, func(tx state.Tx, i int) { // as if they had all come
			id := ingot.MachineID(fmt.Sprintf("m-%012d", from+i))
			tx.StoreMachine(fleet.Machine{ID: id, State: fleet.Pending, MACs: []string{fmt.Sprint(from + i)}, FirstSeen: h.clock,
				LastSeen: h.clock})
		})
	}
	inParts(t, h.state, 1, func(tx state.Tx, _ int) {
		tx.StoreMachine(fleet.Machine{ID: "m-known", State: fleet.Approved, MACs: []string{second.MAC}})
	})
	flood(0)
	if _, err := h.Observe(firstMachine); !errors.Is(err, booter.ErrTooManyPending) {
		t.Errorf("Observe(one more stranger) = %v; want ErrTooManyPending", err)
	}
	if _, err := h.Observe(second); err != nil {
		t.Errorf("Observe(a known machine) = %v", err)
	}
	h.SetPolicy(booter.Policy{Rules: []fleet.Rule{{MAC: "52:54:00:aa:*", Approve: true}}})
	ruled := firstMachine
	ruled.MAC, ruled.UUID = "52:54:00:aa:00:01", "4c4c4544-0000-1000-8000-0000000000aa"
	if _, err := h.Observe(ruled); err != nil {
		t.Errorf("Observe(a machine that a rule approves) = %v", err)
	}
	if m, err := h.api.Machine(t.Context(), ruled.MAC); err != nil || m.State != api.Approved {
		t.Errorf("that machine is %s, %v; want it approved", m.State, err)
	}
	h.clock = h.clock.Add(fleet.CrowdedAge + time.Second)
	if _, err := h.Observe(firstMachine); err != nil {
		t.Errorf("Observe(a stranger, when the others were not heard from for a while) = %v", err)
	}
	if n := len(h.state.Machines()); n != 3 {
		t.Errorf("%d machines are recorded then; want 3", n)
	}
	flood(10_000)
	h.clock = h.clock.Add(fleet.StrangerAge + time.Second)
	h.Tidy()
	if n := len(h.state.Machines()); n != 2 {
		t.Errorf("an hour after another flood %d machines are recorded; want the 2 approved ones", n)
	}
}

// TestPendingExpires: only records that nobody needs expire.
func TestPendingExpires(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	asked := fleet.Boot{ID: "1", Events: []fleet.Event{{Event: ingot.Event{Stage: ingot.StageScript}}}}
	for _, c := range []struct {
		name    string
		change  func(*fleet.Machine)
		boot    fleet.Boot
		unseen  time.Duration
		crowded bool
		want    bool
	}{
		{"a stranger", func(*fleet.Machine) {}, fleet.Boot{}, 61 * time.Minute, false, true},
		{"a stranger of just now", func(*fleet.Machine) {}, fleet.Boot{}, 59 * time.Minute, false, false},
		{"a stranger, crowded", func(*fleet.Machine) {}, fleet.Boot{}, 6 * time.Minute, true, true},
		{"one that asked for its script", func(*fleet.Machine) {}, asked, 29 * 24 * time.Hour, true, false},
		{"one that asked for its script long ago", func(*fleet.Machine) {}, asked, 31 * 24 * time.Hour, false, true},
		{"approved", func(m *fleet.Machine) { m.State = fleet.Approved }, fleet.Boot{}, 1000 * time.Hour, true, false},
		{"retired", func(m *fleet.Machine) { m.State = fleet.Retired }, fleet.Boot{}, 1000 * time.Hour, true, false},
		{"named", func(m *fleet.Machine) { m.Name = "node01" }, fleet.Boot{}, 1000 * time.Hour, true, false},
		{"assigned", func(m *fleet.Machine) { m.Assignment.Image = "sha256:1" }, fleet.Boot{}, 1000 * time.Hour, true, false},
		{"imported", func(m *fleet.Machine) { m.LastSeen = time.Time{} }, fleet.Boot{}, 0, true, false},
	} {
		m := fleet.Machine{State: fleet.Pending, LastSeen: now.Add(-c.unseen)}
		c.change(&m)
		if got := fleet.PendingExpired(m, c.boot, c.crowded, now); got != c.want {
			t.Errorf("%s: PendingExpired = %v; want %v", c.name, got, c.want)
		}
	}
}

// TestNoCard: addresses that no card has never become machines, also if the rest is known.
func TestNoCard(t *testing.T) {
	h := newHouse(t)
	for _, mac := range []string{"ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "01:00:5e:00:00:01", "33:33:00:00:00:01"} {
		c := firstMachine
		c.MAC = mac
		if _, err := h.Observe(c); !errors.Is(err, booter.ErrNoCard) {
			t.Errorf("Observe(%s) = %v; want ErrNoCard", mac, err)
		}
	}
	if list := h.state.Machines(); len(list) != 0 {
		t.Errorf("machines %+v are recorded", list)
	}
}

func TestOperatorsMistakes(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.ask()
	for _, c := range []struct {
		name, want string
		call       func() error
	}{
		{"unknown machine", "no machine matches",
			func() error { _, err := h.api.Machine(t.Context(), "nobody"); return err }},
		{"unknown image", "no such image", func() error {
			_,
				err := h.api.Assign(t.Context(), machineID, "lab:v9", "")
			return err
		}},
		{"bad name", "cannot be a host name", func() error {
			_, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "Bad Name"})
			return err
		}},
		{"the ID of a machine as the name of one that is approved", "looks like the ID", func() error {
			_, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "m-525410000005"})
			return err
		}},
		{"a MAC address as a new name", "looks like the ID", func() error {
			_, err := h.api.Rename(t.Context(), machineID, "52-54-10-00-00-05")
			return err
		}},
		{"nothing to roll back to", "no other image was ever healthy",
			func() error { _, err := h.api.Rollback(t.Context(), machineID); return err }},
		{"a grant without a disk", "names one disk", func() error {
			_,
				err := h.api.Grant(t.Context(), machineID, api.GrantRequest{Volume: "data", For: time.Hour})
			return err
		}},
		{"a grant for ever", "cannot last", func() error {
			_,
				err := h.api.Grant(t.Context(), machineID, api.GrantRequest{Volume: "data", Disk: "S", For: 1000 * time.Hour})
			return err
		}},
	} {
		err := c.call()
		var p api.Problem
		if !errors.As(err, &p) || !strings.Contains(p.Detail, c.want) || p.Hint() == "" && c.name != "unknown image" {
			t.Errorf("%s: %v (%+v); want a problem with %q and the next step", c.name, err, p, c.want)
		}
	}
}
