package fleet

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
)

// sample is a Change, and what is read of it.
type sample struct {
	change Change
	want   string
}

// samples have a Change of each code.
func samples() map[Code]sample {
	pair := func(name, from, to string) Change { return Change{From: Values{name: from}, To: Values{name: to}} }
	grant := ingot.Grant{Volume: "data", Disk: "D1"}
	into, from := Machine{ID: "m-1", Name: "node01"}, Machine{ID: "m-2", MACs: []string{"a", "b"},
		Assignment: Assignment{ImageRef: v1}}
	merged := Merged(into, from, t0)
	other := Packet{Other: &Other{Address: netip.MustParseAddr("10.0.0.9"), Kind: "DHCPOFFER",
		Given: netip.MustParseAddr("10.0.0.7")}}
	rule, _ := Rule{Vendor: "Dell*"}.Change(Machine{State: Pending},
		Machine{State: Approved, Assignment: Assignment{ImageRef: v1}}, t0)
	all := map[Code]sample{
		CodeText: {TextChange(KindMachine, "named node", true), "! machine named node"},
		CodeMachineNew: {Change{To: Values{"state": "pending", "macs": []string{"a", "b"}}},
			"machine first seen, pending, with a b"},
		CodeMachineSeen:   {Change{}, "machine seen for the first time"},
		CodeMachineState:  {pair("state", "pending", "approved"), "machine approved (was pending)"},
		CodeMachineName:   {pair("name", "", "node"), `machine named "node" (was "")`},
		CodeMachineUUID:   {pair("uuid", "u1", "u2"), "! machine UUID u2 (was u1)"},
		CodeMachineSerial: {pair("serial", "S1", "S2"), "! machine serial number S2 (was S1)"},
		CodeMachineCard:   {Change{To: Values{"mac": "a"}}, "machine new network card a"},
		CodeMachinePort:   {pair("port", "Eth1", "Eth2"), "machine moved from port Eth1 to Eth2"},
		CodeMachineLabels: {Change{From: Values{"rack": "r1", "old": "x"}, To: Values{"rack": "r2", "gpu": ""}},
			"machine label gpu= set; label rack=r2 set (was r1); label old=x removed"},
		CodeQuestionAsked: {Change{Detail: "it has the card of node02"},
			"! machine an operator must answer whether it is the same machine: it has the card of node02"},
		CodeQuestionGone: {Change{Machine: "m-1", From: Values{"with": "m-1"}, To: Values{"state": "approved"}},
			"machine question answered: it is the same machine"},
		CodeGrantGiven: {Change{To: Values{"disk": "D1", "volume": "data", "until": "noon"}},
			"machine granted: a boot may initialise disk D1 as volume data until noon"},
		CodeGrantExpired: {Change{From: grantValues(grant)},
			"machine the grant to initialise disk D1 as volume data expired unused"},
		CodeGrantWithdrawn: {Change{From: Values{"disk": "D1", "volume": "data", "lent": "b1"}},
			"machine the grant to initialise disk D1 as volume data was withdrawn; boot b1 has it in its ticket and may still " +
				"use it"},
		CodeVolumeProblem: {Change{To: Values{"volume": "data", "state": "refused", "problem": "foreign"},
			Detail: "vda holds volume \"data\" of machine m-2"},
			"! step volume data refused: vda holds volume \"data\" of machine m-2"},
		CodeGrantUsed: {Change{From: Values{"disk": "D1", "volume": "data", "adopt": true}},
			"machine used: the grant to take over volume data on disk D1"},
		CodeLoaderChanged: {Change{To: Values{"loader": "x.efi", "firmware": ""}},
			"decision first stage changed to x.efi for firmware unknown"},
		CodeImageAssigned: {Change{Image: v1, Detail: "first"}, "decision assigned lab:v1: first"},
		CodeImageResumed:  {Change{Image: v1}, "decision retries lab:v1"},
		CodeImageFallback: {Change{Image: v1, Detail: "lab:v2 failed twice"},
			"! decision falls back to lab:v1: lab:v2 failed twice"},
		CodeMachineHeld:     {Change{Image: v1, Detail: "it failed"}, "! decision held for an operator: it failed"},
		CodeMachineAbsorbed: {merged[0], "machine is the same machine as node01 (m-1) and was merged into it"},
		CodeMachineMerged:   {merged[1], "machine merged with m-2, which had cards a b, image lab:v1"},
		CodeMachineForgot:   {Forgotten(into, t0), "machine forgotten"},
		CodeMachineImported: {Change{Name: "node01"}, "machine imported as node01"},
		CodeCardsClaimed: {Change{To: Values{"cards": []string{"a of node02"}}},
			"! machine reports MAC addresses of other machines, which do not identify it: a of node02"},
		CodeRuleApplied: {rule, "decision approved, assigned lab:v1 by the rule for vendor Dell*"},
		CodeMachineReturned: {Change{Image: v1, To: Values{"state": "approved", "known": false}},
			"! machine runs lab:v1, and brought back what a restore had lost: its machine, which is approved again"},
		CodePacket: {other.Change("m-1", ""), "! packet DHCPOFFER of 10.0.0.7 by another server, 10.0.0.9"},
		CodeServerRestored: {Restored(3, t0),
			"server the state was restored from a backup (machines: 3); earlier entries are from the backup"},
		CodeBootStage:   {Change{Stage: ingot.StageDHCP, Detail: "10.0.0.7"}, "step 10.0.0.7"},
		CodeStageFailed: {Change{Detail: "no", To: Values{"retry": true}}, "! step failed: no; the machine will retry"},
		CodeTicketGiven: {Change{Image: v1, To: Values{"grants": []Values{grantValues(grant)}}},
			"step ticket issued for lab:v1; it may initialise disk D1 as volume data"},
		CodeBootReport: {Change{To: Values{"isHealthy": false, "healthy": false, "units": []string{"db.service"},
			"checks": []Values{{"name": "web", "detail": "refused"}}}},
			"! step no longer healthy; check web: refused; failed units: db.service"},
		CodeBootHardware: {Change{To: Values{"changes": []string{"RAM 256 → 192 GiB"}}},
			"! machine hardware changed: RAM 256 → 192 GiB"},
		CodeBootCrash: {Change{Detail: "BUG: x"}, "! step the kernel crashed (from pstore): BUG: x"},
		CodeBootEnded: {Change{Image: v1, To: Values{"outcome": "silent"}, Detail: "no report"},
			"! end lab:v1 silent: no report"},
		CodeBootDown: {Change{}, "step the system says that it shuts down"},
		CodeBootClaimed: {Change{To: Values{"until": "2026-11-30T12:00:00Z"}}, "step another boot began although this one " +
			"may still run; it gets no grant while this one may report, until 2026-11-30T12:00:00Z"},
		CodeBootConflict: {Change{To: Values{"with": string(boot1)}},
			"! machine conflict: this boot still runs, but boot 01000000 began in the name of this machine"},
		CodeTicketConflict: {Change{},
			"! machine conflict: another machine requested a ticket of this boot; it got none"},
	}
	once := &Once{ImageRef: v1, Arguments: []string{"a=1", "b"}, Shell: true}
	all[CodeOnceSet] = sample{once.change(CodeOnceSet, "look"),
		"decision for one boot: lab:v1 with kernel arguments a=1 b and a shell in the initramfs: look"}
	all[CodeOnceUsed] = sample{once.change(CodeOnceUsed, ""),
		"decision this boot only: lab:v1 with kernel arguments a=1 b and a shell in the initramfs"}
	all[CodeOnceDropped] = sample{(&Once{ImageRef: v1}).change(CodeOnceDropped, "late"),
		"decision no longer for one boot: lab:v1: late"}
	maps.Copy(all, rolloutSamples(v1))
	maps.Copy(all, webhookSamples())
	maps.Copy(all, orderSamples())
	for code, verb := range actions {
		all[code] = sample{Change{Name: "x"}, "action " + verb + " x"}
	}
	return all
}

