package bootserver

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/internal/wire"
)

// tab is a page in a headless Chromium.
type tab struct {
	t    testing.TB
	ctx  context.Context
	base string

	mu     sync.Mutex
	faults []string // what the browser complained about, and requests to other hosts
}

// newTab starts a browser. At the end of the test it must have had nothing to complain about.
func newTab(t testing.TB, base string) *tab {
	t.Helper()
	wire.Need(t, "chromium")
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox,
		chromedp.Flag("ignore-certificate-errors", true), chromedp.WindowSize(1280, 900), chromedp.UserDataDir(t.TempDir()),
		// No name is looked up: without the internet that may take long, and pages of others wait for it.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	ctx, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, stop = chromedp.NewContext(ctx)
	t.Cleanup(stop)
	ctx, stop = context.WithTimeout(ctx, 3*time.Minute)
	t.Cleanup(stop)
	b := &tab{t: t, ctx: ctx, base: base}
	if err := chromedp.Listen(ctx, b.heard); err != nil {
		t.Fatal(err)
	}
	return b
}

// heard keeps what must not happen.
func (b *tab) heard(event any) {
	fault := ""
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err != nil || u.Scheme != "data" && u.Scheme+"://"+u.Host != b.base {
			fault = "a request to another host: " + e.Request.URL
		}
	case *runtime.EventConsoleAPICalled:
		fault = fmt.Sprintf("console: %s", e.Type)
	case *runtime.EventExceptionThrown:
		fault = "exception: " + e.ExceptionDetails.Text
	case *log.EventEntryAdded:
		fault = fmt.Sprintf("log: %s %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
	}
	if fault != "" {
		b.mu.Lock()
		b.faults = append(b.faults, fault)
		b.mu.Unlock()
	}
}

// calm fails the test for what the browser complained about.
func (b *tab) calm() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.faults {
		b.t.Error(f)
	}
}

// action is something that is done in a tab.
type action = chromedp.Action[chromedp.Void]

func click(selector string) action   { return chromedp.Click(chromedp.CSS(selector)) }
func visible(selector string) action { return chromedp.WaitVisible(chromedp.CSS(selector)) }
func enter(selector, text string) action {
	return chromedp.SendKeys(chromedp.CSS(selector), text)
}
func keys(text string) action { return chromedp.KeyEvent(text) }
func ctrlK() action           { return chromedp.KeyEvent("k", chromedp.KeyModifiers(chromedp.ModifierCtrl)) }

// patience is how long something in a page may take.
const patience = 20 * time.Second

func (b *tab) do(what string, actions ...action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatalf("%s: %v; the page is\n%s", what, err, eval[string](b, "document.documentElement.outerHTML"))
	}
}

// eval evaluates an expression in the page.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Errorf("%s: %v", expression, err)
	}
	return v
}

// until waits until an expression of the page is true.
func (b *tab) until(what, expression string) {
	b.t.Helper()
	for end := time.Now().Add(patience); !eval[bool](b, "!!("+expression+")"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("%s: not within %s; the page is\n%s", what, patience,
				eval[string](b, "document.documentElement.outerHTML"))
		}
	}
}

// tabTo moves the focus by the Tab key alone, to the first element that a selector matches.
func (b *tab) tabTo(selector string) {
	b.t.Helper()
	for range 60 {
		b.do("focus", keys(kb.Tab))
		if eval[bool](b, fmt.Sprintf("document.activeElement.matches(%q)", selector)) {
			return
		}
	}
	b.t.Fatalf("the Tab key does not reach %s", selector)
}

// bootsHealthy plays the machine's boot until it is healthy.
func (s *street) bootsHealthy(boot ingot.BootID, root ingot.Digest) {
	s.t.Helper()
	s.get(s.BootURL(s.base, boot, "script"))
	if status, body := s.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce,
		Facts: ingot.Facts{Serial: "S1", RAM: 1 << 30}}); status != 200 {
		s.t.Fatalf("ticket = %d %s", status, body)
	}
	if status, body := s.post(boot, "report", ingot.Report{Boot: boot, Root: root, Healthy: true}); status != 204 {
		s.t.Fatalf("report = %d %s", status, body)
	}
}

