package bootserver

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
)

// verifies changes the manifest of an image to that of one that verifies its kernel arguments and has a
// shell in its initramfs.
func verifies(m *ingot.ImageManifest) {
	m.Features = []ingot.Feature{ingot.FeatureArguments, ingot.FeatureShell}
}

// newLook is a house with a machine that was healthy with lab:v1, which can do all; lab:old cannot.
func newLook(t *testing.T) *house {
	t.Helper()
	h := newHouse(t)
	putSmall(t, h.images, h.keys, "v1", verifies)
	putSmall(t, h.images, h.keys, "rescue")
	putSmall(t, h.images, h.keys, "old")
	h.ask()
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	h.attempt("", "")
	return h
}

func (h *house) once(q api.OnceRequest) {
	h.t.Helper()
	if _, err := h.api.Once(h.t.Context(), "node01", q); err != nil {
		h.t.Fatal(err)
	}
}

// ticketOf requests a ticket of a boot.
func (h *house) ticketOf(boot ingot.BootID) (t ingot.Ticket) {
	h.t.Helper()
	status, text := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce, Facts: ingot.Facts{RAM: 1 << 30}})
	var signed ingot.SignedTicket
	if err := errors.Join(json.Unmarshal(text, &signed), json.Unmarshal(signed.Ticket, &t)); status != 200 || err != nil {
		h.t.Fatalf("ticket: %d %s (%v)", status, text, err)
	}
	return t
}

func (h *house) node() fleet.Machine {
	h.t.Helper()
	m, _ := h.state.Machine(machineID)
	return m
}

// TestOnceArguments: exactly one boot has other arguments: script and signed ticket have them. A boot
// that ends in its loader leaves them, one that starts the kernel does not, and what becomes of it counts
// neither for nor against the image.
func TestOnceArguments(t *testing.T) {
	h := newLook(t)
	before := h.node()
	h.once(api.OnceRequest{Arguments: []string{"systemd.unit=rescue.target", "debug"}, Shell: true, Why: "look"})
	if got := h.why(); !strings.Contains(got, "At its next restart it boots lab:v1 with kernel arguments "+
		"systemd.unit=rescue.target debug and a shell in the initramfs once, as was decided at 12:00; after that it boots "+
		"lab:v1 as before.") {
		t.Errorf("before that boot, why = %q", got)
	}
	const want = " quiet systemd.unit=rescue.target debug ingot.server="
	first, script := h.ask() // and is switched off in its loader
	if !strings.Contains(script, want) || h.node().Once == nil {
		t.Fatalf("the script of a boot with other arguments is\n%s", script)
	}
	second, script := h.ask()
	if first == second || !strings.Contains(script, want) {
		t.Errorf("after a boot that ended in its loader the script is\n%s", script)
	}
	h.Served(second, "kernel", 1, true)
	if h.node().Once == nil {
		t.Error("half of what starts used up the boot")
	}
	h.Served(second, "initramfs", 1, true)
	if h.node().Once != nil {
		t.Error("a boot that has kernel and initramfs did not use it up")
	}
	ticket := h.ticketOf(second)
	if !slices.Equal(ticket.Arguments, []string{"systemd.unit=rescue.target", "debug"}) || !ticket.Shell ||
		ticket.Restart || ticket.Deadline != fleet.OnceLimit {
		t.Errorf("its ticket has %q, shell %t, restart %t, deadline %s", ticket.Arguments, ticket.Shell, ticket.Restart,
			ticket.Deadline)
	}
	if got := h.why(); !strings.Contains(got, "Only this boot is of lab:v1 with kernel arguments "+
		"systemd.unit=rescue.target debug and a shell in the initramfs; at its next restart the machine boots lab:v1 as "+
		"before.") {
		t.Errorf("in that boot, why = %q", got)
	}
	h.post(second, "events", ingot.Event{Stage: ingot.StageAgent, Error: "no"})
	third, script := h.ask()
	if strings.Contains(script, "rescue.target") {
		t.Errorf("the next script is\n%s", script)
	}
	h.Served(third, "initramfs", 1, true)
	if ticket := h.ticketOf(third); ticket.Arguments != nil || ticket.Shell || ticket.Deadline != 10*time.Minute {
		t.Errorf("the next ticket is %+v", ticket)
	}
	after := h.node()
	if !after.Trial.IsZero() || after.Setback != nil || after.LastHealthy != before.LastHealthy {
		t.Errorf("the boot counted: trial %+v, setback %+v", after.Trial, after.Setback)
	}
	boots, err := h.api.Boots(t.Context(), "node01", 0)
	if err != nil {
		t.Fatal(err)
	}
	var with []bool
	for _, b := range boots[len(boots)-3:] {
		with = append(with, b.Once != nil)
	}
	if !slices.Equal(with, []bool{true, true, false}) {
		t.Errorf("boots say %v of what they did once", with)
	}
	h.ledgerSays("for one boot: lab:v1 with kernel arguments systemd.unit=rescue.target debug and a shell in the "+
		"initramfs: look", "this boot only: lab:v1 with kernel arguments")
}