// rolloutSamples are samples of Changes about rollouts.
func rolloutSamples(image ImageRef) map[Code]sample {
	state := func(state, reason, why string) Change {
		return Change{Rollout: "r1", Image: image, Detail: why, From: Values{"state": "wave", "wave": 1},
			To: Values{"state": state, "wave": 2, "reason": reason}}
	}
	return map[Code]sample{
		CodeMachinePinned:   {Change{Detail: "certified"}, "machine kept out of rollouts: certified"},
		CodeMachineUnpinned: {Change{}, "machine takes part in rollouts again"},
		CodeMachineOff:      {Change{}, "machine switched off, an operator says"},
		CodeMachineOn:       {Change{}, "machine no longer marked as switched off"},
		CodeRolloutState: {state("halted", "canary", "node01 failed"),
			"! decision rollout r1 of lab:v1 is halted (wave 2): node01 failed"},
	}
}

// webhookSamples are samples of Changes about webhooks.
func webhookSamples() map[Code]sample {
	return map[Code]sample{
		CodeWebhookState: {Change{Name: "siem", To: Values{"state": "failing"}, Detail: "connection refused"},
			"! server webhook siem does not get its events: connection refused"},
		CodeWebhookGap: {Change{Name: "siem", To: Values{"from": 7, "to": 9, "entries": 2, "reason": "retention"}},
			"! server webhook siem: 2 entries of the ledger from 7 to 9 are not sent: the ledger dropped them before they " +
				"could be sent"},
		CodeWebhookDead: {Change{Name: "siem", To: Values{"seq": 7, "code": "boot-ended"}, Detail: "answer 400"},
			"! server webhook siem: event boot-ended of entry 7 was given up: answer 400"},
		CodeWebhookTest: {Change{Name: "siem"}, "server test of webhook siem"},
	}
}

