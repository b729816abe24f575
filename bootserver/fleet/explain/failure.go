package explain

import (
	"fmt"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
)

// explanation is what an operator makes of a failure. In its texts, {image} and
// {host} stand for the names of the boot's image and machine, {words} for what
// the machine wrote, {stage} for where it failed, {does} for whether it goes on.
type explanation struct{ what, means, next string }

const (
	console  = "ingot console {host}"
	verify   = "ingot image verify {image}"
	initWhat = "ingot-init {does} stage {stage}"
)

// explanations has one for each failure that a machine reports by a code.
var explanations = map[ingot.FailureCode]explanation{
	ingot.FailureServerAway:    {initWhat, "{words}", console},
	ingot.FailureServerRefused: {initWhat, "{words}", console},
	ingot.FailureTicketKey: {"ticket refused",
		"it is signed by a server key that {image} does not contain; the image was built for " +
			"another server", "ingot build --help"},
	ingot.FailureTicketReplayed: {"ticket refused",
		"it answers another request; a second server or a caching proxy may have answered", "ingot network"},
	ingot.FailureTicketExpired: {"ticket refused",
		"it had expired when it arrived: the network is slow, or boots.ticket is too short", "ingot config show"},
	ingot.FailureImageKey: {"image refused", "{image} is signed by a key that its own initramfs does not contain",
		verify},
	ingot.FailureImageDigest: {"image refused", "what was served for {image} is not what was signed", verify},
	ingot.FailureMemory:      {initWhat, "{words}", "ingot machine show {host}"},
	ingot.FailureRootChunk: {"root refused",
		"{words}; the file in the store is damaged, or the network corrupts data", verify},
	ingot.FailureRootMount:       {"root not mounted", "{words}", console},
	ingot.FailureVolume:          {"volumes not mounted", "{words}", "ingot machine show {host}"},
	ingot.FailureIdentity:        {"host name, machine ID or SSH keys not set", "{words}", console},
	ingot.FailureSwitch:          {initWhat, "{words}", console},
	ingot.FailureInit:            {"ingot-init crashed at stage {stage}", "{words}", console},
	ingot.FailureDeadline:        {"the system did not finish starting", "{words}", console},
	ingot.FailureRootUnreadable:  {"the agent could not measure the root", "{words}", console},
	ingot.FailureRootMeasurement: {"{words}", "", console},
	ingot.FailureCheck:           {"{words}", "", console},
	ingot.FailureUnhealthy:       {"{words}", "", console},
}

// byStage has an explanation for failures without a code, by the stage at which
// they happened: of older images, and of kinds that have no code.
var byStage = map[ingot.Stage]explanation{
	ingot.StageInit:    {initWhat, "{words}", console},
	ingot.StageTicket:  {initWhat, "{words}", console},
	ingot.StageRoot:    {initWhat, "{words}", console},
	ingot.StageVolumes: {"volumes not mounted", "{words}", "ingot machine show {host}"},
	ingot.StageSwitch:  {initWhat, "{words}", console},
	ingot.StageAgent:   {"the system did not finish starting", "{words}", console},
	ingot.StageHealthy: {"{words}", "", console},
}

// words are what images wrote that were built before failures had codes. Images
// outlive servers: this table stays.
var words = []struct {
	text string
	code ingot.FailureCode
}{
	{"the ticket's signature is not by the server key", ingot.FailureTicketKey},
	{"the ticket answers another request", ingot.FailureTicketReplayed},
	{"the ticket has expired", ingot.FailureTicketExpired},
	{"the image's signature is not by the release key", ingot.FailureImageKey},
	{"a part of the image is not the one that was assigned", ingot.FailureImageDigest},
	{"a chunk of the root does not match the manifest", ingot.FailureRootChunk},
	{"the image needs a machine with", ingot.FailureMemory},
	{"ingot-init broke:", ingot.FailureInit},
	{"volume refused:", ingot.FailureVolume},
	{"the machine reboots itself", ingot.FailureDeadline},
}

// codeOf is the code of a reported failure, or that of the words of an older image.
func codeOf(e fleet.Event) ingot.FailureCode {
	if e.Code != "" {
		return e.Code
	}
	for _, w := range words {
		if strings.Contains(e.Error, w.text) {
			return w.code
		}
	}
	return ""
}

// reported explains a failure that the machine itself reported.
func reported(b fleet.Boot, e fleet.Event, s Story) cause {
	x, known := explanations[codeOf(e)]
	if !known {
		x, known = byStage[e.Stage]
	}
	if !known {
		x = explanation{"stage {stage} failed", "{words}", "ingot boots {host} --timeline"}
	}
	does := "gave up at"
	if e.Retry {
		does = "does not get past"
	}
	fill := strings.NewReplacer("{image}", b.Image.Name, "{host}", s.Machine.Hostname(), "{words}",
		strings.TrimSuffix(e.Error, ": "),
		"{stage}", string(e.Stage), "{does}", does).Replace
	c := cause{fill(x.what), fill(x.means), fill(x.next)}
	if e.Stage == ingot.StageHealthy {
		c.means = otherChecks(b)
	}
	return c
}

// otherChecks says what else a report that was not good contains.
func otherChecks(b fleet.Boot) (text string) {
	if b.Report == nil {
		return ""
	}
	passed, failed := 0, []string{}
	for _, k := range b.Report.Checks {
		if k.OK {
			passed++
		} else {
			failed = append(failed, k.Name)
		}
	}
	switch {
	case len(failed) > 1:
		text = fmt.Sprintf("%d checks failed in all (%s)", len(failed), strings.Join(failed, ", "))
	case passed == 1:
		text = "1 other check passed"
	case passed > 1:
		text = fmt.Sprintf("%d other checks passed", passed)
	}
	if len(b.Report.Failed) > 0 {
		text = strings.TrimPrefix(text+"; failed units: "+strings.Join(b.Report.Failed, ", "), "; ")
	}
	return text
}
