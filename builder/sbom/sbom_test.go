package sbom

import (
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"
	"github.com/xeipuuv/gojsonschema"

	"ingot"
	"ingot/builder/buildertest"
	"ingot/builder/source"
	"ingot/builder/tree"
)

const stubPackage = "systemd-boot-efi"

// packagedRoot is a root of two packages, modules and a file of the profile.
func packagedRoot(t *testing.T) *tree.Tree {
	t.Helper()
	root := tree.New()
	const dep5 = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: "
	for p, content := range map[string]string{
		"usr/lib/os-release": "ID=debian\nVERSION_CODENAME=trixie\n",
		"var/lib/dpkg/status": "Package: libstdc++6\nStatus: install ok installed\nMaintainer: GCC <gcc@example.org>\n" +
			"Architecture: amd64\n" +
			"Depends: libc6 (>= 2.38), gone | tzdata:any\nVersion: 1:14.2~1+b1\n\nPackage: tzdata\n" +
			"Status: install ok installed\nArchitecture: all\nVersion: 2026a\n\n" +
			"Package: old\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n",
		"var/lib/dpkg/info/libstdc++6:amd64.list": "/.\n/usr\n/usr/lib/libstdc++.so.6\n" +
			"/usr/share/doc/libstdc++6/copyright\n/usr/share/man/gone\n",
		"var/lib/dpkg/info/tzdata.list":      "/usr/share/zoneinfo/UTC\n",
		"usr/lib/libstdc++.so.6":             "x",
		"usr/share/zoneinfo/UTC":             "x",
		"usr/share/doc/libstdc++6/copyright": dep5 + "GPL-3+ or Expat\n text\n\nFiles: b\nLicense: BSD-3-clause\n",
		"usr/share/doc/tzdata/copyright":     "public domain, but for parts under\n/usr/share/common-licenses/BSD.\n",
		"usr/lib/modules/6.12/x.ko":          "x",
		"etc/issue\xff":                      "x",
		ingot.AgentPath:                      "x",
	} {
		if err := root.PutFile(p, 0o644, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// encoded is the SBOM of packagedRoot, as it is stored.
func encoded(t *testing.T) []byte {
	t.Helper()
	m := &ingot.ImageManifest{Profile: "web", Version: "1", Arch: ingot.AMD64,
		KernelRelease: "6.12", Created: time.Unix(1e9, 0)}
	bom, err := Describe(Contents{Root: packagedRoot(t), Manifest: m, Init: ingot.DigestOf(nil),
		Packages: []source.Package{buildertest.Package("libstdc++6", "1:14.2~1+b1")},
		Kernel:   buildertest.Package("linux-image-6.12", "6.12-1"), Stub: buildertest.Package(stubPackage, "257")})
	if err != nil {
		t.Fatal(err)
	}
	list, err := Attach(bom)(ingot.DigestOf([]byte("image")))
	if err != nil || len(list) != 1 || list[0].Type != ingot.ArtifactSBOM {
		t.Fatalf("attached %v, %v; want an SBOM", list, err)
	}
	text, err := io.ReadAll(list[0].Content)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestSBOM: packages with licences, digests and files, read by CycloneDX's own decoder.
func TestSBOM(t *testing.T) {
	text := encoded(t)
	if !bytes.Equal(text, encoded(t)) {
		t.Error("the same image has two SBOMs")
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	if bom.Metadata.Timestamp != "2001-09-09T01:46:40Z" || !strings.HasPrefix(bom.SerialNumber, "urn:uuid:") {
		t.Errorf("timestamp %s, serial number %s; want the epoch and a UUID", bom.Metadata.Timestamp, bom.SerialNumber)
	}
	type line struct {
		Ref, Licences string
		Hashed        bool
		Files         string
	}
	got := map[string]line{}
	for _, c := range *bom.Components {
		l := line{Ref: c.PackageURL, Hashed: c.Hashes != nil}
		if c.Licenses != nil {
			for _, x := range *c.Licenses {
				if l.Licences += x.Expression; x.License != nil {
					l.Licences += x.License.ID + "?" + x.License.Name
				}
			}
		}
		if c.Components != nil {
			for _, f := range *c.Components {
				l.Files += f.Name + " "
			}
		}
		got[c.Name] = l
	}
	want := map[string]line{
		"libstdc++6": {"pkg:deb/debian/libstdc%2B%2B6@1:14.2~1%2Bb1?arch=amd64&distro=trixie", "BSD-3-Clause AND " +
			"(GPL-3.0-or-later OR MIT)", true,
			"/usr/lib/libstdc++.so.6 /usr/share/doc/libstdc++6/copyright "},
		"tzdata": {"pkg:deb/debian/tzdata@2026a?arch=all&distro=trixie", "?BSD", false, "/usr/share/zoneinfo/UTC "},
		"linux-image-6.12": {"pkg:deb/debian/linux-image-6.12@6.12-1?arch=amd64&distro=trixie", "GPL-2.0-only WITH " +
			"Linux-syscall-note", true, "/usr/lib/modules/6.12/x.ko "},
		stubPackage:  {"pkg:deb/debian/systemd-boot-efi@257?arch=amd64&distro=trixie", "LGPL-2.1-or-later?", true, ""},
		"ingot-init": {"", "", true, "/usr/lib/ingot/ingot-init "},
		"web-files": {"", "", false, "/etc/issue\uFFFD /usr/lib/os-release /usr/share/doc/tzdata/copyright " +
			"/var/lib/dpkg/info/libstdc++6:amd64.list " +
			"/var/lib/dpkg/info/tzdata.list /var/lib/dpkg/status "},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("components (-want +got):\n%s", diff)
	}
	for _, d := range *bom.Dependencies {
		if d.Ref == want["libstdc++6"].Ref {
			if diff := cmp.Diff([]string{want["tzdata"].Ref}, *d.Dependencies); diff != "" {
				t.Errorf("libstdc++6 depends on (-want +got):\n%s", diff)
			}
		}
	}
}

// TestSBOMSchema: the schema of CycloneDX 1.6, which comes with its library,
// accepts what we write, and refuses what is not right.
func TestSBOMSchema(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}",
		"github.com/CycloneDX/cyclonedx-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) gojsonschema.JSONLoader {
		return gojsonschema.NewReferenceLoader("file://" + filepath.Join(strings.TrimSpace(string(dir)), "schema", name))
	}
	loader := gojsonschema.NewSchemaLoader()
	if err := loader.AddSchemas(file("spdx.schema.json"), file("jsf-0.82.schemax.json")); err != nil {
		t.Fatal(err)
	}
	schema, err := loader.Compile(file("bom-1.6.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	text := encoded(t)
	for _, c := range []struct {
		text []byte
		want bool
	}{{text, true}, {bytes.Replace(text, []byte(`"LGPL-2.1-or-later"`), []byte(`"LGPL-9"`), 1), false}} {
		r, err := schema.Validate(gojsonschema.NewBytesLoader(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if r.Valid() != c.want {
			t.Errorf("the schema says %v (%v); want %v", r.Valid(), r.Errors(), c.want)
		}
	}
}
