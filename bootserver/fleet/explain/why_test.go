package explain

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/bootserver/advice"
	"ingot/bootserver/fleet"
)

var update = flag.Bool("update", false, "write the recorded stories of TestWhy anew")

// now is 10:20 on the day of all stories.
var now = time.Date(2026, 11, 24, 10, 20, 0, 0, time.UTC)

func clock(hhmmss string) time.Time {
	t, err := time.Parse("15:04:05", hhmmss)
	if err != nil {
		panic(err)
	}
	return time.Date(2026, 11, 24, t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

var (
	node5 = fleet.ImageRef{Image: ingot.DigestOf([]byte("node:5")), Name: "node:5"}
	node6 = fleet.ImageRef{Image: ingot.DigestOf([]byte("node:6")), Name: "node:6"}
	node7 = fleet.ImageRef{Image: ingot.DigestOf([]byte("node:7")), Name: "node:7"}
)

// machine is node01, approved, healthy on node:6 in the past, assigned node:7.
func node01() fleet.Machine {
	return fleet.Machine{ID: "m-525400120001", Name: "node01", State: fleet.Approved, MACs: []string{"52:54:00:12:00:01"},
		FirstSeen: clock("08:00:00").AddDate(0, -1, 0), LastSeen: clock("10:19:50"),
		Assignment: fleet.Assignment{ImageRef: node7, Since: clock("10:00:00")}, LastHealthy: node6,
		Healthy: []fleet.ImageRef{node5, node6}, Facts: ingot.Facts{Firmware: ingot.FirmwareUEFIx64}}
}

// recorded makes a boot that began at a time and passed stages, a second each.
func recorded(id byte, image fleet.ImageRef, start string, upTo ingot.Stage) fleet.Boot {
	b := fleet.Boot{ID: ingot.NewBootID([16]byte{id}), Machine: "m-525400120001", Firmware: ingot.FirmwareUEFIx64,
		Started: clock(start), Image: image, First: "snponly.efi", Accepted: clock(start), Back: true,
		Deadline: clock(start).Add(10 * time.Minute)}
	at := clock(start)
	for _, s := range ingot.Stages {
		if s.Rank() > upTo.Rank() || s == ingot.StageHealthy {
			break
		}
		b = record(b, ingot.Event{Stage: s}, at)
		at = at.Add(time.Second)
	}
	if b.Stage().Rank() >= ingot.StageTicket.Rank() {
		b.Auth.Able, b.Auth.Half = true, make(ingot.Half, 32)
	}
	return b
}

// once makes a boot one that an operator decided.
func once(image fleet.ImageRef, shell bool) func(*fleet.Boot) {
	return func(b *fleet.Boot) { b.Once = &fleet.Once{ImageRef: image, Shell: shell, Since: b.Started} }
}

// change changes a boot.
func change(b fleet.Boot, f func(b *fleet.Boot)) fleet.Boot {
	f(&b)
	return b
}

// of changes the machine of a story.
func (s Story) of(f func(m *fleet.Machine)) Story {
	f(&s.Machine)
	return s
}

func silentAt(b fleet.Boot, when string) fleet.Boot {
	return ended(b, ingot.OutcomeSilent, "no report within 10m0s; last stage "+string(b.Stage()), clock(when))
}

func fails(b fleet.Boot, s ingot.Stage, why string) fleet.Boot {
	last := b.Events[len(b.Events)-1].At
	return record(b, ingot.Event{Stage: s, Error: why}, last.Add(2*time.Second))
}

// reportsFailure is fails of an image that reports codes.
func reportsFailure(b fleet.Boot, s ingot.Stage, code ingot.FailureCode, why string) fleet.Boot {
	last := b.Events[len(b.Events)-1].At
	return record(b, ingot.Event{Stage: s, Error: why, Code: code}, last.Add(2*time.Second))
}

// record adds an event to a boot.
func record(b fleet.Boot, e ingot.Event, now time.Time) fleet.Boot {
	d := fleet.NewDecision(fleet.Machine{}, b, fleet.BootPolicy{}, nil, fleet.Actor{}, now)
	d.Record(e)
	return d.Boot
}

func reports(b fleet.Boot, when string, checks ...ingot.CheckResult) fleet.Boot {
	r := ingot.Report{Boot: b.ID, Healthy: true, Checks: checks}
	for _, c := range checks {
		r.Healthy = r.Healthy && c.OK
	}
	d := fleet.NewDecision(fleet.Machine{Boot: b.ID}, b, fleet.BootPolicy{After: fleet.AfterRetry}, nil, fleet.Actor{},
		clock(when))
	d.Report(r)
	return d.Boot
}

// lived takes boots into a machine as a server does: the failures are counted,
// and consequences are drawn.
func lived(m fleet.Machine, p fleet.Policy, boots ...fleet.Boot) Story {
	s := Story{Policy: p, Now: now, Needed: map[ingot.Digest]Sizes{
		node7.Image: {"kernel": 9 << 20, "initramfs": 12 << 20, "root": 300 << 20, partUKI: 21 << 20},
		node6.Image: {"kernel": 8 << 20, "initramfs": 11 << 20, "root": 150 << 20},
	}}
	for i, b := range boots {
		if i > 0 {
			b.Before = boots[i-1].ID
		}
		m.Boot = b.ID
		if b.Outcome == ingot.OutcomeHealthy {
			m.LastHealthy = b.Image
		}
		m = fleet.ApplyOutcome(m, b, p, haveAll, b.Ended)
		s.Boots = append(s.Boots, b)
	}
	s.Machine = m
	return s
}

// ended is a boot that ended.
func ended(b fleet.Boot, o ingot.Outcome, reason string, now time.Time) fleet.Boot {
	b.Outcome, b.Reason, b.Ended = o, reason, now
	return b
}

// byStall is a boot whose first stage stalled, as recorded with a Cause.
func byStall(b fleet.Boot) fleet.Boot {
	b.Cause = fleet.CauseStalled
	return b
}

func haveAll(ingot.Digest) bool { return true }

func with[T any](v T, f func(*T)) T { f(&v); return v }

// stories are boots, good and bad, as servers record them.
var stories = []struct {
	name  string
	story Story
	want  string
}{
	{"pending", Story{Machine: with(node01(), func(m *fleet.Machine) {
		m.State, m.Name, m.FirstSeen = fleet.Pending, "", clock("10:02:00")
	}), Boots: []fleet.Boot{{Started: clock("10:02:00")}}, Now: now},
		"m-525400120001 has been waiting for approval since 10:02."},
	{"approved without an image", Story{Machine: with(node01(), func(m *fleet.Machine) {
		m.Assignment = fleet.Assignment{}
	}), Now: now},
		"node01 is approved, but no image is assigned to it."},
	{"approved while the first image cannot be served", Story{Machine: with(node01(), func(m *fleet.Machine) {
		m.Assignment = fleet.Assignment{}
	}), First: "node:1", Unservable: "image node:1: not found", Now: now},
		"node01 is approved and waits for its first image. node:1 cannot be served: image node:1: not found."},
	{"approved while the store has no first image", Story{Machine: with(node01(), func(m *fleet.Machine) {
		m.Assignment = fleet.Assignment{}
	}), First: "node:1", Unservable: "no such image", Absent: true, Now: now},
		"node01 is approved and waits for its first image. node:1 cannot be served: no such image."},
	{"approved before the first image could be served", Story{Machine: with(node01(), func(m *fleet.Machine) {
		m.Assignment = fleet.Assignment{}
	}), First: "node:1", Now: now},
		"node01 is approved, and is given node:1 when it next asks what to boot."},
	{"a card in another board asks", Story{Machine: with(node01(), func(m *fleet.Machine) {
		m.State, m.Name, m.Ask = fleet.Pending, "", &fleet.Question{With: "m-525400120009",
			What: "it has network card 52:54:00:12:00:01 of node09, but a different UUID: the board was replaced, or the " +
				"card was moved"}
	}), Boots: []fleet.Boot{{Started: clock("10:02:00")}}, Now: now},
		"It has network card 52:54:00:12:00:01 of node09, but a different UUID: the board was replaced, or the " +
			"card was moved. It cannot boot until an operator answers whether it is the same machine."},
	{"a moved card asks", Story{Machine: with(node01(), func(m *fleet.Machine) {
		m.ID, m.State, m.Name, m.Ask = "m-525400120077", fleet.Pending, "",
			&fleet.Question{With: "m-525400120001", What: "it has the UUID of node01 and network card 52:54:00:12:00:77 of " +
				"node09: the card was moved, or both boards have the same UUID"}
	}), Boots: []fleet.Boot{{Started: clock("10:02:00")}}, Now: now},
		"It has the UUID of node01 and network card 52:54:00:12:00:77 of node09: the card was moved, or both " +
			"boards have the same UUID. It cannot boot until an operator answers whether it is the same machine."},
	{"a swapped board was merged", lived(node01(), fleet.Policy{},
		with(reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00"), func(b *fleet.Boot) {
			b.Changes = []string{"serial number S1 → S2",
				"UUID d1b2c3a4-0000-4000-8000-525400120001 → d1b2c3a4-0000-4000-8000-525400120002"}
		})),
		"Healthy on node:7 since 10:14, 34 s after its first packet. Its hardware changed: serial number S1 → " +
			"S2; UUID d1b2c3a4-0000-4000-8000-525400120001 → d1b2c3a4-0000-4000-8000-525400120002."},
	{"another serial number asks", Story{Machine: with(node01(), func(m *fleet.Machine) {
		m.State, m.Ask = fleet.Pending, &fleet.Question{With: m.ID,
			What: "its serial number changed from S1 to S2: its card was moved, or its board was replaced"}
	}), Boots: []fleet.Boot{{Started: clock("10:02:00")}}, Now: now},
		"Its serial number changed from S1 to S2: its card was moved, or its board was replaced. It cannot boot " +
			"until an operator answers whether it is the same machine."},
	{"retired", Story{Machine: with(node01(), func(m *fleet.Machine) {
		m.State = fleet.Retired
	}), Now: now},
		"node01 is retired: it is not allowed to boot."},
	{"never seen", Story{Machine: node01(), Now: now},
		"node01 has not booted yet. It will boot node:7."},
	{"healthy", lived(node01(), fleet.Policy{}, reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00",
		ingot.CheckResult{Name: "ssh", OK: true})),
		"Healthy on node:7 since 10:14, 34 s after its first packet."},
	{"healthy, another image is assigned", lived(node01(), fleet.Policy{},
		reports(recorded(1, node6, "09:13:26", ingot.StageAgent), "09:14:00")),
		"Healthy on node:6 since 09:14, 34 s after its first packet. node:7 has been assigned since 10:00 and " +
			"will boot at the next restart."},
	{"healthy, and then a check fails", lived(node01(), fleet.Policy{},
		with(reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00"), func(b *fleet.Boot) {
			b.Report.Checks = []ingot.CheckResult{{Name: "web", Detail: "connection refused"}}
		})),
		"Healthy on node:7 since 10:14, but check web now fails: connection refused."},
	{"healthy, and then quiet", lived(with(node01(), func(m *fleet.Machine) {
		m.LastSeen = clock("10:08:00")
	}), fleet.Policy{}, reports(recorded(1, node7, "09:13:26", ingot.StageAgent), "09:14:00")),
		"Silent since 10:08: nothing was heard from it for 12 min, and a report is due every 30 s. It ran node:7, healthy " +
			"since 09:14; its last report was good. It may be off, hung, or unable to reach this server: check its power and " +
			"its cable."},
	{"healthy, and then quiet for two minutes", lived(with(node01(), func(m *fleet.Machine) {
		m.LastSeen, m.Address = clock("10:18:00"), netip.MustParseAddr("10.0.0.7")
	}), fleet.Policy{}, with(reports(recorded(1, node7, "09:13:26", ingot.StageAgent), "09:14:00"), func(b *fleet.Boot) {
		b.Report.Checks = []ingot.CheckResult{{Name: "web", Detail: "connection refused"}}
	})),
		"Silent since 10:18: nothing was heard from it for 120 s, and a report is due every 30 s. It ran node:7, healthy " +
			"since 09:14; its last report said that check web failed: connection refused. It may be off, hung, or unable to " +
			"reach this server: check its power and its cable, and whether 10.0.0.7 answers."},
	{"healthy, and one report is late", lived(with(node01(), func(m *fleet.Machine) {
		m.LastSeen = clock("10:18:00")
	}), fleet.Policy{}, with(reports(recorded(1, node7, "09:13:26", ingot.StageAgent), "09:14:00"), func(b *fleet.Boot) {
		b.Auth.Heard = clock("10:18:50")
	})),
		"Healthy on node:7 since 09:14, 34 s after its first packet."},
	{"healthy, and its system shut down", lived(with(node01(), func(m *fleet.Machine) {
		m.LastSeen = clock("10:18:50")
	}), fleet.Policy{}, with(reports(recorded(1, node7, "09:13:26", ingot.StageAgent), "09:14:00"), func(b *fleet.Boot) {
		b.Auth.Heard, b.Auth.Down = clock("10:19:00"), true
	})),
		"Down since 10:19: its system said 60 s ago that it shuts down, and no other boot was seen. It ran node:7, healthy " +
			"since 09:14; its last report was good. Switch it on, or check that its firmware boots from the network."},
	{"healthy, and the server was away", with(lived(with(node01(), func(m *fleet.Machine) {
		m.LastSeen = clock("10:08:00")
	}), fleet.Policy{}, reports(recorded(1, node7, "09:13:26", ingot.StageAgent), "09:14:00")), func(s *Story) {
		s.Served = clock("10:19:00")
	}),
		"Silent since 10:08, before this server started at 10:19. It ran node:7, healthy since 09:14; its last report was " +
			"good. Machines that run report within a minute."},
	{"fell back, and then quiet", lived(with(node01(), func(m *fleet.Machine) {
		m.LastSeen = clock("10:15:00")
	}), fleet.Policy{},
		silentAt(recorded(1, node7, "10:00:00", ingot.StageInitramfs), "10:04:04"),
		silentAt(recorded(2, node7, "10:05:00", ingot.StageInitramfs), "10:09:04"),
		reports(recorded(3, node6, "10:13:26", ingot.StageAgent), "10:14:00")),
		"The machine fetched the kernel and initramfs, then sent nothing for 240 s (2 attempts). Image node:7 " +
			"did not reach ingot-init. The machine fell back to node:6 and became healthy at 10:14, but has been silent since " +
			"10:15: nothing was heard from it for 300 s, and a report is due every 30 s. It may be off, hung, or unable to " +
			"reach this server: check its power and its cable."},
	{"healthy at the second attempt", lived(node01(), fleet.Policy{},
		silentAt(recorded(1, node7, "10:00:00", ingot.StageInitramfs), "10:10:00"),
		reports(recorded(2, node7, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet. The previous boot failed: the machine " +
			"fetched the kernel and initramfs, then sent nothing for 596 s. Image node:7 did not reach ingot-init."},
	{"healthy again after a crash", lived(node01(), fleet.Policy{},
		crashed(lasted(reports(recorded(1, node7, "06:13:26", ingot.StageAgent), "06:14:00"), 4*time.Hour)),
		reports(recorded(2, node7, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet. The previous boot (node:7) was healthy for " +
			"4 h and ended in a kernel crash: BUG: kernel NULL pointer dereference, address: 0000000000000010."},
	{"boots again after a crash", lived(node01(), fleet.Policy{},
		crashed(lasted(reports(recorded(1, node7, "06:13:26", ingot.StageAgent), "06:14:00"), 4*time.Hour)),
		recorded(2, node7, "10:19:50", ingot.StageInit)),
		"Booting node:7 now: stage init, 10 s after its first packet. The previous boot (node:7) was healthy for " +
			"4 h and ended in a kernel crash: BUG: kernel NULL pointer dereference, address: 0000000000000010."},
	{"fails after a crash", lived(with(node01(), func(m *fleet.Machine) {
		m.LastHealthy = node7
	}), fleet.Policy{}, crashed(lasted(reports(recorded(1, node7, "06:13:26", ingot.StageAgent), "06:14:00"),
		4*time.Hour)), fails(recorded(2, node7, "10:00:00", ingot.StageRoot), ingot.StageVolumes, "volume data refused: "+
		"no disk has the label data"),
		recorded(3, node7, "10:19:50", ingot.StageInit)),
		"Booting node:7 now: stage init, 10 s after its first packet. The last healthy boot (node:7) was healthy " +
			"for 4 h and ended in a kernel crash: BUG: kernel NULL pointer dereference, address: 0000000000000010."},
	{"healthy, and started over", lived(node01(), fleet.Policy{},
		lasted(reports(recorded(1, node7, "06:13:26", ingot.StageAgent), "06:14:00"), 4*time.Hour),
		reports(recorded(2, node7, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet. The previous boot (node:7) was healthy for " +
			"4 h. Then the machine restarted for an unknown reason: a reboot, a reset, a power failure, or a crash " +
			"that its firmware did not record."},
	{"healthy, of an older image", lived(node01(), fleet.Policy{},
		change(reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00"),
			func(b *fleet.Boot) { b.Auth = fleet.Authentication{} })),
		"Healthy on node:7 since 10:14, 34 s after its first packet. Its reports are not authenticated: node:7 was built " +
			"before ingot could do that."},
	{"healthy, and rebooted by its system", lived(node01(), fleet.Policy{},
		change(lasted(reports(recorded(1, node7, "06:13:26", ingot.StageAgent), "06:14:00"), 4*time.Hour),
			func(b *fleet.Boot) { b.Auth.Down = true }),
		reports(recorded(2, node7, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet. The previous boot (node:7) was healthy for " +
			"4 h. Then its system shut down or rebooted."},
	{"healthy, and another host booted in its name", lived(node01(), fleet.Policy{},
		change(reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00"), func(b *fleet.Boot) {
			b.Conflict = &fleet.Conflict{At: clock("10:18:00"), With: ingot.NewBootID([16]byte{2})}
		}), ended(recorded(2, node7, "10:17:40", ingot.StageAgent), ingot.OutcomeSilent, "boot 01000000 still runs",
			clock("10:18:00"))).of(func(m *fleet.Machine) { m.Boot = ingot.NewBootID([16]byte{1}) }),
		"Healthy on node:7 since 10:14, 34 s after its first packet. At 10:18, another host had begun boot 02000000 in " +
			"the name of node01, while this boot still ran: two hosts have its MAC address or UUID, or one forges them. " +
			"That boot got no grant."},
	{"healthy, and another host wanted its ticket", lived(node01(), fleet.Policy{},
		change(reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00"), func(b *fleet.Boot) {
			b.Conflict = &fleet.Conflict{At: clock("10:18:00")}
		})),
		"Healthy on node:7 since 10:14, 34 s after its first packet. At 10:18, another host requested a ticket of this " +
			"boot and got none: two hosts have the MAC address or UUID of node01, or one forges them."},
	{"booting, while the boot before may still run", lived(node01(), fleet.Policy{},
		reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00"),
		recorded(2, node7, "10:19:30", ingot.StageTicket)).of(func(m *fleet.Machine) {
		m.Claim = &fleet.Claim{Running: ingot.NewBootID([16]byte{1}), Healthy: true, Until: clock("10:21:00")}
	}),
		"Booting node:7 now: stage ticket, 30 s after its first packet; the root was not requested. The previous boot " +
			"(node:7) was healthy. Then the machine restarted for an unknown reason: a reboot, a reset, a power failure, or " +
			"a crash that its firmware did not record. The previous boot (01000000) did not say that it shuts down, and may " +
			"still run: this boot gets no grant before 10:21."},
	{"healthy, off for long, and started over", lived(node01(), fleet.Policy{},
		lasted(reports(recorded(1, node7, "06:13:26", ingot.StageAgent), "06:14:00"), 5*time.Minute),
		reports(recorded(2, node7, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet. The previous boot (node:7) was healthy for " +
			"300 s. Then the machine restarted for an unknown reason: a reboot, a reset, a power failure, or a crash " +
			"that its firmware did not record."},
	{"healthy for no known time, and started over", lived(node01(), fleet.Policy{},
		reports(recorded(1, node7, "06:13:26", ingot.StageAgent), "06:14:00"),
		reports(recorded(2, node7, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet. The previous boot (node:7) was healthy. " +
			"Then the machine restarted for an unknown reason: a reboot, a reset, a power failure, or a crash that " +
			"its firmware did not record."},
	{"healthy, and starts over", lived(node01(), fleet.Policy{},
		lasted(reports(recorded(1, node7, "06:13:26", ingot.StageAgent), "06:14:00"), 4*time.Hour),
		recorded(2, node7, "10:19:50", ingot.StageKernel)),
		"Booting node:7 now: stage kernel, 10 s after its first packet. The previous boot (node:7) was healthy " +
			"for 4 h. Then the machine restarted."},
	{"healthy on what was assigned since", lived(node01(), fleet.Policy{},
		reports(recorded(1, node6, "06:13:26", ingot.StageAgent), "06:14:00"),
		reports(recorded(2, node7, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet."},
	{"boots now", lived(node01(), fleet.Policy{}, with(recorded(1, node7, "10:19:50", ingot.StageTicket),
		func(b *fleet.Boot) {
			b.Served = map[string]int64{"root": 120 << 20}
		})),
		"Booting node:7 now: stage ticket, 10 s after its first packet; the server sent 120 MiB of the 300 MiB " +
			"root."},
	{"is being sent its root", with(lived(node01(), fleet.Policy{}, with(recorded(1, node7, "10:16:00",
		ingot.StageTicket), func(b *fleet.Boot) {
		b.Served = map[string]int64{"root": 20 << 20}
	})), func(s *Story) { s.Sending = map[string]int64{"root": 100 << 20} }),
		"Booting node:7 now: stage ticket, 240 s after its first packet; the server is sending the root, 120 MiB of 300 " +
			"MiB so far."},
	{"is being sent its initramfs", with(lived(node01(), fleet.Policy{},
		recorded(1, node7, "10:16:00", ingot.StageKernel)), func(s *Story) {
		s.Sending = map[string]int64{"initramfs": 100 << 20}
	}),
		"Booting node:7 now: stage kernel, 240 s after its first packet; the server is sending the initramfs, 100 MiB so " +
			"far."},
	{"boots another image once", lived(node01(), fleet.Policy{},
		change(recorded(1, node6, "10:19:50", ingot.StageInit), once(node6, false))),
		"Booting node:6 now: stage init, 10 s after its first packet. Only this boot is of node:6; at its next restart the " +
			"machine boots node:7 as before."},
	{"boots another image once, next time", lived(node01(), fleet.Policy{}, reports(recorded(1, node7, "10:13:26",
		ingot.StageAgent), "10:14:00")).of(func(m *fleet.Machine) {
		m.Once = &fleet.Once{ImageRef: node6, Since: clock("10:15:00")}
	}),
		"Healthy on node:7 since 10:14, 34 s after its first packet. At its next restart it boots node:6 once, as was " +
			"decided at 10:15; after that it boots node:7 as before."},
	{"a shell in the initramfs", lived(node01(), fleet.Policy{},
		change(recorded(1, node7, "10:14:00", ingot.StageVolumes), once(node7, true))),
		"A shell runs on the consoles of node01, in the initramfs of node:7. When it is left (exit), the machine goes on " +
			"with the boot; if nobody leaves it before 10:24, the watchdog resets the machine. Only this boot is of node:7 " +
			"with a shell in the initramfs; at its next restart the machine boots node:7 as before."},
	{"a shell after a failure", lived(node01(), fleet.Policy{}, record(change(recorded(1, node7, "10:14:00",
		ingot.StageTicket), once(node7, true)), ingot.Event{Stage: ingot.StageRoot, Error: resetByPeer, Retry: true,
		Detail: "a shell runs on the consoles"}, clock("10:15:00"))),
		"Stage root failed: fetching the root: connection reset by peer. A shell runs on the consoles of node01, in the " +
			"initramfs of node:7. When it is left (exit), the machine tries again; if nobody leaves it before 10:24, the " +
			"watchdog resets the machine. Only this boot is of node:7 with a shell in the initramfs; at its next restart the " +
			"machine boots node:7 as before."},
	{"a shell was left after a failure", lived(node01(), fleet.Policy{}, record(record(change(recorded(1, node7,
		"10:14:00", ingot.StageTicket), once(node7, true)), ingot.Event{Stage: ingot.StageRoot, Error: resetByPeer,
		Retry: true, Detail: "a shell runs on the consoles"}, clock("10:15:00")), ingot.Event{Stage: ingot.StageRoot,
		Error: resetByPeer, Retry: true}, clock("10:19:00"))),
		"Stage root failed: fetching the root: connection reset by peer. The machine failed 2 times in this boot and is " +
			"retrying. Booting node:7 now: stage ticket, 360 s after its first packet; the root was not requested. Only this " +
			"boot is of node:7 with a shell in the initramfs; at its next restart the machine boots node:7 as before."},
	{"a shell that nobody left", lived(node01(), fleet.Policy{},
		silentAt(change(recorded(1, node7, "10:00:00", ingot.StageVolumes), once(node7, true)), "10:10:00")),
		"A shell ran on the consoles of the machine, with the root of node:7. Nobody left it before the time of this boot " +
			"was over. Only this boot is of node:7 with a shell in the initramfs; at its next restart the machine boots " +
			"node:7 as before."},
	{"no DHCPREQUEST", lived(node01(), fleet.Policy{}, with(recorded(1, fleet.ImageRef{}, "10:19:00", ingot.StageDHCP),
		func(b *fleet.Boot) {
			b.Accepted = time.Time{}
		})),
		"The machine sent no DHCPREQUEST after our offer. The offer did not reach the machine, or the machine " +
			"declined it. Check the switch port (STP, VLAN). Booting node:7 now: stage dhcp, 60 s after its first " +
			"packet."},
	{"another DHCP server", with(lived(node01(), fleet.Policy{},
		with(recorded(1, fleet.ImageRef{}, "10:19:00", ingot.StageDHCP), func(b *fleet.Boot) {
			b.Accepted = time.Time{}
		})), func(s *Story) {
		s.Others = []fleet.Other{{Address: netip.MustParseAddr("10.0.0.3"), At: clock("10:19:01")}}
	}),
		"The machine sent no DHCPREQUEST after our offer. Another DHCP server, 10.0.0.3, answered. Booting " +
			"node:7 now: stage dhcp, 60 s after its first packet."},
	{"TFTP does not get through", lived(node01(), fleet.Policy{},
		recorded(1, fleet.ImageRef{}, "10:19:00", ingot.StageDHCP)),
		"The machine got an address, but did not fetch snponly.efi. A firewall may block TFTP (UDP port 69 and " +
			"the ports of its transfers), or the machine hangs in its firmware. Booting node:7 now: stage dhcp, 60 s " +
			"after its first packet."},
	{"beside another server, and no address is taken", lived(node01(), fleet.Policy{},
		with(recorded(1, fleet.ImageRef{}, "10:19:00", ingot.StageDHCP), func(b *fleet.Boot) {
			b.Accepted, b.Proxy = time.Time{}, true
		})),
		"The machine was offered a boot file, but did not get an address. Another DHCP server assigns the " +
			"addresses on this network. It did not answer, or its answer was lost. Check that server and the switch " +
			"port (STP, VLAN). Booting node:7 now: stage dhcp, 60 s after its first packet."},
	{"beside another server, which is obeyed",
		with(lived(node01(), fleet.Policy{}, with(recorded(1, fleet.ImageRef{}, "10:19:00", ingot.StageDHCP),
			func(b *fleet.Boot) {
				b.Proxy = true
			})), func(s *Story) {
			s.Others = []fleet.Other{{Address: netip.MustParseAddr("10.0.0.1"), Kind: "DHCPACK", Expected: true,
				At: clock("10:19:02")}}
		}),
		"The machine got an address from its DHCP server, but did not fetch snponly.efi. It may have used the " +
			"boot file that its DHCP server names, or a firewall may block TFTP (UDP port 69 and the ports of its " +
			"transfers). Booting node:7 now: stage dhcp, 60 s after its first packet."},
	{"beside two other servers", with(lived(node01(), fleet.Policy{},
		with(recorded(1, fleet.ImageRef{}, "10:19:00", ingot.StageDHCP), func(b *fleet.Boot) {
			b.Proxy = true
		})), func(s *Story) {
		s.Others = []fleet.Other{{Address: netip.MustParseAddr("10.0.0.3"), Kind: "DHCPOFFER", File: "pxelinux.0",
			At: clock("10:19:01")}, {Address: netip.MustParseAddr("10.0.0.1"), Kind: "DHCPACK", Expected: true,
			At: clock("10:19:02")}}
	}),
		"The machine got an address from its DHCP server, but did not fetch snponly.efi. Another DHCP server, " +
			"10.0.0.3, answered too, and the machine may have accepted its offer. Booting node:7 now: stage dhcp, 60 " +
			"s after its first packet."},
	{"firmware without a loader", lived(node01(), fleet.Policy{},
		with(recorded(1, fleet.ImageRef{}, "10:19:50", ingot.StageDHCP), func(b *fleet.Boot) {
			b.Firmware, b.First, b.Back, b.Accepted = ingot.FirmwareUEFIarm64, "", false, time.Time{}
		})),
		"This server has no loader for firmware uefi-arm64. Booting node:7 now: stage dhcp, 10 s after its first " +
			"packet."},
	{"HTTP boot does not get through", lived(node01(), fleet.Policy{},
		with(recorded(1, fleet.ImageRef{}, "10:19:00", ingot.StageDHCP), func(b *fleet.Boot) {
			b.Firmware = ingot.FirmwareUEFIx64HTTP
		})),
		"The machine got an address, but did not fetch snponly.efi. A firewall may block HTTP, or the machine " +
			"hangs in its firmware. Booting node:7 now: stage dhcp, 60 s after its first packet."},
	{"a UKI is never fetched", lived(node01(), fleet.Policy{},
		silentAt(byHTTP(recorded(1, node7, "10:00:00", ingot.StageDHCP)), "10:10:00")),
		"The machine got an address, but did not fetch the UKI of node:7. A firewall may block HTTP, or the " +
			"machine hangs in its firmware. The machine will try node:7 twice more, then fall back to node:6."},
	{"a UKI broke off", lived(node01(), fleet.Policy{},
		silentAt(with(byHTTP(recorded(1, node7, "10:00:00", ingot.StageDHCP)), func(b *fleet.Boot) {
			b.Served = map[string]int64{partUKI: 7 << 20}
		}), "10:10:00")),
		"The machine got an address and began to fetch the UKI of node:7, then sent nothing for 10 min. The " +
			"server sent 7.0 MiB of the 21 MiB UKI. The machine will try node:7 twice more, then fall back to node:6."},
	{"a UKI goes silent", lived(node01(), fleet.Policy{},
		silentAt(byHTTP(recorded(1, node7, "10:00:00", ingot.StageLoader)), "10:10:00"),
		silentAt(byHTTP(recorded(2, node7, "10:00:30", ingot.StageLoader)), "10:10:30")),
		"The machine fetched the UKI of node:7, then sent nothing for 599 s (2 attempts). The firmware rejected " +
			"the UKI (check Secure Boot), or image node:7 did not reach ingot-init. The machine will fall back to " +
			"node:6 at its next boot."},
	{"a UKI that stalled", lived(node01(), fleet.Policy{}, ended(byHTTP(recorded(1, node7, "10:18:00", ingot.StageLoader)),
		ingot.OutcomeSilent, "the first stage stalled: the machine loaded uki and was not heard "+
			"from again", clock("10:19:00"))),
		"The machine loaded the UKI of node:7 and was not heard from again. The firmware rejected the UKI (check " +
			"Secure Boot), or the image did not reach ingot-init. The machine will try node:7 once more, then fall " +
			"back to node:6."},
	{"the loader hangs", lived(node01(), fleet.Policy{}, recorded(1, fleet.ImageRef{}, "10:15:00", ingot.StageLoader)),
		"The machine fetched loader snponly.efi, then sent nothing for 299 s. The loader did not request its " +
			"script. Another DHCP server may have answered it, or a firewall may block HTTP. Booting node:7 now: " +
			"stage loader, 300 s after its first packet."},
	{"the kernel broke off", lived(node01(), fleet.Policy{},
		with(silentAt(recorded(1, node7, "10:00:00", ingot.StageScript), "10:10:00"), func(b *fleet.Boot) {
			b.Served = map[string]int64{"kernel": 3 << 20}
		})),
		"The machine fetched its script, then sent nothing for 598 s. The server sent 3.0 MiB of the 9.0 MiB " +
			"kernel. The machine will try node:7 twice more, then fall back to node:6."},
	{"the initramfs broke off", lived(node01(), fleet.Policy{},
		silentAt(recorded(1, node7, "10:00:00", ingot.StageKernel), "10:10:00")),
		"The machine fetched the kernel, then sent nothing for 597 s. The initramfs was not requested. The " +
			"machine will try node:7 twice more, then fall back to node:6."},
	{"first attempt fails", lived(node01(), fleet.Policy{}, silentAt(recorded(1, node7, "10:00:00", ingot.StageInitramfs),
		"10:10:00")),
		"The machine fetched the kernel and initramfs, then sent nothing for 596 s. Image node:7 did not reach " +
			"ingot-init. The machine will try node:7 once more, then fall back to node:6."},
	{"fell back after a panic", lived(node01(), fleet.Policy{},
		silentAt(recorded(1, node7, "10:00:00", ingot.StageInitramfs), "10:04:04"),
		silentAt(recorded(2, node7, "10:05:00", ingot.StageInitramfs), "10:09:04"),
		reports(recorded(3, node6, "10:13:26", ingot.StageAgent), "10:14:00")),
		"The machine fetched the kernel and initramfs, then sent nothing for 240 s (2 attempts). Image node:7 " +
			"did not reach ingot-init. The machine fell back to node:6 and became healthy at 10:14."},
	{"falls back at its next boot", lived(node01(), fleet.Policy{Attempts: 1},
		silentAt(recorded(1, node7, "10:00:00", ingot.StageSwitch), "10:10:00")),
		"The machine started systemd, then sent nothing for 591 s. The agent of node:7 did not run. The machine " +
			"will fall back to node:6 at its next boot."},
	{"fell back and boots", lived(node01(), fleet.Policy{Attempts: 1},
		silentAt(recorded(1, node7, "10:00:00", ingot.StageSwitch), "10:10:00"),
		recorded(2, node6, "10:19:40", ingot.StageInit)),
		"The machine started systemd, then sent nothing for 591 s. The agent of node:7 did not run. The machine " +
			"fell back to node:6 and is booting it now: stage init, 20 s after its first packet."},
	{"fell back after a failing check", lived(node01(), fleet.Policy{}, failedCheck(1, "10:00:00"),
		failedCheck(2, "10:05:00"), reports(recorded(3, node6, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Check web failed: connection refused (2 attempts). 1 other check passed. Failed units: nginx.service. " +
			"The machine fell back to node:6 and became healthy at 10:14."},
	{"fell back after a system that never finished", lived(node01(), fleet.Policy{Attempts: 1},
		fails(recorded(1, node7, "10:00:00", ingot.StageSwitch), ingot.StageAgent, "not healthy within 2m0s; systemd "+
			"still waits for stuck.service; the machine reboots itself"),
		reports(recorded(3, node6, "10:13:26", ingot.StageAgent), "10:14:00")),
		"The system did not finish starting: not healthy within 2m0s; systemd still waits for stuck.service; the " +
			"machine reboots itself. The machine fell back to node:6 and became healthy at 10:14."},
	{"two causes", lived(node01(), fleet.Policy{}, failedCheck(1, "10:00:00"),
		silentAt(recorded(2, node7, "10:05:00", ingot.StageInitramfs), "10:09:04"),
		reports(recorded(3, node6, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Check web failed: connection refused. 1 other check passed. Failed units: nginx.service. The next " +
			"attempt failed differently: the machine fetched the kernel and initramfs, then sent nothing for 240 s. " +
			"Image node:7 did not reach ingot-init. The machine fell back to node:6 and became healthy at 10:14."},
	{"the fallback fails as well", lived(node01(), fleet.Policy{Attempts: 1},
		fails(recorded(1, node7, "10:00:00", ingot.StageRoot), ingot.StageSwitch, "/sbin/init: no such file"),
		fails(recorded(2, node6, "10:05:00", ingot.StageRoot), ingot.StageSwitch, "/sbin/init: no such file")),
		"Stage switch failed: /sbin/init: no such file. The machine fell back to " +
			"node:6, which was healthy here before but failed as well: stage switch failed: /sbin/init: no such file. Check " +
			"the machine and what it depends on, not the images."},
	{"held", lived(with(node01(), func(m *fleet.Machine) {
		m.LastHealthy = fleet.ImageRef{}
	}), fleet.Policy{}, fails(recorded(1, node7, "10:00:00", ingot.StageInit), ingot.StageTicket,
		"the ticket's signature is not by the server key that this initramfs carries"),
		fails(recorded(2, node7, "10:05:00", ingot.StageInit), ingot.StageTicket,
			"the ticket's signature is not by the server key that this initramfs carries")),
		"The machine rejected its ticket (2 attempts). The ticket is signed by a server key that node:7 does not " +
			"contain. The image was built for another server. The machine has been held for an operator since 10:05: " +
			"node:7 failed twice in a row, and no image was ever healthy on this machine."},
	{"held, as the policy wants", lived(node01(), fleet.Policy{After: fleet.AfterHold},
		silentAt(recorded(1, node7, "10:00:00", ingot.StageInitramfs), "10:04:04"),
		silentAt(recorded(2, node7, "10:05:00", ingot.StageInitramfs), "10:09:04")),
		"The machine fetched the kernel and initramfs, then sent nothing for 240 s (2 attempts). Image node:7 " +
			"did not reach ingot-init. The machine has been held for an operator since 10:09: node:7 failed twice in " +
			"a row, and the policy is to wait for an operator."},
	{"will be held, as the policy wants", lived(node01(), fleet.Policy{After: fleet.AfterHold},
		silentAt(recorded(1, node7, "10:00:00", ingot.StageInitramfs), "10:04:04")),
		"The machine fetched the kernel and initramfs, then sent nothing for 240 s. Image node:7 did not reach " +
			"ingot-init. The machine will try node:7 once more, then it will be held for an operator."},
	{"image signed by a stranger", lived(with(node01(), func(m *fleet.Machine) {
		m.LastHealthy = fleet.ImageRef{}
	}), fleet.Policy{}, fails(recorded(1, node7, "10:00:00", ingot.StageTicket), ingot.StageRoot,
		"the image's signature is not by the release key that this initramfs carries")),
		"The machine rejected the image. Image node:7 is signed by a key that its own initramfs does not " +
			"contain. The machine will try node:7 once more, then it will be held for an operator."},
	{"a replayed ticket", lived(node01(), fleet.Policy{}, reportsFailure(recorded(1, node7, "10:00:00", ingot.StageInit),
		ingot.StageTicket,
		ingot.FailureTicketReplayed, "the ticket answers another request than ours (boot 02000000)")),
		"The machine rejected its ticket. The ticket answers another request. A second server or a caching proxy " +
			"may have answered. The machine will try node:7 once more, then fall back to node:6."},
	{"another image than assigned", lived(node01(), fleet.Policy{},
		reportsFailure(recorded(1, node7, "10:00:00", ingot.StageTicket), ingot.StageRoot,
			ingot.FailureImageDigest, "a part of the image is not the one that was assigned: the config has digest "+
				"0123456789ab, the manifest says ba9876543210")),
		"The machine rejected the image. The files served for node:7 are not the ones that were signed. The " +
			"machine will try node:7 once more, then fall back to node:6."},
	{"a damaged root", lived(node01(), fleet.Policy{}, fails(recorded(1, node7, "10:00:00", ingot.StageTicket),
		ingot.StageRoot, "a chunk of the root does not match the manifest: chunk 21 of 300")),
		"The machine rejected the root: a chunk of the root does not match the manifest: chunk 21 of 300. The " +
			"file in the store is damaged, or the network corrupts data. The machine will try node:7 once more, then " +
			"fall back to node:6."},
	{"the machine crashed", lived(node01(), fleet.Policy{},
		with(silentAt(recorded(1, node7, "10:00:00", ingot.StageSwitch), "10:03:00"), func(b *fleet.Boot) {
			b.Crash = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"
		})),
		"The kernel crashed: Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b. The " +
			"machine will try node:7 once more, then fall back to node:6."},
	{"too little memory", lived(node01(), fleet.Policy{}, fails(recorded(1, node7, "10:00:00", ingot.StageTicket),
		ingot.StageRoot, "the image needs a machine with 4096 MiB of memory, this one has 2048 MiB")),
		"Image node:7 does not fit into the memory of this machine: the image needs a machine with 4096 MiB of memory, " +
			"this one has 2048 MiB. The machine will try node:7 once more, then fall back to node:6."},
	{"memory is gone", with(lived(node01(), fleet.Policy{},
		with(fails(recorded(1, node7, "10:00:00", ingot.StageTicket), ingot.StageRoot, "the image needs a machine with "+
			"4096 MiB of memory, this one has 2048 MiB"), func(b *fleet.Boot) {
			b.Changes = []string{"disk S/N 7 is gone"}
		})), hadMemory(4, 2)),
		"Image node:7 does not fit into the memory of this machine: the image needs a machine with 4096 MiB of memory, " +
			"this one has 2048 MiB. The machine lost 2 GiB of RAM (4 → 2 GiB) since its boot at 09:00: a memory module may be " +
			"broken, missing or disabled by the firmware. The machine will try node:7 once more, then fall back to node:6. " +
			"Its hardware changed: disk S/N 7 is gone."},
	{"memory is gone, and the image fits nevertheless", with(lived(node01(), fleet.Policy{},
		reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00")), hadMemory(256, 192)),
		"Healthy on node:7 since 10:14, 34 s after its first packet. The machine lost 64 GiB of RAM (256 → 192 GiB) since " +
			"its boot at 09:00: a memory module may be broken, missing or disabled by the firmware."},
	{"memory was added", with(lived(node01(), fleet.Policy{},
		reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00")), hadMemory(192, 256)),
		"Healthy on node:7 since 10:14, 34 s after its first packet."},
	{"another board has less memory", with(with(lived(node01(), fleet.Policy{},
		reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00")), hadMemory(256, 192)), func(s *Story) {
		s.Machine.Facts.Serial, s.Most.Facts.Serial = "B7", "A7"
	}), "Healthy on node:7 since 10:14, 34 s after its first packet."},
	{"the download stopped", lived(node01(), fleet.Policy{},
		with(silentAt(recorded(1, node7, "10:00:00", ingot.StageTicket), "10:10:00"), func(b *fleet.Boot) {
			b.Served = map[string]int64{"root": 120 << 20}
		})),
		"The machine got its ticket, then sent nothing for 594 s. The server sent 120 MiB of the 300 MiB root. " +
			"The machine will try node:7 once more, then fall back to node:6."},
	{"the download stopped, and the fallback is smaller", lived(node01(), fleet.Policy{Attempts: 1},
		with(silentAt(recorded(1, node7, "10:00:00", ingot.StageTicket), "10:10:00"), func(b *fleet.Boot) {
			b.Served = map[string]int64{"root": 120 << 20}
		}),
		reports(recorded(2, node6, "10:13:26", ingot.StageAgent), "10:14:00")),
		"The machine got its ticket, then sent nothing for 594 s. The server sent 120 MiB of the 300 MiB root. " +
			"The machine fell back to node:6 and became healthy at 10:14."},
	{"the last healthy image fails", lived(with(node01(), func(m *fleet.Machine) {
		m.Assignment.ImageRef = node6
	}), fleet.Policy{}, fails(recorded(1, node6, "10:00:00", ingot.StageRoot), ingot.StageSwitch,
		"/sbin/init: no such file")),
		"Stage switch failed: /sbin/init: no such file. The machine will try " +
			"node:6 again, because it was the last healthy image on this machine."},
	{"healthy without an optional volume", lived(node01(), fleet.Policy{},
		reports(with(recorded(1, node7, "10:13:26", ingot.StageAgent), volumeResult(ingot.VolumeResult{Volume: "data",
			State: ingot.VolumeRefused, Problem: ingot.VolumeForeign, Optional: true, Device: "/dev/vdb", Disk: "S1",
			Detail: "vdb holds volume \"data\" of machine m-2; nothing was checked, mounted or written"})), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet. Volume data was refused: vdb holds volume \"data\" of " +
			"machine m-2; nothing was checked, mounted or written. If this machine may have it from now on, let it take the " +
			"volume over."},
	{"the granted disk is not blank", lived(node01(), fleet.Policy{},
		reports(with(recorded(1, node7, "10:13:26", ingot.StageAgent), volumeResult(ingot.VolumeResult{Volume: "data",
			State: ingot.VolumeRefused, Problem: ingot.VolumeNotBlank, Optional: true, Device: "/dev/vdb", Disk: "S1",
			Detail: "disk vdb (\"S1\") is not blank, it holds: GPT partition table; nothing was written"})), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet. Volume data was refused: disk vdb (\"S1\") is not " +
			"blank, it holds: GPT partition table; nothing was written. If its data may go, run on the machine: blkdiscard " +
			"--force --zeroout /dev/vdb; its next boot then uses the grant."},
	{"an optional volume is just absent", lived(node01(), fleet.Policy{},
		reports(with(recorded(1, node7, "10:13:26", ingot.StageAgent), volumeResult(ingot.VolumeResult{Volume: "data",
			State: ingot.VolumeAbsent, Problem: ingot.VolumeNoDisk, Optional: true})), "10:14:00")),
		"Healthy on node:7 since 10:14, 34 s after its first packet."},
	{"the overlay is full", with(lived(node01(), fleet.Policy{},
		reports(recorded(1, node7, "10:13:26", ingot.StageAgent), "10:14:00")), func(s *Story) {
		s.Boots[0].Report.OverlayUsed, s.Boots[0].Report.OverlaySize = 512<<20, 512<<20
	}),
		"Healthy on node:7 since 10:14, but its writable overlay is full (512 MiB of 512 MiB), so nothing outside of " +
			"volumes can be written."},
	{"a volume is refused", lived(node01(), fleet.Policy{Attempts: 1},
		fails(recorded(1, node7, "10:00:00", ingot.StageRoot), ingot.StageVolumes,
			"volume data refused: no disk has the label data")),
		"The volumes were not mounted: volume data refused: no disk has the label data. This does not count against " +
			"node:7, since another image would meet the same disks. The machine will try node:7 again."},
	{"reset while it checks a filesystem", lived(node01(), fleet.Policy{Attempts: 1},
		silentAt(with(recorded(1, node7, "10:00:00", ingot.StageRoot), checking), "10:10:00")),
		"The machine was checking the filesystem of volume data on /dev/vdb, 34 % done, then sent nothing for 570 s. " +
			"This does not count against node:7. The machine will try node:7 again."},
	{"assigned anew after a failure", lived(with(node01(), func(m *fleet.Machine) {
		m.Assignment = fleet.Assignment{ImageRef: node6, Since: clock("10:15:00")}
	}), fleet.Policy{}, silentAt(recorded(1, node7, "10:00:00", ingot.StageInitramfs), "10:10:00")),
		"The machine fetched the kernel and initramfs, then sent nothing for 596 s. Image node:7 did not reach " +
			"ingot-init. node:6 has been assigned since 10:15 and will boot at the next restart."},
	{"the image is gone", with(lived(node01(), fleet.Policy{},
		with(recorded(1, fleet.ImageRef{}, "09:00:00", ingot.StageScript), func(b *fleet.Boot) {
			*b = ended(*b, ingot.OutcomeWaiting, "", clock("09:10:00"))
		})), func(s *Story) {
		s.Unservable = "image 0123456789ab: no such image"
	}),
		"The image for node01 cannot be served: image 0123456789ab: no such image."},
	{"waits for an image of a stranger",
		with(lived(node01(), fleet.Policy{}, recorded(1, fleet.ImageRef{}, "10:19:00", ingot.StageLoader)), func(s *Story) {
			s.Unservable, s.Untrusted = "image node:7: bad signature: it says key 0123456789ABCDEF; machines would refuse it",
				true
		}),
		"The image for node01 cannot be served: image node:7: bad signature: it says key 0123456789ABCDEF; " +
			"machines would refuse it."},
	{"healthy, and what is assigned cannot be served",
		with(lived(node01(), fleet.Policy{}, reports(recorded(1, node6, "09:13:26", ingot.StageAgent), "09:14:00")),
			func(s *Story) {
				s.Unservable = "image 0123456789ab: no such image"
			}),
		"Healthy on node:6 since 09:14, 34 s after its first packet. node:7 has been assigned since 10:00, but " +
			"cannot be served: image 0123456789ab: no such image."},
	{"retries", lived(node01(), fleet.Policy{}, record(recorded(1, node7, "10:19:00", ingot.StageInit),
		ingot.Event{Stage: ingot.StageTicket, Error: "asking for a ticket: connection " +
			"refused", Retry: true}, clock("10:19:30"))),
		"Stage ticket failed: asking for a ticket: connection refused. The machine is retrying. Booting node:7 " +
			"now: stage init, 60 s after its first packet."},
	{"retries for the second time", lived(node01(), fleet.Policy{}, with(retried(recorded(1, node7, "10:19:00",
		ingot.StageInit), 2), func(b *fleet.Boot) {
		b.Served = map[string]int64{"root": 120 << 20}
	})),
		"Stage root failed: fetching the root: connection reset by peer. The machine failed 2 times in this boot and " +
			"is retrying. Booting node:7 now: stage ticket, 60 s after its first packet; the server sent 120 MiB of " +
			"the 300 MiB root."},
	{"retries, and gets past the error", lived(node01(), fleet.Policy{}, record(retried(recorded(1, node7, "10:19:00",
		ingot.StageInit), 1), ingot.Event{Stage: ingot.StageRoot}, clock("10:19:55"))),
		"Booting node:7 now: stage root, 60 s after its first packet."},
	{"retried, then silent", lived(node01(), fleet.Policy{}, silentAt(record(recorded(1, node7, "10:00:00",
		ingot.StageInit), ingot.Event{Stage: ingot.StageTicket, Error: "asking for a ticket: connection refused",
		Retry: true}, clock("10:00:30")), "10:10:00")),
		"Stage ticket failed: asking for a ticket: connection refused. The machine was retrying, then sent nothing " +
			"for 570 s. The machine will try node:7 once more, then fall back to node:6."},
	{"the agent starts again", lived(node01(), fleet.Policy{}, record(record(recorded(1, node7, "10:19:00",
		ingot.StageAgent), ingot.Event{Stage: ingot.StageAgent, Error: "reading /dev/loop0: input/output error",
		Retry: true}, clock("10:19:20")), ingot.Event{Stage: ingot.StageAgent},
		clock("10:19:21"))),
		"The system did not finish starting: reading /dev/loop0: input/output error. The machine is retrying. " +
			"Booting node:7 now: stage agent, 60 s after its first packet."},
	{"gave up after retries", lived(node01(), fleet.Policy{}, fails(retried(recorded(1, node7, "10:00:00",
		ingot.StageInit), 2), ingot.StageRoot, resetByPeer)),
		"Stage root failed: fetching the root: connection reset by peer. The machine gave up after 3 tries. The " +
			"machine will try node:7 once more, then fall back to node:6."},
	{"gave up after retries, and fell back", lived(node01(), fleet.Policy{},
		fails(retried(recorded(1, node7, "10:00:00", ingot.StageInit), 2), ingot.StageRoot, resetByPeer),
		fails(retried(recorded(2, node7, "10:05:00", ingot.StageInit), 2), ingot.StageRoot, resetByPeer),
		reports(recorded(3, node6, "10:13:26", ingot.StageAgent), "10:14:00")),
		"Stage root failed: fetching the root: connection reset by peer (2 attempts). The last attempt gave up after 3 " +
			"tries. The machine fell back to node:6 and became healthy at 10:14."},
	{"reported a failure after its deadline", lived(node01(), fleet.Policy{}, record(silentAt(recorded(1, node7,
		"10:00:00", ingot.StageInit), "10:10:00"),
		ingot.Event{Stage: ingot.StageTicket, Error: "asking for a ticket: no route to host"},
		clock("10:11:00"))),
		"Stage ticket failed: asking for a ticket: no route to host. The machine will try node:7 once more, then " +
			"fall back to node:6."},
	{"a loader that stalled", lived(node01(), fleet.Policy{},
		byStall(ended(with(recorded(1, fleet.ImageRef{}, "10:18:00", ingot.StageLoader), func(b *fleet.Boot) {
			b.Image = node7
		}), ingot.OutcomeSilent, "the first stage stalled: the machine loaded snponly.efi and was not heard from again",
			clock("10:19:00")))),
		"The machine loaded snponly.efi and was not heard from again. The firmware and this loader are " +
			"incompatible. The machine will try node:7 twice more, then fall back to node:6."},
}

const resetByPeer = "fetching the root: connection reset by peer"

// retried adds failures of the root after which the machine tries again, beginning with another ticket.
func retried(b fleet.Boot, n int) fleet.Boot {
	at := b.Events[len(b.Events)-1].At
	for i := range n {
		at = clock(at.Add(10 * time.Second).Format("15:04:05"))
		b = record(b, ingot.Event{Stage: ingot.StageTicket, Detail: fmt.Sprint(i)}, at)
		b = record(b, ingot.Event{Stage: ingot.StageRoot, Error: resetByPeer, Retry: true}, at.Add(5*time.Second))
	}
	return b
}

// byHTTP is a boot of the image's own UKI.
func byHTTP(b fleet.Boot) fleet.Boot {
	b.Firmware, b.First, b.Back = ingot.FirmwareUEFIx64HTTP, fleet.FirstUKI, false
	return b
}

func crashed(b fleet.Boot) fleet.Boot {
	b.Crash = "BUG: kernel NULL pointer dereference, address: 0000000000000010"
	return b
}

// lasted is a healthy boot that was heard from for so long.
func lasted(b fleet.Boot, d time.Duration) fleet.Boot {
	for _, e := range b.Events {
		if e.Stage == ingot.StageHealthy {
			b.Report.Uptime = e.Uptime + d
		}
	}
	return b
}

func failedCheck(id byte, start string) fleet.Boot {
	b := recorded(id, node7, start, ingot.StageAgent)
	return with(reports(b, start[:6]+"59", ingot.CheckResult{Name: "ssh", OK: true},
		ingot.CheckResult{Name: "web", Detail: "connection refused"}), func(b *fleet.Boot) {
		b.Report.Failed = []string{"nginx.service"}
	})
}

// TestWhy holds the words for boots as servers record them. The records are in
// testdata/why, so that a change of what is recorded shows as well.
func TestWhy(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range stories {
		if seen[c.name] {
			t.Fatalf("two stories are called %q", c.name)
		}
		seen[c.name] = true
		file := filepath.Join("testdata", "why", strings.NewReplacer(" ", "-", ",", "").Replace(c.name)+".json")
		if *update {
			text, err := json.MarshalIndent(c.story, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("%v; go test ./bootserver/fleet/explain -run TestWhy -update", err)
		}
		var s Story
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		s.Now = s.Now.UTC()
		got, next := Why(s)
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
		for i := range s.Boots { // as an older image reports it, and an older server records it
			for j := range s.Boots[i].Events {
				s.Boots[i].Events[j].Code = ""
			}
		}
		if old, _ := Why(s); old != got {
			t.Errorf("%s: without codes it is %q; want %q", c.name, old, got)
		}
		for _, n := range next {
			if !strings.HasPrefix(n.Command(), "ingot ") {
				t.Errorf("%s: the next step %+v has no command", c.name, n)
			}
			i := slices.IndexFunc(advice.Meanings, func(m advice.Meaning) bool { return m.Code == n.Code })
			for _, name := range advice.Meanings[i].Parameters {
				if n.Params[name] == "" {
					t.Errorf("%s: the next step %+v has no %s", c.name, n, name)
				}
			}
		}
	}
}

// TestWhyNext: what may be typed next leads on, in the order in which one would.
func TestWhyNext(t *testing.T) {
	want := map[string][]string{
		"a moved card asks": {"ingot machine merge m-525400120077 m-525400120001",
			"ingot machine approve m-525400120077 --name NAME --image PROFILE:VERSION"},
		"healthy again after a crash":                  {"ingot console node01 --boot 01000000"},
		"healthy, and started over":                    nil,
		"healthy, and another host booted in its name": {"ingot boots node01 --timeline", "ingot network"},
		"held, as the policy wants": {"ingot console node01", "ingot resume node01",
			"ingot assign node01 PROFILE:VERSION"},
		"firmware without a loader":                      {"ingot loaders"},
		"the kernel broke off":                           {"ingot boots node01 --timeline"},
		"beside another server, and no address is taken": {"ingot network"},
		"a UKI goes silent":                              {"ingot console node01", "ingot resume node01"},
		"approved while the first image cannot be served": {"ingot image verify node:1",
			"ingot assign node01 PROFILE:VERSION"},
		"approved while the store has no first image": {"ingot image ls", "ingot build node --version 1",
			"ingot assign node01 PROFILE:VERSION"},
		"healthy, and then quiet":                           {"ingot console node01", "ingot network"},
		"a UKI that stalled":                                {"ingot image verify node:7", "ingot boots node01 --timeline"},
		"the download stopped, and the fallback is smaller": {"ingot console node01", "ingot resume node01"},
	}
	found := 0
	for _, c := range stories {
		if next, has := want[c.name]; has {
			found++
			var got []string
			_, steps := Why(c.story)
			for _, s := range steps {
				got = append(got, s.Command())
			}
			if !cmp.Equal(next, got) {
				t.Errorf("%s: next is %q; want %q", c.name, got, next)
			}
		}
	}
	if found != len(want) {
		t.Errorf("%d of %d stories are there", found, len(want))
	}
}

// checking adds that a boot checks a filesystem, 30 s after its start.
func checking(b *fleet.Boot) {
	b.Events = append(b.Events, fleet.Event{Event: ingot.Event{Stage: ingot.StageVolumes,
		Check: &ingot.VolumeCheck{Volume: "data", Device: "/dev/vdb", Percent: 34}}, At: b.Started.Add(30 * time.Second)})
}

// hadMemory gives a machine so many GiB of memory at 9:00, and others now.
func hadMemory(before, now int64) func(*Story) {
	return func(s *Story) {
		s.Most = Hardware{At: clock("09:00:00"), Facts: ingot.Facts{RAM: before << 30}}
		s.Machine.Facts.RAM = now << 30
	}
}

// volumeResult adds what a boot reports of a volume.
func volumeResult(r ingot.VolumeResult) func(*fleet.Boot) {
	return func(b *fleet.Boot) {
		at := b.Events[len(b.Events)-1].At
		b.Events = append(b.Events, fleet.Event{Event: ingot.Event{Stage: ingot.StageVolumes,
			Results: []ingot.VolumeResult{r}}, At: at})
	}
}
