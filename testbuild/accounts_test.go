//go:build e2e

package testbuild

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/builder"
	"ingot/builder/accounts"
	"ingot/builder/lock"
	"ingot/image"
)

// database is a profile whose package makes an account, and its data lies on a volume.
const database = `name: pg
extends: node
packages: [postgresql]
users: [{name: ops}]
volumes: [{name: pgdata, mount: /var/lib/postgresql}]
`

// more extends database by packages whose accounts are made before it.
const more = `name: pg2
extends: ../pg
packages: [redis-server, prometheus-node-exporter, snmpd, munge, bind9]
users: [{name: aaa}]
`

// plain extends lab by packages that make accounts and nothing at random.
const plain = `name: plain
extends: lab
packages: [tcpdump, uuid-runtime]
users: [{name: ops}]
groups: [{name: data}]
`

// accountsScene is profiles with real packages, an operator's store, and the cache that everything else
// uses.
type accountsScene struct {
	t     *testing.T
	ctx   context.Context
	dir   string
	store string
}

func (s *accountsScene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *accountsScene) profile(name, text string) {
	s.t.Helper()
	s.must(os.MkdirAll(filepath.Join(s.dir, name), 0o755))
	s.must(os.WriteFile(filepath.Join(s.dir, name, "profile.yaml"), []byte(text), 0o644))
}

// run runs ingot and returns its output; cache is the folder of caches, empty for the usual one.
func (s *accountsScene) run(cache string, args ...string) (stdout, stderr string, err error) {
	var out, said strings.Builder
	cmd := exec.CommandContext(s.ctx, "../bin/ingot", append(args, "--store", s.store)...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &said, os.Environ()
	if cache != "" {
		cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+cache)
	}
	err = cmd.Run()
	return out.String(), said.String(), err
}

// build builds a profile and returns the image.
func (s *accountsScene) build(cache, name, version string) (*image.Store, image.Image) {
	s.t.Helper()
	if out, said, err := s.run(cache, "build", filepath.Join(s.dir, name), "--version", version); err != nil {
		s.t.Fatalf("building %s:%s: %v\n%s%s", name, version, err, out, said)
	}
	store, err := image.Open(s.ctx, s.store)
	s.must(err)
	im, err := store.Get(s.ctx, name+":"+version)
	s.must(err)
	return store, im
}

// owner returns the numbers of a folder of an image.
func (s *accountsScene) owner(store *image.Store, im image.Image, path string) [2]int {
	s.t.Helper()
	c, err := builder.OpenContents(store, im)
	s.must(err)
	defer c.Close()
	e := c.Get(path)
	if e == nil {
		s.t.Fatalf("%s has no /%s", im.Name, path)
	}
	return [2]int{e.UID, e.GID}
}

// coldCache returns a folder of caches with the packages of the usual one and nothing else.
func (s *accountsScene) coldCache(name string) string {
	s.t.Helper()
	user, err := os.UserCacheDir()
	s.must(err)
	dir := filepath.Join(s.dir, name)
	s.must(os.MkdirAll(filepath.Join(dir, "ingot"), 0o755))
	for _, sub := range []string{"debs", "apt"} {
		s.must(os.Symlink(filepath.Join(user, "ingot", sub), filepath.Join(dir, "ingot", sub)))
	}
	return dir
}