// ledgerSays looks for texts in the ledger of the machine.
func (h *house) ledgerSays(want ...string) {
	h.t.Helper()
	list, err := h.api.Events(h.t.Context(), api.EventsRequest{Machine: "node01", Newest: true, Limit: 500})
	if err != nil {
		h.t.Fatal(err)
	}
	text := ""
	for _, e := range list.Events {
		text += e.Text + "\n"
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			h.t.Errorf("the ledger does not say %q:\n%s", w, text)
		}
	}
}

// TestOnceImage: another image is booted once, also on a machine that is held, and becomes neither what
// the machine falls back to nor what it is rolled back to.
func TestOnceImage(t *testing.T) {
	h := newLook(t)
	if _, err := h.api.Assign(t.Context(), "node01", "lab:old", ""); err != nil {
		t.Fatal(err)
	}
	for range fleet.DefaultAttempts {
		h.attempt(ingot.StageRoot, "no")
	}
	h.once(api.OnceRequest{Image: "lab:rescue"})
	boot, _ := h.attempt("", "")
	if b, _ := h.state.Boot(boot); b.Image.Name != "lab:rescue" || b.Outcome != ingot.OutcomeHealthy {
		t.Fatalf("boots %s, %s; want lab:rescue", b.Image.Name, b.Outcome)
	}
	m := h.node()
	if m.LastHealthy.Name != "lab:v1" || m.Once != nil || m.Setback == nil || m.Setback.To.Name != "lab:v1" {
		t.Errorf("after one boot of lab:rescue: %+v", m)
	}
	if slices.ContainsFunc(m.Healthy, func(r fleet.ImageRef) bool { return r.Name == "lab:rescue" }) {
		t.Error("lab:rescue is an image to roll back to")
	}
	if boot, _ = h.attempt("", ""); h.imageOf(boot) != "lab:v1" {
		t.Errorf("the next boot is of %s; want what it fell back to", h.imageOf(boot))
	}
	h.once(api.OnceRequest{Image: "lab:rescue"})
	h.attempt(ingot.StageRoot, "no")
	if boot, _ = h.attempt("", ""); h.imageOf(boot) != "lab:v1" {
		t.Errorf("after one boot that failed the next one is of %s", h.imageOf(boot))
	}
}

func (h *house) imageOf(boot ingot.BootID) string {
	b, _ := h.state.Boot(boot)
	return b.Image.Name
}

