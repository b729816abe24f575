//go:build e2e

package testbuild

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// scene is one mirror, and one operator with a cache, a store and a profile.
type scene struct {
	t       *testing.T
	ctx     context.Context
	dir     string
	m       *Mirror
	profile string
	env     []string // on top of the process's own
}

const suite = "trixie"

// requireAll skips what takes long unless INGOT_TEST_ALL is set (make test-all).
func requireAll(t *testing.T) {
	t.Helper()
	if os.Getenv("INGOT_TEST_ALL") == "" {
		t.Skip("long; make test-all runs it")
	}
}

// newScene makes an operator with empty folders, and a mirror with the small
// distribution of small.
func newScene(t *testing.T) *scene {
	t.Helper()
	for _, tool := range []string{"apt-ftparchive", "gpg", "dpkg-deb", "apt-get"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing; run scripts/setup test", tool)
			}
			t.Skipf("%s is missing; run scripts/setup test", tool)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	// gpg's agent listens on a socket in here, and the name of a socket is short.
	dir, err := os.MkdirTemp("", "itb-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &scene{t: t, ctx: ctx, dir: dir, profile: filepath.Join(dir, "small.yaml")}
	s.must(os.Mkdir(s.tmp(), 0o777))
	if s.m, err = NewMirror(ctx, dir, suite); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.m.Close(); err != nil {
			t.Error(err)
		}
	})
	s.env = []string{"INGOT_STORE=" + s.store(), "XDG_CACHE_HOME=" + s.cache(), "TMPDIR=" + s.tmp(),
		"INGOT_MIRROR=" + s.m.URL + " none", "INGOT_KEYRING=" + s.m.Keyring}
	return s
}

func (s *scene) store() string { return filepath.Join(s.dir, "store") }
func (s *scene) cache() string { return filepath.Join(s.dir, "cache") }
func (s *scene) tmp() string   { return filepath.Join(s.dir, "tmp") }
func (s *scene) lock() string  { return filepath.Join(s.dir, "small.lock") }
func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// small is the least that apt resolves: it cannot be installed, for nothing in
// it is a dpkg.
func (s *scene) small() {
	s.t.Helper()
	for _, d := range []Deb{
		{Name: "base", Version: "1", Fields: "Essential: yes\n", Files: map[string]string{"etc/base": "base\n"}},
		{Name: "hello", Version: "1", Files: map[string]string{"usr/share/hello": strings.Repeat("hello ", 100_000)}},
		{Name: "more", Version: "1", Files: map[string]string{"usr/share/more": "more\n"}},
		{Name: "broken", Version: "1", Fields: "Depends: hello (>= 99)\n"},
		{Name: "linux-image-amd64", Version: "6.0.1-1", Fields: "Depends: linux-image-6.0.1-scene (= 6.0.1-1)\n"},
		{Name: "linux-image-6.0.1-scene", Version: "6.0.1-1",
			Files: map[string]string{"boot/vmlinuz-6.0.1-scene": "kernel\n"}},
		{Name: "systemd-boot-efi", Version: "1"},
	} {
		s.must(s.m.Add(s.ctx, d))
	}
	s.publish(Release{})
	s.asks("hello")
}

func (s *scene) publish(r Release) { s.t.Helper(); s.must(s.m.Publish(s.ctx, r)) }

// asks writes the profile.
func (s *scene) asks(packages ...string) {
	s.t.Helper()
	s.write(s.profile, fmt.Sprintf("name: small\nbase: {suite: %s}\npackages: [%s]\n"+
		"kernel: {package: linux-image-amd64, modules: [\"@boot\"]}\n",
		suite, strings.Join(packages, ", ")))
}

func (s *scene) write(path, text string) {
	s.t.Helper()
	s.must(os.WriteFile(path, []byte(text), 0o644))
}

func (s *scene) read(path string) string {
	s.t.Helper()
	b, err := os.ReadFile(path)
	s.must(err)
	return string(b)
}