// TestSceneAccountsKeepNumbers: a database's account has one number in every image, whatever packages
// come and go; the first build and a later one from its lock give one image; the profile decides.
func TestSceneAccountsKeepNumbers(t *testing.T) {
	requireAll(t)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "itb-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s := &accountsScene{t: t, ctx: ctx, dir: dir, store: filepath.Join(dir, "store")}
	s.profile("pg", database)
	s.profile("pg2", more)
	s.profile("plain", plain)
	store, pg := s.build("", "pg", "v1")
	_, pg2 := s.build("", "pg2", "v1")
	if moved := ingot.MovedAccounts(&pg.Manifest, &pg2.Manifest); len(moved) > 0 || pg.Manifest.Users["postgres"] == 0 {
		t.Errorf("accounts of pg:v1 that are others' in pg2:v1: %v; want none", moved)
	}
	postgres := [2]int{pg.Manifest.Users["postgres"], pg.Manifest.Groups["postgres"]}
	for _, im := range []image.Image{pg, pg2} {
		if got := s.owner(store, im, "var/lib/postgresql"); got != postgres {
			t.Errorf("%s: the database belongs to %v; want %v, postgres", im.Name, got, postgres)
		}
	}
	if got := pg2.Manifest.Users["Debian-snmp"]; got < 200 || got > 899 {
		t.Errorf("a new account has the number %d; want one from 200 to 899", got)
	}
	// A later build, from the lock and with a cold cache, gives the numbers of the first; and where no
	// package makes anything at random, its bits.
	_, plain := s.build("", "plain", "v1")
	first := s.store + "-first"
	s.must(os.Rename(s.store, first))
	s.must(os.MkdirAll(s.store, 0o755))
	s.must(exec.CommandContext(ctx, "cp", "--archive", filepath.Join(first, "keys"), s.store).Run())
	if _, again := s.build(s.coldCache("cold"), "plain", "v1"); again.Digest != plain.Digest {
		t.Errorf("built again from its lock: %s; want %s", again.Digest, plain.Digest)
	}
	_, again := s.build(s.coldCache("cold2"), "pg", "v1")
	if !maps.Equal(again.Manifest.Users, pg.Manifest.Users) || !maps.Equal(again.Manifest.Groups, pg.Manifest.Groups) ||
		again.Manifest.Plan != pg.Manifest.Plan {
		t.Errorf("built again from its lock: plan %s, users %v; want %s, %v", again.Manifest.Plan, again.Manifest.Users,
			pg.Manifest.Plan, pg.Manifest.Users)
	}
	s.must(os.RemoveAll(s.store))
	s.must(os.Rename(first, s.store))
	// A lock that lost its numbers takes them from the newest image.
	path := filepath.Join(dir, "pg/profile.lock")
	f, err := lock.Read(path)
	s.must(err)
	if f.Accounts.Get("user", "postgres") != postgres[0] {
		t.Errorf("the lock has %v; want postgres with %v", f.Accounts, postgres)
	}
	f.Accounts = nil
	text, err := f.Text()
	s.must(err)
	s.must(os.WriteFile(path, text, 0o644))
	var planned struct {
		Plan  ingot.Digest `json:"digest"`
		Moved *struct {
			Accounts []ingot.MovedAccount `json:"accounts"`
		} `json:"moved"`
	}
	plan := func() {
		t.Helper()
		planned.Moved = nil
		out, said, err := s.run("", "plan", filepath.Join(dir, "pg"), "-o", "json")
		if err != nil {
			t.Fatalf("plan: %v\n%s", err, said)
		}
		s.must(json.Unmarshal([]byte(out), &planned))
	}
	if plan(); planned.Plan != pg.Manifest.Plan || planned.Moved != nil {
		t.Errorf("a lock without numbers: plan %s, moved %v; want %s and none", planned.Plan, planned.Moved,
			pg.Manifest.Plan)
	}
	// The profile decides, and plan and diff say what follows from it.
	s.profile("pg", strings.Replace(database, "[{name: ops}]", "[{name: ops}, {name: postgres, uid: 5432, gid: 5433}]", 1))
	want := fmt.Sprintf("user postgres %d → 5432", postgres[0])
	if plan(); planned.Moved == nil || len(planned.Moved.Accounts) != 2 || planned.Moved.Accounts[0].String() != want {
		t.Errorf("plan lists %+v; want postgres twice", planned.Moved)
	}
	store, pg = s.build("", "pg", "v2")
	if got := s.owner(store, pg, "var/lib/postgresql"); got != [2]int{5432, 5433} {
		t.Errorf("the database belongs to %v; want the numbers of the profile", got)
	}
	if out, said, err := s.run("", "image", "diff", "pg:v1", "pg:v2"); err != nil || !strings.Contains(out, want) {
		t.Errorf("image diff = %v; want %q\n%s%s", err, want, out, said)
	}
}

// TestSceneUpdateKeepsNumbers: an update of the packages keeps the numbers of accounts, and so does one
// that replaces a lock that cannot be read, by the numbers that the profile gives.
func TestSceneUpdateKeepsNumbers(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.small()
	s.ok("plan", s.profile)
	if f, err := lock.Read(s.lock()); err != nil || f.Accounts != nil {
		t.Errorf("before the first build the lock has %v, %v; want no numbers", f.Accounts, err)
	}
	kept := accounts.List{{Name: "postgres", UID: 345, GID: 346}}
	if _, err := lock.KeepAccounts(s.lock(), kept); err != nil {
		t.Fatal(err)
	}
	s.must(s.m.Add(s.ctx, Deb{Name: "hello", Version: "3"}))
	s.publish(Release{})
	if out, _ := s.ok("plan", s.profile, "--update"); !strings.Contains(out, "hello") {
		t.Errorf("the update does not show the newer package:\n%s", out)
	}
	f, err := lock.Read(s.lock())
	if err != nil || !slices.Equal(f.Accounts, kept) {
		t.Errorf("after an update the lock has %v, %v; want %v", f.Accounts, err, kept)
	}
	s.write(s.profile, s.read(s.profile)+"users: [{name: postgres, uid: 5432}]\n")
	s.fails([]string{"plan", s.profile, "--locked"}, "user postgres is 5432, locked is 345")
	if out, _ := s.ok("plan", s.profile); !strings.Contains(out, "user postgres") || !strings.Contains(out, "5432") {
		t.Errorf("plan does not show the number of the profile:\n%s", out)
	}
}
