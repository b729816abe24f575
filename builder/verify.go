package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"ingot"
	"ingot/builder/squashfs"
	"ingot/image"
	"ingot/internal/scratch"
	"ingot/profiles"
)

// Verdict is what a rebuild of an image found.
type Verdict struct {
	Image ingot.Digest `json:"image"`
	Plan  ingot.Digest `json:"plan"`
	Same  bool         `json:"same"`
	Parts []Part       `json:"parts"`
}

// Part is one artifact of an image beside its rebuild.
type Part struct {
	Name    string       `json:"name"`
	Image   ingot.Digest `json:"imageDigest"`
	Rebuilt ingot.Digest `json:"rebuiltDigest"`
	// Why is the first difference; empty when there is none.
	Why string `json:"why,omitempty"`
}

// ErrLost: an input of the plan is no longer to be had.
var ErrLost = errors.New("an input of the plan is lost")

// Verify builds the plan of an image once more, with nothing cached but
// packages, whose digests the plan pins, and compares the result bit by bit.
// The files of the profile's folder and ingot-init are taken from the image
// itself: the plan pins their digests, too. Of o, Store and Init are not used.
func Verify(ctx context.Context, s *image.Store, im image.Image, o BuildOptions) (Verdict, error) {
	v := Verdict{Image: im.Digest, Plan: im.Manifest.Plan}
	plan, err := PlanOf(s, im)
	if err != nil {
		return v, err
	}
	if plan.Digest() != im.Manifest.Plan {
		return v, fmt.Errorf("verifying %s: %w: its plan has digest %s; the manifest says %s", im.Name, ErrLost, plan.Digest().Short(), im.Manifest.Plan.Short())
	}
	if err := checkKeys(plan, o.Keys); err != nil {
		return v, fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	clean, err := scratch.New("ingot-verify-")
	if err != nil {
		return v, err
	}
	defer clean.Remove()
	c, err := OpenContents(s, im)
	if err != nil {
		return v, err
	}
	defer c.Close()
	if o.Debs == "" {
		o.Debs = filepath.Join(o.CacheDir, "debs")
	}
	if o.Blobs == "" {
		o.Blobs = filepath.Join(o.CacheDir, "blobs")
	}
	o.CacheDir, o.Version, o.Init = clean.Path, im.Name.Version, filepath.Join(clean.Path, "ingot-init")
	if err := takeInit(c, plan, o.Init); err != nil {
		return v, fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	o.Source = func(f profiles.File) ([]byte, error) {
		content, err := c.ReadFile(f.Path)
		if err != nil || ingot.DigestOf(content) != plan.Sources[f.Path] {
			return nil, fmt.Errorf("%w: %s is not in the image as the profile had it", ErrLost, f.Path)
		}
		return content, nil
	}
	b, done, err := newBuild(plan, o)
	if err != nil {
		return v, err
	}
	defer done()
	m, files, err := b.make(ctx)
	if err != nil {
		return v, fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	if v.Parts, err = compareParts(ctx, s, im, files); err != nil {
		return v, err
	}
	manifest, err := compareManifests(im.Manifest, *m, files.Chunks)
	v.Parts = append(v.Parts, manifest)
	v.Same = err == nil && !slices.ContainsFunc(v.Parts, func(p Part) bool { return p.Why != "" })
	return v, err
}

// checkKeys makes sure that the initramfs gets the public keys that it had.
func checkKeys(plan *Plan, keys image.Keys) error {
	for name, public := range map[string]image.PublicKey{"release": keys.Release.Public, "server": keys.Server.Public} {
		if ingot.DigestOf(public.Text()) != plan.Keys[name] {
			return fmt.Errorf("%w: the image carries another %s key than this store has", ErrLost, name)
		}
	}
	return nil
}

func takeInit(c *Contents, plan *Plan, to string) error {
	content, err := c.ReadFile(ingot.AgentPath)
	if err != nil || ingot.DigestOf(content) != plan.Init {
		return fmt.Errorf("%w: %s is not the ingot-init of the plan", ErrLost, ingot.AgentPath)
	}
	return os.WriteFile(to, content, 0o755)
}

// compareParts compares the artifacts and looks for the first difference.
func compareParts(ctx context.Context, s *image.Store, im image.Image, files image.Files) ([]Part, error) {
	var parts []Part
	uki := ingot.Artifact{}
	if im.Manifest.UKI != nil {
		uki = *im.Manifest.UKI
	}
	for _, p := range []struct {
		name string
		have ingot.Artifact
		path string
		why  func(ctx context.Context, have, got *os.File) (string, error)
	}{
		{"kernel", im.Manifest.Kernel, files.Kernel, whyBytes},
		{"initramfs", im.Manifest.Initramfs, files.Initramfs, whyInitramfs},
		{"root", im.Manifest.Root, files.Root, whyRoot},
		{"UKI", uki, files.UKI, whyUKI},
	} {
		got, err := digestFile(p.path)
		if err != nil {
			return nil, fmt.Errorf("comparing the %s: %w", p.name, err)
		}
		part := Part{Name: p.name, Image: p.have.Digest, Rebuilt: got}
		stored, err := digestFile(s.Blob(p.have.Digest))
		if err != nil {
			return nil, fmt.Errorf("comparing the %s: %w", p.name, err)
		}
		if stored != got || stored != p.have.Digest {
			if part.Why, err = why(ctx, s.Blob(p.have.Digest), p.path, p.why); err != nil {
				part.Why = "one of the two cannot be read: " + err.Error()
			}
			if stored != p.have.Digest {
				part.Why += "; the stored " + p.name + " is damaged: its digest is not that of the manifest"
			}
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// compareManifests compares what the manifests say besides the digests of the
// parts, which were compared themselves.
func compareManifests(have, got ingot.ImageManifest, cuts []int64) (Part, error) {
	var sizes []int64
	for _, c := range have.Chunks {
		sizes = append(sizes, c.Size)
	}
	part := Part{Name: "manifest"}
	var fields [2]map[string]json.RawMessage
	for i, m := range []ingot.ImageManifest{have, got} {
		m.Kernel, m.Initramfs, m.Root, m.UKI, m.Chunks = ingot.Artifact{}, ingot.Artifact{}, ingot.Artifact{}, nil, nil
		text, err := json.Marshal(m)
		if err != nil {
			return part, fmt.Errorf("comparing the manifests: %w", err)
		}
		if err := json.Unmarshal(text, &fields[i]); err != nil {
			return part, fmt.Errorf("comparing the manifests: %w", err)
		}
		*[]*ingot.Digest{&part.Image, &part.Rebuilt}[i] = ingot.DigestOf(text)
	}
	if !slices.Equal(sizes, cuts) {
		part.Why = "the root is cut into other chunks"
	}
	for _, key := range slices.Sorted(maps.Keys(fields[0])) {
		if !bytes.Equal(fields[0][key], fields[1][key]) {
			part.Why = fmt.Sprintf("%s: %s, rebuilt %s", key, fields[0][key], fields[1][key])
			break
		}
	}
	if part.Why == "" && part.Image != part.Rebuilt {
		part.Why = "the image's manifest lacks a field"
	}
	return part, nil
}

func why(ctx context.Context, have, got string, look func(context.Context, *os.File, *os.File) (string, error)) (string, error) {
	a, err := os.Open(have)
	if err != nil {
		return "", err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return "", err
	}
	defer b.Close()
	text, err := look(ctx, a, b)
	if err != nil || text != "" {
		return text, err
	}
	for _, f := range []*os.File{a, b} {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
	}
	text, err = whyBytes(ctx, a, b)
	return "the same files, packed in another way: " + text, err
}

func whyBytes(_ context.Context, a, b *os.File) (string, error) {
	at, err := firstDifference(a, b)
	return fmt.Sprintf("from byte %d on", at), err
}

// whyRoot names the first file that differs between two squashfs images.
func whyRoot(ctx context.Context, a, b *os.File) (text string, err error) {
	ca, err := readContents(a)
	if err != nil {
		return "", err
	}
	cb, err := readContents(b)
	if err != nil {
		return "", err
	}
	return firstChange(ctx, ca.Entries, cb.Entries)
}

func firstChange(ctx context.Context, a, b []squashfs.Entry) (text string, err error) {
	err = compareEntries(ctx, a, b, func(c FileChange) bool {
		text = fmt.Sprintf("/%s: %s", c.Path, c.How)
		return false
	})
	return text, err
}

// whyInitramfs names the first file that differs between two archives.
func whyInitramfs(ctx context.Context, a, b *os.File) (string, error) {
	ea, err := readInitramfs(a)
	if err != nil {
		return "", err
	}
	eb, err := readInitramfs(b)
	if err != nil {
		return "", err
	}
	return firstChange(ctx, ea, eb)
}

// readInitramfs lists an initramfs that we packed.
func readInitramfs(r io.Reader) ([]squashfs.Entry, error) {
	z, err := zstd.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	var entries []squashfs.Entry
	for c := cpio.NewReader(z); ; {
		h, err := c.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(c)
		if err != nil {
			return nil, err
		}
		e := squashfs.Entry{Path: h.Name, Mode: uint32(h.Mode.Perm()), Size: int64(len(content)), ModTime: h.ModTime.Unix(),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
		if h.Mode.IsDir() {
			e.Kind = squashfs.Dir
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b squashfs.Entry) int { return strings.Compare(a.Path, b.Path) })
	return entries, nil
}
