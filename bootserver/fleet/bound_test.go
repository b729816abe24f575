package fleet

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"ingot"
)

// ticketed begins a decision about a boot that has its ticket.
func ticketed() *Decision {
	b := Boot{ID: boot1, Machine: "m-1", Image: v1, Started: t0, Ticket: t0}
	m := Machine{ID: "m-1", State: Approved, Assignment: Assignment{ImageRef: v1}, Boot: boot1}
	return NewDecision(m, b, BootPolicy{}, Images{string(v1.Image): {}}, Actor{}, t0)
}

func jsonSize(t *testing.T, v any) int {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return len(text)
}

// TestFullBoot: a boot with as many volumes and checks as a machine has, and long texts about them,
// is kept as it is.
func TestFullBoot(t *testing.T) {
	var results []ingot.VolumeResult
	for i := range 64 {
		results = append(results, ingot.VolumeResult{Volume: fmt.Sprintf("postgres-data-%02d", i), State: ingot.VolumeMounted,
			Device: fmt.Sprintf("/dev/mapper/vg0-data%02d", i), Disk: "wwn-0x5000c500a1b2c3d4e5f60718",
			Detail: strings.Repeat("checked ", 12)})
	}
	r := ingot.Report{Boot: boot1, Healthy: true, Volumes: results}
	for i := range 100 {
		r.Checks = append(r.Checks, ingot.CheckResult{Name: fmt.Sprintf("check of the service number %d", i), OK: i%10 > 0,
			Detail: strings.Repeat("exit status 1: ", 20)})
	}
	d := ticketed()
	for i := range 100 {
		d.Record(ingot.Event{Stage: ingot.StageRoot, Bytes: int64(i), Detail: strings.Repeat("chunk ", 10)})
	}
	d.Record(ingot.Event{Stage: ingot.StageVolumes, Results: BoundResults(results)})
	d.Boot.Report = &r
	if got := d.Boot.Bound(); !reflect.DeepEqual(got, d.Boot) {
		t.Errorf("a boot of %d bytes was cut to %d bytes", jsonSize(t, d.Boot), jsonSize(t, got))
	}
	if e := d.Boot.Events[100]; !reflect.DeepEqual(e.Results, results) {
		t.Errorf("%d of %d results are kept as they were sent", len(e.Results), len(results))
	}
}

// TestBootIsBounded: whatever a machine sends, its boot is within the bound, the latest event and the
// checks that failed are in it.
func TestBootIsBounded(t *testing.T) {
	for _, bad := range []string{"<", "\x01", "\u2028", "\xff", `"`, "é"} {
		name, text := Clip(strings.Repeat(bad, 256), 256), Clip(strings.Repeat(bad, 1000), 1000)
		result := ingot.VolumeResult{Volume: name, State: ingot.VolumeState(name), Problem: ingot.VolumeProblem(name),
			Device: name, Disk: name, Detail: text}
		var results []ingot.VolumeResult
		var names []string
		var checks []ingot.CheckResult
		for range 64 {
			results, names = append(results, result), append(names, name)
		}
		for i := range 100 {
			checks = append(checks, ingot.CheckResult{Name: text, Detail: text, OK: i != 99})
		}
		for _, ticket := range []time.Time{{}, t0} {
			d := ticketed()
			d.Boot.Ticket = ticket
			for i := range 2 * MaxEvents {
				d.Record(ingot.Event{Stage: ingot.StageInitramfs, Detail: text, Error: text, Retry: true, Bytes: int64(i),
					Volumes: names, Results: BoundResults(results), Check: &ingot.VolumeCheck{Volume: name, Device: name}})
			}
			d.Boot.Report = &ingot.Report{Checks: checks, Volumes: BoundResults(results), Failed: names[:20], Kernel: name}
			b, most := d.Boot.Bound(), MaxBootBytes
			if ticket.IsZero() {
				most = MaxWaitingBytes
			}
			if n := jsonSize(t, b); n > most {
				t.Errorf("%q, ticket %t: the boot takes %d bytes; want at most %d", bad, !ticket.IsZero(), n, most)
			}
			last, want := b.Events[len(b.Events)-1], d.Boot.Events[len(d.Boot.Events)-1]
			if !reflect.DeepEqual(last, want) {
				t.Errorf("%q: the latest event was cut", bad)
			}
			if len(b.Report.Checks) == 0 || b.Report.Checks[0].OK {
				t.Errorf("%q: the check that failed is not in the report", bad)
			}
		}
	}
}

// TestLedgerOfOneBoot: messages of one boot cause a bounded number of ledger entries of bounded size,
// and the ledger has the latest state in the end.
func TestLedgerOfOneBoot(t *testing.T) {
	d := ticketed()
	for i := range 5000 {
		d.Record(ingot.Event{Stage: ingot.StageVolumes, Check: &ingot.VolumeCheck{Volume: "data", Percent: i % 2 * 50}})
		other := &ingot.VolumeCheck{Volume: fmt.Sprint(i % 3), Percent: i % 2 * 50}
		d.Record(ingot.Event{Stage: ingot.StageVolumes, Check: other, Bytes: int64(i),
			Results: []ingot.VolumeResult{{Volume: "data", State: ingot.VolumeFailed}}})
		d.ShutsDown()
	}
	if n, most := len(d.Changes), MaxEvents+400; n > most {
		t.Errorf("%d ledger entries of events; want at most %d", n, most)
	}
	d = ticketed()
	d.Boot.Outcome = ingot.OutcomeHealthy
	bad := ingot.Report{Checks: make([]ingot.CheckResult, 100)}
	for i := range bad.Checks {
		bad.Checks[i] = ingot.CheckResult{Name: strings.Repeat("n", 1000), Detail: strings.Repeat("d", 1000)}
	}
	d.Report(ingot.Report{Healthy: true})
	for i := range 2881 { // the last one is not healthy
		d.now = d.now.Add(30 * time.Second)
		if r := bad; i%2 == 0 {
			d.Report(r)
		} else {
			d.Report(ingot.Report{Healthy: true})
		}
	}
	if n := len(d.Changes); n < 100 || n > 160 {
		t.Errorf("%d ledger entries of a day in which a machine was healthy and not in turn; want one in 10 minutes", n)
	}
	for range 30 { // and stays so
		d.now = d.now.Add(30 * time.Second)
		d.Report(bad)
	}
	if last := d.Changes[len(d.Changes)-1]; last.To.Bool("isHealthy") {
		t.Error("the last ledger entry says that the machine is healthy; it is not")
	}
	for _, c := range d.Changes {
		if n := jsonSize(t, c); n > 6<<10 || len(c.String()) > 6<<10 {
			t.Fatalf("a ledger entry has %d bytes, its text %d; want at most 6 KiB", n, len(c.String()))
		}
	}
}
