package fleet

import (
	"time"

	"ingot"
)

// Change is one entry of the ledger: what changed, from what to what, about
// which machine, boot, image or rollout, and by whom. Decisions and operators'
// actions return Changes; the state stores them in the transaction that makes
// the change. Text is rendered from a Change when it is shown (String), and is
// never parsed. The ledger is only appended to; the oldest entries are dropped.
type Change struct {
	Seq     uint64            `json:"seq,omitempty"` // position in the ledger, set by the state
	At      time.Time         `json:"at"`
	Code    Code              `json:"code"`
	Machine ingot.MachineID   `json:"machine,omitempty"`
	Boot    ingot.BootID      `json:"boot,omitempty"`
	Image   ImageRef          `json:"image,omitzero"`
	Rollout string            `json:"rollout,omitempty"` // reserved
	Subject string            `json:"subject,omitempty"` // id of a thing that is none of the above: a token, a key, a tag
	Name    string            `json:"name,omitempty"`    // name of the machine or subject when it changed
	Actor   Actor             `json:"actor,omitzero"`    // zero: the server decided, or the machine reported
	Stage   ingot.Stage       `json:"stage,omitempty"`   // of a boot's stage
	Failure ingot.FailureCode `json:"failure,omitempty"` // what kind of failure the machine reported
	From    Values            `json:"from,omitempty"`    // fields that changed, before
	To      Values            `json:"to,omitempty"`      // and after; also the parameters of what happened
	Detail  string            `json:"detail,omitempty"`  // words of a machine or a person, clipped
	Bytes   int64             `json:"bytes,omitempty"`   // bytes moved in a boot's stage
	// Text is what versions before typed Changes wrote; with CodeText only.
	Text string `json:"text,omitempty"`
}

// Actor is the operator who changed something: a local user, a token or a
// client certificate.
type Actor struct {
	// how the operator is known: "local", "token", "certificate"; "server" for the server itself
	Kind  string `json:"kind"`
	Name  string `json:"name"`            // of the token or certificate, or the local user's
	ID    string `json:"id,omitempty"`    // of the token or certificate
	UID   *int   `json:"uid,omitempty"`   // of a local user
	PID   int    `json:"pid,omitempty"`   // of a local user's program
	From  string `json:"from,omitempty"`  // network address of a remote operator
	Scope string `json:"scope,omitempty"` // what the operator may do
}

// IsZero reports whether there is no actor.
func (a Actor) IsZero() bool { return a == Actor{} }

// String is "token ci", "local root".
func (a Actor) String() string { return a.Kind + " " + a.Name }

// Kind sorts Changes for people who read the ledger.
type Kind string

// The kinds of Changes.
const (
	KindStep     Kind = "step"     // a stage of a boot was reached, or failed
	KindEnd      Kind = "end"      // a boot ended
	KindDecision Kind = "decision" // what a machine boots next was decided
	KindMachine  Kind = "machine"  // what is known of a machine, or allowed to it, changed
	KindServer   Kind = "server"   // something happened to all machines; the Change is of none
	KindPacket   Kind = "packet"   // a DHCP packet that explains a boot
	KindAction   Kind = "action"   // an operator's action: the audit log, which takes a scope of its own to read
)

// Kind is what sort of Change this is.
func (c Change) Kind() Kind {
	if c.Code == CodeText {
		return Kind(c.To.Text("kind"))
	}
	return codes[c.Code].kind
}

// Audit reports whether the Change belongs to the audit log: an operator did
// it. The changes of machines that follow from it are Changes of their own.
func (c Change) Audit() bool { return c.Kind() == KindAction }

// Bad reports whether the Change is worth a look.
func (c Change) Bad() bool {
	if c.Code == CodeText {
		return c.To.Bool("bad")
	}
	bad := codes[c.Code].bad
	return bad != nil && bad(c)
}

// String is the Change in words. A code that a newer version wrote is shown as
// it is.
func (c Change) String() string {
	if d, known := codes[c.Code]; known {
		return d.text(c)
	}
	return string(c.Code)
}

// TextChange is an entry that a version before typed Changes wrote.
func TextChange(kind Kind, text string, bad bool) Change {
	c := Change{Code: CodeText, Text: text, To: Values{"kind": string(kind)}}
	if bad {
		c.To["bad"] = true
	}
	return c
}

// Values are fields by their names: text, bool, numbers, and lists of them, as
// JSON has them. They are small, and never changed, only replaced.
type Values map[string]any

// Text is a field as text; empty when it is absent or none.
func (v Values) Text(name string) string {
	s, _ := v[name].(string)
	return s
}

// Bool is a field as a truth value.
func (v Values) Bool(name string) bool {
	b, _ := v[name].(bool)
	return b
}

// Int is a field as a whole number, also when it was read from JSON.
func (v Values) Int(name string) int64 {
	switch n := v[name].(type) {
	case int:
		return int64(n)
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return 0
}

// Texts is a field that is a list of texts, also when it was read from JSON.
func (v Values) Texts(name string) []string {
	switch l := v[name].(type) {
	case []string:
		return l
	case []any:
		list := make([]string, 0, len(l))
		for _, e := range l {
			if s, ok := e.(string); ok {
				list = append(list, s)
			}
		}
		return list
	}
	return nil
}

// Len is the length of a field that is a list of fields, see At.
func (v Values) Len(name string) int {
	switch l := v[name].(type) {
	case []Values:
		return len(l)
	case []any:
		return len(l)
	}
	return 0
}

// At is one element of a field that is a list of fields, also when it was read
// from JSON.
func (v Values) At(name string, i int) Values {
	switch l := v[name].(type) {
	case []Values:
		return l[i]
	case []any:
		m, _ := l[i].(map[string]any)
		return m
	}
	return nil
}
