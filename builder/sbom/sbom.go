// Package sbom describes an image in CycloneDX 1.6 (ECMA-424): every installed package with its
// licences, digest and files, the kernel, systemd-stub and ingot-init, and the files that belong to
// no package. What each of them takes in the root is in the property "ingot:size", in bytes before
// compression. It leaves out vulnerabilities and what is inside files: scanners find those.
package sbom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"ingot"
	"ingot/builder/inspect"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/builder/uuid"
	"ingot/image"
)

// Contents is what an SBOM is made of.
type Contents struct {
	Root     *tree.Tree // the finished root
	Manifest *ingot.ImageManifest
	Packages []source.Package // as planned
	Kernel   source.Package
	Stub     source.Package // holds the systemd-stub of the UKI
	Init     ingot.Digest   // of ingot-init
}

// Describe makes the SBOM of an image. It depends on plan, version and root alone; the serial
// number, which is derived from the image's digest, is set by Attach.
func Describe(c Contents) (*cdx.BOM, error) {
	root, m := c.Root, c.Manifest
	bom := cdx.NewBOM()
	bom.SpecVersion, bom.JSONSchema = cdx.SpecVersion1_6, "http://cyclonedx.org/schema/bom-1.6.schema.json"
	s := &inventory{root: root, distro: distroOf(root), stub: c.Stub.Name}
	var err error
	if s.owners, err = inspect.Owners(root, "linux-image-"+m.KernelRelease); err != nil {
		return nil, err
	}
	installed, err := inspect.Packages(root)
	if err != nil {
		return nil, err
	}
	s.index(installed, append([]source.Package{c.Kernel, c.Stub}, c.Packages...))
	image := cdx.Component{BOMRef: "image", Type: cdx.ComponentTypeOS, Name: m.Profile, Version: m.Version,
		Properties: &[]cdx.Property{{Name: "ingot:plan", Value: string(m.Plan)}, {Name: "ingot:arch", Value: string(m.Arch)}}}
	bom.Metadata = &cdx.Metadata{Timestamp: m.Created.UTC().Format(time.RFC3339), Component: &image,
		Tools: &cdx.ToolsChoice{Components: &[]cdx.Component{{Type: cdx.ComponentTypeApplication, Name: "ingot"}}}}
	components := s.packages()
	agent := int64(0)
	if e := root.Get(ingot.AgentPath); e != nil {
		agent = e.Size
	}
	components = append(components, cdx.Component{BOMRef: "ingot-init",
		Type: cdx.ComponentTypeApplication, Name: "ingot-init", Properties: sizeProperty(agent),
		Hashes: sha256Hash(c.Init.Hex()), Components: fileComponents([]string{ingot.AgentPath})})
	if files := s.files[""]; len(files) > 0 {
		components = append(components, cdx.Component{BOMRef: "files",
			Type: cdx.ComponentTypeData, Name: m.Profile + "-files",
			Version: m.Version, Description: "files of no package: the profile's, and what installing made",
			Properties: sizeProperty(s.sizes[""].Bytes - agent), Components: fileComponents(files)})
	}
	bom.Components = &components
	bom.Dependencies = s.dependencies(components)
	return bom, nil
}

// Attach returns the function that gives image.Files.Attach the encoded SBOM of a digest.
func Attach(bom *cdx.BOM) func(ingot.Digest) ([]image.Attachment, error) {
	return func(d ingot.Digest) ([]image.Attachment, error) {
		bom.SerialNumber = "urn:uuid:" + uuid.From(d).String()
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		if err := e.Encode(bom); err != nil {
			return nil, fmt.Errorf("encoding the SBOM: %w", err)
		}
		return []image.Attachment{{Type: ingot.ArtifactSBOM, Media: ingot.ArtifactSBOM, Content: &text}}, nil
	}
}

// inventory is the packages of an image and their files.
type inventory struct {
	root   *tree.Tree
	distro distro
	stub   string              // name of the package of systemd-stub
	owners map[string]string   // package by path
	files  map[string][]string // paths by package; "": of no package
	sizes  map[string]inspect.Size
	list   []entry // sorted by name
}

// entry is one package of an SBOM.
type entry struct {
	inspect.Package
	sha256 string // hex, of the .deb; empty: not known
	ref    string // purl
}

// distro is the distribution of a root by os-release(5).
type distro struct{ id, codename string }

func distroOf(root *tree.Tree) distro {
	d := distro{id: "debian"}
	text, err := root.ReadFile("usr/lib/os-release")
	if err != nil {
		return d
	}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			d.id = value
		case "VERSION_CODENAME":
			d.codename = value
		}
	}
	return d
}

// purl returns the package URL of type deb (purl-spec, types/deb). Letters, digits, ".-_~" and
// colons are not escaped.
func (d distro) purl(p inspect.Package) string {
	escape := func(s string) string {
		return strings.ReplaceAll(strings.ReplaceAll(url.QueryEscape(s), "+", "%20"), "%3A", ":")
	}
	u := fmt.Sprintf("pkg:deb/%s/%s@%s?arch=%s", escape(d.id), escape(p.Name), escape(p.Version), escape(p.Arch))
	if d.codename != "" {
		u += "&distro=" + escape(d.codename)
	}
	return u
}

