package fleet

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ingot"
)

// Code identifies the type of a Change. Codes are stored, so their meaning never changes.
type Code string

// Codes of Changes of machines. The comments name the fields in From and To.
const (
	CodeMachineNew      Code = "machine-new"       // recorded for the first time; To: state, macs, imported
	CodeMachineSeen     Code = "machine-seen"      // an imported machine was seen for the first time
	CodeMachineState    Code = "machine-state"     // From, To: state
	CodeMachineName     Code = "machine-name"      // From, To: name
	CodeMachineUUID     Code = "machine-uuid"      // From, To: uuid
	CodeMachineSerial   Code = "machine-serial"    // From, To: serial
	CodeMachineCard     Code = "machine-card"      // To: mac
	CodeMachinePort     Code = "machine-port"      // From, To: port
	CodeMachineLabels   Code = "machine-labels"    // From, To: the labels that changed, by key
	CodeQuestionAsked   Code = "question-asked"    // To: with; Detail is the question
	CodeQuestionGone    Code = "question-answered" // From: with; To: state
	CodeGrantGiven      Code = "grant-given"       // To: volume, disk, until
	CodeGrantExpired    Code = "grant-expired"     // From: volume, disk
	CodeGrantWithdrawn  Code = "grant-withdrawn"   // From: volume, disk, lent: the boot that has it in its ticket
	CodeGrantUsed       Code = "grant-used"        // From: volume, disk; the machine wrote
	CodeLoaderChanged   Code = "loader-changed"    // From, To: loader; To: firmware
	CodeImageAssigned   Code = "image-assigned"    // Image; From: image; Detail: why
	CodeImageResumed    Code = "image-resumed"     // Image is retried after a fallback or hold
	CodeImageFallback   Code = "image-fallback"    // Image is booted instead of From: image; Detail: why
	CodeMachineHeld     Code = "machine-held"      // Image failed, and there is none to fall back to; Detail: why
	CodeMachineMerged   Code = "machine-merged"    // with another machine; From: machine, macs, uuid, serial, name, image
	CodeMachineAbsorbed Code = "machine-absorbed"  // by another machine; To: machine, name
	CodeMachineForgot   Code = "machine-forgotten" // deleted with its boots
	CodeMachineImported Code = "machine-imported"  // was in an imported list; Name
	CodeCardsClaimed    Code = "cards-claimed"     // reports cards that other machines were seen with; To: cards
	CodeOnceSet         Code = "once-set"          // for one boot: Image; To: arguments, shell; Detail: why
	CodeOnceUsed        Code = "once-used"         // by a boot; as once-set
	CodeOnceDropped     Code = "once-dropped"      // unused; as once-set; Detail: the reason
	CodeRuleApplied     Code = "rule-applied"      // To: state, labelled, image, rule
	CodeMachineReturned Code = "machine-returned"  // brought back what a restore had lost; Image; To: state, known
	CodeMachinePinned   Code = "machine-pinned"    // kept out of rollouts; Detail: why
	CodeMachineUnpinned Code = "machine-unpinned"  // takes part in rollouts again
	CodeMachineOff      Code = "machine-off"       // an operator says that it is switched off; Detail: why
	CodeMachineOn       Code = "machine-on"        // an operator takes that back
	CodeRolloutState    Code = "rollout-state"     // Image; From, To: state, wave; To: reason; Detail: why
	CodePacket          Code = "packet"            // a DHCP packet that explains a boot; To: its fields
	CodeServerRestored  Code = "server-restored"   // from a backup; To: machines
	CodeWebhookState    Code = "webhook-state"     // Subject, Name; To: state (ok, failing or paused); Detail: why
	CodeWebhookGap      Code = "webhook-gap"       // entries cannot be sent; Subject, Name; To: from, to, entries, reason
	CodeWebhookDead     Code = "webhook-dead"      // an event was given up; Subject, Name; To: seq, code; Detail: why
	CodeWebhookTest     Code = "webhook-test"      // sent by: ingot webhook test; it is not in the ledger; Subject, Name
	CodeText            Code = "text"              // an entry from before typed Changes; To: kind, bad
)

