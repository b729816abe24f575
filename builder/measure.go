package builder

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ingot/builder/inspect"
	"ingot/image"
)

// Measure reads from the root of an image what each of its packages takes. It is for images whose
// SBOM, which older versions of ingot made, does not say so.
func Measure(ctx context.Context, s *image.Store, im image.Image) (image.Contents, error) {
	c, err := OpenContents(s, im)
	if err != nil {
		return image.Contents{}, err
	}
	defer c.Close()
	if err := ctx.Err(); err != nil {
		return image.Contents{}, err
	}
	list, err := c.measure()
	if err != nil {
		return list, fmt.Errorf("measuring the packages of %s: %w", im.Name, err)
	}
	kernel := "linux-image-" + im.Manifest.KernelRelease
	i := slices.IndexFunc(list.Packages, func(p image.PackageSize) bool { return p.Name == kernel })
	if i >= 0 && list.Packages[i].Version == "" { // dpkg does not know it
		list.Packages[i].Version = im.Manifest.KernelRelease
		if r, err := ReadPlan(s, im); err == nil && r.Plan.Kernel.Version != "" {
			list.Packages[i].Version = r.Plan.Kernel.Version
		}
	}
	return list, nil
}

// measure lists the packages of a root with their sizes.
func (c *Contents) measure() (list image.Contents, err error) {
	installed, err := inspect.Packages(c.Tree)
	if err != nil {
		return list, err
	}
	owners, err := c.Owners()
	if err != nil {
		return list, err
	}
	sizes := inspect.Sizes(c.Tree, owners)
	list.Other = sizes[""].Bytes
	delete(sizes, "")
	for _, p := range installed {
		size := sizes[p.Name] // of two architectures of a package, the first has the files of both
		delete(sizes, p.Name)
		list.Packages = append(list.Packages, image.PackageSize{Name: p.Name, Version: p.Version, Files: size.Files,
			Bytes: size.Bytes})
	}
	for _, name := range slices.Sorted(maps.Keys(sizes)) {
		list.Packages = append(list.Packages, image.PackageSize{Name: name, Files: sizes[name].Files,
			Bytes: sizes[name].Bytes})
	}
	slices.SortStableFunc(list.Packages, func(a, b image.PackageSize) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}