// index merges installed and planned packages, and assigns files to packages.
func (s *inventory) index(list []inspect.Package, planned []source.Package) {
	sums := map[[2]string]string{}
	for _, p := range planned {
		sums[[2]string{p.Name, p.Version}] = p.SHA256
		if !slices.ContainsFunc(list, func(i inspect.Package) bool { return i.Name == p.Name && i.Version == p.Version }) {
			list = append(list, inspect.Package{Name: p.Name, Version: p.Version, Arch: p.Arch})
		}
	}
	for _, p := range list {
		s.list = append(s.list, entry{Package: p, sha256: sums[[2]string{p.Name, p.Version}], ref: s.distro.purl(p)})
	}
	slices.SortFunc(s.list, func(a, b entry) int { return strings.Compare(a.Name+"\x00"+a.ref, b.Name+"\x00"+b.ref) })
	s.files, s.sizes = map[string][]string{}, inspect.Sizes(s.root, s.owners)
	for _, e := range s.root.Entries() {
		if e.Kind != tree.Dir && "/"+e.Path != ingot.AgentPath {
			s.files[s.owners[e.Path]] = append(s.files[s.owners[e.Path]], "/"+e.Path)
		}
	}
}

// packages returns the components of all packages. When two architectures of a package are
// installed, the files belong to the first.
func (s *inventory) packages() []cdx.Component {
	var list []cdx.Component
	for _, p := range s.list {
		c := cdx.Component{BOMRef: p.ref, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: p.ref,
			Hashes: sha256Hash(p.sha256), Licenses: s.licences(p.Name), Components: fileComponents(s.files[p.Name]),
			Properties: sizeProperty(s.sizes[p.Name].Bytes)}
		if p.Maintainer != "" {
			c.Supplier = &cdx.OrganizationalEntity{Name: p.Maintainer}
		}
		delete(s.files, p.Name)
		delete(s.sizes, p.Name)
		list = append(list, c)
	}
	return list
}

func sha256Hash(hex string) *[]cdx.Hash {
	if hex == "" {
		return nil
	}
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex}}
}

// sizeProperty says what a component takes in the root.
func sizeProperty(bytes int64) *[]cdx.Property {
	return &[]cdx.Property{{Name: ingot.PropertySize, Value: strconv.FormatInt(bytes, 10)}}
}

func fileComponents(paths []string) *[]cdx.Component {
	if len(paths) == 0 {
		return nil
	}
	list := make([]cdx.Component, len(paths))
	for i, p := range paths {
		list[i] = cdx.Component{Type: cdx.ComponentTypeFile, Name: strings.ToValidUTF8(p, "\uFFFD")}
	}
	return &list
}

// licences returns the licences of a package's copyright file. The schema allows either one
// expression or a list of single licences. A list with an expression whose parts are all known
// becomes one expression.
func (s *inventory) licences(name string) *cdx.Licenses {
	found := s.outside(name)
	if text, err := s.root.ReadFile(path.Join("usr/share/doc", name, "copyright")); err == nil {
		found = licencesOf(text)
	}
	if len(found) == 0 {
		return nil
	}
	compound := func(l licence) bool { return strings.Contains(l.SPDX, " ") }
	if slices.ContainsFunc(found, compound) && !slices.ContainsFunc(found, func(l licence) bool { return l.SPDX == "" }) {
		var parts []string
		for _, l := range found {
			if strings.Contains(l.SPDX, " OR ") && len(found) > 1 {
				l.SPDX = "(" + l.SPDX + ")"
			}
			parts = append(parts, l.SPDX)
		}
		return &cdx.Licenses{{Expression: strings.Join(parts, " AND ")}}
	}
	var list cdx.Licenses
	for _, l := range found {
		if compound(l) {
			l = licence{Name: l.SPDX}
		}
		list = append(list, cdx.LicenseChoice{License: &cdx.License{ID: l.SPDX, Name: l.Name}})
	}
	return &list
}

// outside returns the licences of packages in an image whose copyright files are not in its root.
func (s *inventory) outside(name string) []licence {
	switch {
	case strings.HasPrefix(name, "linux-image-"):
		return []licence{{SPDX: "GPL-2.0-only WITH Linux-syscall-note"}} // COPYING of Linux
	case name == s.stub:
		return []licence{{SPDX: "LGPL-2.1-or-later"}} // README of systemd, src/boot
	}
	return nil
}

// dependencies lists the dependencies: the image depends on all components, packages on those that
// their relations name.
func (s *inventory) dependencies(components []cdx.Component) *[]cdx.Dependency {
	refs := map[string]string{}
	for _, p := range s.list {
		refs[p.Name] = p.ref
	}
	var all []string
	for _, c := range components {
		all = append(all, c.BOMRef)
	}
	list := []cdx.Dependency{{Ref: "image", Dependencies: &all}}
	for _, p := range s.list {
		var on []string
		for _, relation := range p.Depends {
			for _, alternative := range strings.Split(relation, "|") {
				name := strings.TrimSpace(alternative)
				if i := strings.IndexAny(name, " :("); i >= 0 {
					name = name[:i]
				}
				if ref := refs[name]; ref != "" && ref != p.ref && !slices.Contains(on, ref) {
					on = append(on, ref)
				}
			}
		}
		slices.Sort(on)
		d := cdx.Dependency{Ref: p.ref}
		if len(on) > 0 {
			d.Dependencies = &on
		}
		list = append(list, d)
	}
	return &list
}
