package profiles

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"ingot/internal/beneath"
)

// defaultSuite is the suite of the kernel when the base is not a suite.
const defaultSuite = "trixie"

// The values of Layer.Owners.
const (
	OwnersKeep = "keep"
	OwnersRoot = "root"
)

// Tree reports whether the root starts from a tree instead of the packages of a suite.
func (b Base) Tree() bool { return b.OCI != "" || b.Tar != "" || b.Dir != "" }

// Layer returns the base as the lowest layer, and false when it is a suite.
func (b Base) Layer() (Layer, bool) {
	return Layer{OCI: b.OCI, Tar: b.Tar, Dir: b.Dir, Owners: OwnersKeep, At: b.At}, b.Tree()
}

// KeepsOwners reports whether the files keep the owners of the tree.
func (l Layer) KeepsOwners() bool { return l.Owners == OwnersKeep || l.Owners == "" && l.Dir == "" }

// Trees returns the base, when it is a tree, and the layers on top of it, in order.
func (p *Profile) Trees() []Layer {
	var list []Layer
	if base, ok := p.Base.Layer(); ok {
		list = append(list, base)
	}
	return append(list, p.Layers...)
}

// From returns the kind of the layer's tree, "oci", "tar" or "dir", and its name in the profile.
func (l Layer) From() (kind, ref string) {
	switch {
	case l.OCI != "":
		return "oci", l.OCI
	case l.Tar != "":
		return "tar", l.Tar
	}
	return "dir", l.Dir
}

// Local reports whether the layer's tree is a file or folder of this host. A container image is
// local when it is written as a path, with a leading dot or slash.
func (l Layer) Local() bool {
	return l.OCI == "" || strings.HasPrefix(l.OCI, ".") || filepath.IsAbs(l.OCI)
}

// Path returns where a local layer's tree is: below the folder that the profile names, which links
// must not lead out of. Its String is empty when that folder is not known, as for a plan that was
// read from an image. image is the NAME of PATH#NAME, of a container image.
func (l Layer) Path() (at beneath.Path, image string) {
	kind, ref := l.From()
	if kind == "oci" {
		ref, image, _ = strings.Cut(ref, "#")
	}
	if l.At.File == "" && !filepath.IsAbs(ref) {
		return beneath.Path{}, image
	}
	return beneath.Split(filepath.Dir(l.At.File), ref), image
}

// mergeBase merges the base of p into that of into. A tree replaces the suite and removes the
// packages of the suite; a suite replaces a tree.
func mergeBase(into, p *Profile) {
	switch b := p.Base; {
	case b.Tree():
		into.Base, into.Packages = Base{OCI: b.OCI, Tar: b.Tar, Dir: b.Dir, At: b.At}, nil
	case b.Suite != "":
		into.Base = Base{Suite: b.Suite, Components: into.Base.Components, Archive: into.Base.Archive, At: b.At}
	}
	into.Base.Archive.merge(p.Base.Archive)
	if len(p.Base.Components) > 0 {
		into.Base.Components = p.Base.Components
	}
	into.Layers = append(into.Layers, p.Layers...)
}

// merge replaces what b gives. A key is a file beside the profile that names it, and the place stays its.
func (a *Archive) merge(b Archive) {
	if len(b.URIs) > 0 {
		a.URIs = b.URIs
	}
	if len(b.Updates) > 0 {
		a.Updates = b.Updates
	}
	if b.Key != "" {
		a.Key, a.At = b.Key, b.At
	}
	if a.At == (Place{}) {
		a.At = b.At
	}
}

// checkTrees checks the base and layers of one file.
func (d *decoder) checkTrees(p *Profile) {
	b := p.Base
	if ways := given(b.Suite, b.OCI, b.Tar, b.Dir); ways > 1 {
		d.Faults.Add(b.At, "keep one of suite, oci, tar and dir", "the base is given in %d ways", ways)
	}
	if p.Kernel.Suite != "" && !suiteRE.MatchString(p.Kernel.Suite) {
		d.Faults.Add(d.Places["kernel.suite"], "write a code name such as trixie",
			"%q cannot be a Debian suite", p.Kernel.Suite)
	}
	d.checkURIs("base.archive", b.Archive.URIs, b.Archive.At)
	for _, s := range b.Archive.Updates {
		if !suiteRE.MatchString(s) {
			d.Faults.Add(b.Archive.At, "write suites such as noble-updates", "base.archive: %q cannot be a suite", s)
		}
	}
	for _, l := range p.Layers {
		d.checkLayer(l)
	}
}

func (d *decoder) checkLayer(l Layer) {
	if ways := given(l.OCI, l.Tar, l.Dir); ways != 1 {
		d.Faults.Add(l.At, "write exactly one of oci, tar and dir", "the layer is given in %d ways", ways)
	}
	if l.Into != "" && (!path.IsAbs(l.Into) || path.Clean(l.Into) != l.Into) {
		d.Faults.Add(l.At, "write an absolute path such as /srv/www", "%q cannot be a path in the root", l.Into)
	}
	if l.Owners != "" && l.Owners != OwnersKeep && l.Owners != OwnersRoot {
		d.Faults.Add(l.At, "write keep or root", "%q is not a rule for owners", l.Owners)
	}
}

func given(ways ...string) int {
	n := 0
	for _, w := range ways {
		if w != "" {
			n++
		}
	}
	return n
}

// validateTrees checks base and layers of the merged profile.
func (p *Profile) validateTrees(faults *Faults) {
	if p.Base.Tree() && len(p.Packages) > 0 {
		faults.Add(p.Base.At, "install them where the tree is made, "+
			"or start from a suite and add the tree with layers",
			"packages cannot be installed over a base that is not a Debian suite and has its own package database: %s",
			clip(strings.Join(p.Packages, ", ")))
	}
	for _, l := range p.Trees() {
		if l.Local() {
			validateLocal(l, faults)
		}
	}
}

func validateLocal(l Layer, faults *Faults) {
	kind, ref := l.From()
	if ref == "" {
		return // reported already
	}
	at, _ := l.Path()
	st, err := at.Stat()
	switch {
	case errors.Is(err, beneath.ErrLeaves):
		faults.Add(l.At, "write the path that the link points to", "the %s %q: %v", kindWords[kind], ref, beneath.ErrLeaves)
	case err != nil:
		faults.Add(l.At, "put it there, or write its path relative to the profile's folder",
			"the %s %q does not exist", kindWords[kind], ref)
	case kind == "dir" && !st.IsDir():
		faults.Add(l.At, "write: tar: "+ref, "%q is not a folder", ref)
	case kind == "tar" && !st.Mode().IsRegular():
		faults.Add(l.At, "write: dir: "+ref, "%q is not a file", ref)
	}
}

var kindWords = map[string]string{"oci": "container image", "tar": "tarball", "dir": "folder"}

// String names the layer as the profile does.
func (l Layer) String() string {
	kind, ref := l.From()
	return fmt.Sprintf("%s %s", kind, ref)
}
