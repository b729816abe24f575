//go:build e2e

package testbuild

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSceneShared: an image goes from one store to others by Debian's
// docker-registry and by a file. Nobody takes it before they trust its key.
func TestSceneShared(t *testing.T) {
	requireAll(t)
	l := newLab(t)
	digest := l.build(ordinary)
	from := l.scene(filepath.Join(l.dir, ordinary.name))
	from.m = &Mirror{URL: "http://mirror.invalid"} // the registry's address may be shown
	at, stop := l.registry()
	ref := at + "/lab"
	if out, said := from.ok("image", "push", "lab:v1", ref, "--plain-http"); !strings.Contains(out+said, ref) {
		t.Errorf("push says\n%s%s", out, said)
	}
	key := filepath.Join(from.store(), "keys/release.pub")
	to := l.other("pulled")
	to.fails([]string{"image", "pull", ref + ":v1", "--plain-http"}, "not signed by a release key that this store trusts",
		"ingot key trust")
	to.ok("key", "trust", key, "--name", "build")
	to.ok("image", "pull", ref+":v1", "--plain-http")
	l.holds(to, digest)
	if out, said := to.ok("image", "pull", ref+":v1", "--plain-http"); !strings.Contains(out+said, "lab:v1") {
		t.Errorf("the second pull says\n%s%s", out, said)
	}
	to.fails([]string{"image", "pull", at + "/nothing:v1", "--plain-http"}, "nothing")
	stop()
	to.fails([]string{"image", "pull", ref + ":v1", "--plain-http"}, "connection refused")
	from.fails([]string{"image", "push", "lab:v1", ref, "--plain-http"}, "connection refused")

	to.ok("key", "distrust", "build")
	if out, err := to.ingot("image", "verify", "lab:v1").CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "ingot key trust") {
		t.Errorf("verify after its key is distrusted: %v\n%s", err, out)
	}

	file := filepath.Join(l.dir, "lab.oci.tar")
	from.ok("image", "export", "lab:v1", file)
	imported := l.other("imported")
	imported.fails([]string{"image", "import", file}, "not signed by a release key that this store trusts",
		"ingot key trust")
	imported.ok("key", "trust", key)
	imported.ok("image", "import", file)
	l.holds(imported, digest)
	whole, err := os.ReadFile(file)
	l.must(err)
	l.must(os.WriteFile(file, whole[:len(whole)-len(whole)/3], 0o644))
	imported.ok("image", "rm", "lab:v1")
	imported.ok("image", "gc")
	imported.fails([]string{"image", "import", file}, file)
}

// other is a store that knows nothing yet.
func (l *lab) other(name string) *scene {
	s := l.scene(filepath.Join(l.dir, name))
	s.m = &Mirror{URL: "http://mirror.invalid"}
	for _, d := range []string{"store", "cache", "tmp"} {
		l.must(os.MkdirAll(filepath.Join(s.dir, d), 0o755))
	}
	return s
}

// holds fails unless the store has the image, whole, with its SBOM.
func (l *lab) holds(s *scene, digest string) {
	l.t.Helper()
	if out, _ := s.ok("image", "ls", "-o", "json"); !strings.Contains(out, digest) {
		l.t.Errorf("image ls says\n%s\nwant %s", out, digest)
	}
	if out, _ := s.ok("image", "sbom", "lab:v1"); !strings.Contains(out, `"CycloneDX"`) {
		l.t.Errorf("the SBOM did not come along:\n%.200s", out)
	}
	s.ok("image", "verify", "lab:v1")
	s.clean()
}

// registry starts docker-registry on loopback.
func (l *lab) registry() (at string, stop func()) {
	l.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	l.must(err)
	at = free.Addr().String()
	l.must(free.Close())
	config := filepath.Join(l.dir, "registry.yml")
	l.must(os.WriteFile(config, []byte("version: 0.1\nlog: {level: error}\nhttp: {addr: '"+at+"'}\nstorage: "+
		"{filesystem: {rootdirectory: "+l.dir+"/registry}}\n"), 0o644))
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	l.must(cmd.Start())
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	}
	l.t.Cleanup(stop)
	for range 200 {
		if c, err := net.Dial("tcp", at); err == nil {
			c.Close()
			return at, stop
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.t.Fatal("docker-registry does not answer")
	return
}
