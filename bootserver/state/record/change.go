package record

import (
	"encoding/json"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// changeVersion is that of Changes which this program writes. Those of schema 1 have none.
const changeVersion = 2

type actor struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	ID    string `json:"id,omitempty"`
	UID   *int   `json:"uid,omitempty"`
	PID   int    `json:"pid,omitempty"`
	From  string `json:"from,omitempty"`
	Scope string `json:"scope,omitempty"`
}

// change is the record of a Change.
type change struct {
	V       int               `json:"v"`
	Seq     uint64            `json:"seq"`
	At      time.Time         `json:"at"`
	Code    string            `json:"code"`
	Machine ingot.MachineID   `json:"machine,omitempty"`
	Boot    ingot.BootID      `json:"boot,omitempty"`
	Image   *imageRef         `json:"image,omitempty"`
	Rollout string            `json:"rollout,omitempty"`
	Subject string            `json:"subject,omitempty"`
	Name    string            `json:"name,omitempty"`
	Actor   *actor            `json:"actor,omitempty"`
	Stage   ingot.Stage       `json:"stage,omitempty"`
	Failure ingot.FailureCode `json:"failure,omitempty"`
	From    map[string]any    `json:"from,omitempty"`
	To      map[string]any    `json:"to,omitempty"`
	Detail  string            `json:"detail,omitempty"`
	Bytes   int64             `json:"bytes,omitempty"`
	Text    string            `json:"text,omitempty"`
}

func changeOf(c fleet.Change) change {
	r := change{V: changeVersion, Seq: c.Seq, At: c.At, Code: string(c.Code), Machine: c.Machine, Boot: c.Boot,
		Rollout: c.Rollout,
		Subject: c.Subject, Name: c.Name, Stage: c.Stage, Failure: c.Failure, From: c.From, To: c.To, Detail: c.Detail,
		Bytes: c.Bytes, Text: c.Text}
	if c.Image != (fleet.ImageRef{}) {
		image := imageRef(c.Image)
		r.Image = &image
	}
	if !c.Actor.IsZero() {
		a := actor(c.Actor)
		r.Actor = &a
	}
	return r
}

func (r change) value() fleet.Change {
	c := fleet.Change{Seq: r.Seq, At: r.At, Code: fleet.Code(r.Code), Machine: r.Machine, Boot: r.Boot, Rollout: r.Rollout,
		Subject: r.Subject, Name: r.Name, Stage: r.Stage, Failure: r.Failure, From: r.From, To: r.To, Detail: r.Detail,
		Bytes: r.Bytes, Text: r.Text}
	if r.Image != nil {
		c.Image = fleet.ImageRef(*r.Image)
	}
	if r.Actor != nil {
		c.Actor = fleet.Actor(*r.Actor)
	}
	return c
}

// DecodeChange reads the record of a Change, or an entry that schema 1 wrote.
func DecodeChange(b []byte) (fleet.Change, error) {
	var r struct {
		change
		Kind string `json:"kind"` // of schema 1
		Bad  bool   `json:"bad"`  // of schema 1
	}
	if err := json.Unmarshal(b, &r); err != nil || r.V > 0 {
		return r.value(), err
	}
	c := fleet.TextChange(fleet.Kind(r.Kind), r.Text, r.Bad)
	c.Seq, c.At, c.Machine, c.Boot, c.Stage, c.Bytes = r.Seq, r.At, r.Machine, r.Boot, r.Stage, r.Bytes
	return c, nil
}

// DecodeAction reads the record of an operator's action, or a line that schema 1 wrote into
// its audit log.
func DecodeAction(b []byte) (fleet.Change, error) {
	var r struct {
		change
		Who    actor  `json:"who"`    // these are of schema 1
		Action string `json:"action"` // a code of today
		On     string `json:"on"`
	}
	if err := json.Unmarshal(b, &r); err != nil || r.V > 0 {
		return r.value(), err
	}
	c := actionOn(r.Action, r.On)
	c.Name = r.Name
	c.Seq, c.At, c.Actor, c.From, c.To = r.Seq, r.At, fleet.Actor(r.Who), r.From, r.To
	return c, nil
}

// actionOn is an action on a machine, an image or something else, as schema 1 named it.
func actionOn(action, on string) fleet.Change {
	c := fleet.Change{Code: fleet.Code(action)}
	switch kind, _, _ := strings.Cut(action, "."); kind {
	case "machine":
		c.Machine = ingot.MachineID(on)
	case "image":
		c.Image.Image = ingot.Digest(on)
	default:
		c.Subject = on
	}
	return c
}
