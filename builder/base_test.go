package builder

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/builder/accounts"
	"ingot/builder/buildertest"
	"ingot/builder/inspect"
	"ingot/builder/tree"
	"ingot/image"
	"ingot/profiles"
)

// numberedBuild is a build of no packages. The layer cache stands in for their configuration: install
// puts what the packages make of given numbers into it.
type numberedBuild struct {
	*build
	t    *testing.T
	said bytes.Buffer
}

func newNumberedBuild(t *testing.T, p *profiles.Profile, cache string, known accounts.List) *numberedBuild {
	n := &numberedBuild{t: t}
	env := &Env{CacheDir: cache, Log: slog.New(slog.NewTextHandler(&n.said, nil))}
	n.build = prepare(env, &Plan{Profile: p, Accounts: known}, BuildOptions{})
	n.work = t.TempDir()
	return n
}

// install makes a root with some accounts the result of configuring the packages with given numbers.
func (n *numberedBuild) install(given, made accounts.List) *tree.Tree {
	n.t.Helper()
	passwd, group := "root:x:0:0::/root:/bin/sh\n", "root:x:0:\n"
	for _, a := range made {
		if a.UID != 0 {
			passwd += fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", a.Name, a.UID, a.GID)
		}
		if a.GID != 0 {
			group += fmt.Sprintf("%s:x:%d:\n", a.Name, a.GID)
		}
	}
	root := tree.New()
	for p, text := range map[string]string{"etc/passwd": passwd, "etc/group": group} {
		if err := root.PutFile(p, 0o644, []byte(text)); err != nil {
			n.t.Fatal(err)
		}
	}
	_, _, err := n.layers.get(n.t.Context(), n.baseKey(given), func(fresh string) error {
		f, err := os.Create(fresh)
		if err != nil {
			return err
		}
		defer f.Close()
		return root.WriteTar(n.t.Context(), f, buildertest.MadeAt)
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return root
}

// base returns the accounts of the base tree.
func (n *numberedBuild) base() (accounts.List, error) {
	n.t.Helper()
	root, err := n.baseTree(n.t.Context(), func() {})
	if err != nil {
		return nil, err
	}
	list, err := readAccounts(root)
	if err != nil {
		n.t.Fatal(err)
	}
	return list, nil
}

// equals compares two lists of accounts.
func equals(t *testing.T, what string, got, want accounts.List) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestFirstBuildIsNumbered: the numbers of new accounts follow from their names, however the packages
// chose them at first, and a later build finds the same tree in the cache.
func TestFirstBuildIsNumbered(t *testing.T) {
	p, cache := &profiles.Profile{Name: "x"}, t.TempDir()
	b := newNumberedBuild(t, p, cache, accounts.List{})
	chose := accounts.List{{Name: "munge", UID: 101, GID: 104}, {Name: "postgres", UID: 100, GID: 103}}
	want := accounts.List{}.Number(chose)
	b.install(accounts.List{}, chose)
	b.install(want, want)
	got, err := b.base()
	if err != nil {
		t.Fatal(err)
	}
	equals(t, "the tree of the first build", got, want)
	equals(t, "the accounts of the first build", b.accounts, want)
	again := newNumberedBuild(t, p, cache, want)
	if got, err = again.base(); err != nil {
		t.Fatal(err)
	}
	equals(t, "the tree of the next build", got, want)
	// When the packages choose right at once, they are not configured again; nor are they in the next build.
	cache = t.TempDir()
	b = newNumberedBuild(t, p, cache, accounts.List{})
	b.install(accounts.List{}, want)
	if got, err = b.base(); err != nil {
		t.Fatal(err)
	}
	equals(t, "the tree of a build in one pass", got, want)
	if got, err = newNumberedBuild(t, p, cache, want).base(); err != nil {
		t.Fatal(err)
	}
	equals(t, "the tree after a build in one pass", got, want)
}

// TestPackagesThatInsist: a number that a package insists on is kept when the account is new, and when
// it is one that Debian gives. Any other fails the build, because data may belong to the number of
// before.
func TestPackagesThatInsist(t *testing.T) {
	p := &profiles.Profile{Name: "x"}
	b := newNumberedBuild(t, p, t.TempDir(), accounts.List{})
	first := accounts.List{{Name: "odd", UID: 120, GID: 120}}
	given := accounts.List{}.Number(first)
	insists := accounts.List{{Name: "odd", UID: 950, GID: 950}}
	b.install(accounts.List{}, first)
	b.install(given, insists)
	got, err := b.base()
	if err != nil {
		t.Fatal(err)
	}
	equals(t, "a new account", got, insists)
	equals(t, "its number", b.accounts, insists)
	if !strings.Contains(b.said.String(), "odd") {
		t.Errorf("the log does not name it: %s", b.said.String())
	}
	kept := accounts.List{{Name: "_apt", UID: 100}}
	b = newNumberedBuild(t, p, t.TempDir(), kept)
	b.install(kept, accounts.List{{Name: "_apt", UID: 42}})
	if _, err = b.base(); err != nil {
		t.Errorf("an account that base-passwd has now: %v", err)
	}
	equals(t, "its number", b.accounts, accounts.List{{Name: "_apt", UID: 42}})
	kept = accounts.List{{Name: "postgres", UID: 345, GID: 345}}
	b = newNumberedBuild(t, p, t.TempDir(), kept)
	b.install(kept, accounts.List{{Name: "postgres", UID: 106, GID: 345}})
	if _, err = b.base(); !errors.Is(err, ErrAccounts) || !strings.Contains(err.Error(), `user "postgres"`) ||
		!strings.Contains(err.Error(), "106") || !strings.Contains(err.Error(), "345") {
		t.Errorf("an account that data may belong to: %v; want ErrAccounts with both numbers", err)
	}
	p.Users = []profiles.User{{Name: "www-data", UID: 5000}}
	kept = accounts.List{{Name: "www-data", UID: 5000}}
	b = newNumberedBuild(t, p, t.TempDir(), kept)
	b.install(kept, accounts.List{{Name: "www-data", UID: 33, GID: 33}})
	if _, err = b.base(); !errors.Is(err, ErrAccounts) || !strings.Contains(err.Error(), "the profile gives it 5000") {
		t.Errorf("a number of the profile that base-passwd does not give: %v; want ErrAccounts", err)
	}
}

// TestUsersKeepNumbers: users and groups of a profile keep their numbers when others are added before
// them, and get none that an earlier image has for another name.
func TestUsersKeepNumbers(t *testing.T) {
	first, err := addUsers(buildertest.UsersTree(t), []profiles.User{{Name: "ops"}, {Name: "dev", UID: 5000, GID: 5001}},
		[]profiles.Group{{Name: "data"}}, accounts.List{})
	if err != nil {
		t.Fatal(err)
	}
	equals(t, "the first image", first, accounts.List{{Name: "data", GID: 1000}, {Name: "dev", UID: 5000, GID: 5001},
		{Name: "ops", UID: 1000, GID: 1001}})
	tr := buildertest.UsersTree(t)
	second, err := addUsers(tr, []profiles.User{{Name: "aaa"}, {Name: "ops"}}, []profiles.Group{{Name: "web"}}, first)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range first.Changes(second) {
		t.Errorf("%+v", c)
	}
	if got := read(t, tr, "etc/passwd"); !strings.Contains(got, "ops:x:1000:1001:") ||
		!strings.Contains(got, "aaa:x:1001:") {
		t.Errorf("passwd of the second image:\n%s", got)
	}
	if e := tr.Get("home/ops"); e.UID != 1000 || e.GID != 1001 {
		t.Errorf("home of ops belongs to %d:%d; want 1000:1001", e.UID, e.GID)
	}
	for _, u := range []profiles.User{{Name: "www-data", UID: 5000}, {Name: "www-data", GID: 5000}} {
		if _, err := addUsers(buildertest.UsersTree(t), []profiles.User{u}, nil, accounts.List{}); err == nil ||
			!strings.Contains(err.Error(), "33") {
			t.Errorf("%+v, which the base has: %v; want an error instead of another number than asked for", u, err)
		}
	}
}

// TestAccountsOfPackages: real tools give a package's accounts the numbers that follow from their
// names, in one pass or two, with and without other packages, and the next build gives the same tree.
func TestAccountsOfPackages(t *testing.T) {
	requireAll(t)
	lab := profileBuild(t, "lab")
	script := `adduser --system --quiet --group --home /var/lib/mine mine
useradd -r -d /nonexistent raw
groupadd --system rawgroup
install -d -o mine -g rawgroup /var/lib/theirs
echo 'u sysone - "One"' >/usr/lib/sysusers.d/one.conf
systemd-sysusers one.conf
`
	build := func(cache string, known accounts.List, script string) (*build, *tree.Tree) {
		t.Helper()
		plan := *lab.plan
		plan.Accounts = known
		plan.Packages = append(slices.Clone(lab.plan.Packages), failing(t, lab.cache, "#!/bin/sh\nset -e\n"+script))
		b := prepare(&Env{CacheDir: cache, Packages: lab.cache.Dir}, &plan, BuildOptions{})
		b.work, b.epoch = t.TempDir(), lab.epoch
		root, err := b.baseTree(t.Context(), func() {})
		if err != nil {
			t.Fatal(err)
		}
		if err := root.RemoveMatching(inspect.Purged...); err != nil { // no image has what they match
			t.Fatal(err)
		}
		return b, root
	}
	first, root := build(t.TempDir(), accounts.List{}, script)
	later, again := build(t.TempDir(), first.accounts, script)
	if !slices.Equal(later.accounts, first.accounts) {
		t.Errorf("the next build has the accounts %v; want %v", later.accounts, first.accounts)
	}
	if a, b := digestTree(t, root), digestTree(t, again); a != b {
		t.Errorf("the next build gives another tree: %v", treeDifferences(t, root, again))
	}
	e := root.Get("var/lib/theirs")
	if e.UID != first.accounts.Get(accounts.User, "mine") || e.UID < 200 || e.UID > 899 ||
		e.GID != first.accounts.Get(accounts.Group, "rawgroup") {
		t.Errorf("a folder of the package belongs to %d:%d; its accounts are %v", e.UID, e.GID, first.accounts)
	}
	// Packages that are configured before, and the other way round.
	other, _ := build(t.TempDir(), accounts.List{}, "useradd -r before\ngroupadd --system rawgroup\n"+
		"systemd-sysusers --inline 'u sysone -'\nadduser --system --group mine\nuseradd -r raw\n")
	for _, c := range first.accounts.Changes(other.accounts) {
		t.Errorf("with other packages: %+v", c)
	}
	pinned, root := build(t.TempDir(), accounts.List{{Name: "mine", UID: 5432, GID: 5433}}, script)
	if e := root.Get("var/lib/theirs"); e.UID != 5432 || pinned.accounts.Get(accounts.Group, "mine") != 5433 {
		t.Errorf("with numbers of a profile: %d, %v", e.UID, pinned.accounts)
	}
	if e := root.Get("var/lib/mine"); e == nil || e.UID != 5432 {
		t.Errorf("the home of the account: %+v", e)
	}
	if _, err := os.Stat(filepath.Join(pinned.work, "root")); err == nil {
		t.Error("the installation left its folder")
	}
}

// putRoot puts an image with the root of some accounts, which its manifest may list.
func putRoot(t *testing.T, s *image.Store, version string, made accounts.List, listed bool) image.Image {
	t.Helper()
	n := newNumberedBuild(t, &profiles.Profile{Name: "x", Compression: profiles.CompressFast}, t.TempDir(), nil)
	root := n.install(nil, made)
	n.epoch = buildertest.MadeAt
	m := &ingot.ImageManifest{Schema: 1, Profile: "x", Version: version, Arch: ingot.AMD64, Created: buildertest.MadeAt}
	files := image.Files{Kernel: n.at("kernel"), Initramfs: n.at("initramfs"), Root: n.at("root"), Plan: n.at("plan")}
	for _, p := range []string{files.Kernel, files.Initramfs, files.Plan} {
		if err := os.WriteFile(p, []byte(version), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if files.Chunks, err = n.packRoot(t.Context(), root, files.Root); err != nil {
		t.Fatal(err)
	}
	if listed {
		if m.Users, m.Groups, err = accountsOf(root); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(s.Root(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	im, err := s.Put(t.Context(), m, files, keys.Release.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// TestAccountsOfImages: the accounts of an image that an older ingot built are read from its root; the
// newest image counts; and what a plan changes is compared with it.
func TestAccountsOfImages(t *testing.T) {
	s, err := image.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if list, err := KeptAccounts(t.Context(), s, "x"); err != nil || len(list) > 0 {
		t.Errorf("of no image: %v, %v", list, err)
	}
	older := accounts.List{{Name: "daemon", UID: 1, GID: 1}, {Name: "postgres", UID: 102, GID: 105}}
	v1 := putRoot(t, s, "v1", older, false)
	if len(v1.Manifest.Users) > 0 {
		t.Fatal("the image of an older ingot lists accounts")
	}
	kept, err := KeptAccounts(t.Context(), s, "x")
	if err != nil {
		t.Fatal(err)
	}
	equals(t, "of an image of an older ingot", kept, accounts.List{{Name: "postgres", UID: 102, GID: 105}})
	v2 := putRoot(t, s, "v2", accounts.List{{Name: "postgres", UID: 345, GID: 105}, {Name: "snmp", UID: 102}}, true)
	if kept, err = KeptAccounts(t.Context(), s, "x"); err != nil {
		t.Fatal(err)
	}
	equals(t, "of the newest image", kept, Listed(v2))
	want := []ingot.MovedAccount{{Kind: "user", Name: "postgres", Before: 102, After: 345, Holder: "snmp"}}
	if got, err := MovedBetween(s, v1, v2); err != nil || !slices.Equal(got, want) {
		t.Errorf("MovedBetween = %v, %v; want %v", got, err, want)
	}
	plan := &Plan{Profile: &profiles.Profile{Name: "x"}, Accounts: accounts.List{{Name: "new", UID: 103},
		{Name: "postgres", UID: 5432}}}
	im, got, err := Moved(t.Context(), s, plan)
	want = []ingot.MovedAccount{{Kind: "user", Name: "postgres", Before: 345, After: 5432}}
	if err != nil || im.Digest != v2.Digest || !slices.Equal(got, want) {
		t.Errorf("Moved = %s, %v, %v; want %s, %v", im.Name, got, err, v2.Name, want)
	}
}
