//go:build e2e

package testbuild

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/builder"
	"ingot/builder/lock"
	"ingot/image"
)

// surroundings are what must not be seen in an image.
type surroundings struct {
	name  string
	procs string // GOMAXPROCS
	umask string
	clock string // as faketime(1) takes it; empty: the true one
	user  bool   // an unprivileged user in a user namespace
	zone  string
	cache string // of another build, by its name; empty: a cold one
}

// TestSceneSamePlanSameBits: the same plan, in surroundings that differ in
// everything, gives the same image.
func TestSceneSamePlanSameBits(t *testing.T) {
	l := newLab(t)
	builds := []surroundings{
		{name: "plain", procs: "2", umask: "022", zone: "UTC"},
		{name: "else", procs: "1", umask: "077", clock: "+400d", user: true, zone: "Pacific/Chatham"},
		{name: "warm", procs: "2", umask: "027", zone: "UTC", cache: "plain"},
	}
	if os.Getenv("INGOT_TEST_ALL") != "" { // one by one, to name the one that shows
		builds = append(builds, surroundings{name: "one processor", procs: "1", umask: "022"},
			surroundings{name: "umask", procs: "2", umask: "077"},
			surroundings{name: "clock", procs: "2", umask: "022", clock: "-700d"},
			surroundings{name: "user", procs: "2", umask: "022", user: true})
	}
	start := time.Now()
	want := ""
	for _, b := range builds {
		if b.user && os.Geteuid() != 0 {
			b.user = false // it is one already
		}
		got := l.build(b)
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("%+v gives %s; want %s\n%s", b, got, want, l.difference(builds[0].name, b.name))
		}
	}
	l.timeless(start)
}

// lab is the shipped profile and its packages, for builds in several places.
type lab struct {
	t       *testing.T
	ctx     context.Context
	dir     string
	profile string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := beginLab(t)
	l.must(os.WriteFile(l.profile, []byte("name: lab\nextends: lab\nfiles:\n  - {path: /etc/scene, source: scene.txt}\n"),
		0o644))
	l.must(os.WriteFile(filepath.Join(l.dir, "scene.txt"), []byte("scene\n"), 0o600))
	l.must(os.Chmod(filepath.Join(l.dir, "scene.txt"), 0o644))
	l.fetch()
	return l
}

// beginLab makes the folder of a lab, without a profile.
func beginLab(t *testing.T) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	t.Cleanup(cancel)
	dir, err := os.MkdirTemp("", "itb-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{t: t, ctx: ctx, dir: dir, profile: filepath.Join(dir, "lab.yaml")}
	l.must(os.Chmod(dir, 0o755))
	for _, name := range []string{"ingot", "ingot-init"} { // where everybody may read them
		l.tool("install", "-m", "755", "../bin/"+name, filepath.Join(dir, name))
	}
	return l
}

