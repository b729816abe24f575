package fleet

import (
	"maps"
	"slices"
	"strings"
	"time"

	"ingot"
)

// Change is a typed entry of the ledger: what changed, the old and new values, the
// machine, boot or image, and the operator. Decisions and operators' actions return
// Changes; the state stores them in the transaction that makes the change. Text is
// rendered when a Change is shown (String) and is never parsed. The ledger is append-only;
// the oldest entries are removed.
type Change struct {
	Seq     uint64            `json:"seq,omitempty"` // position in the ledger, set by the state
	At      time.Time         `json:"at"`
	Code    Code              `json:"code"`
	Machine ingot.MachineID   `json:"machine,omitempty"`
	Boot    ingot.BootID      `json:"boot,omitempty"`
	Image   ImageRef          `json:"image,omitzero"`
	Rollout string            `json:"rollout,omitempty"` // reserved
	Subject string            `json:"subject,omitempty"` // ID of anything else: a token, a key, a tag
	Name    string            `json:"name,omitempty"`    // name of the machine or subject when it changed
	Actor   Actor             `json:"actor,omitzero"`    // zero for the server's decisions and machines' reports
	Stage   ingot.Stage       `json:"stage,omitempty"`   // of a boot's stage
	Failure ingot.FailureCode `json:"failure,omitempty"` // the failure that the machine reported
	From    Values            `json:"from,omitempty"`    // fields that changed, before
	To      Values            `json:"to,omitempty"`      // fields that changed, after; or the parameters of an event
	Detail  string            `json:"detail,omitempty"`  // text from a machine or an operator, truncated
	Bytes   int64             `json:"bytes,omitempty"`   // bytes transferred in a stage of a boot
	// Text is the text of versions before typed Changes; only with CodeText.
	Text string `json:"text,omitempty"`
}

// Actor is the operator who changed something: a local user, a token or a
// client certificate.
type Actor struct {
	// how the operator authenticated: "local", "token", "certificate", "oidc"; "server" for the server
	// itself
	Kind  string `json:"kind"`
	Name  string `json:"name"`            // of the token or certificate, or the user's
	ID    string `json:"id,omitempty"`    // of the token or certificate; of OIDC, issuer and subject
	UID   *int   `json:"uid,omitempty"`   // of a local user
	PID   int    `json:"pid,omitempty"`   // process ID of a local user
	From  string `json:"from,omitempty"`  // network address of a remote operator
	Scope string `json:"scope,omitempty"` // the operator's permissions
}

// IsZero reports whether there is no actor.
func (a Actor) IsZero() bool { return a == Actor{} }

// String formats the actor: "token ci", "local root".
func (a Actor) String() string { return a.Kind + " " + a.Name }

// Kind is the category of a Change, by which the ledger can be filtered.
type Kind string

// The kinds of Changes.
const (
	KindStep     Kind = "step"     // a stage of a boot was reached, or failed
	KindEnd      Kind = "end"      // a boot ended
	KindDecision Kind = "decision" // what a machine boots next was decided
	KindMachine  Kind = "machine"  // the record or the permissions of a machine changed
	KindServer   Kind = "server"   // an event of the server, about no single machine
	KindPacket   Kind = "packet"   // a DHCP packet that explains a boot
	KindAction   Kind = "action"   // an operator's action: the audit log, which needs its own scope to read
)

// Kind returns the category of the Change.
func (c Change) Kind() Kind {
	if c.Code == CodeText {
		return Kind(c.To.Text("kind"))
	}
	return codes[c.Code].kind
}

// The topics of Changes, by which programs that get events choose them. Kinds say how entries of the
// ledger are shown; topics say what they are about.
const (
	TopicBoot    = "boot"    // a boot reached a stage, or ended
	TopicMachine = "machine" // the record of a machine, or what it boots next
	TopicRollout = "rollout" // the state of a rollout
	TopicImage   = "image"   // an image was built, received, tagged, signed or removed
	TopicServer  = "server"  // the server itself
	TopicPacket  = "packet"  // DHCP packets
	TopicAudit   = "audit"   // operators' actions, those on images included
)

// Topics are all topics.
func Topics() []string {
	return []string{TopicBoot, TopicMachine, TopicRollout, TopicImage, TopicServer, TopicPacket, TopicAudit}
}

// Topics returns what the Change is about.
func (c Change) Topics() []string {
	switch c.Kind() {
	case KindStep, KindEnd:
		return []string{TopicBoot}
	case KindDecision:
		if c.Code == CodeRolloutState {
			return []string{TopicRollout}
		}
		return []string{TopicMachine}
	case KindMachine:
		return []string{TopicMachine}
	case KindPacket:
		return []string{TopicPacket}
	case KindAction:
		if strings.HasPrefix(string(c.Code), "image.") {
			return []string{TopicImage, TopicAudit}
		}
		return []string{TopicAudit}
	}
	return []string{TopicServer}
}

// Codes returns all codes, sorted.
func Codes() []Code { return slices.Sorted(maps.Keys(codes)) }

// Audit reports whether the Change belongs to the audit log, as an operator's action. The
// resulting changes of machines are separate Changes.
func (c Change) Audit() bool { return c.Kind() == KindAction }

// Bad reports whether the Change needs attention.
func (c Change) Bad() bool {
	if c.Code == CodeText {
		return c.To.Bool("bad")
	}
	bad := codes[c.Code].bad
	return bad != nil && bad(c)
}

// String renders the Change as text. An unknown code, of a newer version, is returned as
// it is.
func (c Change) String() string {
	if d, known := codes[c.Code]; known {
		return d.text(c)
	}
	return string(c.Code)
}

// TextChange returns an entry of a version before typed Changes.
func TextChange(kind Kind, text string, bad bool) Change {
	c := Change{Code: CodeText, Text: text, To: Values{"kind": string(kind)}}
	if bad {
		c.To["bad"] = true
	}
	return c
}

// Values are fields by name, with JSON types: strings, booleans, numbers and lists. They
// are small, and are replaced, never modified.
type Values map[string]any

// Text returns a string field; empty if it is absent or of another type.
func (v Values) Text(name string) string {
	s, _ := v[name].(string)
	return s
}

// Bool returns a boolean field; false if it is absent.
func (v Values) Bool(name string) bool {
	b, _ := v[name].(bool)
	return b
}

// Int returns an integer field, also if it was read from JSON.
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

// Texts returns a field that is a list of strings, also if it was read from JSON.
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

// Len returns the length of a field that is a list of Values, see At.
func (v Values) Len(name string) int {
	switch l := v[name].(type) {
	case []Values:
		return len(l)
	case []any:
		return len(l)
	}
	return 0
}

// At returns element i of a field that is a list of Values, also if it was read from JSON.
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
