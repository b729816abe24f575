package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/catalog"
	"ingot/image"
)

// SBOM implements api.Images.
func (e Editor) SBOM(ctx context.Context, ref string) ([]byte, error) {
	im, err := e.Store.Get(ctx, ref)
	if err != nil {
		return nil, storeProblem(err)
	}
	text, err := e.sbom(ctx, im)
	if err == nil && text == nil {
		err = api.NewProblem(api.CodeNoSBOM, fmt.Sprintf("%s has no SBOM", im.Name))
	}
	return text, storeProblem(err)
}

// sbom reads the latest SBOM of an image; nil if it has none.
func (e Editor) sbom(ctx context.Context, im image.Image) ([]byte, error) {
	list, err := e.Store.Referrers(ctx, im.Digest, ingot.ArtifactSBOM)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return e.Store.ReadReferrer(list[len(list)-1])
}

// ImagePackages implements api.Images.
func (e Editor) ImagePackages(ctx context.Context, ref string) ([]api.Package, error) {
	im, err := e.Store.Get(ctx, ref)
	if err != nil {
		return nil, storeProblem(err)
	}
	c, err := e.described(ctx, im)
	return c.Packages, storeProblem(err)
}

// described is what the SBOM of an image says of its contents; one of an older ingot has no sizes.
func (e Editor) described(ctx context.Context, im image.Image) (api.Contents, error) {
	c := api.Contents{Packages: []api.Package{}}
	text, err := e.sbom(ctx, im)
	if err != nil || text == nil {
		return c, err
	}
	var bom struct {
		Components []struct {
			Name, Version string
			PURL          string `json:"purl"`
			Properties    []struct{ Name, Value string }
			Components    []struct{} // its files
		}
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		return c, fmt.Errorf("reading the SBOM of %q: %w", im.Name, err)
	}
	c.SBOM = true
	for _, one := range bom.Components {
		size := int64(0)
		for _, p := range one.Properties {
			if n, err := strconv.ParseInt(p.Value, 10, 64); p.Name == ingot.PropertySize && err == nil {
				size, c.Measured = max(n, 0), true
			}
		}
		if strings.HasPrefix(one.PURL, "pkg:") {
			c.Packages = append(c.Packages, api.Package{Name: one.Name, Version: one.Version,
				Files: len(one.Components), Size: size})
		} else { // files of no package
			c.Other += size
		}
	}
	slices.SortFunc(c.Packages, func(a, b api.Package) int { return strings.Compare(a.Name, b.Name) })
	return c, nil
}

// ImageContents implements api.Images. What the SBOM lacks is read from the root.
func (e Editor) ImageContents(ctx context.Context, ref string) (api.Contents, error) {
	im, err := e.Store.Get(ctx, ref)
	if err != nil {
		return api.Contents{}, storeProblem(err)
	}
	c, err := e.described(ctx, im)
	if err != nil {
		return c, storeProblem(err)
	}
	if !c.Measured {
		measured, err := e.measured(ctx, im)
		if err != nil {
			c.Problem = err.Error()
		} else {
			measured.SBOM = c.SBOM
			c = measured
		}
	}
	c.Signatures, err = e.signatures(ctx, im)
	return c, err
}

// signatures are those of an image, and of its UKI.
func (e Editor) signatures(ctx context.Context, im image.Image) ([]api.Signature, error) {
	list := []api.Signature{}
	ring, err := image.ReadKeyring(e.keys())
	if err != nil {
		return nil, err
	}
	if im.Signature != "" {
		s := api.Signature{Of: "image", By: im.SignedBy()}
		for _, k := range ring.For(im.Digest) {
			if im.VerifySignature(k) == nil {
				s.By, s.Trusted = k.ID(), true
			}
		}
		for _, k := range ring.Trusted {
			if s.Trusted && k.Key.ID() == s.By {
				s.Key = k.Name
			}
		}
		list = append(list, s)
	}
	signed, err := e.Store.Referrers(ctx, im.Digest, ingot.ArtifactSignedUKI)
	for _, r := range signed {
		list = append(list, api.Signature{Of: "uki", By: r.Annotations[ingot.AnnotationSigner],
			Key: r.Annotations[ingot.AnnotationCertificate], Trusted: true})
	}
	return list, err
}

