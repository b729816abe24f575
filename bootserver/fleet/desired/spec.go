// Package desired is the desired state of a fleet, as an operator keeps it in files: machines, labels,
// rules, assignments, pins and how images reach many machines. It reads and checks the files, and
// compares them with the machines that there are. What differs becomes a Plan: plain values, computed
// from values, so that a server that restarts computes the rest of it again.
//
// Left out on purpose: I/O and clocks, as in package fleet; storing a plan; and making machines follow
// their state again when an operator changes them by hand. Files act when they are applied.
package desired

import (
	_ "embed"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/invopop/jsonschema"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
	"ingot/internal/yamlfile"
)

// Spec is the content of one or several files. The comments of fields, here and below, are also the
// descriptions in the JSON schema.
type Spec struct {
	// Location of this schema; for editors, ignored by ingot.
	Schema string `yaml:"$schema,omitempty" json:"-"`
	// Machines, which need not have booted yet. One that is not listed stays as it is.
	Machines []Machine `yaml:"machines,omitempty" json:"machines,omitempty"`
	// Labels of several machines.
	Labels []Labels `yaml:"labels,omitempty" json:"labels,omitempty"`
	// New machines to approve and label automatically, after the rules of the server's configuration; the
	// first one that matches applies.
	Rules []fleet.Rule `yaml:"rules,omitempty" json:"rules,omitempty"`
	// Images of machines. A machine may match one assignment only.
	Assignments []Assignment `yaml:"assignments,omitempty" json:"assignments,omitempty"`
	// Machines to keep out of rollouts. Those that have an image keep it, whatever the assignments say.
	Pins []Pin `yaml:"pins,omitempty" json:"pins,omitempty"`
	// How an image reaches many machines, for assignments that do not say it themselves.
	Rollout *Rollout `yaml:"rollout,omitempty" json:"rollout,omitempty"`
}

// Machine is a machine of a Spec.
type Machine struct {
	// Host name. May be left out if macs or uuid identify the machine: its name stays then.
	Name string `yaml:"name,omitempty" json:"name,omitempty"`
	// Addresses of its network cards. A machine that is known needs none.
	MACs yamlfile.OneOrMore `yaml:"macs,omitempty" json:"macs,omitempty"`
	// UUID in SMBIOS.
	UUID string `yaml:"uuid,omitempty" json:"uuid,omitempty"`
	// Serial number in SMBIOS.
	Serial string `yaml:"serial,omitempty" json:"serial,omitempty"`
	// approved: it may boot; pending: register it, and leave the approval to an operator; retired: it may not boot
	// any more. Default: approved, but for a machine that was retired.
	State fleet.State `yaml:"state,omitempty" json:"state,omitempty"`
	// Labels. Others that the machine has stay.
	Labels map[string]string `yaml:"labels,omitempty" json:"labels,omitempty"`
	// Image of this machine, whatever the assignments say: PROFILE:VERSION, or none: no assignment applies.
	Image string `yaml:"image,omitempty" json:"image,omitempty"`

	At   yamlfile.Place `yaml:"-" json:"-" jsonschema:"-"`
	from source
}

// Labels are labels of several machines.
type Labels struct {
	// Host names, as a hostlist: node[01-40].
	Machines string `yaml:"machines" json:"machines"`
	// Labels that they get. Others stay.
	Set map[string]string `yaml:"set" json:"set"`

	At   yamlfile.Place `yaml:"-" json:"-" jsonschema:"-"`
	from source
}

// Assignment is the image of machines.
type Assignment struct {
	// Machines: labels (rack=r1,role!=db), a hostlist (node[01-40]), or all for all approved machines. Labels
	// of these files count already.
	To string `yaml:"to" json:"to"`
	// Image: PROFILE:VERSION, a tag or a digest.
	Image string `yaml:"image" json:"image"`
	// How it reaches many machines.
	Rollout *Rollout `yaml:"rollout,omitempty" json:"rollout,omitempty"`

	At   yamlfile.Place `yaml:"-" json:"-" jsonschema:"-"`
	from source
}

// Pin keeps machines out of rollouts.
type Pin struct {
	// Machines, as in assignments.
	Machines string `yaml:"machines" json:"machines"`
	// Reason, recorded with the machines.
	Why string `yaml:"why,omitempty" json:"why,omitempty"`

	At   yamlfile.Place `yaml:"-" json:"-" jsonschema:"-"`
	from source
}

// Rollout is how an image reaches many machines; see docs/ROLLOUTS.md.
type Rollout struct {
	// Machines of an assignment that have another image, up to which all get the new one at once. With more, a
	// rollout brings it to them. Default: 10.
	Above *int `yaml:"above,omitempty" json:"above,omitempty"`
	// Machines of the first wave. Default: 1.
	Canary *int `yaml:"canary,omitempty" json:"canary,omitempty"`
	// Share of the machines that have the image after each wave. Default: [10%, 50%, 100%].
	Waves yamlfile.OneOrMore `yaml:"waves,omitempty" json:"waves,omitempty"`
	// Machines of each failure domain that may be unavailable: a number or a percentage. Default: 10%.
	MaxUnavailable string `yaml:"maxUnavailable,omitempty" json:"maxUnavailable,omitempty"`
	// Label whose values are failure domains. Default: one domain for all.
	Spread string `yaml:"spread,omitempty" json:"spread,omitempty"`
	// Time for which the machines of a wave must stay healthy. Default: 15m.
	Bake yamlfile.Duration `yaml:"bake,omitempty" json:"bake,omitempty"`
	// Time without progress before it pauses. Default: 45m.
	Patience yamlfile.Duration `yaml:"patience,omitempty" json:"patience,omitempty"`
	// Waves after which it pauses; 0 is the canary.
	PauseAfter []int `yaml:"pauseAfter,omitempty" json:"pauseAfter,omitempty"`
	// When machines may be moved: Mon-Fri 09:00-16:00 Europe/Berlin.
	Window string `yaml:"window,omitempty" json:"window,omitempty"`
	// How machines come to boot the image: auto, reboot or next-boot (somebody reboots them). Default: auto.
	How rollout.How `yaml:"how,omitempty" json:"how,omitempty"`
	// Drain hooks of the image that a machine runs, before it reboots: required (if one fails, it does not) or
	// best-effort. Default: none are run.
	Drain ingot.Drain `yaml:"drain,omitempty" json:"drain,omitempty"`
	// Percentage of a wave that must become healthy. Default: 90.
	Quorum int `yaml:"quorum,omitempty" json:"quorum,omitempty"`

	At   yamlfile.Place `yaml:"-" json:"-" jsonschema:"-"`
	from source
}

