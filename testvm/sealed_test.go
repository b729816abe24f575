//go:build e2e

package testvm

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
)

// TestSceneSealed: the foreign tools agree about an image: veritysetup about its
// hash tree, minisign about its signature, and the systemd-measure that is in
// the image, Debian 13's, about what its UKI will measure.
func TestSceneSealed(t *testing.T) {
	dir := t.TempDir()
	tool := func(argv ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
		}
		return string(out)
	}
	printed := func(name string, args ...string) {
		t.Helper()
		out, err := ingotCommand(t.Context(), shared, args...).Output()
		if err != nil {
			t.Fatalf("ingot %s: %v", strings.Join(args, " "), err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), out, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	printed("inspect.json", "image", "inspect", "lab:v1", "-o", "json")
	b, err := os.ReadFile(filepath.Join(dir, "inspect.json"))
	if err != nil {
		t.Fatal(err)
	}
	var im struct{ Manifest ingot.ImageManifest }
	if err := json.Unmarshal(b, &im); err != nil {
		t.Fatal(err)
	}
	m := im.Manifest
	blob := func(a ingot.Artifact) string { return filepath.Join(shared, "images/blobs/sha256", a.Digest.Hex()) }
	tool("/usr/sbin/veritysetup", "verify", blob(m.Root), blob(m.Root), m.Verity.RootHash,
		fmt.Sprintf("--hash-offset=%d", m.Verity.HashOffset))

	printed("m", "image", "manifest", "lab:v1")
	printed("m.minisig", "image", "signature", "lab:v1")
	tool("minisign", "-Vm", "m", "-p", filepath.Join(shared, "keys/release.pub"))

	printed("sbom.json", "image", "sbom", "lab:v1")
	if text, err := os.ReadFile(filepath.Join(dir, "sbom.json")); err != nil ||
		!strings.Contains(string(text), "pkg:deb/debian/systemd@") {
		t.Errorf("the SBOM has %d bytes and does not tell of systemd (%v)", len(text), err)
	}

	start := time.Now()
	tool("unsquashfs", "-no-progress", "-quiet", "-d", "root", blob(m.Root), "usr/lib/systemd/systemd-measure",
		"usr/lib/systemd/libsystemd-*",
		"usr/lib/x86_64-linux-gnu/lib*", "usr/lib/x86_64-linux-gnu/systemd", "usr/lib64", "usr/lib/x86_64-linux-gnu/ld-*",
		"lib", "lib64")
	measure := []string{"unshare", "--map-root-user", "chroot", "root", "/usr/lib/systemd/systemd-measure", "calculate",
		"--phase=", "--bank=sha256", "--bank=sha384"}
	for _, name := range []string{"linux", "osrel", "cmdline", "uname", "initrd", "sbat"} {
		tool("objcopy", "--dump-section", "."+name+"=root/"+name, blob(*m.UKI), "copy.efi")
		measure = append(measure, "--"+name+"=/"+name)
	}
	out := tool(measure...)
	for bank, want := range m.PCR11 {
		if !strings.Contains(out, "11:"+bank+"="+want) {
			t.Errorf("PCR 11 in the manifest, bank %s: %s; systemd-measure says:\n%s", bank, want, out)
		}
	}
	t.Logf("measured in %.1f s", time.Since(start).Seconds())
	cmdline, err := os.ReadFile(filepath.Join(dir, "root/cmdline"))
	if want := strings.Join(append(m.Arguments, ingot.ArgRootHash+"="+m.Verity.RootHash), " "); err != nil ||
		string(cmdline) != want {
		t.Errorf("the UKI's arguments are %q (%v); want %q", cmdline, err, want)
	}
}
