// Package advice has the next steps that ingot suggests to operators. A Step is typed: the API sends its
// code and parameters, and each client offers it in its own way. Command renders it for the command
// line, and for the screen of a machine that waits.
package advice

import (
	"slices"
	"strings"
)

// Code identifies a Step. Codes keep their meaning.
type Code string

// The codes of steps. What each means, its parameters and its command are in meanings.
const (
	ShowConsole       Code = "show-console"
	ShowTimeline      Code = "show-timeline"
	ShowBoots         Code = "show-boots"
	ShowMachine       Code = "show-machine"
	ShowNetwork       Code = "show-network"
	ShowLoaders       Code = "show-loaders"
	ShowConfiguration Code = "show-configuration"
	ListImages        Code = "list-images"
	VerifyImage       Code = "verify-image"
	BuildImage        Code = "build-image"
	BuildMissing      Code = "build-missing-image"
	TrustKey          Code = "trust-key"
	ApproveMachine    Code = "approve-machine"
	AdmitMachine      Code = "admit-machine"
	ForgetMachine     Code = "forget-machine"
	MergeMachines     Code = "merge-machines"
	AssignImage       Code = "assign-image"
	ResumeMachine     Code = "resume-machine"
	GrantDisk         Code = "grant-disk"
	AdoptVolume       Code = "adopt-volume"
)

// Meaning describes a code.
type Meaning struct {
	Code Code
	// Explanation is a sentence for the OpenAPI document. It names the parameters.
	Explanation string
	// Parameters are the names of the parameters that a step needs; Optional those that it may have.
	Parameters, Optional []string
	// command is the command line. {name} stands for a parameter; words in capitals are for the
	// operator to choose.
	command string
}

var (
	machine, image = []string{"machine"}, []string{"image"}
	volume         = []string{"machine", "volume", "disk"}
)

// Meanings describes all codes.
var Meanings = []Meaning{
	{ShowConsole, "Read the console of a boot. Parameters: machine, and boot if it is not the latest one.", machine,
		[]string{"boot"}, "ingot console {machine}"},
	{ShowTimeline, "Look at the stages of the machine's latest boots. Parameter: machine.", machine, nil,
		"ingot boots {machine} --timeline"},
	{ShowBoots, "List the boots of the machine. Parameter: machine.", machine, nil, "ingot boots {machine}"},
	{ShowMachine, "Look at the machine's record and hardware. Parameter: machine.", machine, nil,
		"ingot machine show {machine}"},
	{ShowNetwork, "Look at the DHCP clients, other DHCP servers and problems of the network.", nil, nil,
		"ingot network"},
	{ShowLoaders, "List the loaders that the server has.", nil, nil, "ingot loaders"},
	{ShowConfiguration, "Look at the server's configuration.", nil, nil, "ingot config show"},
	{ListImages, "List the images in the store.", nil, nil, "ingot image ls"},
	{VerifyImage, "Verify the image and its signature. Parameter: image.", image, nil, "ingot image verify {image}"},
	{BuildImage, "Build the image again, for this server. Parameter: image.", image, nil, "ingot build --help"},
	{BuildMissing, "Build the image that the store does not have. Parameters: profile, and version.",
		[]string{"profile"}, []string{"version"}, "ingot build {profile}"},
	{TrustKey, "Trust the release key that signed the image. Parameter: image.", image, nil, "ingot key trust --help"},
	{ApproveMachine, "Approve the machine. Parameter: machine.", machine, nil, "ingot machine approve {machine}"},
	{AdmitMachine, "Approve the machine, and give it a name and an image. Parameter: machine.", machine, nil,
		"ingot machine approve {machine} --name NAME --image PROFILE:VERSION"},
	{ForgetMachine, "Delete the record of the machine. Parameter: machine.", machine, nil,
		"ingot machine forget {machine}"},
	{MergeMachines, "Merge a machine into another one: they are the same. Parameters: from and into.",
		[]string{"from", "into"}, nil, "ingot machine merge {from} {into}"},
	{AssignImage, "Assign an image to the machine. Parameter: machine.", machine, nil,
		"ingot assign {machine} PROFILE:VERSION"},
	{ResumeMachine, "Let the machine try its assigned image again. Parameter: machine.", machine, nil,
		"ingot resume {machine}"},
	{GrantDisk, "Let the machine initialise a blank disk as a volume. Parameters: machine, volume and disk.", volume, nil,
		"ingot grant {machine} {volume} --disk {disk}"},
	{AdoptVolume, "Let the machine take over the volume that a disk holds. Parameters: machine, volume and disk.", volume,
		nil, "ingot grant {machine} {volume} --disk {disk} --adopt"},
}

// options are what a command gets for an optional parameter.
var options = map[string]string{"boot": " --boot {boot}", "version": " --version {version}"}

// Step is something that an operator can do next. The zero Step is none.
type Step struct {
	Code   Code
	Params map[string]string // by name; nil without any
}

// New makes a step. params are names and values; those that the code does not have, and empty ones, are
// left out.
func New(code Code, params ...string) Step {
	s := Step{Code: code}
	m, _ := meaningOf(code)
	for i := 0; i+1 < len(params); i += 2 {
		name, value := params[i], params[i+1]
		if value == "" || !slices.Contains(m.Parameters, name) && !slices.Contains(m.Optional, name) {
			continue
		}
		if s.Params == nil {
			s.Params = map[string]string{}
		}
		s.Params[name] = value
	}
	return s
}

// Command renders the step as a command line for a POSIX shell. It is empty for a code that is not known, which a newer
// server may send.
func (s Step) Command() string {
	m, known := meaningOf(s.Code)
	if !known {
		return ""
	}
	text := m.command
	for _, name := range m.Optional {
		if s.Params[name] != "" {
			text += options[name]
		}
	}
	var fill []string
	for _, name := range slices.Concat(m.Parameters, m.Optional) {
		value, ok := Argument(s.Params[name]) // machines choose some of them
		if !ok {
			value = strings.ToUpper(name)
		}
		fill = append(fill, "{"+name+"}", value)
	}
	return strings.NewReplacer(fill...).Replace(text)
}

func meaningOf(c Code) (Meaning, bool) {
	i := slices.IndexFunc(Meanings, func(m Meaning) bool { return m.Code == c })
	if i < 0 {
		return Meaning{}, false
	}
	return Meanings[i], true
}

// Question is what the answer to a question about a machine depends on: is it the same machine as
// another one?
type Question struct {
	Machine  string // ID of the machine that is asked about
	Name     string // its name, or its ID
	With     string // ID of the machine that it may be
	Reported bool   // the machine's own report raised it; otherwise it is new
}

// Answers returns the steps that answer a question: same if it is the same machine, other if it is
// another one.
func (q Question) Answers() (same, other Step) {
	if q.With == q.Machine { // identified by this card, with a different board
		return New(ApproveMachine, "machine", q.Name), New(ForgetMachine, "machine", q.Name)
	}
	same = New(MergeMachines, "from", q.Machine, "into", q.With)
	if q.Reported { // it was approved before, so it has a name and an image
		return same, New(ApproveMachine, "machine", q.Name)
	}
	return same, New(AdmitMachine, "machine", q.Machine)
}
