package record

import (
	"time"

	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/desired"
)

// desiredVersion is that of desired states that this program writes. Their content has one of its own.
const desiredVersion = 1

type desiredRecord struct {
	V          int         `json:"v"`
	Generation uint64      `json:"generation"`
	At         time.Time   `json:"at"`
	By         fleet.Actor `json:"by,omitzero"`
	Content    []byte      `json:"content,omitempty"`
	Following  bool        `json:"following,omitempty"`
	Problems   []string    `json:"problems,omitempty"`
}

func desiredOf(r desired.Record) desiredRecord {
	return desiredRecord{desiredVersion, r.Generation, r.At, r.By, r.Content, r.Following, r.Problems}
}

func (r desiredRecord) value() desired.Record {
	return desired.Record{Generation: r.Generation, At: r.At, By: r.By, Content: r.Content, Following: r.Following,
		Problems: r.Problems}
}
