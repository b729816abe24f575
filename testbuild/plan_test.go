//go:build e2e

package testbuild

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSceneLock is the life of a lock, as an operator sees it.
func TestSceneLock(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.small()
	s.fails([]string{"plan", s.profile, "--locked"}, "there is no lock", "ingot plan")
	s.fails([]string{"plan", s.profile, "--offline"}, "there are no package lists of an earlier run")
	out, _ := s.ok("plan", s.profile)
	if !strings.Contains(out, "wrote "+s.lock()+" (there was no lock)") ||
		!strings.Contains(out, "kernel linux-image-6.0.1-scene 6.0.1-1") {
		t.Errorf("ingot plan says\n%s", out)
	}
	first := s.read(s.lock())
	if strings.Contains(first, "://") || !strings.Contains(first, `"path":"pool/main/hello_1_amd64.deb"`) {
		t.Errorf("the lock is\n%s\nwant paths and no host", first)
	}
	digest := s.digest()

	// The mirror changes: the lock does not, until it is updated.
	s.must(s.m.Add(s.ctx, Deb{Name: "hello", Version: "2"}))
	s.publish(Release{})
	if got := s.digest("--locked"); got != digest || s.read(s.lock()) != first {
		t.Errorf("the plan moved with the mirror: %s, then %s", digest, got)
	}
	if out, _ := s.ok("plan", s.profile, "--update"); !strings.Contains(out, "↑ hello 1 → 2") ||
		!strings.Contains(out, "(an update was requested)") {
		t.Errorf("ingot plan --update says\n%s", out)
	}
	if s.digest() == digest {
		t.Error("another package, and the digest of the plan is the same")
	}

	// The profile changes: apt is asked, and the output says so, unless --locked forbids it.
	s.asks("hello", "more")
	s.fails([]string{"plan", s.profile, "--locked"}, "the lock does not match the profile: +more", "ingot plan --update")
	if out, _ := s.ok("plan", s.profile); !strings.Contains(out, "+ more 1") ||
		!strings.Contains(out, "the profile's request changed: +more") {
		t.Errorf("ingot plan of a changed profile says\n%s", out)
	}

	// The packages come into the cache, and then no mirror is needed.
	s.ok("plan", s.profile, "--fetch")
	s.m.Spoil(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	s.ok("plan", s.profile, "--offline", "--locked", "--fetch")
	s.asks("hello")
	s.ok("plan", s.profile, "--offline") // with the lists of the day before
	if asked := s.m.Asked(); len(asked) > 0 {
		t.Errorf("--offline asked for %v", asked)
	}
}

// digest is the digest of the plan of the scene's profile.
func (s *scene) digest(args ...string) string {
	s.t.Helper()
	out, _ := s.ok(append([]string{"plan", s.profile, "-o", "json"}, args...)...)
	var v struct{ Digest string }
	s.must(json.Unmarshal([]byte(out), &v))
	return v.Digest
}

// TestSceneBadLock: a lock that was edited, torn or is of another time is not
// used and not overwritten.
func TestSceneBadLock(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newScene(t)
	s.small()
	s.ok("plan", s.profile)
	good := s.read(s.lock())
	for _, c := range []struct{ name, text, want string }{
		{"torn", good[:len(good)/2], "write a new one: ingot plan --update"},
		{"with marks of a merge", "<<<<<<< HEAD\n" + good, "write a new one: ingot plan --update"},
		{"of another format", strings.Replace(good, `"format": 3`, `"format": 1`, 1), "it has format 1, and this ingot " +
			"reads format 3; write a new one"},
		{"with a package for another architecture", strings.Replace(good, `"arch":"amd64","size"`, `"arch":"arm64","size"`,
			1), "is for arm64, the lock for amd64"},
		{"with a bad path", strings.Replace(good, "pool/main/hello", "pool/../hello", 1), "is not a path below an archive"},
	} {
		if c.text == good {
			t.Fatalf("%s: nothing was replaced", c.name)
		}
		s.write(s.lock(), c.text)
		for _, verb := range []string{"plan", "build"} {
			s.fails([]string{verb, s.profile}, s.lock(), c.want)
		}
		if s.read(s.lock()) != c.text {
			t.Errorf("the lock %s was overwritten", c.name)
		}
	}
	s.write(s.lock(), strings.Replace(good, `"sha256":"`, `"sha256":"0000`, 1))
	s.fails([]string{"plan", s.profile}, "is not a SHA-256")
	s.ok("plan", s.profile, "--update")
	if s.read(s.lock()) != good {
		t.Error("--update does not replace a broken lock")
	}
}

// TestSceneMirrorNotTrusted: lists that are not signed as they must be are
// never used, and do not replace those of an earlier run.
func TestSceneMirrorNotTrusted(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.small()
	plan := []string{"plan", s.profile, "--update"}
	cases := func() {
		s.publish(Release{Unsigned: true})
		s.fails(plan, "the mirror's package lists cannot be trusted", "they are not signed")
		s.publish(Release{Until: time.Now().Add(-time.Hour)})
		s.fails(plan, "cannot be trusted", "they are out of date", "use a mirror that is kept up to date")
		s.publish(Release{Key: "stranger" + strconv.Itoa(int(time.Now().UnixNano()))})
		s.fails(plan, "cannot be trusted", "a key that is not trusted here", "--keyring")
		// lists that are not known yet
		s.must(s.m.Add(s.ctx, Deb{Name: "fresh", Version: strconv.Itoa(int(time.Now().UnixNano()))}))
		s.publish(Release{})
		index := filepath.Join(s.dir, "archive/dists", suite, "main/binary-amd64/Packages")
		s.write(index, strings.Replace(s.read(index), "Version: 1", "Version: 3", 1))
		s.fails(plan, "cannot be trusted", "they are not those that were signed")
	}
	cases() // a new mirror
	if _, err := os.Stat(s.lock()); err == nil {
		t.Error("a lock was written from lists that nobody signed")
	}
	s.publish(Release{})
	s.ok(plan...)
	if os.Getenv("INGOT_TEST_ALL") == "" {
		return
	}
	good := s.read(s.lock())
	cases() // a mirror that was good once
	if s.read(s.lock()) != good {
		t.Error("the lock changed all the same")
	}
	s.ok("plan", s.profile, "--offline")
	s.fails([]string{"plan", s.profile, "--update", "--keyring", filepath.Join(s.dir, "none.gpg")}, "finding the "+
		"mirror's keys", "none.gpg")
}

// TestSceneNoSuchPackages: what apt cannot resolve is said in a sentence.
func TestSceneNoSuchPackages(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.small()
	s.asks("helo", "more")
	s.fails([]string{"plan", s.profile}, "no such package in trixie: helo (perhaps hello)", "correct the profile's list "+
		"of packages")
	s.asks("broken")
	s.fails([]string{"plan", s.profile}, "the packages cannot be installed together", "broken : Depends: hello (>= 99)")
	s.must(s.m.Add(s.ctx, Deb{Name: "enemy", Version: "1", Fields: "Conflicts: hello\n"}))
	s.publish(Release{})
	s.asks("hello", "enemy")
	s.fails([]string{"plan", s.profile}, "the packages cannot be installed together", "enemy : Conflicts: hello")
	s.asks("hello")
	s.write(s.profile, strings.Replace(s.read(s.profile), suite, "trixy", 1))
	s.fails([]string{"plan", s.profile}, `looking for suite "trixy": no such suite`)
}

// TestSceneBadPackages: what the mirror hands out is not what the lock names.
func TestSceneBadPackages(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.small()
	s.ok("plan", s.profile)
	build := []string{"build", s.profile, "--version", "v1"}
	hello := func(answer func(w http.ResponseWriter, content string)) {
		s.m.Spoil(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/hello_") {
				s.m.Serve(w, r)
				return
			}
			b, err := os.ReadFile(filepath.Join(s.dir, "archive/pool/main/hello_1_amd64.deb"))
			if err != nil {
				t.Error(err)
			}
			answer(w, string(b))
		})
	}
	hello(func(w http.ResponseWriter, content string) { _, _ = io.WriteString(w, content[:len(content)/2]) })
	s.fails(build, "fetching hello 1: the file is not the one that was planned: it ended after", "try another --mirror")
	hello(func(w http.ResponseWriter, content string) {
		_, _ = io.WriteString(w, strings.Replace(content, "hello hello", "hello hallo", 1))
	})
	s.fails(build, "fetching hello 1: the file is not the one that was planned: sha256 is", "try another --mirror")
	hello(func(w http.ResponseWriter, content string) { // the connection breaks
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = io.WriteString(w, content[:len(content)/2])
	})
	s.fails(build, "fetching hello 1", "it ended after")
	hello(func(w http.ResponseWriter, _ string) { http.Error(w, "later", http.StatusServiceUnavailable) })
	s.fails(build, "fetching hello 1", "503 Service Unavailable")
	hello(func(w http.ResponseWriter, _ string) { http.Error(w, "gone", http.StatusNotFound) })
	s.fails(build, "fetching hello 1: no such package", "no longer has /pool/main/hello_1_amd64.deb", "--update")
	s.m.Spoil(nil)

	// A lock that names other bytes than the mirror has.
	good := s.read(s.lock())
	sum := field(s.t, good, "hello")
	s.write(s.lock(), strings.Replace(good, sum, strings.Repeat("0", 64), 1))
	s.fails(build, "fetching hello 1: the file is not the one that was planned", "when the lock is wrong, --update")
	s.write(s.lock(), good)

	// A damaged package in the cache is fetched again, with a warning.
	s.ok("plan", s.profile, "--fetch")
	cached := filepath.Join(s.cache(), "ingot/debs", sum+".deb")
	whole := s.read(cached)
	for name, rot := range map[string]string{"torn": whole[:100], "changed": strings.Replace(whole, "hello", "hullo", 1)} {
		s.write(cached, rot)
		_, said := s.ok("plan", s.profile, "--fetch")
		if s.read(cached) != whole {
			t.Errorf("a package that is %s is not repaired", name)
		}
		if name == "changed" && !strings.Contains(said, "a package in the cache is damaged; fetching it again") {
			t.Errorf("there is no warning about a package that is %s:\n%s", name, said)
		}
	}
	s.write(cached, "rot")
	s.fails([]string{"build", s.profile, "--offline"}, "1 are not in the cache, for example hello 1; leave out --offline")
	if got := s.images(); len(got) > 0 {
		t.Errorf("images %v; want none", got)
	}
}