// TestBrowserByMouse: log in, approve a machine with an image, and see it become healthy without a
// reload.
func TestBrowserByMouse(t *testing.T) {
	s := newStreet(t)
	im := s.put("v1")
	boot, _ := s.ask()
	token := s.token("ops", access.Operate)
	b := newTab(t, s.tls)
	b.do("log in", chromedp.Navigate(s.tls+"/login?next=/pending"), enter("#token", token),
		click("form .btn.main"), visible("#p-"+machineID))
	b.do("approve", click("#p-"+machineID+" input"), enter("input[name=names]", "node01"),
		chromedp.SetValue(chromedp.CSS("select[name=image]"), "lab:v1"), click(".bulk .btn.main"),
		visible("p.notice"))
	b.do("look at the fleet", click(".side a[href='/']"), visible("#c-"+machineID))
	b.until("the page is live", `!document.querySelector("#live").hidden`)
	eval[bool](b, `window.same = true`)
	s.bootsHealthy(boot, im.Manifest.Root.Digest)
	b.until("the machine is healthy", fmt.Sprintf(`document.querySelector("#c-%s").dataset.s == "healthy"`, machineID))
	b.until("the page was not reloaded", `window.same == true`)
	s.put("v2")
	b.do("open the rollouts", click(".side a[href='/rollouts']"), visible(".ways"))
	b.do("look at the plan", click(".ways a[href^='/rollouts/new']"), visible(".plan"))
	if n := len(s.state.Rollouts()); n != 0 {
		t.Fatalf("looking at the plan started %d rollouts", n)
	}
	b.do("start it", click(".plan .btn.main"), visible("#waves"))
	b.until("the page is live", `!document.querySelector("#live").hidden`)
	eval[bool](b, `window.same = true`)
	s.failsUntilHalted()
	b.until("it halts", `document.querySelector("#head .badge").dataset.s == "halted"`)
	b.until("it says why", `document.querySelector("#why").innerText.includes("node01 failed with lab:v2 until it")`)
	b.until("the page was not reloaded", `window.same == true`)
	b.do("abort", click("#head .btn.main"), visible(".decide"))
	if r := s.rollout("r1"); r.State != "halted" {
		t.Fatalf("without a confirmation it is %s", r.State)
	}
	b.do("confirm", enter("input[name=why]", "broken"), click(".decide .btn.main"), visible("p.notice"))
	s.server.rollouts.Tick(t.Context())
	b.until("it is back", `document.querySelector("#head .badge").dataset.s == "aborted" &&
		!document.querySelector("#head .btn")`)
	if m := s.machine(machineID); m.Assignment.Name != "lab:v1" {
		t.Errorf("after the abort the machine is assigned %q", m.Assignment.Name)
	}
	b.calm()
}

// failsUntilHalted plays boots of the rollout's image that fail, until it halts.
func (s *street) failsUntilHalted() {
	s.t.Helper()
	s.server.rollouts.Tick(s.t.Context())
	for range fleet.DefaultAttempts {
		s.attempt(ingot.StageSwitch, "/sbin/init: no such file")
		s.server.rollouts.Tick(s.t.Context())
	}
	if r := s.rollout("r1"); r.State != "halted" {
		s.t.Fatalf("the rollout is %s: %+v", r.State, r.Stop)
	}
}