// TestOnceCancelled: an operator cancels it, and so does every other decision about what the machine
// boots. An image that is to be booted once stays.
func TestOnceCancelled(t *testing.T) {
	h := newLook(t)
	ctx := t.Context()
	for name, cancel := range map[string]func() error{
		"cancel": func() error { _, err := h.api.CancelOnce(ctx, "node01"); return err },
		"assign": func() error { _, err := h.api.Assign(ctx, "node01", "lab:v1", ""); return err },
		"resume": func() error { _, err := h.api.Resume(ctx, "node01"); return err },
		"retire": func() error { _, err := h.api.Retire(ctx, "node01"); return err },
	} {
		if _, err := h.api.Approve(ctx, "node01", api.ApproveRequest{}); err != nil {
			t.Fatal(err)
		}
		h.once(api.OnceRequest{Image: "lab:rescue"})
		_, err := h.api.RemoveImage(ctx, "lab:rescue")
		if err == nil || !strings.Contains(err.Error(), "is to boot it once") {
			t.Errorf("removing the image: %v; want that node01 is to boot it once", err)
		}
		if err := cancel(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if m := h.node(); m.Once != nil {
			t.Errorf("%s leaves %+v", name, m.Once)
		}
	}
	if _, err := h.api.CancelOnce(ctx, "node01"); !isProblem(err, api.CodeNoOnce) {
		t.Errorf("cancelling nothing: %v; want %s", err, api.CodeNoOnce)
	}
}

func isProblem(err error, code api.Code) bool {
	var p api.Problem
	return errors.As(err, &p) && p.Code == code
}

// TestOnceRefused: what a machine or its image cannot do is refused, with a reason, and changes nothing.
func TestOnceRefused(t *testing.T) {
	h := newLook(t)
	before := mustJSON(t, h.node())
	long := make([]string, 20)
	for i := range long {
		long[i] = "debug"
	}
	for _, c := range []struct {
		q    api.OnceRequest
		code api.Code
		want string
	}{
		{api.OnceRequest{}, api.CodeInvalidRequest, "needs an image, kernel arguments or a shell"},
		{api.OnceRequest{Arguments: []string{"a b"}}, api.CodeInvalidArgument, `"a b"`},
		{api.OnceRequest{Arguments: []string{"a=${net0/mac}"}}, api.CodeInvalidArgument, "$"},
		{api.OnceRequest{Arguments: []string{"||"}}, api.CodeInvalidArgument, "||"},
		{api.OnceRequest{Arguments: []string{"--"}}, api.CodeInvalidArgument, "--"},
		{api.OnceRequest{Arguments: []string{`a="b"`}}, api.CodeInvalidArgument, `a=`},
		{api.OnceRequest{Arguments: []string{"ingot.boot=x"}}, api.CodeInvalidArgument, "belongs to ingot"},
		{api.OnceRequest{Arguments: []string{"rdinit=/bin/sh"}}, api.CodeInvalidArgument, "belongs to ingot"},
		{api.OnceRequest{Arguments: long}, api.CodeInvalidArgument, "at most 16"},
		{api.OnceRequest{Image: "lab:old", Arguments: []string{"debug"}}, api.CodeImageUnable,
			"lab:old does not verify kernel arguments"},
		{api.OnceRequest{Image: "lab:old", Shell: true}, api.CodeImageUnable, "its profile does not permit one"},
		{api.OnceRequest{Image: "lab:none"}, api.CodeImageNotFound, "lab:none"},
		{api.OnceRequest{Image: "lab:v1", Limit: time.Second}, api.CodeOnceLimit, "1s"},
	} {
		_, err := h.api.Once(t.Context(), "node01", c.q)
		if !isProblem(err, c.code) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v; want %s with %q", c.q, err, c.code, c.want)
		}
	}
	if after := mustJSON(t, h.node()); string(after) != string(before) {
		t.Errorf("what was refused changed the machine:\n%s\n%s", before, after)
	}
	boot, _ := h.ask()
	h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce, Facts: ingot.Facts{RAM: 1 << 30, SecureBoot: true}})
	_, err := h.api.Once(t.Context(), "node01", api.OnceRequest{Arguments: []string{"debug"}})
	if !isProblem(err, api.CodeSecureBoot) || !strings.Contains(err.Error(), "starts with Secure Boot") {
		t.Errorf("arguments of a machine with Secure Boot: %v", err)
	}
	h.once(api.OnceRequest{Image: "lab:rescue"})
}

