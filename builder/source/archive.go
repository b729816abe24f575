package source

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	ocidigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/builder/tree"
	"ingot/internal/beneath"
)

// archive holds container images on disk: an OCI image layout (image-spec, image-layout.md), as a
// folder or a tar, or the older format of docker save (moby, image/spec/v1.2.md, "Combined Image
// JSON").
type archive struct {
	open func(name string) (io.ReadCloser, error)
	name string                      // of one of the images; may be empty
	ref  string                      // of the archive, for people
	done func()                      // removes scratch files
	made map[ocidigest.Digest][]byte // manifests that are not in the archive itself
	at   map[ocidigest.Digest]string // files of layers and configs, by digest
	root []byte                      // the manifest, of a docker save archive
}

// openArchive opens a layout or a docker save archive. scratch is a folder for
// a compressed one's plain bytes.
func openArchive(ctx context.Context, o Origin, scratch string) (depot, error) {
	a := &archive{name: o.Image, ref: o.Ref, done: func() {}}
	st, err := o.Path.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		root, err := o.Path.OpenRoot()
		if err != nil {
			return nil, err
		}
		a.open, a.done = func(name string) (io.ReadCloser, error) { return openRegular(root, name) }, func() { root.Close() }
	} else if err := a.openTar(ctx, o.Path, scratch); err != nil {
		a.close()
		return nil, err
	}
	if a.has("index.json") {
		return a, nil
	}
	if !a.has("manifest.json") {
		a.close()
		return nil, fmt.Errorf("%w: %s is neither an OCI layout nor a docker save archive; "+
			"write a root by itself with the key tar or dir", ErrNoImage, o.Ref)
	}
	if err := a.readDocker(ctx); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// openRegular opens a regular file of a folder. It does not wait for the other end of a FIFO.
func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("opening %q: it is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openTar makes the files of a tar readable like those of a folder.
func (a *archive) openTar(ctx context.Context, path beneath.Path, scratch string) error {
	f, err := path.Open()
	if err != nil {
		return err
	}
	plain, err := plainFile(ctx, f, scratch)
	if err != nil {
		f.Close()
		return fmt.Errorf("%w: %w", ErrBadTar, err)
	}
	a.done = func() { plain.Close() }
	t, err := tree.FromFile(ctx, plain)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadTar, err)
	}
	a.open = func(name string) (io.ReadCloser, error) {
		e := t.Find(name)
		for e != nil && e.Hard != "" {
			e = t.Get(e.Hard)
		}
		if e == nil || e.Kind != tree.File {
			return nil, fs.ErrNotExist
		}
		return e.Open()
	}
	return nil
}

// plainFile returns f, or its uncompressed bytes in a scratch file that has no name. It closes f
// unless it returns it.
func plainFile(ctx context.Context, f *os.File, scratch string) (*os.File, error) {
	head := make([]byte, len(xzMagic))
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !compressed(head[:n]) {
		return f, nil
	}
	r, err := uncompressed(ctx, f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(scratch, incoming)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(&spool{ctx: ctx, f: tmp}, r)
	if err = errors.Join(err, os.Remove(tmp.Name())); err != nil {
		tmp.Close()
		return nil, err
	}
	f.Close()
	return tmp, nil
}

func (a *archive) close() { a.done() }

func (a *archive) has(name string) bool {
	r, err := a.open(name)
	if err != nil {
		return false
	}
	r.Close()
	return true
}

func (a *archive) read(name string, limit int64) ([]byte, error) {
	r, err := a.open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is missing in %s", ErrBadImage, name, a.ref)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: %s has more than %d MiB", ErrBadImage, name, limit>>20)
	}
	return b, err
}

func (a *archive) index(context.Context) ([]byte, string, error) {
	if a.root != nil {
		return a.root, ocispec.MediaTypeImageManifest, nil
	}
	raw, err := a.read("index.json", maxManifest)
	if err != nil || a.name == "" {
		return raw, ocispec.MediaTypeImageIndex, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, "", fmt.Errorf("%w: the index of %s: %w", ErrBadImage, a.ref, err)
	}
	var named []ocispec.Descriptor
	for _, d := range index.Manifests {
		if d.Annotations[annotationRef] == a.name || strings.HasSuffix(d.Annotations[annotationImageName], a.name) ||
			d.Digest.String() == a.name {
			named = append(named, d)
		}
	}
	if len(named) == 0 {
		return nil, "", fmt.Errorf("%w: %s has %s", ErrNoImage, a.ref, imageNames(index.Manifests))
	}
	index.Manifests = named
	raw, err = json.Marshal(index)
	return raw, ocispec.MediaTypeImageIndex, err
}

