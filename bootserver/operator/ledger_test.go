package operator

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

var update = flag.Bool("update", false, "write the recorded answers anew")

// ledgered are Changes of each category, with all fields that answers have.
func ledgered() []fleet.Change {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	v1 := fleet.ImageRef{Image: ingot.DigestOf([]byte("v1")), Name: "lab:v1"}
	v2 := fleet.ImageRef{Image: ingot.DigestOf([]byte("v2")), Name: "lab:v2"}
	boot, uid := ingot.NewBootID([16]byte{1}), 0
	local := fleet.Actor{Kind: "local", Name: "root", UID: &uid, PID: 412, Scope: "admin"}
	remote := fleet.Actor{Kind: "token", Name: "ci", ID: "t-1", From: "10.0.0.9", Scope: "operate"}
	list := []fleet.Change{
		fleet.TextChange(fleet.KindMachine, "UUID u2 (was u1)", true),
		{Code: fleet.CodeMachineState, Machine: "m-1", Name: "node01", Actor: local,
			From: fleet.Values{"state": "pending"}, To: fleet.Values{"state": "approved"}},
		{Code: fleet.CodeImageAssigned, Machine: "m-1", Name: "node01", Actor: remote, Image: v2,
			From: fleet.Values{"image": v1.Name}, Detail: "a <newer> kernel"},
		{Code: fleet.CodeBootStage, Machine: "m-1", Boot: boot, Stage: ingot.StageKernel, Detail: "9 MiB", Bytes: 9 << 20},
		{Code: fleet.CodeStageFailed, Machine: "m-1", Boot: boot, Stage: ingot.StageRoot, Failure: ingot.FailureRootChunk,
			Detail: "chunk 7", To: fleet.Values{"retry": true}},
		{Code: fleet.CodeBootEnded, Machine: "m-1", Boot: boot, Image: v2, To: fleet.Values{"outcome": "failed"},
			Detail: "no report"},
		{Code: fleet.CodeServerRestored, To: fleet.Values{"machines": 3}},
		{Code: "of-a-newer-version", Rollout: "r1", Subject: "x"},
		{Code: fleet.ActionAssign, Machine: "m-1", Name: "node01", Actor: remote,
			From: fleet.Values{"assignment.name": v1.Name}, To: fleet.Values{"assignment.name": v2.Name}},
		{Code: fleet.ActionImageRemove, Image: v1, Name: v1.Name, Actor: local, From: fleet.Values{"image": v1.Name}},
		{Code: fleet.ActionTokenRevoke, Subject: "t-1", Name: "ci", Actor: local},
		{Code: fleet.ActionServerBackup, Actor: fleet.Actor{Kind: "server", Name: "ingot"}},
	}
	for i := range list {
		list[i].Seq, list[i].At = uint64(i+1), at.Add(time.Duration(i)*time.Second)
	}
	return list
}

// TestLedgerAnswers: what /v1/events and /v1/audit answer of Changes, byte by byte. Clients depend on it.
func TestLedgerAnswers(t *testing.T) {
	var got bytes.Buffer
	e := json.NewEncoder(&got)
	for _, c := range ledgered() {
		var answer any = entryOf(c)
		if c.Audit() {
			answer = auditOf(c)
		}
		if err := e.Encode(answer); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join("testdata", "ledger.jsonl")
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the answers are\n%s\nwant\n%s", &got, want)
	}
}