// ingot is the binary of make build.
func (s *scene) ingot(args ...string) *exec.Cmd {
	s.t.Helper()
	bin, err := filepath.Abs("../bin/ingot")
	s.must(err)
	if _, err := os.Stat(bin); err != nil {
		s.t.Fatalf("%v; run make build", err)
	}
	cmd := exec.CommandContext(s.ctx, bin, args...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// ok runs a command that must succeed; said is its standard error.
func (s *scene) ok(args ...string) (stdout, said string) {
	s.t.Helper()
	cmd := s.ingot(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("ingot %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out), stderr.String()
}

// fails runs a command that must fail with one clear error, in which every
// want is, and leave nothing half-written.
func (s *scene) fails(args []string, want ...string) {
	s.t.Helper()
	s.failsAs(s.ingot(args...), want...)
}

func (s *scene) failsAs(cmd *exec.Cmd, want ...string) {
	s.t.Helper()
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		s.t.Errorf("%v: %v (exit code %d); want 1\n%s", cmd.Args[1:], err, code, out)
	}
	if n := strings.Count(string(out), "ingot: "); n != 1 {
		s.t.Errorf("%v says %d errors; want one:\n%s", cmd.Args[1:], n, out)
	}
	for _, w := range want {
		if !strings.Contains(string(out), w) {
			s.t.Errorf("%v says\n%s\nwant %q in it", cmd.Args[1:], out, w)
		}
	}
	if strings.Contains(string(out), s.m.URL) {
		s.t.Errorf("%v shows the mirror's address:\n%s", cmd.Args[1:], out)
	}
	s.clean()
}

// clean checks that a command that ended left nothing half-written: no scratch
// folder, no process, no image that is not whole.
func (s *scene) clean() {
	s.t.Helper()
	for _, pattern := range []string{s.tmp() + "/*", s.cache() + "/ingot/debs/.incoming-*",
		s.cache() + "/ingot/layers/.incoming-*",
		s.store() + "/images/blobs/sha256/.incoming-*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			s.t.Errorf("left: %v", left)
		}
	}
	if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), s.tmp()) {
		s.t.Errorf("something is still mounted below %s", s.tmp())
	}
	s.noProcesses()
	s.whole()
}

// noProcesses waits until no process works in the scene's folders.
func (s *scene) noProcesses() {
	s.t.Helper()
	var left []string
	for range 50 {
		left = nil
		lines, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, path := range lines {
			env, err := os.ReadFile(path)
			if err == nil && bytes.Contains(env, []byte("TMPDIR="+s.tmp())) {
				cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
				left = append(left, strings.ReplaceAll(string(cmd), "\x00", " "))
			}
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.t.Errorf("processes are left: %q", left)
}

// images are the names of the images that are listed.
func (s *scene) images() []string {
	s.t.Helper()
	out, _ := s.ok("image", "ls", "-o", "json")
	var list []struct{ Name string }
	s.must(json.Unmarshal([]byte(out), &list))
	var names []string
	for _, im := range list {
		names = append(names, im.Name)
	}
	return names
}

// whole checks that every image that is listed is.
func (s *scene) whole() {
	s.t.Helper()
	if _, err := os.Stat(filepath.Join(s.store(), "images")); err != nil {
		return
	}
	for _, name := range s.images() {
		s.ok("image", "verify", name)
	}
}

// interrupted runs a command and sends it a signal after a while, or when
// reached says so.
func (s *scene) interrupted(sig syscall.Signal, reached func() bool, args ...string) (said string, err error) {
	s.t.Helper()
	cmd := s.ingot(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	s.must(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for !reached() {
		select {
		case err := <-ended:
			return out.String(), err
		case <-time.After(20 * time.Millisecond):
		}
	}
	_ = cmd.Process.Signal(sig)
	start := time.Now()
	err = <-ended
	if took := time.Since(start); took > 20*time.Second {
		s.t.Errorf("ingot %s: ended %v after %v; want it soon", strings.Join(args, " "), took, sig)
	}
	return out.String(), err
}
