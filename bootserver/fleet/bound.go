package fleet

import (
	"slices"
	"time"
	"unicode/utf8"

	"ingot"
)

// Bounds of what a boot keeps of its machine's messages, in bytes of the stored JSON. A boot without a
// ticket runs nothing that has volumes or checks yet.
const (
	MaxBootBytes    = 256 << 10 // of a boot with a ticket
	MaxWaitingBytes = 64 << 10  // of a boot without one
	MaxFactsBytes   = 128 << 10 // of the facts about a machine; 256 disks take about 90 KiB
	maxResultsBytes = 32 << 10  // of the volumes of one message; 64 volumes take about 20 KiB
	maxHadBytes     = 64 << 10  // of Machine.Had
)

// Bounds of the ledger entries that the messages of one boot cause, besides one for each event.
const (
	// maxNotes limits those about the progress of checks, about volumes and shutdowns.
	maxNotes = 400
	// those about reports: reportBurst at once, and one in reportEvery over time
	reportBurst = 10
	reportEvery = 10 * time.Minute
	// of the checks that one of them names
	maxListed     = 8
	maxListedText = 256
	maxUnits      = 4 << 10 // bytes of the names of failed units
)

// Clip bounds a text to what takes at most n bytes in JSON, where a character can take six.
func Clip(s string, n int) string {
	if len(s) <= n/6 {
		return s
	}
	for i, r := range s {
		if n -= runeSize(r); n < 0 {
			return s[:i]
		}
	}
	return s
}

func textSize(s string) (n int) {
	for _, r := range s {
		n += runeSize(r)
	}
	return n
}

// runeSize returns how many bytes a character takes in the JSON of encoding/json.
func runeSize(r rune) int {
	switch {
	case r == '"', r == '\\', r == '\n', r == '\r', r == '\t', r == '\b', r == '\f':
		return 2
	case r < ' ', r == '<', r == '>', r == '&', r == utf8.RuneError, r == '\u2028', r == '\u2029':
		return 6
	}
	return utf8.RuneLen(r)
}

// Sizes of the JSON of values, with all field names; never too small.
const (
	resultOverhead = 90
	checkOverhead  = 80
	eventOverhead  = 80 // stage and time
	fieldOverhead  = 14 // of an event
	numberOverhead = 32
	reportOverhead = 400
	diskOverhead   = 160
	nicOverhead    = 110
	factsOverhead  = 400
)

func textSizes(texts ...string) (n int) {
	for _, t := range texts {
		n += textSize(t) + len(`"",`)
	}
	return n
}

func resultSize(r ingot.VolumeResult) int {
	return resultOverhead + textSizes(r.Volume, string(r.State), string(r.Problem), r.Device, r.Disk, r.Detail)
}

func checkSize(c ingot.CheckResult) int { return checkOverhead + textSizes(c.Name, c.Detail) }

func eventSize(e Event) int {
	n := eventOverhead + textSizes(string(e.Stage)) + textSizes(e.Volumes...)
	for _, text := range []string{e.Error, string(e.Code), e.Detail} {
		if text != "" {
			n += fieldOverhead + textSizes(text)
		}
	}
	for _, number := range []int64{e.Bytes, int64(e.Uptime)} {
		if number != 0 {
			n += numberOverhead
		}
	}
	for _, has := range []bool{e.Retry, e.Down, e.Volumes != nil, e.Results != nil} {
		if has {
			n += fieldOverhead
		}
	}
	if e.Check != nil {
		n += checkOverhead + textSizes(e.Check.Volume, e.Check.Device)
	}
	return n + total(e.Results, resultSize)
}

func reportSize(r *ingot.Report) int {
	return reportOverhead + textSizes(string(r.Boot), string(r.Image), string(r.Root), r.Kernel, r.Hostname) +
		textSizes(r.Failed...) + total(r.Checks, checkSize) + total(r.Volumes, resultSize)
}

func diskSize(d ingot.Disk) int {
	n := diskOverhead + textSizes(d.Name, d.Serial, d.WWN, d.Model, d.Path, d.Holds)
	if d.Owner != nil {
		n += textSizes(d.Owner.Fleet, string(d.Owner.Machine), d.Owner.Volume)
	}
	return n
}

func nicSize(c ingot.NIC) int { return nicOverhead + textSizes(c.Name, c.MAC, c.Driver, c.Firmware) }

func total[T any](list []T, size func(T) int) (n int) {
	for _, e := range list {
		n += size(e)
	}
	return n
}

// first returns the first elements of a list that take at most most bytes together.
func first[T any](list []T, size func(T) int, most int) []T {
	for i, e := range list {
		if most -= size(e); most < 0 {
			return list[:i:i]
		}
	}
	return list
}

// BoundResults returns what a message says of volumes within its bound: without details if they are
// too long, and without the last volumes if that is not enough.
func BoundResults(list []ingot.VolumeResult) []ingot.VolumeResult {
	return boundResults(list, maxResultsBytes)
}

func boundResults(list []ingot.VolumeResult, most int) []ingot.VolumeResult {
	n := total(list, resultSize)
	if n <= most {
		return list
	}
	list = slices.Clone(list)
	for i := len(list) - 1; i >= 0 && n > most; i-- {
		n -= textSize(list[i].Detail)
		list[i].Detail = ""
	}
	return first(list, resultSize, most)
}

// BoundFacts returns facts about a machine within MaxFactsBytes, without the last disks and cards if
// they are too many.
func BoundFacts(f ingot.Facts) ingot.Facts {
	most := MaxFactsBytes - factsOverhead - textSizes(f.UUID, f.Serial, f.Vendor, f.Product, f.BIOS, f.BIOSDate,
		string(f.Firmware), string(f.Arch), f.CPU, f.Kernel)
	f.NICs = first(f.NICs, nicSize, most/2)
	f.Disks = first(f.Disks, diskSize, most-total(f.NICs, nicSize))
	return f
}

