package ingot

import "regexp"

// FailureCode says what kind of failure a machine reports, so that no program
// has to recognise it by its words. An Event without a code comes from an image
// that was built before codes existed, or its failure has none. Codes are stored
// and sent: they keep their meaning.
type FailureCode string

var failureCodeRE = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)

// Plausible reports whether c can be a code, maybe one of a newer version.
func (c FailureCode) Plausible() bool { return failureCodeRE.MatchString(string(c)) }

// The failures of a boot, in the order in which it can meet them.
const (
	FailureServerAway      FailureCode = "server-unreachable"
	FailureServerRefused   FailureCode = "server-refused"
	FailureTicketKey       FailureCode = "ticket-signature"
	FailureTicketReplayed  FailureCode = "ticket-replayed"
	FailureTicketExpired   FailureCode = "ticket-expired"
	FailureImageDigest     FailureCode = "image-digest"
	FailureImageKey        FailureCode = "image-signature"
	FailureArguments       FailureCode = "kernel-arguments"
	FailureMemory          FailureCode = "too-little-memory"
	FailureRootChunk       FailureCode = "root-chunk"
	FailureRootMount       FailureCode = "root-mount"
	FailureVolume          FailureCode = "volume-refused"
	FailureIdentity        FailureCode = "identity"
	FailureSwitch          FailureCode = "switch-root"
	FailureInit            FailureCode = "init-panic"
	FailureDeadline        FailureCode = "deadline"
	FailureRootUnreadable  FailureCode = "root-unreadable"
	FailureRootMeasurement FailureCode = "root-measurement"
	FailureCheck           FailureCode = "check-failed"
	FailureUnhealthy       FailureCode = "not-healthy"
)

// Failures lists every FailureCode with what it means.
var Failures = map[FailureCode]string{
	FailureServerAway:     "The machine could not reach the server, or the server was too busy to answer.",
	FailureServerRefused:  "The server refused a request of the machine.",
	FailureTicketKey:      "The ticket is not signed by the server key in the initramfs.",
	FailureTicketReplayed: "The ticket is for another boot or answers another request.",
	FailureTicketExpired:  "The ticket had expired when it arrived.",
	FailureImageDigest:    "A part of the image does not have the digest that the ticket or the manifest names.",
	FailureImageKey:       "The image is not signed by the release key in the initramfs.",
	FailureArguments:      "The kernel has other arguments than the image and the ticket allow.",
	FailureMemory:         "The machine has less memory than the image requires.",
	FailureRootChunk:      "A chunk of the root does not match the manifest, although it was fetched several times.",
	FailureRootMount:      "The root could not be attached or mounted.",
	FailureVolume:         "A required volume could not be found, checked, initialised or mounted.",
	FailureIdentity:       "The host name, machine ID or SSH host keys could not be set.",
	FailureSwitch:         "The machine could not switch to its root.",
	FailureInit:           "ingot-init panicked.",
	FailureDeadline:       "The system was not healthy by the deadline of its boot.",
	FailureRootUnreadable: "The agent could not read the root device to measure it.",
	// found by the server, in a Report
	FailureRootMeasurement: "The root that the machine measured is not the assigned one.",
	FailureCheck:           "A health check failed.",                       // likewise
	FailureUnhealthy:       "The machine reported that it is not healthy.", // likewise
}
