package builder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
	"ingot/builder/inspect"
	"ingot/builder/squashfs"
	"ingot/builder/tree"
	"ingot/image"
)

// Contents is the file tree of an image's root.
type Contents struct {
	*tree.Tree
	Image   image.Image
	Entries []squashfs.Entry // sorted by path
	file    *os.File
}

// OpenContents opens the root of an image of the store.
func OpenContents(s *image.Store, im image.Image) (*Contents, error) {
	f, err := os.Open(s.Blob(im.Manifest.Root.Digest))
	if err != nil {
		return nil, fmt.Errorf("opening the root of %s: %w", im.Name, err)
	}
	c, err := ReadContents(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening the root of %s: %w", im.Name, err)
	}
	c.Image = im
	return c, nil
}

// Close closes the root's file.
func (c *Contents) Close() error { return c.file.Close() }

// ReadContents reads the root that is in a file. The entries are read from the file when they are
// opened, so it must stay open; Close closes it.
func ReadContents(f *os.File) (*Contents, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	r, err := squashfs.Open(f, st.Size())
	if err != nil {
		return nil, err
	}
	c := &Contents{Tree: tree.New(), file: f}
	if c.Entries, err = r.Entries(); err != nil {
		return nil, err
	}
	for _, e := range c.Entries {
		kind, ok := treeKinds[e.Kind]
		if !ok {
			continue // sockets: no image of ours has one
		}
		if err := c.Put(tree.Entry{Path: e.Path, Kind: kind, Mode: e.Mode, UID: int(e.UID),
			GID: int(e.GID), Size: e.Size, Target: e.Target,
			Hard: e.Hard, Major: int64(e.Major), Minor: int64(e.Minor), Xattrs: e.Xattrs, Open: e.Open}); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// treeKinds is the inverse of squashKinds.
var treeKinds = func() map[squashfs.Kind]tree.Kind {
	m := map[squashfs.Kind]tree.Kind{}
	for t, s := range squashKinds {
		m[s] = t
	}
	return m
}()

// Cat copies the file at p, links followed, to w.
func (c *Contents) Cat(w io.Writer, p string) error {
	e := c.Find(p)
	for e != nil && e.Hard != "" {
		e = c.Get(e.Hard)
	}
	if e == nil {
		return fmt.Errorf("%w: %q; list its files: ingot image ls %s", ErrNoFile, p, c.Image.Name)
	}
	if e.Kind != tree.File {
		return fmt.Errorf("%w: %q is not a regular file", ErrNoFile, p)
	}
	r, err := e.Open()
	if err != nil {
		return fmt.Errorf("reading %q: %w", p, err)
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

// Below returns the entry at p, links followed. Of a folder it returns what is directly in it or,
// when deep, everything below it.
func (c *Contents) Below(p string, deep bool) ([]squashfs.Entry, error) {
	e := c.Find(p)
	if e == nil {
		return nil, fmt.Errorf("%w: %q", ErrNoFile, p)
	}
	var list []squashfs.Entry
	for _, x := range c.Entries {
		in := e.Path == "" || strings.HasPrefix(x.Path, e.Path+"/")
		direct := path.Dir("/"+x.Path) == path.Clean("/"+e.Path) && x.Path != ""
		if x.Path == e.Path && e.Kind != tree.Dir || in && x.Path != "" && (deep || direct) {
			list = append(list, x)
		}
	}
	return list, nil
}

// Artifacts returns the layers of an image: kernel, initramfs, root, UKI and plan.
func Artifacts(im image.Image) ([]ocispec.Descriptor, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(im.OCI, &m); err != nil {
		return nil, fmt.Errorf("reading the manifest of %s: %w", im.Name, err)
	}
	return m.Layers, nil
}

// PlanOf reads the plan that an image was built from, to build it again. A plan of another version of
// ingot is ErrOlderIngot or ErrOtherIngot: this one makes other bits of it, or cannot read all of it.
func PlanOf(s *image.Store, im image.Image) (*Plan, error) {
	r, err := ReadPlan(s, im)
	switch {
	case err != nil:
		return nil, err
	case r.Exact:
		return &r.Plan, nil
	case r.Plan.Format < PlanFormat:
		return nil, fmt.Errorf("%s was %w (its plan has format %d, and this ingot builds format %d)", im.Name, ErrOlderIngot,
			r.Plan.Format, PlanFormat)
	}
	return nil, fmt.Errorf("reading the plan of %s: it has format %d, and this ingot reads format %d: %w",
		im.Name, r.Plan.Format, PlanFormat, ErrOtherIngot)
}

// RecordedPlan is the plan in an image, read as far as this version of ingot knows its fields.
type RecordedPlan struct {
	Plan  Plan
	Exact bool            // it is a plan of this version, read in full
	Has   map[string]bool // the fields that it has, by their names in JSON
}

// ReadPlan reads the plan in an image to look at it, whatever version of ingot made it.
func ReadPlan(s *image.Store, im image.Image) (*RecordedPlan, error) {
	layers, err := Artifacts(im)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(layers, func(d ocispec.Descriptor) bool { return d.MediaType == ingot.MediaTypePlan })
	if i < 0 {
		return nil, fmt.Errorf("reading the plan of %s: the image has none", im.Name)
	}
	text, err := os.ReadFile(s.Blob(ingot.Digest(layers[i].Digest)))
	if err != nil {
		return nil, fmt.Errorf("reading the plan of %s: %w", im.Name, err)
	}
	if ingot.DigestOf(text) != ingot.Digest(layers[i].Digest) {
		return nil, fmt.Errorf("reading the plan of %s: %w: its digest is not the one in the manifest", im.Name,
			image.ErrDamaged)
	}
	r := &RecordedPlan{Has: map[string]bool{}}
	var fields map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(text, &r.Plan), json.Unmarshal(text, &fields)); err != nil {
		return nil, fmt.Errorf("reading the plan of %s: %w", im.Name, err)
	}
	for name := range fields {
		r.Has[name] = true
	}
	again, err := r.Plan.Canonical()
	r.Exact = err == nil && bytes.Equal(again, text) && r.Plan.Format == PlanFormat
	return r, nil
}

// Owners maps every path of the root that a package ships to the package's name, from dpkg's own
// lists.
func (c *Contents) Owners() (map[string]string, error) {
	return inspect.Owners(c.Tree, "linux-image-"+c.Image.Manifest.KernelRelease)
}