// Bound returns the machine with its facts within their bounds. Older versions of ingot stored more.
func (m Machine) Bound() Machine {
	m.Facts, m.Had = BoundFacts(m.Facts), first(m.Had, diskSize, maxHadBytes)
	return m
}

// Bound returns the boot within MaxBootBytes, or MaxWaitingBytes before its ticket: details of its
// oldest events are dropped first, then those events, and of its report what did not fail. A boot
// within the bound is not copied.
func (b Boot) Bound() Boot {
	most := MaxBootBytes
	events, report := most/2, most/8*3
	if !b.hadTicket() {
		most = MaxWaitingBytes
		events, report = most/4*3, most/8
	}
	b.Events = boundEvents(b.Events, events)
	if b.Report != nil && reportSize(b.Report) > report {
		b.Report = boundReport(*b.Report, report)
	}
	b.Changes = first(b.Changes, listedSize, most/16)
	b.Reason, b.Crash = Clip(b.Reason, most/32), Clip(b.Crash, most/32)
	return b
}

// hadTicket reports whether a system of the boot got its ticket, as far as is known: after a restore,
// the record may be older than that.
func (b *Boot) hadTicket() bool { return !b.Ticket.IsZero() || len(b.Auth.Half) > 0 }

const shortText = 60 // what is left of a text whose detail is dropped

func boundEvents(list []Event, most int) []Event {
	n := total(list, eventSize)
	if n <= most {
		return list
	}
	list = slices.Clone(list)
	for i := 0; i < len(list)-1 && n > most; i++ { // the latest one stays as it is
		e := &list[i]
		n -= eventSize(*e)
		e.Results, e.Volumes, e.Check = nil, nil, nil
		e.Detail, e.Error = Clip(e.Detail, shortText), Clip(e.Error, shortText)
		n += eventSize(*e)
	}
	for len(list) > 1 && n > most {
		n -= eventSize(list[0])
		list = list[1:]
	}
	return list
}

func boundReport(r ingot.Report, most int) *ingot.Report {
	r.Checks = slices.Clone(r.Checks)
	slices.SortStableFunc(r.Checks, func(a, b ingot.CheckResult) int { // those that failed are kept
		switch {
		case a.OK == b.OK:
			return 0
		case b.OK:
			return -1
		}
		return 1
	})
	for i := len(r.Checks) - 1; i >= 0 && reportSize(&r) > most; i-- {
		r.Checks[i].Detail = Clip(r.Checks[i].Detail, shortText)
	}
	if over := reportSize(&r) - most; over > 0 {
		r.Volumes = boundResults(r.Volumes, max(total(r.Volumes, resultSize)-over, 0))
	}
	if over := reportSize(&r) - most; over > 0 {
		r.Failed = first(r.Failed, listedSize, max(textSizes(r.Failed...)-over, 0))
	}
	if over := reportSize(&r) - most; over > 0 {
		r.Checks = first(r.Checks, checkSize, max(total(r.Checks, checkSize)-over, 0))
	}
	return &r
}

func listedSize(s string) int { return textSizes(s) }

// note adds a ledger entry that a message of the boot caused besides the one of its event. There are
// at most maxNotes of a boot.
func (d *Decision) note(c Change) {
	if d.Boot.Notes >= maxNotes {
		return
	}
	d.Boot.Notes++
	d.addBoot(d.Boot, c)
}

// ReportLog is what the ledger has of the reports of a boot, whose heartbeats may change faster than
// the ledger tells it.
type ReportLog struct {
	Next time.Time // when its entries, evenly spread, are used up
	// set while the last report differs from the last one that the ledger has; never modified
	Behind *Recorded
}

// Recorded is what the ledger last said of a report.
type Recorded struct {
	Healthy bool
	Failed  []string // units
}

// noteReport adds the ledger entry about a report, if it differs from what the ledger has. Entries
// that come too fast are merged: the next one tells the difference to the last one.
func (d *Decision) noteReport(r ingot.Report) {
	b := &d.Boot
	recorded := b.Reports.Behind
	if recorded == nil && b.Report != nil {
		recorded = &Recorded{b.Report.Healthy, b.Report.Failed}
	}
	c, is := reportChange(recorded, r)
	if !is {
		b.Reports.Behind = nil
		return
	}
	next := b.Reports.Next
	if next.Before(d.now) || next.Sub(d.now) > reportBurst*reportEvery { // or the clock was set back
		next = d.now
	}
	if next.Sub(d.now) > (reportBurst-1)*reportEvery {
		b.Reports.Behind = recorded
		return
	}
	b.Reports = ReportLog{Next: next.Add(reportEvery)}
	d.addBoot(*b, c)
}

// listed returns the checks that failed, for a ledger entry: the first ones, with short texts.
func listed(checks []ingot.CheckResult) (list []Values, more int) {
	for _, k := range checks {
		switch {
		case k.OK:
		case len(list) == maxListed:
			more++
		default:
			list = append(list, Values{"name": Clip(k.Name, maxListedText), "detail": Clip(k.Detail, maxListedText)})
		}
	}
	return list, more
}

// boundEvent returns the event without what the boot cannot have yet: before a ticket there are no
// volumes. How far an order is, is kept with the order.
func (b *Boot) boundEvent(e ingot.Event) ingot.Event {
	e.Order = nil
	if !b.hadTicket() {
		e.Volumes, e.Check, e.Results = nil, nil, nil
	}
	return e
}