// Codes of Changes of boots.
const (
	CodeBootStage     Code = "boot-stage"        // Stage was reached; Detail, Bytes
	CodeStageFailed   Code = "boot-stage-failed" // Failure, Detail; To: retry
	CodeVolumeProblem Code = "volume-problem"    // not mounted; To: volume, state, problem, device, disk; Detail
	CodeTicketGiven   Code = "ticket-given"      // Image; To: grants, each with volume and disk
	CodeBootReport    Code = "boot-report"       // To: isHealthy; healthy, if changed; failed units, checks, moreChecks
	CodeBootHardware  Code = "boot-hardware"     // To: changes, in words
	CodeBootCrash     Code = "boot-crash"        // Detail: the line of the kernel log with the reason
	CodeBootEnded     Code = "boot-ended"        // Image; To: outcome; Detail: the reason

	CodeBootDown       Code = "boot-down"       // the system says that it shuts down
	CodeBootClaimed    Code = "boot-claimed"    // another boot began while this one may still run; To: until
	CodeBootConflict   Code = "boot-conflict"   // this boot still runs although another began; To: with
	CodeTicketConflict Code = "ticket-conflict" // another machine than the first requested a ticket of this boot

	CodeOrderGiven Code = "order-given" // to the system of the boot; To: kind, until, drain, hooks; Detail: why
	CodeOrderState Code = "order-state" // From, To: state; To: kind, hook; Detail: why it was not carried out
)

// Codes of operators' actions: the audit log. From and To have what changed.
const (
	ActionApprove       Code = "machine.approve"
	ActionAssign        Code = "machine.assign"
	ActionRollback      Code = "machine.rollback"
	ActionResume        Code = "machine.resume"
	ActionOnce          Code = "machine.once"
	ActionCancelOnce    Code = "machine.cancel-once"
	ActionGrant         Code = "machine.grant"
	ActionWithdraw      Code = "machine.withdraw-grant"
	ActionRename        Code = "machine.rename"
	ActionLabel         Code = "machine.label"
	ActionRetire        Code = "machine.retire"
	ActionForget        Code = "machine.forget"
	ActionMerge         Code = "machine.merge"
	ActionImport        Code = "machine.import"
	ActionCapture       Code = "machine.capture"
	ActionPin           Code = "machine.pin"
	ActionUnpin         Code = "machine.unpin"
	ActionOff           Code = "machine.off"
	ActionOn            Code = "machine.on"
	ActionReboot        Code = "machine.reboot"
	ActionCancelReboot  Code = "machine.cancel-reboot"
	ActionRolloutStart  Code = "rollout.start"
	ActionRolloutPause  Code = "rollout.pause"
	ActionRolloutResume Code = "rollout.resume"
	ActionRolloutAbort  Code = "rollout.abort"
	ActionWebhookCreate Code = "webhook.create"
	ActionWebhookEdit   Code = "webhook.edit"
	ActionWebhookPause  Code = "webhook.pause"
	ActionWebhookResume Code = "webhook.resume"
	ActionWebhookTest   Code = "webhook.test"
	ActionWebhookAgain  Code = "webhook.redeliver"
	ActionWebhookDrop   Code = "webhook.discard"
	ActionWebhookRemove Code = "webhook.rm"
	ActionFleetApply    Code = "fleet.apply"
	ActionApply         Code = "machine.apply"
	ActionTokenCreate   Code = "token.create"
	ActionTokenRevoke   Code = "token.revoke"
	ActionSessionEnd    Code = "session.end"
	ActionImageRemove   Code = "image.rm"
	ActionImageCollect  Code = "image.gc"
	ActionImageTag      Code = "image.tag"
	ActionImageUntag    Code = "image.untag"
	ActionImageBuild    Code = "image.build"
	ActionImageImport   Code = "image.import"
	ActionImagePull     Code = "image.pull"
	ActionImageSign     Code = "image.sign"
	ActionKeyTrust      Code = "key.trust"
	ActionKeyDistrust   Code = "key.distrust"
	ActionKeyRotate     Code = "key.rotate"
	ActionServerBackup  Code = "server.backup"
	ActionServerRestore Code = "server.restore"
	ActionServerReload  Code = "server.reload"
)

// description describes a code: the category of its Changes, which of them need attention
// (nil: none), and how they are rendered.
type description struct {
	kind Kind
	bad  func(Change) bool
	text func(Change) string
}

func always(Change) bool { return true }

// codes describes every code. Entries are shown together with their machine and stage,
// so the texts do not repeat these.
var codes = descriptions()

