package explain

import (
	"fmt"
	"strings"

	"ingot"
	"ingot/bootserver/advice"
	"ingot/bootserver/fleet"
)

// explanation explains a failure to an operator. In its texts, {image}
// stands for the name of the boot's image, {words} for the error that the machine
// reported, {stage} for the stage that failed.
type explanation struct {
	what, means string
	next        advice.Code
}

const (
	badTicket = "the machine rejected its ticket"
	badImage  = "the machine rejected the image"
	initWhat  = "stage {stage} failed: {words}"

	volumeMeans = "this does not count against {image}, since another image would meet the same disks"
)

// explanations has an explanation for each FailureCode.
var explanations = map[ingot.FailureCode]explanation{
	ingot.FailureServerAway:    {initWhat, "", advice.ShowConsole},
	ingot.FailureServerRefused: {initWhat, "", advice.ShowConsole},
	ingot.FailureTicketKey: {badTicket,
		"the ticket is signed by a server key that {image} does not contain. The image was built for another server",
		advice.BuildImage},
	ingot.FailureTicketReplayed: {badTicket,
		"the ticket answers another request. A second server or a caching proxy may have answered", advice.ShowNetwork},
	ingot.FailureTicketExpired: {badTicket,
		"the ticket had expired when it arrived. The network is slow, or boots.ticket is too short",
		advice.ShowConfiguration},
	ingot.FailureImageKey: {badImage, "image {image} is signed by a key that its own initramfs does not contain",
		advice.VerifyImage},
	ingot.FailureImageDigest: {badImage, "the files served for {image} are not the ones that were signed",
		advice.VerifyImage},
	ingot.FailureMemory: {"image {image} does not fit into the memory of this machine: {words}", "", advice.ShowMachine},
	ingot.FailureArguments: {"the machine refused its kernel arguments: {words}",
		"they were changed between this server and the kernel, by its loader or by somebody in its network; this does not " +
			"count against {image}", advice.ShowNetwork},
	ingot.FailureRootChunk: {"the machine rejected the root: {words}",
		"the file in the store is damaged, or the network corrupts data", advice.VerifyImage},
	ingot.FailureRootMount:       {"the root was not mounted: {words}", "", advice.ShowConsole},
	ingot.FailureVolume:          {"the volumes were not mounted: {words}", volumeMeans, advice.ShowMachine},
	ingot.FailureIdentity:        {"the host name, machine ID or SSH keys were not set: {words}", "", advice.ShowConsole},
	ingot.FailureSwitch:          {initWhat, "", advice.ShowConsole},
	ingot.FailureInit:            {"the ingot-init program crashed at stage {stage}: {words}", "", advice.ShowConsole},
	ingot.FailureDeadline:        {"the system did not finish starting: {words}", "", advice.ShowConsole},
	ingot.FailureRootUnreadable:  {"the agent could not measure the root: {words}", "", advice.ShowConsole},
	ingot.FailureRootMeasurement: {"{words}", "", advice.ShowConsole},
	ingot.FailureCheck:           {"{words}", "", advice.ShowConsole},
	ingot.FailureUnhealthy:       {"{words}", "", advice.ShowConsole},
}

// byStage has explanations for failures without a code, by the stage that failed:
// those of older images, and those that have no code.
var byStage = map[ingot.Stage]explanation{
	ingot.StageInit:    {initWhat, "", advice.ShowConsole},
	ingot.StageTicket:  {initWhat, "", advice.ShowConsole},
	ingot.StageRoot:    {initWhat, "", advice.ShowConsole},
	ingot.StageVolumes: {"the volumes were not mounted: {words}", volumeMeans, advice.ShowMachine},
	ingot.StageSwitch:  {initWhat, "", advice.ShowConsole},
	ingot.StageAgent:   {"the system did not finish starting: {words}", "", advice.ShowConsole},
	ingot.StageHealthy: {"{words}", "", advice.ShowConsole},
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
		x = explanation{initWhat, "", advice.ShowTimeline}
	}
	fill := strings.NewReplacer("{image}", b.Image.Name, "{words}",
		strings.TrimSuffix(e.Error, ": "),
		"{stage}", string(e.Stage)).Replace
	c := cause{fill(x.what), fill(x.means), s.stepOf(x.next, b)}
	switch {
	case e.Stage == ingot.StageHealthy:
		c.means = otherChecks(b)
	case codeOf(e) == ingot.FailureMemory:
		c.means = s.lostMemory()
	}
	if _, next := s.volumes(b); len(next) > 0 && codeOf(e) == ingot.FailureVolume {
		c.next = next[0]
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
	if full := overlayText(*b.Report); full != "" {
		text = strings.TrimPrefix(text+". "+capitalize(full), ". ")
	}
	return text
}
