package lock

import (
	"fmt"
	"slices"
	"strings"

	"ingot"
	"ingot/builder/source"
	"ingot/profiles"
)

// Request is the part of a profile that a lock answers.
type Request struct {
	Suite      string     `json:"suite"`
	Components []string   `json:"components"`
	Arch       ingot.Arch `json:"arch"`
	Packages   []string   `json:"packages"` // sorted
	Kernel     string     `json:"kernel"`
	// KernelSuite is the suite of the kernel when it is not that of the packages.
	KernelSuite string   `json:"kernelSuite,omitempty"`
	Trees       []string `json:"trees,omitempty"` // base and layers, in order
	Recommends  bool     `json:"recommends,omitempty"`
	// Repositories are further archives, in the order of the profile.
	Repositories []source.Repository `json:"repositories,omitempty"`
	// Alone: the suite is one of the first repository, not of Debian.
	Alone bool `json:"alone,omitempty"`
}

// RequestOf returns what a profile asks for.
func RequestOf(p *profiles.Profile) Request {
	r := Request{Suite: p.Base.Suite, Components: p.Base.Components, Arch: p.Arch, Packages: slices.Clone(p.Packages),
		Kernel: p.Kernel.Package}
	slices.Sort(r.Packages)
	if p.Kernel.Suite != p.Base.Suite {
		r.KernelSuite = p.Kernel.Suite
	}
	r.Recommends = p.Recommends != nil && *p.Recommends
	r.Alone = p.Base.HasArchive()
	for _, q := range p.Archives() {
		key, _ := p.RepositoryKey(q) // a profile whose keys cannot be read is not loaded
		r.Repositories = append(r.Repositories, source.Repository{Name: q.Name, URIs: q.URIs, Suites: q.Suites,
			Components: q.Components, Pin: q.Pin, Key: key, KeyDigest: ingot.DigestOf(key)})
	}
	for _, l := range p.Trees() {
		name := l.String()
		if l.Dir != "" && l.KeepsOwners() {
			name += " with owners"
		}
		r.Trees = append(r.Trees, name)
	}
	return r
}

// differenceFrom describes how a request differs from an earlier one; empty: not at all.
func (r Request) differenceFrom(before Request) string {
	var words []string
	for _, f := range []struct{ name, was, is string }{
		{"suite", before.Suite, r.Suite}, {"arch", string(before.Arch), string(r.Arch)},
		{"kernel", before.Kernel, r.Kernel},
		{"components", strings.Join(before.Components, " "), strings.Join(r.Components, " ")},
		{"kernel.suite", before.KernelSuite, r.KernelSuite},
		{"recommends", fmt.Sprint(before.Recommends), fmt.Sprint(r.Recommends)},
		{"repositories", repositoriesText(before.Repositories), repositoriesText(r.Repositories)},
		{"trees", strings.Join(before.Trees, ", "), strings.Join(r.Trees, ", ")},
	} {
		if f.was != f.is {
			words = append(words, fmt.Sprintf("%s %s instead of %s", f.name, f.is, f.was))
		}
	}
	for _, p := range r.Packages {
		if !slices.Contains(before.Packages, p) {
			words = append(words, "+"+p)
		}
	}
	for _, p := range before.Packages {
		if !slices.Contains(r.Packages, p) {
			words = append(words, "−"+p)
		}
	}
	return strings.Join(words, ", ")
}

// repositoriesText describes repositories, with all that changes what they give.
func repositoriesText(list []source.Repository) string {
	var words []string
	for _, r := range list {
		words = append(words, fmt.Sprintf("%s (%s %s %s, key %s, pin %d)", r.Name, strings.Join(r.URIs, " "),
			strings.Join(r.Suites, " "), strings.Join(r.Components, " "), r.KeyDigest.Short(), r.Pin))
	}
	return strings.Join(words, ", ")
}

// alsoSuites returns the suites of Debian that packages name, besides that of the profile.
func (r Request) alsoSuites() (list []string) {
	for _, p := range r.Packages {
		_, suite, ok := strings.Cut(p, "/")
		if ok && !profiles.IsLocalPackage(p) && suite != r.Suite && !slices.Contains(list, suite) &&
			!slices.ContainsFunc(r.Repositories, func(q source.Repository) bool { return slices.Contains(q.Suites, suite) }) {
			list = append(list, suite)
		}
	}
	return list
}
