package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"ingot/bootserver/advice"
	"ingot/internal/harmless"
)

// Code says what kind of problem a Problem is. Codes keep their meaning: programs, pages and the
// command line choose their advice by them.
type Code string

// The codes of problems. What each means, its status and its parameters are in codes.
const (
	CodeInvalidRequest     Code = "invalid-request"
	CodeInvalidCapture     Code = "invalid-capture"
	CodeInvalidWait        Code = "invalid-wait"
	CodeInvalidPage        Code = "invalid-page"
	CodeInvalidName        Code = "invalid-name"
	CodeInvalidLabel       Code = "invalid-label"
	CodeInvalidTag         Code = "invalid-tag"
	CodeInvalidKey         Code = "invalid-key"
	CodeInvalidCredential  Code = "invalid-credential"
	CodeInvalidImport      Code = "invalid-import"
	CodeInvalidBackup      Code = "invalid-backup"
	CodeInvalidConfig      Code = "invalid-configuration"
	CodeGrantWithoutDisk   Code = "grant-without-disk"
	CodeGrantDuration      Code = "grant-duration"
	CodeInvalidArgument    Code = "invalid-kernel-argument"
	CodeOnceLimit          Code = "once-limit"
	CodeTooManyLabels      Code = "too-many-labels"
	CodeTooLarge           Code = "request-too-large"
	CodeUnauthenticated    Code = "authentication-required"
	CodeWrongCredential    Code = "credential-unknown"
	CodeExpired            Code = "credential-expired"
	CodeRevoked            Code = "credential-revoked"
	CodePlain              Code = "token-over-plain-http"
	CodeTooManyWrong       Code = "too-many-wrong-credentials"
	CodeLocalUser          Code = "local-user-refused"
	CodeScope              Code = "insufficient-scope"
	CodeRouteClosed        Code = "route-closed"
	CodeRouteNotFound      Code = "route-not-found"
	CodeMethod             Code = "method-not-allowed"
	CodeMachineNotFound    Code = "machine-not-found"
	CodeMachineAmbiguous   Code = "machine-ambiguous"
	CodeMachineInexact     Code = "machine-inexact"
	CodeMachineApproved    Code = "machine-approved"
	CodeSameMachine        Code = "same-machine"
	CodeBothApproved       Code = "both-approved"
	CodeMergeDirection     Code = "merge-direction"
	CodeMergeBackwards     Code = "merge-backwards"
	CodeNameTaken          Code = "name-taken"
	CodeGrantVolume        Code = "volume-not-declared"
	CodeGrantDisk          Code = "disk-not-reported"
	CodeNoGrant            Code = "grant-not-found"
	CodeNoRollback         Code = "no-rollback"
	CodeAccountsMoved      Code = "accounts-moved"
	CodeNoNextImage        Code = "no-next-image"
	CodeImageUnable        Code = "image-unable"
	CodeSecureBoot         Code = "secure-boot"
	CodeNoOnce             Code = "nothing-for-one-boot"
	CodeNotOrderable       Code = "takes-no-orders"
	CodeOrderOpen          Code = "order-under-way"
	CodeNoOrder            Code = "order-not-found"
	CodeNoDrain            Code = "no-drain-hooks"
	CodeRolloutNotFound    Code = "rollout-not-found"
	CodeRolloutEnded       Code = "rollout-ended"
	CodeRolloutState       Code = "rollout-state"
	CodeInvalidRollout     Code = "invalid-rollout"
	CodeNobodyToMove       Code = "no-machine-to-move"
	CodeRolloutMachines    Code = "machines-in-rollout"
	CodeWebhookNotFound    Code = "webhook-not-found"
	CodeWebhookTaken       Code = "webhook-name-taken"
	CodeInvalidWebhook     Code = "invalid-webhook"
	CodeTooManyWebhooks    Code = "too-many-webhooks"
	CodeWebhookSecret      Code = "webhook-secret"
	CodeNoDeadLetter       Code = "dead-letter-not-found"
	CodeInvalidFleet       Code = "invalid-fleet-file"
	CodeChanged            Code = "changed-meanwhile"
	CodeBootNotFound       Code = "boot-not-found"
	CodeNoHardware         Code = "hardware-not-reported"
	CodeNoConsole          Code = "console-empty"
	CodePageGone           Code = "page-gone"
	CodeImageNotFound      Code = "image-not-found"
	CodeImageAmbiguous     Code = "image-ambiguous"
	CodeImageInexact       Code = "image-inexact"
	CodeImageInUse         Code = "image-in-use"
	CodeImageUntrusted     Code = "image-untrusted"
	CodeImageDamaged       Code = "image-damaged"
	CodeImageBeingRemoved  Code = "image-being-removed"
	CodeStoreBusy          Code = "store-busy"
	CodeTagTaken           Code = "tag-taken"
	CodeKeyName            Code = "key-name"
	CodeKeyInUse           Code = "key-in-use"
	CodeNoSecretKey        Code = "no-secret-key"
	CodeNoSBOM             Code = "sbom-not-found"
	CodeImageCannotFollow  Code = "image-cannot-follow"
	CodeCredentialNotFound Code = "credential-not-found"
	CodeSessionNotFound    Code = "session-not-found"
	CodeCredentialTaken    Code = "credential-name-taken"
	CodeTooManyCredentials Code = "too-many-credentials"
	CodeNoConfig           Code = "no-configuration-file"
	CodeRestoring          Code = "restore-in-progress"
	CodeTooManyCaptures    Code = "too-many-captures"
	CodeCaptureTooWide     Code = "capture-too-wide"
	CodeTooManyBackups     Code = "too-many-backups"
	CodeNoSpace            Code = "no-space"
	CodeInternal           Code = "internal"
	CodeUnavailable        Code = "unavailable"
)