// TestBrowserByKeyboard: the same without a mouse, and an assignment by the palette.
func TestBrowserByKeyboard(t *testing.T) {
	s := newStreet(t)
	im := s.put("v1")
	s.put("v2")
	boot, _ := s.ask()
	token := s.token("ops", access.Operate)
	b := newTab(t, s.tls)
	b.do("log in", chromedp.Navigate(s.tls+"/login"), visible("#token"), keys(token+kb.Enter),
		visible("#open"))
	b.do("open the palette", ctrlK(), visible("#palette"))
	b.do("find a page", keys("pending page"))
	b.until("it is found", `document.querySelector("#found [aria-selected=true]")?.pathname == "/pending"`)
	b.do("open it", keys(kb.Enter), visible("#p-"+machineID))
	b.tabTo("input[name=names]")
	b.do("name", keys("node01"))
	b.tabTo("select[name=image]")
	b.do("choose the image", keys("lab:v1"))
	b.tabTo("#p-" + machineID + " input")
	b.do("choose the machine", keys(" "))
	b.do("send the form", chromedp.Focus(chromedp.CSS("#main"))) // as a reader goes back to the top of the content
	b.tabTo(".bulk .btn.main")
	b.do("approve", keys(kb.Enter), visible("p.notice"))
	if m := s.machine(machineID); m.Name != "node01" || m.Assignment.Name != "lab:v1" {
		t.Fatalf("approved as %q with %q", m.Name, m.Assignment.Name)
	}
	s.bootsHealthy(boot, im.Manifest.Root.Digest)
	b.do("open the palette", ctrlK(), visible("#palette"),
		keys("assign node01"))
	b.until("the action is found", `document.querySelector("#found [aria-selected=true]")?.hash == "#assign"`)
	b.do("open it", keys(kb.Enter), visible("#assign"))
	b.until("the machine is healthy", `document.querySelector("#head .badge")?.dataset.s == "healthy"`)
	b.tabTo("#assign select")
	b.do("choose the image", keys("lab:v2"))
	b.tabTo("#assign .btn")
	b.do("assign", keys(kb.Enter), visible("p.notice"))
	if m := s.machine(machineID); m.Assignment.Name != "lab:v2" {
		t.Errorf("assigned %q; want lab:v2", m.Assignment.Name)
	}
	b.until("the machine is outdated", `document.querySelector("#head .badge").dataset.s == "outdated"`)
	s.put("v3")
	b.do("open the palette", ctrlK(), visible("#palette"), keys("start rollout"))
	b.until("the action is found", `document.querySelector("#found [aria-selected=true]")?.pathname == "/rollouts/new"`)
	b.do("open it", keys(kb.Enter), visible("form.start"))
	b.tabTo("select[name=image]")
	b.do("choose the image", keys("lab:v3"))
	b.tabTo("input[name=to]")
	b.do("name the machines", keys("node01"+kb.Enter), visible(".plan"))
	b.tabTo(".plan .btn.main")
	b.do("start it", keys(kb.Enter), visible("#waves"))
	s.failsUntilHalted()
	b.until("it halts", `document.querySelector("#head .badge").dataset.s == "halted"`)
	b.tabTo("#head a[href$='/resume']")
	b.do("resume", keys(kb.Enter), visible(".decide"))
	b.tabTo("input[name=why]")
	b.do("say why", keys("once more"))
	b.tabTo(".decide .btn.main")
	b.do("confirm", keys(kb.Enter), visible("p.notice"))
	if r := s.rollout("r1"); r.State == "halted" || r.Log[len(r.Log)-1].Why != "once more" {
		t.Errorf("after a resume it is %s: %+v", r.State, r.Log)
	}
	b.calm()
}

// TestBrowserReboots: a machine is ordered to reboot after its drain hooks, by the palette and the keyboard alone; the
// page follows the order, and the order is withdrawn by mouse.
func TestBrowserReboots(t *testing.T) {
	s := newStreet(t)
	s.orderable()
	b := newTab(t, s.tls)
	b.do("log in", chromedp.Navigate(s.tls+"/login"), enter("#token", s.token("ops", access.Operate)),
		click("form .btn.main"), visible("#open"))
	b.do("open the palette", ctrlK(), visible("#palette"), keys("reboot node01"))
	b.until("the action is found", `document.querySelector("#found [aria-selected=true]")?.hash == "#reboot"`)
	if said := eval[string](b, `document.querySelector("#found [aria-selected=true]").innerText`); !strings.Contains(said,
		"ingot machine reboot node01") {
		t.Errorf("the palette says %q; want the command", said)
	}
	b.do("open it", keys(kb.Enter), visible("#reboot"))
	b.tabTo("#reboot input[name=why]")
	b.do("say why", keys("new fan"))
	b.tabTo("#reboot select[name=drain]")
	b.do("choose", keys("must"))
	b.tabTo("#reboot .btn")
	b.do("order it", keys(kb.Enter), visible("p.notice"))
	if o := s.boot().Ordered; o == nil || o.Drain != ingot.DrainRequired || o.Why != "new fan" {
		t.Fatalf("the order is %+v", o)
	}
	b.until("the page is live", `!document.querySelector("#live").hidden`)
	eval[bool](b, `window.same = true`)
	b.until("it says what becomes of it", `document.querySelector("#why").innerText.includes("acknowledged it yet")`)
	s.drains("batch")
	b.until("it follows the order", `document.querySelector("#why").innerText.includes("It drains before it reboots: `+
		`hook batch (ordered at ") && document.querySelector("#why").innerText.includes(": new fan)")`)
	b.until("the page was not reloaded", `window.same == true`)
	b.do("withdraw it", click("#head form[action$='/reboot/cancel'] .btn"))
	b.until("it says so", `document.querySelector("#why")?.innerText.includes("because the order was withdrawn") &&
		!document.querySelector("#head form[action$='/reboot/cancel']")`)
	if o := s.boot().Ordered; o.State != ingot.OrderWithdrawn {
		t.Errorf("the order is %s; want it withdrawn", o.State)
	}
	b.calm()
}

