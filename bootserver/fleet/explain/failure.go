package explain

import (
	"fmt"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
)

// explanation explains a failure to an operator. In its texts, {image} and {host}
// stand for the names of the boot's image and machine, {words} for the error that
// the machine reported, {stage} for the stage that failed.
type explanation struct{ what, means, next string }

const (
	console = "ingot console {host}"
	verify  = "ingot image verify {image}"

	badTicket = "the machine rejected its ticket"
	badImage  = "the machine rejected the image"
	initWhat  = "stage {stage} failed: {words}"
)

// explanations has an explanation for each FailureCode.
var explanations = map[ingot.FailureCode]explanation{
	ingot.FailureServerAway:    {initWhat, "", console},
	ingot.FailureServerRefused: {initWhat, "", console},
	ingot.FailureTicketKey: {badTicket,
		"the ticket is signed by a server key that {image} does not contain. The image was built for another server",
		"ingot build --help"},
	ingot.FailureTicketReplayed: {badTicket,
		"the ticket answers another request. A second server or a caching proxy may have answered", "ingot network"},
	ingot.FailureTicketExpired: {badTicket,
		"the ticket had expired when it arrived. The network is slow, or boots.ticket is too short", "ingot config show"},
	ingot.FailureImageKey: {badImage, "image {image} is signed by a key that its own initramfs does not contain",
		verify},
	ingot.FailureImageDigest: {badImage, "the files served for {image} are not the ones that were signed", verify},
	ingot.FailureMemory:      {initWhat, "", "ingot machine show {host}"},
	ingot.FailureRootChunk: {"the machine rejected the root: {words}",
		"the file in the store is damaged, or the network corrupts data", verify},
	ingot.FailureRootMount:       {"the root was not mounted: {words}", "", console},
	ingot.FailureVolume:          {"the volumes were not mounted: {words}", "", "ingot machine show {host}"},
	ingot.FailureIdentity:        {"the host name, machine ID or SSH keys were not set: {words}", "", console},
	ingot.FailureSwitch:          {initWhat, "", console},
	ingot.FailureInit:            {"the ingot-init program crashed at stage {stage}: {words}", "", console},
	ingot.FailureDeadline:        {"the system did not finish starting: {words}", "", console},
	ingot.FailureRootUnreadable:  {"the agent could not measure the root: {words}", "", console},
	ingot.FailureRootMeasurement: {"{words}", "", console},
	ingot.FailureCheck:           {"{words}", "", console},
	ingot.FailureUnhealthy:       {"{words}", "", console},
}

// byStage has explanations for failures without a code, by the stage that failed:
// those of older images, and those that have no code.
var byStage = map[ingot.Stage]explanation{
	ingot.StageInit:    {initWhat, "", console},
	ingot.StageTicket:  {initWhat, "", console},
	ingot.StageRoot:    {initWhat, "", console},
	ingot.StageVolumes: {"the volumes were not mounted: {words}", "", "ingot machine show {host}"},
	ingot.StageSwitch:  {initWhat, "", console},
	ingot.StageAgent:   {"the system did not finish starting: {words}", "", console},
	ingot.StageHealthy: {"{words}", "", console},
}

// words are the error texts of images built before failures had codes. Images may
// be older than the server, so this table stays.
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

// codeOf returns the code of a reported failure. For an older image, it derives the
// code from the error text.
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
		x = explanation{initWhat, "", "ingot boots {host} --timeline"}
	}
	fill := strings.NewReplacer("{image}", b.Image.Name, "{host}", s.Machine.Hostname(), "{words}",
		strings.TrimSuffix(e.Error, ": "),
		"{stage}", string(e.Stage)).Replace
	c := cause{fill(x.what), fill(x.means), fill(x.next)}
	if e.Stage == ingot.StageHealthy {
		c.means = otherChecks(b)
	}
	return c
}

// otherChecks summarises the checks and failed units of a report that is not healthy.
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
		text = fmt.Sprintf("%d checks failed (%s)", len(failed), strings.Join(failed, ", "))
	case passed == 1:
		text = "1 other check passed"
	case passed > 1:
		text = fmt.Sprintf("%d other checks passed", passed)
	}
	if len(b.Report.Failed) > 0 {
		text = strings.TrimPrefix(text+". Failed units: "+strings.Join(b.Report.Failed, ", "), ". ")
	}
	return text
}
