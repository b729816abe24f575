//go:build e2e

package testvm

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestSceneImport: a container image of a systemd distribution, without a
// kernel, as docker save writes it, becomes a profile and an image, and a
// machine boots it to healthy. What its second layer hides is gone.
func TestSceneImport(t *testing.T) {
	requireAll(t)
	t.Parallel()
	for _, tool := range []string{"mmdebstrap", "skopeo"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v; run scripts/setup test", err)
		}
	}
	dir := t.TempDir() // not on the clock of the scene: installing takes as long as it takes
	saved := dockerSave(t, dir, distribution(t, dir),
		member{"etc/.wh.hidden", ""}, member{"etc/imported", "by the second layer\n"},
		member{"etc/hosts", "127.0.0.1 localhost\n"})
	// Nor is what happens before a machine is there: it has a store of its own.
	store, folder := filepath.Join(dir, "store"), filepath.Join(dir, "web")
	copyStore(t, shared, store)
	ingot := func(args ...string) string {
		t.Helper()
		out, err := ingotCommand(t.Context(), store, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ingot %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	out := ingot("import", saved, "--name", "web", "--into", folder, "--kernel", "linux-image-cloud-amd64")
	if !strings.Contains(out, "Debian GNU/Linux 13 (trixie) for amd64") || strings.Contains(out, "lacks") {
		t.Errorf("ingot import says\n%s\nwant Debian 13 that lacks nothing", out)
	}
	ingot("build", folder, "--version", "v1")
	if got := ingot("image", "cat", "web:v1", "/etc/imported"); got != "by the second layer\n" {
		t.Errorf("/etc/imported = %q; want the second layer's", got)
	}
	if out, err := ingotCommand(t.Context(), store, "image", "cat", "web:v1", "/etc/hidden").CombinedOutput(); err == nil {
		t.Errorf("what the second layer hides is in the image: %s", out)
	}
	if out := ingot("verify", "web:v1"); !strings.Contains(out, "every bit the same") {
		t.Errorf("ingot verify says\n%s\nwant the same bits", out)
	}
	s := newStage(t)
	s.useStore(store)
	s.serve("--approve-all", "--image", "web:v1")
	s.healthy(s.vm(UEFI, 1), 1, "web:v1")
}

// member is a file of a layer.
type member struct{ name, content string }

// distribution installs what lab:v1 is locked to, without its kernel, with
// mmdebstrap and nothing of ingot, and returns the root as a tar.
func distribution(t *testing.T, dir string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(shared, "v1.lock"))
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages []struct{ Name, SHA256 string }
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		t.Fatal(err)
	}
	repo, err := os.MkdirTemp("", "ingot-repo-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(repo) })
	var index bytes.Buffer
	var names []string
	for _, p := range lock.Packages {
		deb := filepath.Join(cache, "ingot/debs", p.SHA256+".deb")
		control, err := exec.Command("dpkg-deb", "--field", deb).Output()
		if err != nil {
			t.Fatalf("reading %s: %v", p.Name, err)
		}
		content, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(repo, p.SHA256+".deb"), content, 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&index, "%s\nFilename: ./%s.deb\nSize: %d\nSHA256: %s\n\n", bytes.TrimSpace(control), p.SHA256,
			len(content), p.SHA256)
		names = append(names, p.Name)
	}
	release := fmt.Sprintf("Suite: trixie\nCodename: trixie\nDate: Sat, 01 Nov 2025 00:00:00 UTC\nSHA256:\n %x %d "+
		"Packages\n", sha256.Sum256(index.Bytes()), index.Len())
	for name, content := range map[string][]byte{"Packages": index.Bytes(), "Release": []byte(release)} {
		if err := os.WriteFile(filepath.Join(repo, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(repo, 0o755); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "distribution.tar")
	cmd := exec.CommandContext(t.Context(), "mmdebstrap", "--variant=essential", "--include="+strings.Join(names, ","),
		"--format=tar",
		"--customize-hook=echo secret > $1/etc/hidden", "trixie", out, "deb [trusted=yes] copy://"+repo+" ./")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, said)
	}
	return out
}

// dockerSave makes a container image of a root and one more layer, and saves
// it as docker does.
func dockerSave(t *testing.T, dir, root string, second ...member) string {
	t.Helper()
	over := filepath.Join(dir, "second.tar")
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range second {
		header := &tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.content)), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(over, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	im := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, file := range []string{root, over} {
		l, err := tarball.LayerFromFile(file, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(1))
		if err != nil {
			t.Fatal(err)
		}
		if im, err = mutate.AppendLayers(im, l); err != nil {
			t.Fatal(err)
		}
	}
	im, err := mutate.ConfigFile(im, forLinux(t, im))
	if err != nil {
		t.Fatal(err)
	}
	plain, saved := filepath.Join(dir, "layout"), filepath.Join(dir, "web.tar")
	l, err := layout.Write(plain, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(im); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "skopeo", "copy", "--quiet", "oci:"+plain,
		"docker-archive:"+saved+":os/web:1").CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v\n%s", err, out)
	}
	return saved
}

func forLinux(t *testing.T, im v1.Image) *v1.ConfigFile {
	t.Helper()
	c, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	return c
}