// fetch locks and fetches the packages of the profile once, with the cache that everything else uses.
func (l *lab) fetch() {
	l.t.Helper()
	cmd := exec.CommandContext(l.ctx, filepath.Join(l.dir, "ingot"), "--store",
		filepath.Join(l.dir, "keys-store"), "plan", l.profile, "--fetch")
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("planning: %v\n%s", err, out)
	}
	user, err := os.UserCacheDir()
	l.must(err)
	lock, err := lock.Read(filepath.Join(l.dir, "lab.lock"))
	l.must(err)
	debs := filepath.Join(l.dir, "debs")
	l.must(os.Mkdir(debs, 0o755))
	for _, p := range append(lock.Packages, lock.Kernel, lock.Stub) {
		l.tool("cp", filepath.Join(user, "ingot/debs", p.SHA256+".deb"), debs)
	}
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) tool(name string, args ...string) {
	l.t.Helper()
	if out, err := exec.CommandContext(l.ctx, name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// place prepares the folders of one build: store with the same keys, cache
// with the same packages and nothing else, scratch folder, home.
func (l *lab) place(b surroundings) string {
	l.t.Helper()
	dir := filepath.Join(l.dir, strings.ReplaceAll(b.name, " ", "-"))
	for _, d := range []string{"store", "tmp", "home", "cache/ingot"} {
		l.must(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	l.tool("cp", "-a", filepath.Join(l.dir, "keys-store/keys"), filepath.Join(dir, "store"))
	cache := filepath.Join(dir, "cache/ingot")
	l.must(os.Symlink(filepath.Join(l.dir, "debs"), filepath.Join(cache, "debs")))
	if b.cache != "" {
		for _, d := range []string{"layers", "blocks"} {
			l.tool("cp", "-a", filepath.Join(l.dir, b.cache, "cache/ingot", d), cache)
		}
	}
	if b.user {
		l.tool("chown", "-R", fmt.Sprintf("%d:%d", stranger, stranger), dir)
	}
	return dir
}

// stranger is the uid of somebody without rights, whom no host has.
const stranger = 54321

// build builds the lab in the given surroundings and returns its digest.
func (l *lab) build(b surroundings) string {
	l.t.Helper()
	cmd := l.command(b, l.place(b), "build", l.profile, "--version", "v1", "--locked", "--offline", "-o", "json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	start := time.Now()
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("building %q: %v\n%s", b.name, err, stderr.String())
	}
	l.t.Logf("built %q in %.1f s", b.name, time.Since(start).Seconds())
	var v struct{ Digest string }
	l.must(json.Unmarshal(out, &v))
	return v.Digest
}

// command is ingot with the folders of a place, in the given surroundings.
func (l *lab) command(b surroundings, dir string, args ...string) *exec.Cmd {
	l.t.Helper()
	env := map[string]string{"INGOT_STORE": dir + "/store", "XDG_CACHE_HOME": dir + "/cache",
		"TMPDIR": dir + "/tmp", "HOME": dir + "/home",
		"GOMAXPROCS": b.procs, "TZ": b.zone, "PATH": os.Getenv("PATH")}
	preload := ""
	if b.clock != "" {
		// ingot itself is static, and reads no clock for what it builds
		// (archtest); this is about the host's tools that it runs.
		// The library shares memory with its children unless it is told not to,
		// and cannot when the user changes on the way.
		env["FAKETIME"], env["DONT_FAKE_MONOTONIC"], env["FAKETIME_DISABLE_SHM"] = b.clock, "1", "1"
		preload = "export LD_PRELOAD=" + l.faketime() + "; "
	}
	script := fmt.Sprintf(`umask %s; cd %s; %sexec "$0" "$@"`, b.umask, dir, preload)
	args = append([]string{filepath.Join(l.dir, "ingot")}, args...)
	cmd := exec.CommandContext(l.ctx, "sh", append([]string{"-c", script}, args...)...)
	if b.user {
		cmd = exec.CommandContext(l.ctx, "unshare",
			append([]string{"--mount", "sh", "-c", l.becomeStranger(script)}, args...)...)
	}
	cmd.Dir = "/"
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	return cmd
}

// becomeStranger is a shell script that runs another one, with its arguments,
// as a user who has subordinate ids. The files of the host stay as they are.
func (l *lab) becomeStranger(then string) string {
	l.t.Helper()
	ids := fmt.Sprintf("stranger:%d:65536\n", 1<<30)
	passwd, err := os.ReadFile("/etc/passwd")
	l.must(err)
	files := map[string]string{"subuid": ids, "subgid": ids,
		"passwd": string(passwd) + fmt.Sprintf("stranger:x:%d:%d::%s:/bin/sh\n", stranger, stranger, l.dir)}
	script := "set -e\n"
	for name, text := range files {
		path := filepath.Join(l.dir, name)
		l.must(os.WriteFile(path, []byte(text), 0o644))
		if _, err := os.Stat("/etc/" + name); err != nil {
			l.t.Skipf("this host has no /etc/%s to put another one over", name)
		}
		script += "mount --bind " + path + " /etc/" + name + "\n"
	}
	return script + fmt.Sprintf(`exec setpriv --reuid=%d --regid=%d --clear-groups sh -c '%s' "$0" "$@"`, stranger,
		stranger, then)
}

// faketime is the library that shows a program another clock.
func (l *lab) faketime() string {
	l.t.Helper()
	libs, _ := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if len(libs) == 0 {
		if os.Getenv("CI") != "" {
			l.t.Fatal("faketime is missing; run scripts/setup test")
		}
		l.t.Skip("faketime is missing; run scripts/setup test")
	}
	return libs[0]
}

// open opens the image of one of the builds.
func (l *lab) open(name string) (*image.Store, image.Image, *builder.Contents) {
	l.t.Helper()
	s, err := image.Open(l.ctx, filepath.Join(l.dir, strings.ReplaceAll(name, " ", "-"), "store"))
	l.must(err)
	im, err := s.Get(l.ctx, "lab:v1")
	l.must(err)
	c, err := builder.OpenContents(s, im)
	l.must(err)
	return s, im, c
}

// difference says how two builds differ, for the one who has to find out why.
func (l *lab) difference(a, b string) string {
	_, x, from := l.open(a)
	defer from.Close()
	_, y, to := l.open(b)
	defer to.Close()
	text := fmt.Sprintf("kernel %s, %s\ninitramfs %s, %s\nroot %s, %s\n",
		x.Manifest.Kernel.Digest, y.Manifest.Kernel.Digest,
		x.Manifest.Initramfs.Digest, y.Manifest.Initramfs.Digest, x.Manifest.Root.Digest, y.Manifest.Root.Digest)
	have := map[string]string{}
	for _, e := range from.Entries {
		have[e.Path] = fmt.Sprint(e.Kind, e.Mode, e.UID, e.GID, e.Size, e.ModTime, e.Target)
	}
	for _, e := range to.Entries {
		if got := fmt.Sprint(e.Kind, e.Mode, e.UID, e.GID, e.Size, e.ModTime, e.Target); got != have[e.Path] {
			text += fmt.Sprintf("/%s: %s, %s\n", e.Path, have[e.Path], got)
		}
	}
	return text
}

// timeless checks what one clock cannot show: nothing in the image is of the
// time when it was built, as a date or as a number of seconds.
func (l *lab) timeless(start time.Time) {
	l.t.Helper()
	_, im, c := l.open("plain")
	defer c.Close()
	if im.Manifest.Created.After(start.Add(-48 * time.Hour)) {
		return // a package is as new as the image, and may say so
	}
	var words [][]byte
	for _, day := range []time.Time{start, time.Now()} {
		for _, zone := range []*time.Location{time.UTC, time.Local} {
			for _, format := range []string{"2006-01-02", "Jan _2 15:", "02 Jan 2006", "Jan 2 2006", "20060102"} {
				words = append(words, []byte(day.In(zone).Format(format)))
			}
		}
	}
	for _, e := range c.Entries {
		if e.Hard != "" {
			continue // all but its path is another entry's
		}
		if e.ModTime != im.Manifest.Created.Unix() {
			l.t.Errorf("/%s is of %v; want %v, like everything", e.Path, time.Unix(e.ModTime, 0).UTC(), im.Manifest.Created)
		}
		if e.Open == nil || e.Path == ingot.AgentPath[1:] {
			continue
		}
		r, err := e.Open()
		l.must(err)
		content, err := io.ReadAll(r)
		r.Close()
		l.must(err)
		for _, w := range words {
			if bytes.Contains(content, w) {
				l.t.Errorf("/%s holds %q", e.Path, w)
			}
		}
		if at := secondsBetween(content, start, time.Now()); at >= 0 {
			l.t.Errorf("/%s holds %s, the time when it was built", e.Path, content[at:at+10])
		}
	}
}

// secondsBetween looks for a number of ten digits that is a Unix time in a
// span, and returns its offset or −1.
func secondsBetween(content []byte, from, to time.Time) int {
	lo, hi := []byte(strconv.FormatInt(from.Unix(), 10)), []byte(strconv.FormatInt(to.Unix(), 10))
	common := 0
	for common < len(lo) && lo[common] == hi[common] {
		common++
	}
	for at := 0; ; {
		i := bytes.Index(content[at:], lo[:common])
		if i < 0 || at+i+10 > len(content) {
			return -1
		}
		at += i
		if n := content[at : at+10]; bytes.Compare(n, lo) >= 0 && bytes.Compare(n, hi) <= 0 &&
			bytes.Trim(n, "0123456789") == nil {
			return at
		}
		at++
	}
}