// field is the sha256 of a package of a lock.
func field(t *testing.T, lock, name string) string {
	t.Helper()
	for _, line := range strings.Split(lock, "\n") {
		var p struct{ Name, SHA256 string }
		if json.Unmarshal([]byte(strings.TrimSuffix(line, ",")), &p) == nil && p.Name == name {
			return p.SHA256
		}
	}
	t.Fatalf("the lock has no %s:\n%s", name, lock)
	return ""
}

// TestSceneMirrorAway: the mirror cannot be reached.
func TestSceneMirrorAway(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newScene(t)
	s.small()
	s.ok("plan", s.profile)
	good := s.env
	s.env = append(s.env, "INGOT_MIRROR=http://127.0.0.1:1/debian none") // nobody listens
	s.fails([]string{"plan", s.profile, "--update"}, "the mirror cannot be reached", "name another mirror with --mirror")
	s.env = good
	s.ok("plan", s.profile, "--update", "--offline") // the lists of the good mirror are still of use
	s.must(s.m.server.Close())
	if _, said := s.ok("plan", s.profile, "--update"); !strings.Contains(said,
		"using the package lists of an earlier run") {
		t.Errorf("there is no warning about a mirror that cannot be reached:\n%s", said)
	}
	s.fails([]string{"build", s.profile}, "the mirror cannot be reached")
}

