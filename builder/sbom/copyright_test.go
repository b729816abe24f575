package sbom

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLicences(t *testing.T) {
	const dep5 = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
	for _, c := range []struct {
		text string
		want []licence
	}{
		{"", nil},
		{"It is free.", nil},
		{"see /usr/share/common-licenses/GPL-2.\nand /usr/share/common-licenses/LGPL-2.1\n" +
			"and /usr/share/common-licenses/GPL-2", []licence{{Name: "GPL-2"}, {Name: "LGPL-2.1"}}},
		{dep5 + "\nFiles: *\nLicense: GPL-2+\n text of it\n\nFiles: a\nLicense:  Expat\n\nLicense: MIT\n",
			[]licence{{SPDX: "GPL-2.0-or-later"}, {SPDX: "MIT"}}},
		{dep5 + "License: LGPL-2.1\nLicense: GPL-1+ or Artistic\nLicense: BSD-3-clause and ISC\n",
			[]licence{{SPDX: "BSD-3-Clause AND ISC"}, {SPDX: "GPL-1.0-or-later OR Artistic-1.0-Perl"}, {SPDX: "LGPL-2.1-only"}}},
		{dep5 + "License: GPL-2+ or AFL-2.1, and Expat\nLicense: public-domain\nLicense: GPL-9\n" +
			"License: GPL-2+ with OpenSSL exception\n",
			[]licence{{Name: "GPL-2+ or AFL-2.1, and Expat"}, {Name: "GPL-2+ with OpenSSL exception"},
				{Name: "GPL-9"}, {Name: "public-domain"}}},
	} {
		if diff := cmp.Diff(c.want, licencesOf([]byte(c.text))); diff != "" {
			t.Errorf("licencesOf(%q) (-want +got):\n%s", c.text, diff)
		}
	}
}

// TestIdentifiers: SPDX knows every identifier that we give, by the list that
// comes with CycloneDX's library.
func TestIdentifiers(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}",
		"github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "schema/spdx.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var known struct{ Enum []string }
	if err := json.Unmarshal(text, &known); err != nil {
		t.Fatal(err)
	}
	var given []string
	for _, id := range spdxIDs {
		id, _, _ = strings.Cut(id, " WITH ")
		given = append(given, id)
	}
	for _, id := range gnuLicences {
		given = append(given, id+"-only", id+"-or-later")
	}
	for _, id := range given {
		if !slices.Contains(known.Enum, id) {
			t.Errorf("SPDX has no licence %q", id)
		}
	}
}
