package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"ingot"
)

// Entry is one line of the ledger: what happened when. The ledger is only
// appended to; what is old is forgotten.
type Entry struct {
	Seq     uint64          `json:"seq"`
	At      time.Time       `json:"at"`
	Kind    Kind            `json:"kind"`
	Machine ingot.MachineID `json:"machine,omitempty"`
	Boot    ingot.BootID    `json:"boot,omitempty"`
	Stage   ingot.Stage     `json:"stage,omitempty"` // of KindStep
	Text    string          `json:"text"`            // for people
	Bytes   int64           `json:"bytes,omitempty"`
	Bad     bool            `json:"bad,omitempty"` // worth a look
}

// Kind sorts entries.
type Kind string

// The kinds of entries.
const (
	KindStep     Kind = "step"     // a stage of a boot was reached, or failed
	KindEnd      Kind = "end"      // a boot ended
	KindDecision Kind = "decision" // what a machine boots next was decided
	KindMachine  Kind = "machine"  // what is known of a machine, or allowed to it, changed
)

// BootEntries are the entries that lead from one record of a boot to the next;
// old is nil for a new boot.
func BootEntries(old *Boot, b Boot, now time.Time) []Entry {
	e := Entry{At: now, Machine: b.Machine, Boot: b.ID}
	var list []Entry
	seen := 0
	if old != nil {
		seen = len(old.Events)
	}
	for _, step := range b.Events[min(seen, len(b.Events)):] {
		s := e
		s.At, s.Kind, s.Stage, s.Bytes, s.Text = step.At, KindStep, step.Stage, step.Bytes, step.Detail
		if step.Error != "" {
			s.Text, s.Bad = "failed: "+step.Error, true
			if step.Retry {
				s.Text += "; it tries again"
			}
		}
		list = append(list, s)
	}
	if text := reportChange(old, b); text != "" {
		r := e
		r.Kind, r.Stage, r.Text, r.Bad = KindStep, ingot.StageHealthy, text, !b.Report.Healthy || len(b.Report.Failed) > 0
		list = append(list, r)
	}
	if b.Outcome != ingot.OutcomeOpen && (old == nil || old.Outcome != b.Outcome) {
		e.Kind, e.Text, e.Bad = KindEnd, string(b.Outcome), b.Outcome == ingot.OutcomeFailed || b.Outcome == ingot.OutcomeSilent
		if b.Image.Name != "" {
			e.Text = b.Image.Name + " " + e.Text
		}
		if b.Reason != "" {
			e.Text += ": " + b.Reason
		}
		list = append(list, e)
	}
	return list
}

// reportChange says what a report tells that the one before did not: units that
// failed, and a machine that was healthy and is not, or is again.
func reportChange(old *Boot, b Boot) string {
	if b.Report == nil {
		return ""
	}
	var before ingot.Report
	first := old == nil || old.Report == nil
	if !first {
		before = *old.Report
	}
	var words []string
	if !first && before.Healthy != b.Report.Healthy {
		words = append(words, map[bool]string{true: "healthy again", false: "not healthy any more"}[b.Report.Healthy])
		for _, c := range b.Report.Checks {
			if !c.OK {
				words = append(words, fmt.Sprintf("check %s: %s", c.Name, c.Detail))
			}
		}
	}
	if len(b.Report.Failed) > 0 && !slices.Equal(before.Failed, b.Report.Failed) {
		words = append(words, "failed units: "+strings.Join(b.Report.Failed, ", "))
	}
	return strings.Join(words, "; ")
}

// MachineEntries are the entries that lead from one record of a machine to the
// next; old is nil for a new machine.
func MachineEntries(old *Machine, m Machine, now time.Time) []Entry {
	e := Entry{At: now, Machine: m.ID, Kind: KindMachine}
	if old == nil {
		e.Text = "first seen, " + string(m.State)
		if len(m.MACs) > 0 {
			e.Text += ", with " + strings.Join(m.MACs, " ")
		}
		old = &Machine{State: m.State, MACs: m.MACs, UUID: m.UUID}
		return append([]Entry{e}, MachineEntries(old, m, now)...)
	}
	var list []Entry
	note := func(k Kind, bad bool, format string, args ...any) {
		n := e
		n.Kind, n.Bad, n.Text = k, bad, fmt.Sprintf(format, args...)
		list = append(list, n)
	}
	if old.State != m.State {
		note(KindMachine, false, "%s, before: %s", m.State, old.State)
	}
	if old.Name != m.Name {
		note(KindMachine, false, "named %q, before: %q", m.Name, old.Name)
	}
	if old.UUID != m.UUID && old.UUID != "" {
		note(KindMachine, true, "UUID %s, before: %s", m.UUID, old.UUID)
	}
	for _, mac := range m.MACs {
		if !slices.Contains(old.MACs, mac) {
			note(KindMachine, false, "card %s is new", mac)
		}
	}
	if old.Assignment != m.Assignment && m.Assignment.Image != "" {
		why := ""
		if m.Assignment.Why != "" {
			why = ": " + m.Assignment.Why
		}
		note(KindDecision, false, "assigned %s%s", m.Assignment.Name, why)
	}
	switch s := m.Setback; {
	case s == old.Setback || (s != nil && old.Setback != nil && s.At.Equal(old.Setback.At)):
	case s == nil:
		note(KindDecision, false, "%s is tried again", m.Assignment.Name)
	case s.To.Image == "":
		note(KindDecision, true, "held for a person: %s", s.Why)
	default:
		note(KindDecision, true, "falls back to %s: %s", s.To.Name, s.Why)
	}
	return list
}

// Printable makes text from a machine harmless for whoever reads it: control
// characters, but for line breaks and tabs, are shown as \x1b is.
func Printable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1, r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)):
			if r == '\r' && i+1 < len(s) && s[i+1] == '\n' {
				break
			}
			for _, c := range []byte(s[i : i+n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// CrashLine is the line of a kernel's last words that says why, or "". A panic
// says it best, but for the one that only says that something came before it.
func CrashLine(text string) string {
	const panics, after = "Kernel panic - not syncing", "Fatal exception"
	why := ""
	for line := range strings.SplitSeq(text, "\n") {
		if _, rest, ok := strings.Cut(line, "] "); ok {
			line = rest
		}
		for _, sign := range []string{panics, "BUG:", "Oops:", "Out of memory"} {
			if strings.Contains(line, sign) && (why == "" || sign == panics && !strings.Contains(line, after)) {
				why = strings.TrimSpace(line)
			}
		}
	}
	return why
}