// meaning is what there is to know of a code.
type meaning struct {
	code   Code
	status int
	// explanation is a sentence for the OpenAPI document.
	explanation string
	// hint is what somebody at the command line does next. {name} stands for the parameter of that
	// name, or for the name in capitals when a problem lacks it.
	hint string
}

// codes lists all codes with their meanings.
var codes = slices.Concat(requestCodes, accessCodes, machineCodes, rolloutCodes, webhookCodes, imageCodes, serverCodes)

var requestCodes = []meaning{
	{CodeInvalidRequest, 400, "The request does not match the OpenAPI document.",
		"ingot api openapi describes what is wanted"},
	{CodeInvalidCapture, 422,
		"The bounds or the machines of a capture are missing or out of range. Parameter: example, a path that is right.",
		"{example}"},
	{CodeInvalidWait, 400, "The time to wait for events is not a duration.", "write 20s"},
	{CodeInvalidPage, 400, "The position in a list is not one that a page was answered with.",
		"give what the Link of a page says"},
	{CodeInvalidName, 400, "The name cannot be a host name, or looks like an ID, a MAC address or a UUID.",
		"use lower-case letters, digits and dashes, such as node01"},
	{CodeInvalidLabel, 400, "A label's key or value is not allowed.", "write KEY=VALUE"},
	{CodeInvalidTag, 400, "The tag is not of the form PROFILE:WORD.", "write PROFILE:WORD, such as node:stable"},
	{CodeInvalidKey, 400, "The text is not a minisign public key.",
		"name a minisign public key, such as keys/release.pub of another store"},
	{CodeInvalidCredential, 400, "A token or client certificate cannot be made like this.",
		"ingot token create --help"},
	{CodeInvalidImport, 400, "The list of machines has faults, all of which are in the detail. Nothing was changed.",
		"nothing was changed; correct the list and give it again, with --dry-run to look first"},
	{CodeInvalidBackup, 400, "The file is not a whole backup.", "give a file that ingot backup wrote"},
	{CodeInvalidConfig, 400,
		"The configuration has faults, all of which are in the detail. The server goes on with the old one.",
		"ingot config check"},
	{CodeGrantWithoutDisk, 400, "A grant names one disk.", "give its serial number or WWN with --disk"},
	{CodeGrantDuration, 400, "The duration of a grant is out of range.", "give --for between 1m and 168h"},
	{CodeInvalidArgument, 400, "A kernel argument of one boot is not allowed, or there are too many.",
		"give arguments one by one: --append KEY=VALUE --append KEY"},
	{CodeOnceLimit, 400, "The time of one boot is out of range.", "give --for between 1m and 168h"},
	{CodeTooManyLabels, 400, "A machine would have too many labels. Parameter: machine.",
		"remove some: ingot machine label {machine} KEY-"},
	{CodeTooLarge, 413, "The body of the request is too large.", "send less at a time"},
	{CodePageGone, 409, "The last item of the page before is not in the list any more.",
		"start over with the first page"},
	{CodeRouteNotFound, 404, "There is no such path.", "ingot api openapi lists what there is"},
	{CodeMethod, 405, "The path exists and does not take the method. The header Allow lists those that it takes.",
		"ingot api openapi lists what there is"},
}

