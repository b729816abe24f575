package fleet

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ingot"
)

// What a Decision does to a boot, or a boot and its machine, as a function of
// values: for tests that look at one step.

func decided(m Machine, b Boot, now time.Time, f func(*Decision)) (Boot, Machine) {
	d := NewDecision(m, b, BootPolicy{After: AfterRetry}, nil, Actor{}, now)
	f(d)
	return d.Boot, d.Machine
}

// Record adds an event to a boot.
func Record(b Boot, e ingot.Event, now time.Time) Boot {
	b, _ = decided(Machine{}, b, now, func(d *Decision) { d.Record(e) })
	return b
}

// Judge takes a report into boot and machine.
func Judge(b Boot, m Machine, r ingot.Report, now time.Time) (Boot, Machine) {
	return decided(m, b, now, func(d *Decision) { d.Report(r) })
}

// Supersede ends the boot that a newer one replaces.
func Supersede(b Boot, now time.Time) Boot {
	return end(b, Superseded(b), now)
}

// Expire ends a boot that passed its deadline without a report.
func Expire(b Boot, now time.Time) (Boot, bool) {
	e, is := Overdue(b, now)
	if !is {
		return b, false
	}
	return end(b, e, now), true
}

func end(b Boot, e Ending, now time.Time) Boot {
	b, _ = decided(Machine{}, b, now, func(d *Decision) { d.End(e) })
	return b
}

// Expired marks the grants whose time passed before any boot used them.
func Expired(m Machine, now time.Time) (Machine, bool) {
	d := NewDecision(m, Boot{}, BootPolicy{}, nil, Actor{}, now)
	d.ExpireGrants()
	return d.Machine, len(d.Changes) > 0
}

// Stall ends a boot whose first stage stalled.
func Stall(b Boot, m Machine, reason string, list []string, now time.Time) (Boot, Machine) {
	d := NewDecision(m, b, BootPolicy{}, nil, Actor{}, now)
	d.stall(b, reason, list)
	return d.Older[0], d.Machine
}

// Restarts is Decision.Restarts, where every image can be served.
func Restarts(m Machine, b Boot, now time.Time) bool {
	d := NewDecision(m, b, BootPolicy{}, Images{string(v1.Image): {}, string(v2.Image): {}}, Actor{}, now)
	return d.Restarts() && d.Err() == nil
}

// TestDecisionsAddAllChanges: what a decision adds to the ledger is all that
// changed, as comparing the records before and after finds it.
func TestDecisionsAddAllChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := t0
		var m *Machine
		var latest *Boot
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			// No two decisions are of one moment: the comparison knows a grant by when it was given.
			now = now.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "seconds"))*time.Second + time.Nanosecond)
			d := oneDecision(t, m, latest, now)
			if d == nil {
				continue
			}
			want := map[string]int{}
			var old *Machine
			if !d.created {
				old = &d.machine
			}
			for _, c := range MachineChanges(old, d.Machine, now) {
				want[changeText(c)]++
			}
			boots := map[ingot.BootID]*Boot{}
			if d.boot.ID != "" {
				boots[d.boot.ID] = &d.boot
			}
			after := append(slices.Clone(d.Older), d.Boot)
			for _, b := range after {
				for _, c := range BootChanges(boots[b.ID], b, now) {
					want[changeText(c)]++
				}
			}
			got := map[string]int{}
			for _, c := range d.Changes {
				if c.Code != CodeRuleApplied && c.Code != CodeTicketGiven && c.Code != CodeCardsClaimed {
					got[changeText(c)]++
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("compared (-) and added (+) Changes:\n%s", diff)
			}
			machine, boot := d.Machine, d.Boot
			m, latest = &machine, &boot
		}
	})
}

func changeText(c Change) string {
	return string(c.Code) + " " + c.Boot.Short() + " " + string(c.Stage) + " " + c.String()
}

