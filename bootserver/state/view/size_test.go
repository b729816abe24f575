package view

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state/record"
)

// TestSizeAtMost: the estimate of a record is never below its size.
func TestSizeAtMost(t *testing.T) {
	text := strings.Repeat("<\x01\u2028\xff", 100)
	now := time.Date(2026, 11, 30, 12, 0, 0, 123456789, time.FixedZone("x", 3600))
	result := ingot.VolumeResult{Volume: text, State: "failed", Problem: "foreign", Device: text, Disk: text, Detail: text}
	events := make([]fleet.Event, 100)
	for i := range events {
		events[i] = fleet.Event{At: now, Event: ingot.Event{Stage: ingot.StageInitramfs, Bytes: 1 << 62, Uptime: 1 << 62}}
	}
	for _, v := range []any{
		fleet.Machine{}, fleet.Boot{}, fleet.Change{}, fleet.Lease{},
		fleet.Boot{ID: "b", Reason: text, Events: events, Served: map[string]int64{"kernel": 1 << 62},
			Report: &ingot.Report{Failed: []string{text, ""}, Volumes: []ingot.VolumeResult{result, {}}}},
		fleet.Boot{Addresses: []netip.Addr{netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")}, Started: now,
			Auth: fleet.Authentication{Half: make([]byte, 64), Counters: map[string]uint64{"report": 1 << 63}}},
		fleet.Machine{Name: text, Facts: ingot.Facts{Disks: make([]ingot.Disk, 100), NICs: make([]ingot.NIC, 100)}},
		fleet.Change{At: now, Code: fleet.CodeBootReport, To: fleet.Values{"units": []string{text, "a"},
			"checks": []fleet.Values{{"name": text}}, "n": 1 << 60}},
	} {
		size, err := record.Size(v)
		if err != nil {
			t.Fatal(err)
		}
		if n := sizeAtMost(reflect.ValueOf(v)); n < size {
			t.Errorf("%T: the estimate is %d; the record has %d bytes", v, n, size)
		}
	}
}
