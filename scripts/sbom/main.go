// Command sbom writes a CycloneDX SBOM of ingot itself: the modules that are linked into its
// programs, as Go's build information lists them (debug/buildinfo). It reads the finished programs,
// not go.mod, so it lists neither modules of tests nor those of tools. scripts/release runs it.
//
// Images have SBOMs of their own, which package builder/sbom writes.
package main

import (
	"cmp"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"ingot"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("sbom", flag.ContinueOnError)
	flags.SetOutput(stderr)
	version := flags.String("version", "", "version of the release")
	created := flags.Int64("time", 0, "Unix time of the release's commit")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *version == "" || flags.NArg() == 0 {
		return errors.New("usage: sbom -version VERSION -time SECONDS PROGRAM...")
	}
	programs := map[string]*debug.BuildInfo{}
	for _, file := range flags.Args() {
		info, err := buildinfo.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading build information: %w", err)
		}
		programs[info.Path] = info
	}
	encoder := cdx.NewBOMEncoder(stdout, cdx.BOMFileFormatJSON)
	encoder.SetPretty(true)
	return encoder.Encode(describe(*version, time.Unix(*created, 0).UTC(), programs))
}

// describe returns the SBOM of programs, by import path. The same programs give the same SBOM.
func describe(version string, created time.Time, programs map[string]*debug.BuildInfo) *cdx.BOM {
	bom := cdx.NewBOM()
	self := module("ingot", version)
	self.Type = cdx.ComponentTypeApplication
	self.Licenses = &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}}
	bom.Metadata = &cdx.Metadata{Timestamp: created.Format(time.RFC3339), Component: &self}

	modules := map[string]cdx.Component{}
	users := map[string][]string{} // programs, by module
	add := func(c cdx.Component, program string) {
		modules[c.BOMRef] = c
		users[c.BOMRef] = append(users[c.BOMRef], program)
	}
	for _, program := range slices.Sorted(maps.Keys(programs)) {
		info := programs[program]
		add(module("stdlib", strings.TrimPrefix(info.GoVersion, "go")), program)
		for _, dep := range info.Deps {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			add(module(dep.Path, dep.Version), program)
		}
	}
	var components []cdx.Component
	for _, ref := range slices.Sorted(maps.Keys(modules)) {
		c := modules[ref]
		var properties []cdx.Property
		for _, program := range users[ref] {
			properties = append(properties, cdx.Property{Name: "ingot:program", Value: program})
		}
		c.Properties = &properties
		components = append(components, c)
	}
	bom.Components = &components
	refs := slices.Sorted(maps.Keys(modules))
	bom.Dependencies = &[]cdx.Dependency{{Ref: self.BOMRef, Dependencies: &refs}}
	bom.SerialNumber = serialNumber(self.BOMRef + "\n" + strings.Join(refs, "\n"))
	return bom
}

// module describes a Go module; its reference is its package URL (purl-spec, type golang).
func module(path, version string) cdx.Component {
	url := "pkg:golang/" + strings.ToLower(path) + "@" + strings.ReplaceAll(version, "+", "%2B")
	return cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: path, Version: cmp.Or(version, "unknown"),
		PackageURL: url}
}

// serialNumber derives a UUID (RFC 9562, version 8) from content.
func serialNumber(content string) string {
	h := ingot.DigestOf([]byte(content)).Hex()
	return fmt.Sprintf("urn:uuid:%s-%s-8%s-8%s-%s", h[:8], h[8:12], h[13:16], h[17:20], h[20:32])
}
