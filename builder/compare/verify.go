// Package compare reports how two images differ (Images), and verifies an image by building its
// plan again and comparing every bit (Verify).
package compare

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
	"ingot/builder"
	"ingot/builder/squashfs"
	"ingot/image"
	"ingot/internal/scratch"
	"ingot/profiles"
)

// Verdict is the result of rebuilding an image.
type Verdict struct {
	Image ingot.Digest `json:"image"`
	Plan  ingot.Digest `json:"plan"`
	// digest of the rebuilt image; empty: an altered input was found before
	Rebuilt ingot.Digest `json:"rebuilt,omitempty"`
	Same    bool         `json:"same"`
	Parts   []Part       `json:"parts"`
	// Random are the paths of the root that differ between two runs of the package scripts.
	Random []builder.RandomPath `json:"random,omitempty"`
}

// Refused returns the random paths that the profile does not allow.
func (v Verdict) Refused() (list []builder.RandomPath) {
	for _, r := range v.Random {
		if r.Allowed == "" {
			list = append(list, r)
		}
	}
	return list
}

// Part compares one artifact of an image with the rebuilt one.
type Part struct {
	Name    string       `json:"name"` // "root", "kernel", …; "manifest" describes them
	Image   ingot.Digest `json:"imageDigest,omitempty"`
	Rebuilt ingot.Digest `json:"rebuiltDigest,omitempty"`
	// Why is the first difference; empty when there is none.
	Why string `json:"why,omitempty"`
	// Files are all paths that differ, of the root and the initramfs. A path that differs in its time
	// only is not among them.
	Files []FileChange `json:"files,omitempty"`
}

// OnlyRandom reports whether the images differ in nothing but random paths of the root. UKI and
// manifest follow the root.
func (v Verdict) OnlyRandom() bool {
	random := map[string]bool{}
	for _, r := range v.Random {
		random[r.Path] = true
	}
	for _, p := range v.Parts {
		switch p.Name {
		case "root":
			if len(p.Files) == 0 || slices.ContainsFunc(p.Files, func(c FileChange) bool { return !random["/"+c.Path] }) {
				return false
			}
		case "kernel", "initramfs", "plan":
			if p.Why != "" {
				return false
			}
		}
	}
	return len(v.Random) > 0
}