// orderable approves the first machine as node01, which runs an image well that takes orders, and returns its boot.
func (s *street) orderable() ingot.BootID {
	s.t.Helper()
	im, orders := s.put("v1"), putSmall(s.t, s.images, s.keys, "v9", orderly)
	boot, _ := s.ask()
	if _, err := s.api.Approve(s.t.Context(), machineID, api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		s.t.Fatal(err)
	}
	s.bootsHealthy(boot, im.Manifest.Root.Digest)
	s.runs(orders)
	return boot
}

// drains is what the first machine says when it runs a drain hook, as it was ordered to.
func (s *street) drains(hook string) {
	s.t.Helper()
	s.update(func(tx state.Tx) {
		m, _ := tx.Machine(machineID)
		b, _ := tx.Boot(m.Boot)
		d := fleet.NewDecision(m, b, fleet.BootPolicy{}, nil, fleet.Actor{}, s.clock)
		step := ingot.OrderStep{Counter: b.Ordered.Counter, State: ingot.OrderDraining, Hook: hook}
		if err := d.OrderStep(step); err != nil {
			s.t.Error(err)
		}
		tx.StoreBoot(d.Boot)
		tx.Record(d.Changes...)
	})
}

// manyPackages are components of an SBOM, some of them large, with long names, and some small.
func manyPackages(version string) (list []string) {
	for i, name := range []string{"linux-image-6.12.63+deb13-amd64", "firmware-misc-nonfree", "libllvm19", "systemd",
		"python3.13-minimal", "perl-base", "openssh-server", "libicu76"} {
		list = append(list, packaged(name, version, int64(110>>i)<<20))
	}
	for i := range 40 {
		list = append(list, packaged(fmt.Sprint("small", i), "1", int64(i)<<15))
	}
	return list
}

// themed is the address of a page in a theme.
func themed(page, theme string) string {
	if strings.Contains(page, "?") {
		return page + "&theme=" + theme
	}
	return page + "?theme=" + theme
}

// tooWide lists the elements that reach beyond the window, but for those in a part that scrolls.
const tooWide = `[...document.querySelectorAll("main, main *")]
	.filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, .vh, .console, svg"))
	.map(e => e.outerHTML.slice(0, 120)).join("\n")`

// TestBrowserIsNarrow: at 320 px, which is a phone and a zoom of 400 %, no page scrolls sideways, in
// both themes.
func TestBrowserIsNarrow(t *testing.T) {
	s := newStreet(t)
	im := s.put("v1")
	s.bom(im, manyPackages("1")...)
	s.bom(s.put("v2"), manyPackages("2")...)
	orders := putSmall(t, s.images, s.keys, "v9", orderly)
	boot, _ := s.ask()
	b := newTab(t, s.tls)
	b.do("log in", chromedp.EmulateViewport(320, 640), chromedp.Navigate(s.tls+"/login?next=/pending"),
		enter("#token", s.token("admin", access.Admin)), click("form .btn.main"),
		visible("#p-"+machineID))
	v3 := s.put("v3")
	s.fakes(9, v3)
	s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "fake[000-008]",
		Policy: api.RolloutPolicy{Spread: "rack"}})
	s.haltAtCanary()
	pages := []string{"/", "/rollouts", "/rollouts/r1", "/rollouts/r1/abort", "/rollouts/r1/resume",
		"/rollouts/new?image=lab%3Av1&to=fake000&how=reboot&drain=required",
		"/rollouts/new?image=lab%3Av1&to=nobody", "/pending",
		"/machines/" + machineID, "/machines/" + machineID + "/boots/" + string(boot),
		"/images", "/images?from=lab:v1&to=lab:v2", "/network", "/events", "/trends", "/trends?days=1&image=lab:v1",
		"/settings"}
	for range 2 {
		for _, p := range pages {
			for _, theme := range []string{"light", "dark"} {
				b.do(p, chromedp.Navigate(s.tls+themed(p, theme)), chromedp.WaitReady(chromedp.CSS("#main")))
				wide := eval[string](b, tooWide)
				dark := eval[string](b, `getComputedStyle(document.body).colorScheme`)
				if wide != "" {
					t.Errorf("%s is wider than 320 px:\n%s", p, wide)
				}
				if !strings.Contains(dark, theme) {
					t.Errorf("%s: color-scheme is %q; want %s", p, dark, theme)
				}
			}
		}
		if s.machine(machineID).Name == "" {
			if _, err := s.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
				t.Fatal(err)
			}
			s.bootsHealthy(boot, im.Manifest.Root.Digest)
			s.runs(orders)
			if _, err := s.api.Reboot(t.Context(), machineID, api.RebootRequest{Drain: ingot.DrainRequired}); err != nil {
				t.Fatal(err)
			}
			s.drains("batch")
		}
	}
	b.calm()
}