// oneDecision decides something about a machine, which is nil at first.
func oneDecision(t *rapid.T, m *Machine, latest *Boot, now time.Time) *Decision {
	images := Images{string(v1.Image): {ImageRef: v1, UKI: true}, string(v2.Image): {ImageRef: v2}, "lab": {ImageRef: v1}}
	policy := BootPolicy{Deadline: 10 * time.Minute, ApproveAll: rapid.Bool().Draw(t, "approve all"), Image: "lab"}
	if rapid.Bool().Draw(t, "rule") {
		policy.Rules = []Rule{{MAC: "*", Approve: true, Labels: map[string]string{"rack": "r1"}, Image: "lab"}}
	}
	if m == nil || rapid.IntRange(0, 2).Draw(t, "packet") == 0 {
		d, _, err := Decide(drawnFacts(t, m, latest, policy, images, now), now)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := NewDecision(*m, *latest, policy, images, Actor{}, now)
	switch rapid.SampledFrom([]string{"event", "report", "script", "ticket", "expire", "operator"}).Draw(t, "what") {
	case "event":
		e := ingot.Event{Stage: rapid.SampledFrom(ingot.Stages).Draw(t, "stage"), Retry: rapid.Bool().Draw(t, "retry")}
		e.Error = rapid.SampledFrom([]string{"", "", "no"}).Draw(t, "error")
		d.Record(e)
	case "report":
		if d.Boot.Image.Image == "" {
			return nil
		}
		d.Report(ingot.Report{Root: d.Boot.Root, Healthy: rapid.Bool().Draw(t, "healthy"),
			Failed: rapid.SampledFrom([][]string{nil, {"db.service"}}).Draw(t, "units")})
	case "script":
		if !d.Boot.Open() {
			return nil
		}
		_, _ = d.Script()
	case "ticket":
		f := ingot.Facts{UUID: rapid.SampledFrom([]string{boardA, boardB}).Draw(t, "uuid"), RAM: 1 << 30,
			Serial: rapid.SampledFrom([]string{"S1", "S2"}).Draw(t, "serial"), Cores: rapid.IntRange(1, 2).Draw(t, "cores")}
		d.Learn(f, nil)
		d.Ticket()
	case "expire":
		if e, is := Overdue(d.Boot, now); is {
			d.End(e)
		}
		d.ExpireGrants()
	case "operator":
		drawnAction(t, d, now)
	}
	return d
}

func drawnFacts(t *rapid.T, m *Machine, latest *Boot, policy BootPolicy, images Images, now time.Time) Facts {
	var random [16]byte // like no other: drawn ones would be equal now and then
	binary.BigEndian.PutUint64(random[:], uint64(now.UnixNano()))
	f := Facts{Machine: m, NewID: "m-1", Key: "key", NewBoot: ingot.NewBootID(random), Policy: policy, Images: images,
		Other: &Machine{ID: "m-2", LastSeen: t0.Add(-time.Hour)}}
	if latest != nil && latest.ID != "" {
		f.Latest = latest
	}
	if m == nil && rapid.Bool().Draw(t, "question") {
		f.Question = &Question{With: "m-2", What: "it is plugged in where m-2 was", About: aboutPort + "Eth1"}
	}
	f.Request = Request{Sender: Sender(rapid.IntRange(0, 1).Draw(t, "sender")), HTTP: rapid.Bool().Draw(t, "HTTP"),
		Begins: rapid.Bool().Draw(t, "begins"), Loaders: []string{FirstUKI, "snponly.efi", "ipxe.efi"}}
	f.Request.Sighting = Sighting{MAC: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "mac"),
		Firmware: ingot.FirmwareUEFIx64}
	if rapid.Bool().Draw(t, "relay") {
		f.Request.Port = SwitchPort{Relay: netip.MustParseAddr("10.0.0.1"),
			Circuit: rapid.SampledFrom([]string{"Eth1", "Eth2"}).Draw(t, "port")}
	}
	return f
}

func drawnAction(t *rapid.T, d *Decision, now time.Time) {
	switch rapid.IntRange(0, 6).Draw(t, "action") {
	case 0:
		d.Approve()
	case 1:
		d.Retire()
	case 2:
		d.Rename(rapid.SampledFrom([]string{"node01", "node02"}).Draw(t, "name"))
	case 3:
		d.SetLabels(map[string]string{"gpu": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "gpu")})
	case 4:
		d.Assign(Assignment{ImageRef: rapid.SampledFrom([]ImageRef{v1, v2}).Draw(t, "image"), Since: now})
	case 5:
		d.AddGrant(Grant{Grant: ingot.Grant{Volume: "data", Disk: "D1", Expires: now.Add(5 * time.Minute)}, Given: now})
	case 6:
		d.Resume()
	}
}