var accessCodes = []meaning{
	{CodeUnauthenticated, 401, "No token and no client certificate came with the request.",
		"give a token: ingot context add NAME URL; an administrator makes one: ingot token create NAME"},
	{CodeWrongCredential, 401, "The server does not know the token or client certificate.",
		"ask the administrator of the server: ingot token create NAME"},
	{CodeExpired, 401, "The token or client certificate has expired.",
		"ask the administrator of the server: ingot token create NAME"},
	{CodeRevoked, 401, "The token or client certificate was revoked.",
		"ask the administrator of the server: ingot token create NAME"},
	{CodePlain, 401, "A token was sent without TLS. Others can have read it: it should be revoked.",
		"ingot token revoke NAME, and use https"},
	{CodeTooManyWrong, 429, "Several wrong tokens or certificates of the same address wait for their answer.",
		"try again in some seconds, with a token or certificate of this server"},
	{CodeLocalUser, 403, "The local user is neither root, nor the server's user, nor in the group of the setting " +
		"socketGroup.", "run it as root, or add the user to the group of socketGroup in the server's configuration"},
	{CodeScope, 403,
		"The scope of the token or client certificate does not cover the request. Parameter: scope, the one that does.",
		"ask the administrator of the server: ingot token create NAME --scope {scope}"},
	{CodeRouteClosed, 403, "The route has no scope and is served to nobody.", "report this: it is a bug of ingot"},
	{CodeCredentialNotFound, 404, "No live token or client certificate has the name or id.", "ingot token ls"},
	{CodeSessionNotFound, 404, "No session of a browser has the id, and none is of that token or account.",
		"ingot session ls"},
	{CodeCredentialTaken, 409, "A live token or client certificate has the name. Parameter: name.",
		"choose another name, or: ingot token revoke {name}"},
	{CodeTooManyCredentials, 409, "There are as many tokens and client certificates as are kept.",
		"ended ones are removed after 90 days; give tokens longer lives instead of many"},
}

var machineCodes = []meaning{
	{CodeMachineNotFound, 404, "No machine has the id, name, MAC address or UUID. Parameter: ref.", "ingot machine ls"},
	{CodeMachineAmbiguous, 409, "Several machines match. Parameter: ref.", "give the id of the one that is meant"},
	{CodeMachineInexact, 409, "What changes a machine takes its whole id, name, MAC address or UUID, not the " +
		"beginning of one. Parameters: ref, and machine if it is the beginning of one only.",
		"write the whole name: {machine}"},
	{CodeMachineApproved, 409, "The machine is approved and is forgotten only by force. Parameter: machine.",
		"ingot machine retire {machine}, or give --force"},
	{CodeSameMachine, 400, "A machine cannot be merged with itself.", "ingot machine ls"},
	{CodeBothApproved, 409,
		"Both machines are approved, and are merged only after one was retired. Parameter: from, the one to retire.",
		"if they are one, retire first: ingot machine retire {from}"},
	{CodeMergeDirection, 409,
		"The approved machine is the one that stays. Parameters: from and into, the right way round.",
		"ingot machine merge {from} {into}"},
	{CodeMergeBackwards, 409,
		"The machine that would vanish ran later than the one that would stay. Parameters: from and into, swapped.",
		"keep {into}: ingot machine retire {from} && ingot machine approve {into} && ingot machine merge {from} {into}; " +
			"or give --force"},
	{CodeNameTaken, 409, "Another machine has the name. Parameter: machine, its id.",
		"choose another name, or: ingot machine rename {machine} NEW-NAME"},
	{CodeGrantVolume, 409, "No image that the machine boots declares the volume, so nothing would use the grant. " +
		"Parameter: image.", "name a volume of the image: ingot image inspect {image}; or give --force"},
	{CodeGrantDisk, 409, "The machine did not report a disk with this serial number, WWN or path. Parameter: machine.",
		"name a disk that it reported: ingot machine show {machine}; or, for one that is attached later, give --force"},
	{CodeNoGrant, 404, "The machine has no unused grant for the volume. Parameter: machine.",
		"ingot machine show {machine}"},
	{CodeNoRollback, 409, "No other image that can be served was healthy on the machine. Parameter: machine.",
		"choose one: ingot image ls, ingot assign {machine} IMAGE"},
	{CodeAccountsMoved, 409, "Accounts have other numbers in the image than in the one that used the machine's volumes " +
		"last, so files on them would belong to other accounts. Parameters: machine, from and to, the images.",
		"compare them: ingot image diff {from} {to}; give the accounts their old numbers in the profile, or change the " +
			"owners on the volumes and give --force"},
	{CodeNoNextImage, 409, "The machine boots no image now, so one boot of it needs an image. Parameter: machine.",
		"name an image: ingot assign {machine} IMAGE --once"},
	{CodeImageUnable, 409, "The image cannot do what one boot is to do: an older ingot built it, or its profile does " +
		"not permit it. Parameter: image.", "build it again with this ingot; for a shell, set rescueShell in its profile"},
	{CodeSecureBoot, 409, "The machine starts with Secure Boot, which fixes its kernel arguments. Parameter: machine.",
		"boot another image once: ingot assign {machine} IMAGE --once; or turn Secure Boot off in the firmware"},
	{CodeNoOnce, 409, "Nothing is decided for one boot of the machine. Parameter: machine.",
		"ingot machine show {machine}"},
	{CodeNotOrderable, 409, "The running system of the machine cannot be ordered to reboot: it is not heard from, or an " +
		"older ingot built its image. Parameter: machine.",
		"ingot why {machine}; somebody can reboot it by hand, and images that are built now take orders"},
	{CodeOrderOpen, 409, "An order to the running system of the machine is under way. Parameter: machine.",
		"ingot why {machine}; or withdraw it: ingot machine reboot {machine} --cancel"},
	{CodeNoOrder, 404, "No order to the machine can be withdrawn. Parameter: machine.", "ingot why {machine}"},
	{CodeNoDrain, 409, "The image that the machine runs declares no drain hooks. Parameters: machine, and image.",
		"add drain to its profile; or reboot without: ingot machine reboot {machine}"},
	{CodeChanged, 409, "What the request is about changed while it was carried out. Nothing was done.",
		"run the same command again"},
	{CodeBootNotFound, 404, "The machine has no such boot. Parameter: machine.", "ingot boots {machine}"},
	{CodeNoHardware, 404, "The machine reported no hardware in the boot: it requested no ticket. Parameter: machine.",
		"ingot boots {machine}"},
	{CodeNoConsole, 404, "Nothing of the console of the boot reached the server. Parameter: machine.",
		"it may have had no network; run: ingot why {machine}"},
}