// audit lists what axe finds on a page that is serious, with the elements.
const audit = `axe.run(document).then(r => window.found = r.violations.filter(v => /serious|critical/.test(v.impact))
	.map(v => v.id + ": " + v.nodes.map(n => n.html.slice(0, 160) + " " + (n.any[0]?.message ?? "")).join("\n\t"))
	.join("\n") || "nothing"); true`

// TestBrowserIsAccessible: axe-core finds nothing serious on any page, in both themes, and at 320 px.
func TestBrowserIsAccessible(t *testing.T) {
	axe, err := os.ReadFile("../tools/axe/node_modules/axe-core/axe.min.js")
	if err != nil {
		wire.Cannot(t, "axe-core is not installed; run scripts/setup test")
	}
	s := newStreet(t)
	im := s.put("v1")
	s.bom(im, manyPackages("1")...)
	s.bom(s.put("v2"), manyPackages("2")...)
	orders := putSmall(t, s.images, s.keys, "v9", orderly)
	boot, _ := s.ask()
	if _, err := s.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	s.get(s.BootURL(s.base, boot, "script")) // from now on it runs an image
	if err := s.Console(boot, "[    1.500000] eth0: Link is up\n[    2.000000] eth1: firmware load failed\n"); err != nil {
		t.Fatal(err)
	}
	s.bootsHealthy(boot, im.Manifest.Root.Digest)
	s.runs(orders)
	if _, err := s.api.Reboot(t.Context(), machineID, api.RebootRequest{Drain: ingot.DrainRequired}); err != nil {
		t.Fatal(err)
	}
	s.drains("batch")
	s.stored(fleet.Machine{ID: "m-525400120002", State: fleet.Pending, MACs: []string{"52:54:00:12:00:02"},
		FirstSeen: s.clock, LastSeen: s.clock},
		fleet.Machine{ID: "m-525400120003", State: fleet.Pending, MACs: []string{"52:54:00:12:00:03"},
			FirstSeen: s.clock, LastSeen: s.clock, Ask: &fleet.Question{With: machineID, What: "Is it the same?"}})
	v3 := s.put("v3")
	s.fakes(9, v3)
	s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "fake[000-008]",
		Policy: api.RolloutPolicy{Spread: "rack"}})
	s.haltAtCanary()
	b := newTab(t, s.tls)
	if text := s.loggedIn("reader", access.Operate).plain("/machines/" + machineID); !strings.Contains(text,
		"/reboot/cancel") {
		t.Fatal("the order cannot be withdrawn on the page, so that the button is not judged")
	}
	judge := func(what string) {
		t.Helper()
		eval[bool](b, string(axe)+"; true")
		eval[bool](b, audit)
		b.until("axe is done", "!!window.found")
		if found := eval[string](b, "window.found"); found != "nothing" {
			t.Errorf("%s:\n%s", what, found)
		}
	}
	b.do("log in", chromedp.Navigate(s.tls+"/login"), visible("#token"))
	judge("/login")
	b.do("log in", enter("#token", s.token("admin", access.Admin)), click("form .btn.main"), visible("#open"))
	for _, p := range []string{"/", "/?d=marks", "/rollouts", "/rollouts/r1", "/rollouts/r1/abort",
		"/rollouts/r1/resume", "/rollouts/new", "/rollouts/new?image=lab%3Av1&to=fake000",
		"/rollouts/new?image=lab%3Av1&to=fake000&how=reboot&drain=required", "/pending",
		"/machines/" + machineID, "/images", "/network", "/events",
		"/machines/" + machineID + "/boots/" + string(boot), "/trends", "/trends?days=1&image=lab:v1",
		"/settings"} {
		at, _ := url.Parse(s.tls + p)
		for _, theme := range []string{"light", "dark", "narrow"} {
			width := int64(1280)
			if theme == "narrow" {
				width = 320
			}
			v := at.Query()
			v.Set("theme", theme)
			at.RawQuery = v.Encode()
			b.do(p, chromedp.EmulateViewport(width, 900), chromedp.Navigate(at.String()), visible("#main"))
			judge(p + ", " + theme)
		}
	}
	b.do("open the palette", ctrlK(), visible("#palette"), visible("#found [role=option]"))
	judge("the palette")
	b.calm()
}