// Measure reads from the root of an image what its packages take.
type Measure func(ctx context.Context, im image.Image) (image.Contents, error)

// Measurer measures the roots of images, one at a time, and remembers the results: an image never changes.
// A nil Measurer measures nothing.
type Measurer struct {
	measure Measure
	turn    sync.Mutex // held while a root is read
	mu      sync.Mutex
	known   map[ingot.Digest]*measurement
}

// measurement is that of one image.
type measurement struct {
	done     chan struct{} // closed at the end, when the fields below are set
	contents image.Contents
	err      error
	at       time.Time
}

const (
	mostMeasured  = 64              // images
	measureWithin = 5 * time.Second // that a request waits; the measurement goes on
	measureAgain  = time.Minute     // after one that failed: the file may have been repaired
)

// NewMeasurer returns a Measurer; nil if there is nothing to measure with.
func NewMeasurer(m Measure) *Measurer {
	if m == nil {
		return nil
	}
	return &Measurer{measure: m, known: map[ingot.Digest]*measurement{}}
}

var (
	errNotMeasured = errors.New("its SBOM has no sizes, because an older version of ingot made it")
	errBeingRead   = errors.New("its root is being read; look again in some seconds")
	errUntrusted   = errors.New("its root is not read, because the image is damaged or not signed by a trusted key")
)

// of returns what an image consists of.
func (m *Measurer) of(ctx context.Context, im image.Image, now time.Time) (image.Contents, error) {
	m.mu.Lock()
	one := m.known[im.Digest]
	if one == nil || one.failedBefore(now.Add(-measureAgain)) {
		if len(m.known) >= mostMeasured {
			clear(m.known)
		}
		one = &measurement{done: make(chan struct{}), at: now}
		m.known[im.Digest] = one
		go func() { // it ends when the root was read, which nobody can wait for less
			m.turn.Lock()
			defer m.turn.Unlock()
			one.contents, one.err = m.measure(context.WithoutCancel(ctx), im)
			close(one.done)
		}()
	}
	m.mu.Unlock()
	patience := time.NewTimer(measureWithin)
	defer patience.Stop()
	select {
	case <-one.done:
		return one.contents, one.err
	case <-patience.C:
		return image.Contents{}, errBeingRead
	case <-ctx.Done():
		return image.Contents{}, ctx.Err()
	}
}

// failedBefore reports whether a measurement began before a time, and has failed.
func (m *measurement) failedBefore(t time.Time) bool {
	select {
	case <-m.done:
		return m.err != nil && m.at.Before(t)
	default:
		return false
	}
}

// measured is what the root of an image consists of. Roots that no trusted key vouches for are not read.
func (e Editor) measured(ctx context.Context, im image.Image) (c api.Contents, err error) {
	if e.Measurer == nil {
		return c, errNotMeasured
	}
	list, err := e.Images(ctx)
	if err != nil {
		return c, err
	}
	i := slices.IndexFunc(list, func(one api.Image) bool { return one.Digest == im.Digest })
	if i < 0 || list[i].State == catalog.Untrusted || list[i].State == catalog.Damaged {
		return c, errUntrusted
	}
	found, err := e.Measurer.of(ctx, im, e.Now())
	if err != nil {
		return c, err
	}
	c = api.Contents{Packages: []api.Package{}, Other: found.Other, Measured: true}
	for _, p := range found.Packages {
		c.Packages = append(c.Packages, api.Package{Name: p.Name, Version: p.Version, Files: p.Files,
			Size: p.Bytes})
	}
	return c, nil
}