// TestSceneInterruptedFetch: Ctrl-C and kill -9 while a mirror does not answer.
func TestSceneInterruptedFetch(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newScene(t)
	s.small()
	hang := make(chan struct{})
	defer close(hang)
	stuck := func(what string) func() bool {
		s.m.Spoil(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, what) {
				<-hang
				return
			}
			s.m.Serve(w, r)
		})
		return func() bool { return strings.Contains(strings.Join(s.m.Asked(), " "), what) }
	}
	for _, where := range []struct{ what, verb string }{{"InRelease", "plan"}, {"/hello_", "build"}} {
		s.must(os.RemoveAll(filepath.Join(s.cache(), "ingot/debs")))
		reached := stuck(where.what)
		said, err := s.interrupted(syscall.SIGINT, reached, where.verb, s.profile)
		if err == nil || !strings.Contains(said, "ingot: interrupted; nothing was stored") {
			t.Errorf("%s after Ctrl-C: %v\n%s", where.verb, err, said)
		}
		s.clean()
		reached = stuck(where.what)
		if said, err := s.interrupted(syscall.SIGKILL, reached, where.verb, s.profile); err == nil {
			t.Errorf("%s was not killed:\n%s", where.verb, said)
		}
		s.noProcesses()
		s.m.Spoil(nil)
		// The next one fetches, and removes what the killed one left. Its
		// kernel has no modules.
		s.fails([]string{"build", s.profile}, "fetch           ")
	}
}

// TestSceneWaits: two at once; the second one says that it waits, and Ctrl-C
// ends the waiting.
func TestSceneWaits(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newScene(t)
	s.small()
	hang := make(chan struct{})
	s.m.Spoil(func(w http.ResponseWriter, r *http.Request) { <-hang; s.m.Serve(w, r) })
	first := s.ingot("plan", s.profile)
	s.must(first.Start())
	for len(s.m.Asked()) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	start := time.Now()
	said, err := s.interrupted(syscall.SIGINT, func() bool { return time.Since(start) > 2*time.Second }, "plan", s.profile)
	if err == nil || !strings.Contains(said, "waiting for another ingot that is using apt") ||
		!strings.Contains(said, "interrupted") {
		t.Errorf("the second one: %v\n%s", err, said)
	}
	second := s.ingot("plan", s.profile)
	s.must(second.Start())
	close(hang)
	if err := first.Wait(); err != nil {
		t.Errorf("the first one: %v", err)
	}
	if err := second.Wait(); err != nil {
		t.Errorf("the second one: %v", err)
	}
	s.clean()
}

// TestSceneFullCache: the disk of the cache is full.
func TestSceneFullCache(t *testing.T) {
	requireAll(t)
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root; CI has it")
	}
	s := newScene(t)
	s.small()
	s.must(os.MkdirAll(s.cache(), 0o755))
	for size, name := range map[string]string{"16k": "resolving", "640k": "fetching"} {
		cmd := s.ingot("build", s.profile)
		cmd.Args = append([]string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs -o size=` + size +
			` none "$XDG_CACHE_HOME" && exec "$0" "$@"`}, cmd.Args...)
		var err error
		if cmd.Path, err = exec.LookPath("unshare"); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			inner := *s
			inner.t = t
			inner.failsAs(cmd, "no space left on device", "free disk space, or move the store (--store) or the cache "+
				"(XDG_CACHE_HOME)")
		})
	}
}