// source is where the values of a part of a file are.
type source struct {
	places map[string]yamlfile.Place
	path   string // of the part
}

// at returns the place of a field, or of the part itself.
func (s source) at(field string, part yamlfile.Place) yamlfile.Place {
	if p, known := s.places[s.path+"."+field]; known {
		return p
	}
	return part
}

// given reports whether a field is in the file.
func (s source) given(field string) bool {
	_, is := s.places[s.path+"."+field]
	return is
}

// None is the image of a machine to which no assignment applies.
const None = "none"

// All is the selector of all approved machines.
const All = "all"

// DefaultAbove is the default of Rollout.Above.
const DefaultAbove = 10

// above returns the number of machines that are moved at once.
func (r *Rollout) above() int {
	if r == nil || r.Above == nil {
		return DefaultAbove
	}
	return *r.Above
}

// Policy returns the policy of a rollout. What was left out is zero, but for the canaries.
func (r *Rollout) Policy() (p rollout.Policy, err error) {
	p = rollout.Policy{Canary: rollout.DefaultCanary}
	if r == nil {
		return p, nil
	}
	var faults []error
	note := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	if r.Canary != nil {
		p.Canary = *r.Canary
	}
	if len(r.Waves) > 0 {
		p.Waves, err = rollout.ParseWaves(strings.Join(r.Waves, ","))
		note(err)
	}
	if r.MaxUnavailable != "" {
		if p.MaxUnavailable, err = rollout.ParseAmount(r.MaxUnavailable); err != nil {
			note(fmt.Errorf("max-unavailable: %w", err))
		}
	}
	if r.Window != "" {
		_, err := rollout.ParseWindow(r.Window)
		note(err)
	}
	p.Spread, p.Bake, p.Patience, p.PauseAfter = r.Spread, time.Duration(r.Bake), time.Duration(r.Patience), r.PauseAfter
	p.Window, p.How, p.Drain, p.Quorum = r.Window, r.How, r.Drain, r.Quorum
	return p, errors.Join(faults...)
}

// faults returns all that is wrong with how an image reaches machines, by the keys of the file.
func (r *Rollout) faults() (list []keyFault) {
	policy, err := r.Policy()
	var all []error
	if many, is := err.(interface{ Unwrap() []error }); is { //nolint:errorlint // Policy joins them
		all = many.Unwrap()
	}
	if len(r.Waves) > 0 && len(policy.Waves) == 0 {
		policy.Waves, policy.PauseAfter = nil, nil // they are faulty
	}
	seen := map[string]bool{}
	for _, err := range append(all, policy.WithDefaults(0, 1).Faults()...) {
		flag := strings.TrimRight(strings.Fields(err.Error())[0], ":") // errors begin with it
		if key := camel(flag); !seen[key] {
			seen[key] = true
			list = append(list, keyFault{key, key + strings.TrimPrefix(err.Error(), flag)})
		}
	}
	return list
}

// keyFault is a fault of a key, and begins with it.
type keyFault struct{ key, text string }

// camel is the key of a flag: max-unavailable is maxUnavailable.
func camel(flag string) string {
	first, rest, has := strings.Cut(flag, "-")
	if !has || rest == "" {
		return flag
	}
	return first + strings.ToUpper(rest[:1]) + rest[1:]
}

// policyOf returns how an assignment reaches many machines.
func (s *Spec) policyOf(a Assignment) *Rollout {
	if a.Rollout != nil {
		return a.Rollout
	}
	return s.Rollout
}

// Images returns the images that a Spec names, each once.
func (s *Spec) Images() (list []string) {
	for _, m := range s.Machines {
		list = append(list, m.Image)
	}
	for _, a := range s.Assignments {
		list = append(list, a.Image)
	}
	for _, r := range s.Rules {
		list = append(list, r.Image)
	}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(s string) bool { return s == "" || s == None })
}

//go:embed spec.go
var specSource string

// Schema returns the JSON schema (draft 2020-12) of a file.
func Schema() ([]byte, error) {
	return yamlfile.Schema(&Spec{}, "ingot fleet", func(t reflect.Type) *jsonschema.Schema {
		switch t {
		case reflect.TypeFor[fleet.State]():
			return &jsonschema.Schema{Type: "string", Enum: []any{fleet.Approved, fleet.Pending, fleet.Retired}}
		case reflect.TypeFor[rollout.How]():
			return &jsonschema.Schema{Type: "string", Enum: []any{rollout.Auto, rollout.Reboot, rollout.NextBoot}}
		case reflect.TypeFor[ingot.Drain]():
			return &jsonschema.Schema{Type: "string", Enum: []any{ingot.DrainRequired, ingot.DrainBestEffort}}
		}
		return nil
	}, specSource, fleet.RuleSource)
}
