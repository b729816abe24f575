package profiles

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"ingot/internal/beneath"
)

// Scripts are programs that change the root while the image is built. They see the root and nothing of the
// host: no network, no other files, no devices.
type Scripts struct {
	// Scripts that run after the packages are configured, before users, files and units of the profile are
	// added.
	Configure []Script `yaml:"configure,omitempty" json:"configure,omitempty"`
	// Scripts that run when everything else is in the root.
	Finish []Script `yaml:"finish,omitempty" json:"finish,omitempty"`
}

// Script is one program, for the shell of the root or, with #! in its first line, another program of it.
type Script struct {
	// Name of the script, for messages: lower-case letters, digits, dashes.
	Name string `yaml:"name" json:"name" jsonschema:"required"`
	// Text of the script. It ends with the first command that fails. Variables of the profile are not
	// replaced in it: pass them with env.
	Run string `yaml:"run,omitempty" json:"run,omitempty"`
	// File below the profile's folder to take the text from.
	Source string `yaml:"source,omitempty" json:"source,omitempty"`
	// Environment variables, besides SOURCE_DATE_EPOCH, PATH and few others.
	Env map[string]string `yaml:"env,omitempty" json:"env,omitempty"`

	Minus string `yaml:"-" json:"-"` // an entry "-NAME": what has that name is taken back
	At    Place  `yaml:"-" json:"-"`
}

// scriptLists are the lists of scripts.
var scriptLists = []struct {
	path string
	of   func(*Profile) *[]Script
}{
	{"scripts.configure", func(p *Profile) *[]Script { return &p.Scripts.Configure }},
	{"scripts.finish", func(p *Profile) *[]Script { return &p.Scripts.Finish }},
}

// mergeScripts appends scripts. One of the same name replaces the earlier one at its place.
func mergeScripts(into, p *Profile) {
	for _, list := range scriptLists {
		have := list.of(into)
		for _, s := range *list.of(p) {
			if i := slices.IndexFunc(*have, func(t Script) bool { return t.Name == s.Name }); i >= 0 {
				(*have)[i] = s
			} else {
				*have = append(*have, s)
			}
		}
	}
}

var environmentRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// checkScripts checks the scripts of one file.
func (d *decoder) checkScripts(p *Profile) {
	for _, list := range scriptLists {
		seen := map[string]Place{}
		for _, s := range *list.of(p) {
			switch first, twice := seen[s.Name]; {
			case !suiteRE.MatchString(s.Name):
				d.Faults.Add(s.At, "write lower-case letters, digits and dashes", "%q cannot be the name of a script", s.Name)
			case twice:
				d.Faults.Add(s.At, "keep one of them", "the script %q is defined already at line %d", s.Name, first.Line)
			case (s.Run == "") == (s.Source == ""):
				d.Faults.Add(s.At, "write one of them", "the script %q needs either run or source", s.Name)
			case s.Source != "" && !fs.ValidPath(s.Source):
				d.Faults.Add(s.At, "write a path below the profile's folder, without ..",
					"the source %q is outside the profile's folder", s.Source)
			}
			seen[s.Name] = s.At
			for name, value := range s.Env {
				if !environmentRE.MatchString(name) || strings.ContainsAny(value, "\x00") {
					d.Faults.Add(s.At, "write letters, digits and underscores", "%q cannot be an environment variable", name)
				}
			}
		}
	}
}

// readScripts replaces the sources of scripts by their texts, so that a plan has them.
func (p *Profile) readScripts(faults *Faults) {
	for _, list := range scriptLists {
		for i, s := range *list.of(p) {
			folder := p.folders[s.At.File]
			if s.Source == "" || folder == nil || !fs.ValidPath(s.Source) {
				continue
			}
			switch text, err := fs.ReadFile(folder, s.Source); {
			case errors.Is(err, beneath.ErrLeaves):
				faults.Add(s.At, "put the file itself there", "the source %q of the script %q: %v", s.Source, s.Name,
					beneath.ErrLeaves)
			case err != nil:
				faults.Add(s.At, "put it beside the profile", "the source %q of the script %q cannot be read", s.Source, s.Name)
			case len(text) > maxScript:
				faults.Add(s.At, fmt.Sprintf("keep it below %d KiB, and put data into files or layers", maxScript>>10),
					"the source %q of the script %q is too long", s.Source, s.Name)
			default:
				(*list.of(p))[i].Run, (*list.of(p))[i].Source = string(text), ""
			}
		}
	}
}

// maxScript is the length of a script in bytes: it is part of the plan.
const maxScript = 256 << 10