// TestTopics: each code has a topic, and only known ones.
func TestTopics(t *testing.T) {
	seen := map[string]bool{}
	for _, code := range Codes() {
		list := Change{Code: code}.Topics()
		for _, topic := range list {
			if seen[topic] = true; !slices.Contains(Topics(), topic) {
				t.Errorf("code %s has the topic %q, which is not among Topics", code, topic)
			}
		}
		if len(list) == 0 {
			t.Errorf("code %s has no topic", code)
		}
	}
	if len(seen) != len(Topics()) {
		t.Errorf("topics %v are used of %v", seen, Topics())
	}
	for code, want := range map[Code]string{CodeBootEnded: TopicBoot, CodeMachineHeld: TopicMachine,
		CodeRolloutState: TopicRollout, ActionImageBuild: TopicImage, CodeServerRestored: TopicServer,
		ActionTokenCreate: TopicAudit} {
		if got := (Change{Code: code}).Topics(); got[0] != want {
			t.Errorf("code %s has the topics %v; want %s", code, got, want)
		}
	}
}

// orderSamples are samples of Changes about orders.
func orderSamples() map[Code]sample {
	return map[Code]sample{
		CodeOrderGiven: {Change{Rollout: "r1", Detail: "kernel fix", To: Values{"kind": "reboot", "drain": "best-effort",
			"hooks": []string{"batch", "db"}}}, "decision ordered to reboot after draining (batch, db), also if that fails " +
			"by rollout r1: kernel fix"},
		CodeOrderState: {Change{To: Values{"state": "drain-timed-out", "hook": "batch"}, Detail: "sleep did not end"},
			"! step does not reboot, because drain hook batch took too long: sleep did not end"},
	}
}

// TestRolloutNeedsAttention: a halt does, and a pause that no operator asked for.
func TestRolloutNeedsAttention(t *testing.T) {
	for _, c := range []struct {
		state, reason string
		bad           bool
	}{{"halted", "failing-boots", true}, {"paused", "infrastructure", true}, {"paused", "operator", false},
		{"paused", "planned-pause", false}, {"baking", "", false}} {
		change := Change{Code: CodeRolloutState, To: Values{"state": c.state, "reason": c.reason}}
		if change.Bad() != c.bad {
			t.Errorf("%s for %s is bad: %v", c.state, c.reason, change.Bad())
		}
	}
}

// TestCodes: each code that there is has a sample and a rendering, which is the
// same when the Change was stored and read.
func TestCodes(t *testing.T) {
	all := samples()
	declared := declaredCodes(t)
	for _, code := range declared {
		s, has := all[code]
		if _, described := codes[code]; !has || !described {
			t.Errorf("code %q has no sample or no rendering", code)
			continue
		}
		s.change.Code = code
		if d := cmp.Diff([]string{s.want}, texts([]Change{s.change})); d != "" {
			t.Errorf("code %q (-want +got):\n%s", code, d)
		}
		text, err := json.Marshal(s.change)
		var read Change
		if err == nil {
			err = json.Unmarshal(text, &read)
		}
		if err != nil || read.String() != s.change.String() || read.Bad() != s.change.Bad() ||
			read.Kind() != s.change.Kind() {
			t.Errorf("code %q is %q when it was stored, %v; want %q", code, read, err, s.change)
		}
	}
	if n := len(slices.Collect(maps.Keys(codes))); n != len(declared) {
		t.Errorf("%d codes are described, %d declared", n, len(declared))
	}
}

// declaredCodes are the constants of type Code.
func declaredCodes(t *testing.T) (list []Code) {
	f, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		v, is := n.(*ast.ValueSpec)
		if !is || len(v.Values) != 1 {
			return true
		}
		if typ, named := v.Type.(*ast.Ident); named && typ.Name == "Code" {
			text, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, Code(text))
		}
		return true
	})
	if len(list) < 50 {
		t.Fatalf("found %d codes", len(list))
	}
	return list
}

// TestUnknownCode: what a newer version wrote is shown as it is.
func TestUnknownCode(t *testing.T) {
	c := Change{Code: "rollout-paused", At: t0.Add(time.Hour)}
	if c.String() != "rollout-paused" || c.Bad() || c.Audit() {
		t.Errorf("an unknown code is %q, bad: %v, audit: %v", c, c.Bad(), c.Audit())
	}
}