func (a *archive) blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if raw, ok := a.made[d.Digest]; ok {
		return io.NopCloser(strings.NewReader(string(raw))), nil
	}
	name, ok := a.at[d.Digest]
	if !ok {
		name = "blobs/sha256/" + ingot.Digest(d.Digest).Hex()
	}
	r, err := a.open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is missing in %s", ErrBadImage, name, a.ref)
	}
	return r, nil
}

// dockerImage is one entry of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// savedManifest is the OCI manifest (image-spec, manifest.md) that a docker save archive lacks.
// The order of its fields is part of its digest, which is in plans and locks: it must not change.
type savedManifest struct {
	SchemaVersion int         `json:"schemaVersion"`
	MediaType     string      `json:"mediaType"`
	Config        savedPart   `json:"config"`
	Layers        []savedPart `json:"layers"`
}

type savedPart struct {
	MediaType string       `json:"mediaType"`
	Size      int64        `json:"size"` // bytes
	Digest    ingot.Digest `json:"digest"`
}

// readDocker makes the manifest that a docker save archive lacks. The same archive always gives the
// same manifest.
func (a *archive) readDocker(ctx context.Context) error {
	raw, err := a.read("manifest.json", maxManifest)
	if err != nil {
		return err
	}
	var images []dockerImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return fmt.Errorf("%w: the manifest of %s: %w", ErrBadImage, a.ref, err)
	}
	chosen, err := a.chooseDocker(images)
	if err != nil {
		return err
	}
	a.at = map[ocidigest.Digest]string{}
	m := savedManifest{SchemaVersion: 2, MediaType: ocispec.MediaTypeImageManifest}
	config, err := a.read(chosen.Config, maxConfig)
	if err != nil {
		return err
	}
	m.Config = savedPart{ocispec.MediaTypeImageConfig, int64(len(config)), ingot.DigestOf(config)}
	a.at[ocidigest.Digest(m.Config.Digest)] = chosen.Config
	for i, name := range chosen.Layers {
		l, err := a.describe(ctx, name)
		if err != nil {
			return fmt.Errorf("reading layer %d of %d of %s: %w", i+1, len(chosen.Layers), a.ref, err)
		}
		a.at[ocidigest.Digest(l.Digest)] = name
		m.Layers = append(m.Layers, l)
	}
	if a.root, err = json.Marshal(m); err != nil {
		return fmt.Errorf("encoding a manifest: %w", err)
	}
	a.made = map[ocidigest.Digest][]byte{ocidigest.Digest(ingot.DigestOf(a.root)): a.root}
	return nil
}

func (a *archive) chooseDocker(images []dockerImage) (dockerImage, error) {
	var names []string
	var fitting []dockerImage
	for _, im := range images {
		names = append(names, im.RepoTags...)
		for _, tag := range im.RepoTags {
			if a.name != "" && (tag == a.name || strings.HasSuffix(tag, "/"+a.name)) {
				return im, nil
			}
		}
		if a.name == "" {
			fitting = append(fitting, im)
		}
	}
	switch {
	case len(fitting) == 1:
		return fitting[0], nil
	case len(fitting) > 1:
		return dockerImage{}, fmt.Errorf("%w in %s: %s; choose one with %s#NAME",
			ErrManyImages, a.ref, strings.Join(names, ", "), a.ref)
	}
	return dockerImage{}, fmt.Errorf("%w: %s has %s", ErrNoImage, a.ref, strings.Join(names, ", "))
}

// describe hashes a layer of the archive.
func (a *archive) describe(ctx context.Context, name string) (savedPart, error) {
	r, err := a.open(name)
	if err != nil {
		return savedPart{}, fmt.Errorf("%w: %s is missing", ErrBadImage, name)
	}
	defer r.Close()
	head := &firstBytes{}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(sum, head), &stoppable{ctx, r})
	if err != nil {
		return savedPart{}, err
	}
	l := savedPart{ocispec.MediaTypeImageLayer, n, digestOfSum(sum)}
	if compressed(head.b) { // not by docker, but by others that write its format
		l.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	return l, nil
}

// firstBytes remembers how a stream begins.
type firstBytes struct{ b []byte }

func (f *firstBytes) Write(p []byte) (int, error) {
	if room := len(xzMagic) - len(f.b); room > 0 {
		f.b = append(f.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}