var rolloutCodes = []meaning{
	{CodeRolloutNotFound, 404, "There is no such rollout.", "ingot rollout ls"},
	{CodeRolloutEnded, 409, "The rollout is over. Parameter: rollout.", "ingot rollout show {rollout}"},
	{CodeRolloutState, 409, "The rollout is not in a state for this. Parameter: rollout.", "ingot rollout show {rollout}"},
	{CodeInvalidRollout, 400, "A rollout cannot proceed like this.", "ingot rollout start --help"},
	{CodeNobodyToMove, 409, "No machine would get the image: all have it, or are kept out.",
		"ingot machine ls; ingot rollout ls"},
	{CodeInvalidFleet, 400,
		"Files with the desired state have faults, all of which are in the detail. Nothing was changed.",
		"nothing was changed; correct the files, and look first: ingot diff -f FILE"},
	{CodeRolloutMachines, 409, "Machines belong to another rollout that has not ended. Parameter: rollout.",
		"wait for it, or end it: ingot rollout abort {rollout}"},
}

var webhookCodes = []meaning{
	{CodeWebhookNotFound, 404, "There is no such webhook.", "ingot webhook ls"},
	{CodeWebhookTaken, 409, "A webhook has the name. Parameter: name.",
		"choose another name, or: ingot webhook rm {name}"},
	{CodeInvalidWebhook, 400, "A webhook cannot be made like this.", "ingot webhook create --help"},
	{CodeTooManyWebhooks, 409, "There are as many webhooks as are kept.", "remove one: ingot webhook rm NAME"},
	{CodeWebhookSecret, 409, "The secret of the webhook cannot be opened: its key is missing, or another one. " +
		"Parameter: name.", "restore keys/webhook.key of the store, or make the webhook again: ingot webhook rm {name}"},
	{CodeNoDeadLetter, 404, "The webhook has no dead letter with this id. Parameter: name.",
		"ingot webhook show {name}"},
}