func descriptions() map[Code]description {
	all := map[Code]description{
		CodeText: {"", nil, func(c Change) string { return c.Text }},

		CodeMachineNew:      {KindMachine, nil, newMachineText},
		CodeMachineSeen:     {KindMachine, nil, fixed("seen for the first time")},
		CodeMachineState:    {KindMachine, nil, changed("state", "%s (was %s)")},
		CodeMachineName:     {KindMachine, nil, changed("name", "named %q (was %q)")},
		CodeMachineUUID:     {KindMachine, always, changed("uuid", "UUID %s (was %s)")},
		CodeMachineSerial:   {KindMachine, always, changed("serial", "serial number %s (was %s)")},
		CodeMachineCard:     {KindMachine, nil, func(c Change) string { return "new network card " + c.To.Text("mac") }},
		CodeMachinePort:     {KindMachine, nil, portText},
		CodeMachineLabels:   {KindMachine, nil, labelText},
		CodeQuestionAsked:   {KindMachine, always, detailed("an operator must answer whether it is the same machine: %s")},
		CodeQuestionGone:    {KindMachine, nil, answerText},
		CodeGrantGiven:      {KindMachine, nil, grantText},
		CodeGrantExpired:    {KindMachine, nil, expiredGrantText},
		CodeGrantWithdrawn:  {KindMachine, nil, withdrawnGrantText},
		CodeGrantUsed:       {KindMachine, nil, usedGrantText},
		CodeMachineMerged:   {KindMachine, nil, mergedText},
		CodeMachineAbsorbed: {KindMachine, nil, absorbedText},
		CodeMachineForgot:   {KindMachine, nil, fixed("forgotten")},
		CodeMachineImported: {KindMachine, nil, func(c Change) string { return "imported as " + c.Name }},
		CodeCardsClaimed:    {KindMachine, always, claimText},
		CodeMachineReturned: {KindMachine, always, returnedText},

		CodeLoaderChanged: {KindDecision, nil, loaderText},
		CodeImageAssigned: {KindDecision, nil, assignedText},
		CodeImageResumed:  {KindDecision, nil, func(c Change) string { return "retries " + c.Image.Name }},
		CodeImageFallback: {KindDecision, always, func(c Change) string {
			return "falls back to " + c.Image.Name + ": " + c.Detail
		}},
		CodeMachineHeld: {KindDecision, always, detailed("held for an operator: %s")},
		CodeOnceSet:     {KindDecision, nil, onceText("for one boot: %s")},
		CodeOnceUsed:    {KindDecision, nil, onceText("this boot only: %s")},
		CodeOnceDropped: {KindDecision, nil, onceText("no longer for one boot: %s")},
		CodeRuleApplied: {KindDecision, nil, ruleText},

		CodeMachinePinned:   {KindMachine, nil, reasoned("kept out of rollouts")},
		CodeMachineUnpinned: {KindMachine, nil, fixed("takes part in rollouts again")},
		CodeMachineOff:      {KindMachine, nil, reasoned("switched off, an operator says")},
		CodeMachineOn:       {KindMachine, nil, fixed("no longer marked as switched off")},
		CodeRolloutState:    {KindDecision, badRollout, rolloutText},

		CodeBootStage:     {KindStep, nil, func(c Change) string { return c.Detail }},
		CodeStageFailed:   {KindStep, always, failedStageText},
		CodeVolumeProblem: {KindStep, badVolume, volumeText},
		CodeTicketGiven:   {KindStep, nil, ticketText},
		CodeBootReport:    {KindStep, badReport, reportText},
		CodeBootHardware: {KindMachine, always, func(c Change) string {
			return "hardware changed: " + joined(c.To.Texts("changes"), "; ")
		}},
		CodeBootCrash: {KindStep, always, detailed("the kernel crashed (from pstore): %s")},
		CodeBootEnded: {KindEnd, badEnd, endText},

		CodeBootDown:    {KindStep, nil, fixed("the system says that it shuts down")},
		CodeBootClaimed: {KindStep, nil, claimedText},
		CodeBootConflict: {KindMachine, always, func(c Change) string {
			return fmt.Sprintf("conflict: this boot still runs, but boot %s began in the name of this machine",
				ingot.BootID(c.To.Text("with")).Short())
		}},
		CodeTicketConflict: {KindMachine, always, fixed("conflict: another machine requested a ticket of this boot; " +
			"it got none")},
		CodeOrderGiven: {KindDecision, nil, orderGivenText},
		CodeOrderState: {KindStep, badOrder, orderStateText},

		CodePacket:         {KindPacket, badPacket, packetText},
		CodeServerRestored: {KindServer, nil, restoredText},
	}
	maps.Copy(all, webhookDescriptions())
	for code, verb := range actions {
		all[code] = description{KindAction, nil, func(c Change) string { return verb + actionObject(c) }}
	}
	return all
}