// TestOnceOfUKI: firmware that loads UKIs gets our loader for one boot with other arguments, and the UKI
// for one boot of another image. If it refuses the loader, as with Secure Boot, it gets the UKI again.
func TestOnceOfUKI(t *testing.T) {
	h := newLook(t)
	f := ingot.FirmwareUEFIx64HTTP
	again := func() string { // the firmware starts over
		h.clock = h.clock.Add(2 * time.Minute)
		url := h.seen(asks(f, true)).URL
		h.seen(asks(f, false))
		return url
	}
	up := func(url string) { // what it loads comes up
		h.t.Helper()
		h.get(url)
		h.post(h.node().Boot, "events", ingot.Event{Stage: ingot.StageInit})
	}
	url := again()
	if up(url); !strings.HasSuffix(url, "/uki.efi") {
		t.Fatalf("the firmware is offered %s; want the UKI", url)
	}
	h.once(api.OnceRequest{Image: "lab:rescue"})
	if url = again(); !strings.HasSuffix(url, "/uki.efi") {
		t.Errorf("for one boot of another image the firmware is offered %s; want its UKI", url)
	}
	if up(url); h.imageOf(h.node().Boot) != "lab:rescue" || h.node().Once != nil {
		t.Errorf("the boot is of %s, and %v is left", h.imageOf(h.node().Boot), h.node().Once)
	}
	h.once(api.OnceRequest{Arguments: []string{"debug"}})
	if url = again(); !strings.HasSuffix(url, "/snponly.efi") {
		t.Fatalf("for one boot with arguments the firmware is offered %s; want our loader", url)
	}
	h.get(url)
	loader := asks(f, true)
	loader.Kind, loader.IPXE, loader.HTTP = client.Loader, true, false
	if _, script := h.get(h.seen(loader).URL); !strings.Contains(script, " quiet debug ingot.server=") {
		t.Errorf("the script of that boot is\n%s", script)
	}
	h.Served(h.node().Boot, "initramfs", 1, true)
	if url = again(); !strings.HasSuffix(url, "/uki.efi") {
		t.Errorf("after it the firmware is offered %s; want the UKI", url)
	}
	up(url)
	h.once(api.OnceRequest{Arguments: []string{"debug"}})
	h.get(again()) // and does not start it
	if url = again(); !strings.HasSuffix(url, "/uki.efi") || h.node().Once != nil {
		t.Errorf("after it refused the loader the firmware is offered %s, and %v is left; want the UKI", url, h.node().Once)
	}
	h.ledgerSays("no longer for one boot: lab:v1 with kernel arguments debug: the firmware did not start snponly.efi")
}

// TestTamperedArguments: a machine that refuses its arguments does not fall back to an older image,
// which might not verify them, and why says what happened.
func TestTamperedArguments(t *testing.T) {
	h := newLook(t)
	for range 2 * fleet.DefaultAttempts {
		boot, _ := h.ask()
		h.Served(boot, "initramfs", 1, true)
		h.ticketOf(boot)
		h.post(boot, "events", ingot.Event{Stage: ingot.StageRoot, Code: ingot.FailureArguments,
			Error: "the kernel command line is not the one that image and ticket allow: it has rd.break"})
	}
	if m := h.node(); m.Setback != nil || !m.Trial.IsZero() {
		t.Errorf("changed arguments count against the image: %+v %+v", m.Trial, m.Setback)
	}
	if got := h.why(); !strings.HasPrefix(got, "The machine refused its kernel arguments: the kernel command line is not "+
		"the one that image and ticket allow: it has rd.break") || !strings.Contains(got, "does not count against lab:v1") {
		t.Errorf("why = %q", got)
	}
}
