package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/api"
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
	packages := []api.Package{}
	text, err := e.sbom(ctx, im)
	if err != nil || text == nil {
		return packages, storeProblem(err)
	}
	var bom struct {
		Components []struct {
			Name, Version string
			PURL          string `json:"purl"`
		}
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		return nil, fmt.Errorf("reading the SBOM of %q: %w", im.Name, err)
	}
	for _, c := range bom.Components {
		if strings.HasPrefix(c.PURL, "pkg:") { // others are files of no package
			packages = append(packages, api.Package{Name: c.Name, Version: c.Version})
		}
	}
	slices.SortFunc(packages, func(a, b api.Package) int { return strings.Compare(a.Name, b.Name) })
	return packages, nil
}