func webhookDescriptions() map[Code]description {
	return map[Code]description{
		CodeWebhookState: {KindServer, func(c Change) bool { return c.To.Text("state") != "ok" }, webhookText},
		CodeWebhookGap:   {KindServer, always, gapText},
		CodeWebhookDead:  {KindServer, always, deadLetterText},
		CodeWebhookTest:  {KindServer, nil, func(c Change) string { return "test of webhook " + c.Name }},
	}
}

// actions has the text of operators' actions, to be followed by the name of the object.
var actions = map[Code]string{
	ActionApprove:       "approved machine",
	ActionAssign:        "assigned an image to machine",
	ActionRollback:      "rolled back machine",
	ActionResume:        "resumed machine",
	ActionOnce:          "decided one boot of machine",
	ActionCancelOnce:    "cancelled what was decided for one boot of machine",
	ActionGrant:         "granted a disk to machine",
	ActionWithdraw:      "withdrew a grant of machine",
	ActionRename:        "renamed machine",
	ActionLabel:         "labelled machine",
	ActionRetire:        "retired machine",
	ActionForget:        "forgot machine",
	ActionMerge:         "merged another machine into machine",
	ActionImport:        "imported machine",
	ActionCapture:       "captured the packets of machine",
	ActionPin:           "kept out of rollouts machine",
	ActionUnpin:         "let take part in rollouts machine",
	ActionOff:           "marked as switched off machine",
	ActionOn:            "no longer marked as switched off machine",
	ActionReboot:        "ordered to reboot machine",
	ActionCancelReboot:  "withdrew the order to reboot of machine",
	ActionRolloutStart:  "started rollout",
	ActionRolloutPause:  "paused rollout",
	ActionRolloutResume: "resumed rollout",
	ActionRolloutAbort:  "aborted rollout",
	ActionWebhookCreate: "created webhook",
	ActionWebhookEdit:   "changed webhook",
	ActionWebhookPause:  "paused webhook",
	ActionWebhookResume: "resumed webhook",
	ActionWebhookTest:   "sent a test to webhook",
	ActionWebhookAgain:  "sent dead letters again to webhook",
	ActionWebhookDrop:   "discarded dead letters of webhook",
	ActionWebhookRemove: "removed webhook",
	ActionFleetApply:    "applied the desired state of the fleet",
	ActionApply:         "applied the desired state to machine",
	ActionTokenCreate:   "created token or certificate",
	ActionTokenRevoke:   "revoked token or certificate",
	ActionSessionEnd:    "ended session of",
	ActionImageRemove:   "removed image",
	ActionImageCollect:  "collected unused images",
	ActionImageTag:      "set tag",
	ActionImageUntag:    "removed tag",
	ActionImageBuild:    "built image",
	ActionImageImport:   "imported image",
	ActionImagePull:     "pulled image",
	ActionImageSign:     "signed image",
	ActionKeyTrust:      "trusted release key",
	ActionKeyDistrust:   "stopped trusting key",
	ActionKeyRotate:     "replaced key",
	ActionServerBackup:  "read a backup of the state",
	ActionServerRestore: "restored the state from a backup",
	ActionServerReload:  "reloaded the configuration",
}

func actionObject(c Change) string {
	name := cmp.Or(c.Name, c.Image.Name, string(c.Machine), c.Subject)
	if name == "" {
		return ""
	}
	return " " + name
}

func fixed(text string) func(Change) string { return func(Change) string { return text } }

// detailed renders the Detail of a Change into a format with one %s.
func detailed(format string) func(Change) string {
	return func(c Change) string { return fmt.Sprintf(format, c.Detail) }
}

// reasoned renders a text, and the Detail of a Change if it has one.
func reasoned(text string) func(Change) string {
	return func(c Change) string {
		if c.Detail == "" {
			return text
		}
		return text + ": " + c.Detail
	}
}

// rolloutText says what became of a rollout.
func rolloutText(c Change) string {
	text := fmt.Sprintf("rollout %s of %s is %s", c.Rollout, c.Image.Name, c.To.Text("state"))
	if wave := c.To.Int("wave"); wave > 0 && c.To.Text("state") != "done" {
		text += fmt.Sprintf(" (wave %d)", wave)
	}
	if c.Detail != "" {
		text += ": " + c.Detail
	}
	return text
}