var imageCodes = []meaning{
	{CodeImageNotFound, 404, "The store has no such image, tag or key.", "ingot image ls"},
	{CodeImageAmbiguous, 409, "Several images match.", "give more digits: ingot image ls"},
	{CodeImageInexact, 409, "An image to remove is named by PROFILE:VERSION, by its digest or by at least 8 " +
		"digits of it. Parameter: image, what the reference means.", "if you mean that image: ingot image rm {image}"},
	{CodeImageInUse, 409, "A machine needs the image, or the configuration gives it to new machines. Parameters: " +
		"machine, if one needs it, and use: assigned, once, latest (it may still run it), fell-back, healthy (it was " +
		"healthy with it last) or rollback.", "name another image in the configuration: ingot config show"},
	{CodeImageUntrusted, 400, "No release key that the store trusts signed the image.", "ingot image ls"},
	{CodeImageDamaged, 409, "A file of the image in the store does not have the content that was built.",
		"build the image again with its --version, or pull it again; which of its files: ingot image verify IMAGE"},
	{CodeImageBeingRemoved, 409, "The image is just being removed.", "ingot image ls"},
	{CodeStoreBusy, 409, "An image is just being received.",
		"run the same command again when the pull or import is done"},
	{CodeTagTaken, 409, "The name belongs to a version, which never moves.", "choose another word for the tag"},
	{CodeKeyName, 409, "The name of the release key is taken, reserved or not known.",
		"ingot key ls; or choose another name: --name NAME"},
	{CodeKeyInUse, 409, "Machines need images that hold the replaced key. Parameter: key, its id.",
		"build these images again and assign them: ingot key show {key}; or give --force: then these machines do not boot"},
	{CodeNoSecretKey, 409, "The store does not have the private half of the key, or the key was not replaced.",
		"replace the release key on the host that builds: ingot key rotate release"},
	{CodeNoSBOM, 404, "The image has no software bill of materials.", "build it again, or pull it with its referrers"},
	{CodeImageCannotFollow, 400, "The server key that the image holds was replaced, and the image cannot follow or that " +
		"key was withdrawn.", "build the image again"},
}

var serverCodes = []meaning{
	{CodeNoConfig, 409, "The server was started without a configuration file.",
		"write /etc/ingot/ingot.yaml, see: ingot config show; and restart the server"},
	{CodeRestoring, 409, "Another backup is just being restored.",
		"ingot audit shows by whom; run the same command again when it is done"},
	{CodeTooManyCaptures, 503, "As many captures are under way as the server allows.", "end one of them"},
	{CodeCaptureTooWide, 409, "The machines have more addresses than one capture can select.",
		"capture fewer machines at a time"},
	{CodeTooManyBackups, 503, "As many backups are being read as the server allows.",
		"end one of them: ingot audit shows who reads them"},
	{CodeNoSpace, 503, "There is no space for a copy of the state.",
		"free space in that folder: a copy of the state lies there while a backup is read"},
	{CodeInternal, 500, "The server failed.", "look at the log of the server: journalctl -u ingot"},
	{CodeUnavailable, 503, "The server cannot answer now.", "run the same command again"},
}

// meaningOf returns what there is to know of a code.
func meaningOf(c Code) (meaning, bool) {
	i := slices.IndexFunc(codes, func(m meaning) bool { return m.code == c })
	if i < 0 {
		return meaning{}, false
	}
	return codes[i], true
}

// Schema implements huma.SchemaProvider: all codes, with a sentence each.
func (Code) Schema(huma.Registry) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString}
	var words []string
	for _, m := range codes {
		s.Enum = append(s.Enum, string(m.code))
		words = append(words, "- `"+string(m.code)+"` ("+http.StatusText(m.status)+"): "+m.explanation)
	}
	s.Description = "What kind of problem it is. Newer servers may answer codes that are not listed.\n" +
		strings.Join(words, "\n")
	return s
}

// inUseHints are what lets an image go that a machine needs, by the use of it.
var inUseHints = map[string]string{
	"assigned":  "assign another image first: ingot assign {machine} IMAGE",
	"once":      "ingot assign {machine} --once --cancel",
	"latest":    "it may still run on {machine}: assign another image, and reboot it: ingot assign {machine} IMAGE",
	"fell-back": "assign an image that works, and reboot it: ingot assign {machine} IMAGE",
	"healthy": "{machine} falls back to it; it can go when {machine} was healthy with another image: " +
		"ingot why {machine}",
	"rollback": "ingot rollback {machine} would go back to it; it can go when {machine} was healthy with two other " +
		"images, or is gone: ingot machine forget {machine}",
}

// Hint returns what somebody at the command line does next about a problem; empty when nothing is
// known of it. The server does not send it: other clients have other ways.
func (p Problem) Hint() string {
	m, known := meaningOf(p.Code)
	if !known {
		return ""
	}
	text := m.hint
	if in, is := inUseHints[p.Params["use"]]; is && p.Code == CodeImageInUse {
		text = in
	}
	for {
		head, rest, found := strings.Cut(text, "{")
		name, tail, closed := strings.Cut(rest, "}")
		if !found || !closed {
			return text
		}
		given := strings.NewReplacer("{", "", "}", "").Replace(p.Params[name])
		value, ok := advice.Argument(given)
		if name == "example" { // a line of documentation
			value, ok = harmless.Text(given), true
		}
		if !ok {
			value = strings.ToUpper(name)
		}
		text = head + value + tail
	}
}
