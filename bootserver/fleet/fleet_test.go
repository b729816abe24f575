package fleet

import (
	"errors"
	"strings"
	"testing"
	"time"

	"ingot"
)

var (
	t0    = time.Unix(1_000_000, 0)
	v1    = ImageRef{ingot.DigestOf([]byte("v1")), "lab:v1"}
	v2    = ImageRef{ingot.DigestOf([]byte("v2")), "lab:v2"}
	root1 = ingot.DigestOf([]byte("root1"))
	boot1 = ingot.NewBootID([16]byte{1})
)

func step(b Boot, stages ...ingot.Stage) Boot {
	for i, s := range stages {
		b = Record(b, ingot.Event{Stage: s}, t0.Add(time.Duration(i)*time.Second))
	}
	return b
}

// TestBegins: a machine asks several times for one boot, and a reset is a new one.
func TestBegins(t *testing.T) {
	open := Boot{ID: boot1, Started: t0}
	for _, c := range []struct {
		name   string
		latest *Boot
		loader bool
		want   bool
	}{
		{"the first ever", nil, false, true},
		{"after one that ended", &Boot{Outcome: ingot.OutcomeHealthy}, false, true},
		{"firmware repeats its DISCOVER", ptr(step(open, ingot.StageDHCP)), false, false},
		{"our loader asks", ptr(step(open, ingot.StageDHCP, ingot.StageLoader)), true, false},
		{"our loader asks again while waiting", ptr(step(open, ingot.StageDHCP, ingot.StageLoader, ingot.StageScript)),
			true, false},
		{"reset after the loader", ptr(step(open, ingot.StageDHCP, ingot.StageLoader)), false, true},
		{"reset while the system runs", ptr(step(open, ingot.StageDHCP, ingot.StageAgent)), false, true},
		{"a ROM that is our loader, reset", ptr(step(open, ingot.StageDHCP, ingot.StageKernel)), true, true},
	} {
		if got := Begins(c.latest, c.loader); got != c.want {
			t.Errorf("%s: Begins = %t; want %t", c.name, got, c.want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestSilence(t *testing.T) {
	b := step(Boot{ID: boot1, Started: t0, Image: v1, Deadline: t0.Add(time.Minute)}, ingot.StageDHCP, ingot.StageKernel)
	if _, ended := Expire(b, t0.Add(59*time.Second)); ended {
		t.Error("a boot expires before its deadline")
	}
	got, ended := Expire(b, t0.Add(time.Minute))
	if !ended || got.Outcome != ingot.OutcomeSilent || got.Reason != "no report within 1m0s; last stage kernel" {
		t.Errorf("Expire = %q %q; want silent, with the last stage", got.Outcome, got.Reason)
	}
	if s := Supersede(b, t0); s.Outcome != ingot.OutcomeSilent {
		t.Errorf("a boot that is replaced = %q; want silent", s.Outcome)
	}
	if s := Supersede(Boot{ID: boot1}, t0); s.Outcome != ingot.OutcomeWaiting {
		t.Errorf("a boot without an image that is replaced = %q; want waiting", s.Outcome)
	}
}

func TestRecord(t *testing.T) {
	b := Boot{ID: boot1, Started: t0}
	for range 1000 {
		b = Record(b, ingot.Event{Stage: ingot.StageScript, Detail: "lab:v1"}, t0)
	}
	if len(b.Events) != 1 {
		t.Errorf("%d events after 1000 times the same; want 1", len(b.Events))
	}
	for i := range 1000 {
		b = Record(b, ingot.Event{Stage: ingot.StageTicket, Error: "no", Retry: true, Bytes: int64(i)}, t0)
	}
	if len(b.Events) != MaxEvents || !b.Open() {
		t.Errorf("%d events, open %t after 1000 retries; want %d, open", len(b.Events), b.Open(), MaxEvents)
	}
	if last := Record(b, ingot.Event{Stage: ingot.StageRoot, Error: "no"}, t0); last.Open() ||
		len(last.Events) != MaxEvents+1 {
		t.Errorf("after too many events the failure is not recorded: %d events, open %t", len(last.Events), last.Open())
	}
	again := step(Boot{ID: boot1}, ingot.StageAgent)
	again = step(Record(again, ingot.Event{Stage: ingot.StageAgent, Error: "no", Retry: true}, t0), ingot.StageAgent)
	if len(again.Events) != 3 {
		t.Errorf("%d events after a stage that failed and was reached again; want 3", len(again.Events))
	}
	f := Record(Boot{ID: boot1}, ingot.Event{Stage: ingot.StageRoot, Error: "bad chunk"}, t0)
	if f.Outcome != ingot.OutcomeFailed || f.Reason != "stage root: bad chunk" {
		t.Errorf("after a failure: %q %q", f.Outcome, f.Reason)
	}
	if late := Record(f, ingot.Event{Stage: ingot.StageAgent}, t0); len(late.Events) != len(f.Events) {
		t.Error("a boot that ended takes events")
	}
	// A server whose clock jumped took it for silent: what it then tells is kept.
	silent, _ := Expire(Boot{ID: boot1, Started: t0, Deadline: t0.Add(time.Minute)}, t0.Add(time.Hour))
	for n, e := range []ingot.Event{{Stage: ingot.StageAgent}, {Stage: ingot.StageHealthy, Error: "check ssh failed"}} {
		if silent = Record(silent, e, t0.Add(time.Hour)); len(silent.Events) != n+1 || silent.Outcome != ingot.OutcomeSilent {
			t.Errorf("a silent boot that tells %s has %d events and is %q; want %d, silent", e.Stage, len(silent.Events),
				silent.Outcome, n+1)
		}
	}
}

func TestJudge(t *testing.T) {
	m := Machine{ID: "m", Boot: boot1, Assignment: Assignment{ImageRef: v2}}
	b := step(Boot{ID: boot1, Started: t0, Image: v2, Root: root1}, ingot.StageDHCP, ingot.StageAgent)
	good := ingot.Report{Boot: boot1, Root: root1, Healthy: true, Checks: []ingot.CheckResult{{Name: "ssh", OK: true}}}
	with := func(f func(*ingot.Report)) ingot.Report { r := good; f(&r); return r }
	silent := b
	silent.Outcome = ingot.OutcomeSilent
	for _, c := range []struct {
		name    string
		boot    Boot
		machine Machine
		report  ingot.Report
		want    ingot.Outcome
		reason  string
		healthy bool
	}{
		{"good", b, m, good, ingot.OutcomeHealthy, "", true},
		{"another root", b, m, with(func(r *ingot.Report) {
			r.Root = ingot.DigestOf(nil)
		}), ingot.OutcomeFailed, "the machine measured root", false},
		{"a failed check", b, m, with(func(r *ingot.Report) {
			r.Healthy, r.Checks = false, []ingot.CheckResult{{Name: "web", Detail: "refused"}}
		}), ingot.OutcomeFailed, "check web failed: refused", false},
		{"healthy by word, not by checks", b, m, with(func(r *ingot.Report) {
			r.Checks = []ingot.CheckResult{{Name: "web"}}
		}), ingot.OutcomeFailed, "check web failed", false},
		{"of an old boot", b, Machine{ID: "m", Boot: "newer"}, good, ingot.OutcomeOpen, "", false},
		{"late, of the latest boot", silent, m, good, ingot.OutcomeHealthy, "", true},
	} {
		gotB, gotM := Judge(c.boot, c.machine, c.report, t0)
		if gotB.Outcome != c.want || !strings.Contains(gotB.Reason, c.reason) {
			t.Errorf("%s: Judge = %q %q; want %q %q", c.name, gotB.Outcome, gotB.Reason, c.want, c.reason)
		}
		if (gotM.LastHealthy.Image == v2.Image) != c.healthy {
			t.Errorf("%s: last healthy = %+v; want changed %t", c.name, gotM.LastHealthy, c.healthy)
		}
	}
}

func TestRollback(t *testing.T) {
	m := Machine{Assignment: Assignment{ImageRef: v2}}
	if _, err := Rollback(m, t0); !errors.Is(err, ErrNothingHealthy) {
		t.Errorf("Rollback without a past = %v; want ErrNothingHealthy", err)
	}
	m.Healthy = []ImageRef{v1, v2}
	as, err := Rollback(m, t0)
	if err != nil || as.Image != v1.Image || as.Why != "rollback from lab:v2" {
		t.Errorf("Rollback = %+v, %v; want lab:v1", as, err)
	}
	m.Assignment = as
	if again, err := Rollback(m, t0); err != nil || again.Image != v2.Image {
		t.Errorf("Rollback from the rollback = %+v, %v; want lab:v2", again, err)
	}
}

// TestGrantsAreSpentByWrites: a grant goes to boots until one of them wrote, and not after its
// time.
func TestGrantsAreSpentByWrites(t *testing.T) {
	boot2 := ingot.NewBootID([16]byte{2})
	m := addGrant(Machine{}, Grant{Grant: ingot.Grant{Volume: "data", Disk: "S", Expires: t0.Add(time.Hour)}}, t0)
	m, lent := LendGrants(m, boot1, t0)
	if len(lent) != 1 {
		t.Fatalf("LendGrants = %v; want the grant", lent)
	}
	if _, again := LendGrants(m, boot1, t0); len(again) != 1 {
		t.Error("the boot that has the grant does not get it when it asks again")
	}
	if _, late := LendGrants(m, boot1, t0.Add(time.Hour)); len(late) != 0 {
		t.Error("an expired grant is lent")
	}
	m, lent = LendGrants(m, boot2, t0)
	if len(lent) != 1 {
		t.Error("a boot does not get the grant of one that failed before it wrote")
	}
	if _, spent := SpendGrants(m, boot1, []string{"data"}); len(spent) != 0 {
		t.Error("a boot spends the grant of a later one")
	}
	if _, spent := SpendGrants(m, boot2, []string{"logs"}); len(spent) != 0 {
		t.Error("another volume spends the grant")
	}
	m, spent := SpendGrants(m, boot2, []string{"data"})
	if len(spent) != 1 || m.Grants[0].Boot != boot2 {
		t.Errorf("SpendGrants = %v; want the grant, used by the boot that wrote", spent)
	}
	if _, lent := LendGrants(m, boot2, t0); len(lent) != 0 {
		t.Error("a grant that was used is lent again")
	}
}

func TestNext(t *testing.T) {
	for _, c := range []struct {
		m    Machine
		want error
	}{
		{Machine{State: Pending, Assignment: Assignment{ImageRef: v1}}, ErrNotApproved},
		{Machine{}, ErrNotApproved},
		{Machine{State: Approved}, ErrNoImage},
		{Machine{State: Approved, Assignment: Assignment{ImageRef: v1}}, nil},
	} {
		if _, err := Next(c.m); !errors.Is(err, c.want) {
			t.Errorf("Next(%s, %q) = %v; want %v", c.m.State, c.m.Assignment.Name, err, c.want)
		}
	}
}

func TestMatch(t *testing.T) {
	machines := []Machine{{ID: "m-525400000001", Name: "node", MACs: []string{"52:54:00:00:00:01"}},
		{ID: "m-525400000002", Name: "node-2"}}
	for ref, want := range map[string]int{"node": 1, "node-2": 1, "m-5254": 2, "52-54-00-00-00-01": 1, "no": 0, "nod": 2,
		"": 0, "x": 0} {
		if got := Match(machines, ref); len(got) != want {
			t.Errorf("Match(%q) = %d machines; want %d", ref, len(got), want)
		}
	}
}

// with returns a value that f changed.
func with[T any](v T, f func(*T)) T { f(&v); return v }

// TestScriptAgain: a boot that fetched files of its image goes on with it when another one is assigned,
// unless the image was removed.
func TestScriptAgain(t *testing.T) {
	m := Machine{ID: "m-1", State: Approved, Assignment: Assignment{ImageRef: v2}, Boot: boot1}
	b := Boot{ID: boot1, Machine: "m-1", Started: t0, Image: v1, Served: map[string]int64{"kernel": 1}}
	good, removed := Image{ImageRef: v1}, Image{Err: errors.New("no such image")}
	for _, c := range []struct {
		running Image
		want    ingot.Digest
	}{{good, v1.Image}, {removed, v2.Image}} {
		images := Images{string(v1.Image): c.running, string(v2.Image): {ImageRef: v2}}
		d := NewDecision(m, b, BootPolicy{}, images, Actor{}, t0)
		got, err := d.Script()
		if got != c.want || err != nil || d.Err() != nil || d.Boot.Image.Image != c.want {
			t.Errorf("with its image %+v, the script is of %s, %v, %v; want %s", c.running, got, err, d.Err(), c.want)
		}
	}
	d := NewDecision(m, b, BootPolicy{}, Images{string(v2.Image): {ImageRef: v2}}, Actor{}, t0)
	if _, _ = d.Script(); d.Err() == nil {
		t.Error("a decision without the facts of the running image is valid")
	}
}
