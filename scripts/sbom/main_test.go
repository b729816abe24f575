package main

import (
	"bytes"
	"io"
	"os"
	"slices"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// TestSBOM describes the test program itself, which links cyclonedx-go.
func TestSBOM(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	for _, into := range []io.Writer{&first, &second} {
		if err := run([]string{"-version", "1.2.3", "-time", "1700000000", self}, into, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same program gives two SBOMs")
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(&first, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	c, created := bom.Metadata.Component, bom.Metadata.Timestamp
	if c.Name != "ingot" || c.Version != "1.2.3" || created != "2023-11-14T22:13:20Z" {
		t.Errorf("the SBOM is of %s %s at %s", c.Name, c.Version, created)
	}
	for _, want := range []string{"stdlib", "github.com/CycloneDX/cyclonedx-go"} {
		found := func(c cdx.Component) bool { return c.Name == want && c.Version != "" }
		if !slices.ContainsFunc(*bom.Components, found) {
			t.Errorf("the SBOM lacks %s", want)
		}
	}
	d := (*bom.Dependencies)[0]
	if d.Ref != c.BOMRef || len(*d.Dependencies) != len(*bom.Components) {
		t.Errorf("ingot depends on %d of %d components", len(*d.Dependencies), len(*bom.Components))
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"-version", "1"}, {"program"}, {"-version", "1", "/dev/null"}} {
		if err := run(args, io.Discard, io.Discard); err == nil {
			t.Errorf("run(%q) succeeds", args)
		}
	}
}