func webhookText(c Change) string {
	text := map[string]string{"ok": "gets events again", "failing": "does not get its events",
		"paused": "is paused"}[c.To.Text("state")]
	text = "webhook " + c.Name + " " + cmp.Or(text, c.To.Text("state"))
	if c.Detail != "" {
		text += ": " + c.Detail
	}
	return text
}

// gapText says why entries of the ledger were not sent.
func gapText(c Change) string {
	if c.To.Text("reason") == "restored" {
		return "webhook " + c.Name + ": events since the backup may be missing, because it was restored"
	}
	number := "entries"
	if n := c.To.Int("entries"); n > 0 {
		number = fmt.Sprintf("%d entries", n)
	}
	why := map[string]string{"retention": "the ledger dropped them before they could be sent",
		"skipped": "an operator skipped them"}[c.To.Text("reason")]
	return fmt.Sprintf("webhook %s: %s of the ledger from %d to %d are not sent: %s", c.Name, number, c.To.Int("from"),
		c.To.Int("to"), cmp.Or(why, c.To.Text("reason")))
}

func deadLetterText(c Change) string {
	return fmt.Sprintf("webhook %s: event %s of entry %d was given up: %s", c.Name, c.To.Text("code"), c.To.Int("seq"),
		c.Detail)
}

func badRollout(c Change) bool {
	reason := c.To.Text("reason")
	return c.To.Text("state") == "halted" || c.To.Text("state") == "paused" && reason != "operator" &&
		reason != "planned-pause"
}

// changed renders the new and the old value of a field into a format with two verbs.
func changed(field, format string) func(Change) string {
	return func(c Change) string { return fmt.Sprintf(format, c.To.Text(field), c.From.Text(field)) }
}

func newMachineText(c Change) string {
	text := "first seen, " + c.To.Text("state")
	if c.To.Bool("imported") {
		text = "added before it was first seen, " + c.To.Text("state")
	}
	if macs := c.To.Texts("macs"); len(macs) > 0 {
		text += ", with " + strings.Join(macs, " ")
	}
	return text
}

func portText(c Change) string {
	return fmt.Sprintf("moved from port %s to %s", c.From.Text("port"), c.To.Text("port"))
}

// labelText lists the labels that were set and removed.
func labelText(c Change) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(c.To)) {
		text := fmt.Sprintf("label %s=%s set", k, c.To.Text(k))
		if was, had := c.From[k]; had {
			text += fmt.Sprintf(" (was %s)", was)
		}
		list = append(list, text)
	}
	for _, k := range slices.Sorted(maps.Keys(c.From)) {
		if _, has := c.To[k]; !has {
			list = append(list, fmt.Sprintf("label %s=%s removed", k, c.From.Text(k)))
		}
	}
	return joined(list, "; ")
}

// answerText renders how the question about a machine was answered.
func answerText(c Change) string {
	how := "it is not " + c.From.Text("with")
	switch {
	case c.To.Text("state") != string(Approved):
		how = "it no longer applies"
	case c.From.Text("with") == string(c.Machine):
		how = "it is the same machine"
	}
	return "question answered: " + how
}

// grantedText says what a grant permits.
func grantedText(v Values) string {
	if v.Bool("adopt") {
		return fmt.Sprintf("take over volume %s on disk %s", v.Text("volume"), v.Text("disk"))
	}
	return fmt.Sprintf("initialise disk %s as volume %s", v.Text("disk"), v.Text("volume"))
}

func grantText(c Change) string {
	return fmt.Sprintf("granted: a boot may %s until %s", grantedText(c.To), c.To.Text("until"))
}

func expiredGrantText(c Change) string {
	return fmt.Sprintf("the grant to %s expired unused", grantedText(c.From))
}

func withdrawnGrantText(c Change) string {
	text := fmt.Sprintf("the grant to %s was withdrawn", grantedText(c.From))
	if boot := c.From.Text("lent"); boot != "" {
		text += "; boot " + ingot.BootID(boot).Short() + " has it in its ticket and may still use it"
	}
	return text
}

func volumeText(c Change) string {
	return fmt.Sprintf("volume %s %s: %s", c.To.Text("volume"), c.To.Text("state"), c.Detail)
}

// badVolume: an absent volume that nothing was asked for is ordinary if the boot went on.
func badVolume(c Change) bool { return c.To.Text("state") != string(ingot.VolumeAbsent) }

