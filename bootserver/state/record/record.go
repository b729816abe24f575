// Package record holds what a backend of package state writes to a disk: types of its own
// for machines, boots, leases, credentials and Changes, with conversions from and to the
// values of package fleet. Names of fields here are those of files and keep their meaning;
// fleet's values and the API's answers are free to change.
//
// Records are JSON. A file has one schema version, Schema, for all its records; a Change
// has one of its own (Change.V) besides, so that a ledger of a million entries need not be
// rewritten when the schema is raised.
//
// What machines send over the wire is stored as it came (ingot.Facts, ingot.Event,
// ingot.Report): those types are versioned by the protocol, and images outlive servers.
package record

import (
	"encoding/json"
	"fmt"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/desired"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
)

// Schema is the version of the files that this program writes.
//
//	1  fleet's values as they were; the audit log has sequence numbers of its own
//	2  records of this package; the ledger holds Changes, and operators' actions share
//	   its sequence numbers
//
// Number 3 is taken: package bolt marks a file of schema 2 with it as long as a journal
// belongs to the file.
const Schema = 2

// Encode returns the record of a value.
func Encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case fleet.Machine:
		return json.Marshal(machineOf(v))
	case fleet.Boot:
		return json.Marshal(bootOf(v))
	case fleet.Lease:
		return json.Marshal(leaseOf(v))
	case fleet.Change:
		return json.Marshal(changeOf(v))
	case access.Credential:
		return json.Marshal(credentialOf(v))
	case access.Session:
		return json.Marshal(session(v))
	case state.Removal:
		return json.Marshal(removal(v))
	case rollout.Rollout:
		return json.Marshal(rolloutOf(v))
	case rollout.Member:
		return json.Marshal(memberOf(v))
	case webhook.Webhook:
		return json.Marshal(webhookOf(v))
	case webhook.Progress:
		return json.Marshal(progressOf(v))
	case webhook.Letter:
		return json.Marshal(letterOf(v))
	case desired.Record:
		return json.Marshal(desiredOf(v))
	}
	return nil, fmt.Errorf("encoding a record: no record holds a %T", v)
}

// Size returns the size of a value's record, in bytes.
func Size(v any) (int, error) {
	b, err := Encode(v)
	return len(b), err
}

// DecodeMachine reads the record of a machine, within its bounds.
func DecodeMachine(b []byte) (fleet.Machine, error) {
	var r machine
	err := json.Unmarshal(b, &r)
	return r.value().Bound(), err
}

// DecodeBoot reads the record of a boot, within its bounds.
func DecodeBoot(b []byte) (fleet.Boot, error) {
	var r boot
	err := json.Unmarshal(b, &r)
	return r.value().Bound(), err
}

// DecodeLease reads the record of a lease.
func DecodeLease(b []byte) (fleet.Lease, error) {
	var r lease
	err := json.Unmarshal(b, &r)
	return r.value(), err
}

// DecodeCredential reads the record of a token or certificate.
func DecodeCredential(b []byte) (access.Credential, error) {
	var r credential
	err := json.Unmarshal(b, &r)
	return r.value(), err
}

// DecodeSession reads the record of a browser's session.
func DecodeSession(b []byte) (access.Session, error) {
	var r session
	err := json.Unmarshal(b, &r)
	return access.Session(r), err
}

// session is the record of a browser's session.
type session struct {
	ID         string      `json:"id"`
	Kind       access.Kind `json:"kind"`
	Credential string      `json:"credential"`
	Name       string      `json:"name,omitempty"`
	Groups     []string    `json:"groups,omitempty"`
	Began      time.Time   `json:"began"`
	Used       time.Time   `json:"used"`
	Until      time.Time   `json:"until"`
}

// DecodeRollout reads the record of a rollout.
func DecodeRollout(b []byte) (rollout.Rollout, error) {
	var r rolloutRecord
	err := json.Unmarshal(b, &r)
	return r.value(), err
}

// DecodeMember reads the record of a machine of a rollout.
func DecodeMember(b []byte) (rollout.Member, error) {
	var r member
	err := json.Unmarshal(b, &r)
	return r.value(), err
}

// DecodeDesired reads the record of the desired state.
func DecodeDesired(b []byte) (desired.Record, error) {
	var r desiredRecord
	err := json.Unmarshal(b, &r)
	return r.value(), err
}

// DecodeRemoval reads the record of an image's pending removal.
func DecodeRemoval(b []byte) (state.Removal, error) {
	var r removal
	err := json.Unmarshal(b, &r)
	return state.Removal(r), err
}

// removal is the record of a pending removal.
type removal struct {
	Image ingot.Digest `json:"image"`
	Since time.Time    `json:"since"`
	By    fleet.Actor  `json:"by,omitzero"`
}

type credential struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Kind    string    `json:"kind"`
	Scope   string    `json:"scope"`
	Hash    string    `json:"hash,omitempty"`
	Created time.Time `json:"created"`
	By      string    `json:"by"`
	Expires time.Time `json:"expires"`
	Revoked time.Time `json:"revoked,omitzero"`
}

func credentialOf(c access.Credential) credential {
	return credential{c.ID, c.Name, string(c.Kind), string(c.Scope), c.Hash, c.Created, c.By, c.Expires, c.Revoked}
}

func (r credential) value() access.Credential {
	return access.Credential{ID: r.ID, Name: r.Name, Kind: access.Kind(r.Kind), Scope: access.Scope(r.Scope), Hash: r.Hash,
		Created: r.Created, By: r.By, Expires: r.Expires, Revoked: r.Revoked}
}