// Verify builds the plan of an image again, with nothing cached but packages and trees, whose
// digests the plan pins, and compares the result bit by bit. The files of the profile's folder,
// ingot-init and the public keys are taken from the image itself: the plan pins their digests, too.
// Anybody with the packages can verify an image, not only its maker.
//
// It also runs the package scripts a second time and compares the two trees, unless the cache has
// the result for what the plan installs: that tells what is random from what was altered.
func Verify(ctx context.Context, env *builder.Env, s *image.Store, im image.Image) (Verdict, error) {
	v := Verdict{Image: im.Digest, Plan: im.Manifest.Plan}
	plan, err := builder.PlanOf(s, im)
	if err != nil {
		return v, err
	}
	if plan.Digest() != im.Manifest.Plan {
		v.Parts = []Part{{Name: "plan", Image: im.Manifest.Plan, Rebuilt: plan.Digest(), Why: "the manifest names " +
			"another plan than the one that is in the image"}}
		return v, nil
	}
	inputs, err := openInputs(s, im, plan)
	if err != nil {
		if v.Parts, _ = damagedParts(s, im); len(v.Parts) > 0 {
			return v, nil // this is the reason
		}
		return v, fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	defer inputs.Close()
	if v.Parts = inputs.altered; len(v.Parts) > 0 {
		return v, nil
	}
	clean, err := scratch.New("ingot-verify-")
	if err != nil {
		return v, err
	}
	defer clean.Remove()
	random := func(r builder.RandomPath) { v.Random = append(v.Random, r) }
	again, rebuilt, err := rebuild(ctx, env, plan, inputs, clean.Path, random)
	if err != nil {
		return v, fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	v.Rebuilt = again.Digest
	v.Parts, err = compareParts(ctx, side{s, im}, side{rebuilt, again})
	v.Same = err == nil && !slices.ContainsFunc(v.Parts, func(p Part) bool { return p.Why != "" })
	return v, err
}

// rebuild builds a plan into a store of its own below dir, where nothing is cached but packages and
// trees.
func rebuild(ctx context.Context, env *builder.Env, plan *builder.Plan, in *inputs,
	dir string, random func(builder.RandomPath)) (image.Image, *image.Store, error) {
	clean := *env
	clean.Packages, clean.Blobs = env.PackageCache().Dir, env.Trees().Blobs.Dir
	clean.CacheDir = filepath.Join(dir, "cache")
	o := builder.BuildOptions{Version: in.Image.Manifest.Version,
		Init: filepath.Join(dir, "ingot-init"), Source: in.source, Check: true, Random: random, Earlier: env.CacheDir}
	if err := os.WriteFile(o.Init, in.init, 0o755); err != nil {
		return image.Image{}, nil, err
	}
	var err error
	// a signature is not part of an image
	if o.Keys, err = image.LoadOrCreateKeys(filepath.Join(dir, "keys")); err != nil {
		return image.Image{}, nil, err
	}
	o.Keys.Release.Public, o.Keys.Server.Public = in.keys["release"], in.keys["server"]
	if o.Store, err = image.Open(ctx, dir); err != nil {
		return image.Image{}, nil, err
	}
	im, err := builder.Build(ctx, &clean, plan, o)
	return im, o.Store, err
}

// inputs are the inputs of a plan that its image contains.
type inputs struct {
	*builder.Contents
	plan    *builder.Plan
	init    []byte
	keys    map[string]image.PublicKey
	altered []Part // inputs that do not have the digest in the plan
}

// openInputs reads the inputs of a plan from its image. ingot-init is in the root and in the
// initramfs; either is used.
func openInputs(s *image.Store, im image.Image, plan *builder.Plan) (*inputs, error) {
	c, err := builder.OpenContents(s, im)
	if err != nil {
		return nil, err
	}
	in := &inputs{Contents: c, plan: plan, keys: map[string]image.PublicKey{}}
	if err := in.read(s); err != nil {
		c.Close()
		return nil, err
	}
	return in, nil
}

func (in *inputs) read(s *image.Store) error {
	f, err := os.Open(s.Blob(in.Image.Manifest.Initramfs.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	early, err := readInitramfs(f)
	if err != nil {
		return fmt.Errorf("reading the initramfs: %w", err)
	}
	init, _ := in.ReadFile(ingot.AgentPath)
	for _, content := range [][]byte{init, contentOf(early, "init")} {
		if ingot.DigestOf(content) == in.plan.Init {
			in.init = content
		}
	}
	if in.init == nil {
		in.alter("root", ingot.AgentPath)
	}
	for _, name := range slices.Sorted(maps.Keys(in.plan.Keys)) {
		path := ingot.KeyDir + "/" + name + ".pub"
		text := contentOf(early, path[1:])
		if ingot.DigestOf(text) != in.plan.Keys[name] {
			in.alter("initramfs", path)
			continue
		}
		if in.keys[name], err = image.ParsePublicKey(text); err != nil {
			return err
		}
	}
	return in.checkSources()
}

// merged are files that the builder changes after it has read them from the profile's folder.
var merged = []string{"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"}

func (in *inputs) checkSources() error {
	for _, f := range in.plan.Profile.Files {
		if f.Source == "" {
			continue
		}
		content, err := in.ReadFile(f.Path)
		switch {
		case err == nil && ingot.DigestOf(content) == in.plan.Sources[f.Path]:
		case slices.Contains(merged, strings.TrimPrefix(path.Clean(f.Path), "/")):
			return fmt.Errorf("%w: the image has %s only with users added to it, not as it was in the profile's folder",
				builder.ErrLost, f.Path)
		default:
			in.alter("root", f.Path)
		}
	}
	return nil
}

func (in *inputs) alter(part, path string) {
	in.altered = append(in.altered, Part{Name: part, Why: "/" + strings.TrimPrefix(path, "/") + ": its digest is not " +
		"the one in the " +
		"plan"})
}

// source is builder.BuildOptions.Source.
func (in *inputs) source(f profiles.File) ([]byte, error) { return in.ReadFile(f.Path) }

// contentOf returns the content of one entry, or nil.
func contentOf(entries []squashfs.Entry, path string) []byte {
	for _, e := range entries {
		if e.Path != path || e.Open == nil {
			continue
		}
		r, err := e.Open()
		if err != nil {
			return nil
		}
		defer r.Close()
		b, _ := io.ReadAll(r) // reading memory does not fail
		return b
	}
	return nil
}

// side is one of two images and the store that it is in.
type side struct {
	store *image.Store
	image image.Image
}

// blob returns the path of an artifact.
func (s side) blob(d ocispec.Descriptor) string { return s.store.Blob(ingot.Digest(d.Digest)) }

// differences find the first difference of two artifacts, by media type. Other media types are
// compared as bytes.
var differences = map[string]look{
	ingot.MediaTypeRoot: whyRoot, ingot.MediaTypeInitramfs: whyInitramfs, ingot.MediaTypeUKI: whyUKI,
}

// compareParts compares each artifact, then the manifests.
func compareParts(ctx context.Context, have, got side) ([]Part, error) {
	layers, err := builder.Artifacts(have.image)
	if err != nil {
		return nil, err
	}
	rebuilt, err := builder.Artifacts(got.image)
	if err != nil {
		return nil, err
	}
	var parts []Part
	for _, l := range layers {
		i := slices.IndexFunc(rebuilt, func(d ocispec.Descriptor) bool { return d.MediaType == l.MediaType })
		if i < 0 {
			parts = append(parts, Part{Name: image.PartName(l.MediaType),
				Image: ingot.Digest(l.Digest), Why: "the rebuild has none"})
			continue
		}
		part, err := comparePart(ctx, l, have.blob(l), rebuilt[i], got.blob(rebuilt[i]))
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
		rebuilt = slices.Delete(rebuilt, i, i+1)
	}
	for _, l := range rebuilt {
		parts = append(parts, Part{Name: image.PartName(l.MediaType),
			Rebuilt: ingot.Digest(l.Digest), Why: "the image has none"})
	}
	manifest := Part{Name: "manifest", Image: have.image.Digest, Rebuilt: got.image.Digest}
	if manifest.Image != manifest.Rebuilt {
		if manifest.Why, err = whyManifest(have.image, got.image); err != nil {
			return nil, err
		}
	}
	return append(parts, manifest), ctx.Err()
}

// comparePart compares the bytes that are in the store with those of the rebuild.
func comparePart(ctx context.Context, have ocispec.Descriptor, havePath string,
	got ocispec.Descriptor, gotPath string) (Part, error) {
	part := Part{Name: image.PartName(have.MediaType), Image: ingot.Digest(have.Digest), Rebuilt: ingot.Digest(got.Digest)}
	stored, err := digestFile(havePath)
	if err != nil {
		return part, fmt.Errorf("comparing the %s: %w", part.Name, err)
	}
	if stored != part.Rebuilt {
		look := differences[have.MediaType]
		if look == nil {
			look = whyBytes
		}
		if part.Why, part.Files, err = why(ctx, havePath, gotPath, look); err != nil {
			part.Why = "one of them cannot be read: " + err.Error()
		}
	}
	if stored != part.Image {
		part.Why = strings.TrimPrefix(part.Why+"; "+damaged, "; ")
	}
	return part, ctx.Err()
}

func digestFile(path string) (ingot.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return ingot.DigestFromSum([sha256.Size]byte(sum.Sum(nil))), nil
}

const damaged = "the stored file is damaged: its digest is not the one in the manifest"

// damagedParts returns the artifacts whose stored bytes do not have their digest.
func damagedParts(s *image.Store, im image.Image) ([]Part, error) {
	layers, err := builder.Artifacts(im)
	if err != nil {
		return nil, err
	}
	var parts []Part
	for _, l := range layers {
		stored, err := digestFile(s.Blob(ingot.Digest(l.Digest)))
		if err != nil {
			return nil, err
		}
		if stored != ingot.Digest(l.Digest) {
			parts = append(parts, Part{Name: image.PartName(l.MediaType), Image: ingot.Digest(l.Digest), Why: damaged})
		}
	}
	return parts, nil
}

// described are the fields of a manifest that describe the artifacts. A difference in the artifacts
// themselves says more.
var described = []string{"kernel", "initramfs", "root", "chunks", "unpacked", "kernelRelease",
	"packages", "verity", "uki", "pcr11"}

// whyManifest names the first field that differs and is not about an artifact.
func whyManifest(a, b image.Image) (string, error) {
	x, err := fieldsOf(a)
	if err != nil {
		return "", err
	}
	y, err := fieldsOf(b)
	if err != nil {
		return "", err
	}
	var differ []string
	for _, k := range fieldNames(x, y) {
		switch {
		case bytes.Equal(x[k], y[k]):
		case slices.Contains(described, k):
			differ = append(differ, k)
		default:
			return fmt.Sprintf("%s %s → %s", k, cmp.Or(string(x[k]), "none"), cmp.Or(string(y[k]), "none")), nil
		}
	}
	return "it describes parts that differ: " + strings.Join(differ, ", "), nil
}