func usedGrantText(c Change) string { return "used: the grant to " + grantedText(c.From) }

func ticketText(c Change) string {
	text := "ticket issued for " + c.Image.Name
	for i := range c.To.Len("grants") {
		text += "; it may " + grantedText(c.To.At("grants", i))
	}
	return text
}

func mergedText(c Change) string {
	var list []string
	for _, p := range []struct{ what, is string }{{"cards", joined(c.From.Texts("macs"), " ")},
		{"UUID", c.From.Text("uuid")},
		{"serial number", c.From.Text("serial")}, {"name", c.From.Text("name")}, {"image", c.From.Text("image")}} {
		if p.is != "" {
			list = append(list, p.what+" "+p.is)
		}
	}
	return fmt.Sprintf("merged with %s, which had %s", c.From.Text("machine"),
		cmp.Or(strings.Join(list, ", "), "no identifiers"))
}

func absorbedText(c Change) string {
	return fmt.Sprintf("is the same machine as %s (%s) and was merged into it", c.To.Text("name"), c.To.Text("machine"))
}

func claimText(c Change) string {
	return "reports MAC addresses of other machines, which do not identify it: " + joined(c.To.Texts("cards"), ", ")
}

func loaderText(c Change) string {
	return fmt.Sprintf("first stage changed to %s for firmware %s", c.To.Text("loader"),
		cmp.Or(c.To.Text("firmware"), "unknown"))
}

func assignedText(c Change) string {
	if c.Detail == "" {
		return "assigned " + c.Image.Name
	}
	return "assigned " + c.Image.Name + ": " + c.Detail
}

func ruleText(c Change) string {
	var did []string
	if s := c.To.Text("state"); s != "" {
		did = append(did, s)
	}
	if c.To.Bool("labelled") {
		did = append(did, "labelled")
	}
	if c.Image.Name != "" {
		did = append(did, "assigned "+c.Image.Name)
	}
	return strings.Join(did, ", ") + " by " + c.To.Text("rule")
}

func failedStageText(c Change) string {
	if c.To.Bool("retry") {
		return "failed: " + c.Detail + "; the machine will retry"
	}
	return "failed: " + c.Detail
}

// badReport reports whether the machine is not healthy or has failed units.
func badReport(c Change) bool {
	return !c.To.Bool("isHealthy") || len(c.To.Texts("units")) > 0
}

func reportText(c Change) string {
	var words []string
	if healthy, changed := c.To["healthy"].(bool); changed {
		words = append(words, map[bool]string{true: "healthy again", false: "no longer healthy"}[healthy])
	}
	for i := range c.To.Len("checks") {
		k := c.To.At("checks", i)
		words = append(words, fmt.Sprintf("check %s: %s", k.Text("name"), k.Text("detail")))
	}
	if more := c.To.Int("moreChecks"); more > 0 {
		words = append(words, fmt.Sprintf("%d more failed checks", more))
	}
	if units := c.To.Texts("units"); len(units) > 0 {
		words = append(words, "failed units: "+strings.Join(units, ", "))
	}
	return strings.Join(words, "; ")
}

func badEnd(c Change) bool {
	o := ingot.Outcome(c.To.Text("outcome"))
	return o == ingot.OutcomeFailed || o == ingot.OutcomeSilent
}

func endText(c Change) string {
	text := c.To.Text("outcome")
	if c.Image.Name != "" {
		text = c.Image.Name + " " + text
	}
	if c.Detail != "" {
		text += ": " + c.Detail
	}
	return text
}

func claimedText(c Change) string {
	return "another boot began although this one may still run; it gets no grant while this one may report, until " +
		c.To.Text("until")
}

func returnedText(c Change) string {
	what := "its machine, which is " + c.To.Text("state") + " again"
	if c.To.Bool("known") {
		what = "that boot"
	}
	return fmt.Sprintf("runs %s, and brought back what a restore had lost: %s", c.Image.Name, what)
}

func restoredText(c Change) string {
	return fmt.Sprintf("the state was restored from a backup (machines: %d); earlier entries are from the backup",
		c.To.Int("machines"))
}

// maxWords limits the changes that one text lists.
const maxWords = 12

// joined joins at most maxWords strings, and says how many more there are.
func joined(list []string, by string) string {
	if more := len(list) - maxWords; more > 0 {
		return fmt.Sprintf("%s%sand %d more", strings.Join(list[:maxWords], by), by, more)
	}
	return strings.Join(list, by)
}
