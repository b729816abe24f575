package builder

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"

	"ingot"
	"ingot/builder/accounts"
	"ingot/builder/lock"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/image"
)

// maxPasses bounds how often the packages are configured: once when all numbers of accounts are
// known or follow from their names, once more when names share a number, and once more when a
// package insists on a number.
const maxPasses = 3

// baseTree installs the packages, or takes the result from the cache when an earlier build installed
// the same ones. Accounts get the numbers of the plan. Those that are met for the first time get
// numbers, too; where they differ from those that were given while packages were configured,
// everything is configured again, so that the first build and later ones give the same tree. It
// calls unpacked when the packages are unpacked and a processor is free.
func (b *build) baseTree(ctx context.Context, unpacked func()) (*tree.Tree, error) {
	if b.plan.Accounts == nil {
		root, _, err := b.installed(ctx, nil, unpacked)
		return root, err
	}
	kept, given := b.plan.Accounts, b.plan.Accounts
	for pass := range maxPasses {
		root, path, err := b.installed(ctx, given, unpacked)
		if err != nil {
			return nil, err
		}
		found, err := readAccounts(root)
		if err != nil {
			return nil, err
		}
		if kept, err = b.insisted(kept, given, found, pass); err != nil {
			return nil, err
		}
		next := kept.Number(found)
		if len(next.Changes(found)) == 0 {
			b.accounts = next
			return root, b.keepAs(ctx, path, next)
		}
		b.Logger().Debug("configuring the packages again: accounts get other numbers", "accounts", len(next))
		given = next
	}
	return nil, fmt.Errorf("%w: their numbers are different each time the packages are configured", ErrAccounts)
}

// insisted returns the numbers that are kept for the next pass: with those that packages gave in spite
// of the numbers that they were given. A number that is kept from earlier images is not given up,
// unless it became one of those that Debian gives.
func (b *build) insisted(kept, given, found accounts.List, pass int) (accounts.List, error) {
	for _, c := range given.Changes(found) {
		earlier := b.plan.Accounts.Get(c.Kind, c.Name) != 0
		switch {
		case lock.Given(b.p).Get(c.Kind, c.Name) != 0:
			return nil, fmt.Errorf("%w: the package of the %s %q gives it the number %d, the profile gives it %d; "+
				"leave the number out of the profile", ErrAccounts, c.Kind, c.Name, c.After, c.Before)
		case earlier && !accounts.Static(c.Kind, c.After):
			return nil, fmt.Errorf("%w: the package of the %s %q gives it the number %d, but files on volumes may belong "+
				"to %d, its number in earlier images; to accept it, give %q the number %d in the profile", ErrAccounts,
				c.Kind, c.Name, c.After, c.Before, c.Name, c.After)
		case earlier || pass > 0:
			b.Logger().Warn("a package chooses the number of its account itself", "kind", c.Kind, "name", c.Name,
				"number", c.After, "instead", c.Before)
			kept = kept.Set(c.Kind, c.Name, c.After)
		}
	}
	return kept, nil
}

// installed returns the tree of the installed packages, and the path of its layer in the cache.
func (b *build) installed(ctx context.Context, given accounts.List, unpacked func()) (*tree.Tree, string, error) {
	b.Report("install", 0, 0, "")
	tar, kept, err := b.layers.get(ctx, b.baseKey(given), func(fresh string) error {
		work, err := os.MkdirTemp(b.work, "install-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(work)
		return b.install(ctx, fresh, work, given, unpacked)
	})
	if err != nil {
		return nil, "", fmt.Errorf("installing packages: %w", err)
	}
	detail := fmt.Sprintf("%d packages", len(b.plan.Packages))
	if kept {
		detail = "unchanged, from the cache"
	}
	b.Report("install", 1, 1, detail)
	root, err := tree.FromTar(ctx, tar)
	return root, tar, err
}

// install installs the packages of the plan into a tar.
func (b *build) install(ctx context.Context, out, work string, given accounts.List, unpacked func()) error {
	return source.Install(ctx, b.cache, b.plan.Packages, out, source.InstallOptions{
		Arch: string(b.plan.Profile.Arch), Epoch: b.epoch, Keep: b.plan.Profile.Keep, Accounts: given,
		Preseed: b.p.Preseed(), Work: work, Unpacked: unpacked,
		Progress: func(line string) { b.Report("install", 0, 0, clip(line)) },
	})
}

// baseKey returns the key of the installed packages in the layer cache.
func (b *build) baseKey(given accounts.List) string {
	key := sha256.New()
	fmt.Fprintln(key, source.InstallKey(b.plan.Profile.Keep), b.plan.Profile.Base.Suite,
		b.plan.Profile.Arch, b.epoch.Unix())
	for _, p := range b.plan.Packages {
		fmt.Fprintln(key, p.SHA256)
	}
	if given != nil {
		fmt.Fprintf(key, "accounts %s\n%s\n%s", accounts.Stub, given.Numbers(accounts.User),
			given.Numbers(accounts.Group))
	}
	if answers := b.p.Preseed(); len(answers) > 0 {
		fmt.Fprintf(key, "debconf %q\n", answers)
	}
	return fmt.Sprintf("base-%x", key.Sum(nil))
}

// keepAs keeps a layer under the key that later builds look for, when they know the numbers of all
// accounts.
func (b *build) keepAs(ctx context.Context, path string, given accounts.List) error {
	key := b.baseKey(given)
	if b.layers.has(key) {
		return nil
	}
	_, _, err := b.layers.get(ctx, key, func(fresh string) error { return os.Link(path, fresh) })
	return err
}

// readAccounts reads the accounts of a root, without root's own.
func readAccounts(root *tree.Tree) (accounts.List, error) {
	var text [2][]byte
	for i, p := range []string{"etc/passwd", "etc/group"} {
		if root.Find(p) == nil {
			continue
		}
		var err error
		if text[i], err = root.ReadFile(p); err != nil {
			return nil, fmt.Errorf("reading the accounts: %w", err)
		}
	}
	return accounts.Read(text[0], text[1]), nil
}

// accountsOf returns the accounts of a root as a manifest lists them.
func accountsOf(root *tree.Tree) (users, groups map[string]int, err error) {
	list, err := readAccounts(root)
	if err != nil {
		return nil, nil, err
	}
	users, groups = byName(list)
	return users, groups, nil
}

// byName returns the numbers of accounts by name.
func byName(list accounts.List) (users, groups map[string]int) {
	users, groups = map[string]int{}, map[string]int{}
	for _, a := range list {
		if a.UID != 0 {
			users[a.Name] = a.UID
		}
		if a.GID != 0 {
			groups[a.Name] = a.GID
		}
	}
	return users, groups
}

// KeptAccounts returns the numbers of the accounts in the newest image of a profile that are to stay.
// The list is empty when the store has no image of it.
func KeptAccounts(ctx context.Context, s *image.Store, profile string) (accounts.List, error) {
	im, found, err := newest(ctx, s, profile)
	if err != nil || !found {
		return nil, err
	}
	list, err := Accounts(s, im)
	return list.Given(), err
}

// newest returns the image of a profile that was added to the store last.
func newest(ctx context.Context, s *image.Store, profile string) (im image.Image, found bool, err error) {
	images, err := s.List(ctx)
	if err != nil {
		return im, false, err
	}
	for _, i := range images {
		if i.Manifest.Profile == profile {
			im, found = i, true
		}
	}
	return im, found, nil
}

// Accounts returns the accounts of an image, without root. Those of an image whose manifest does not
// list them are read from its root.
func Accounts(s *image.Store, im image.Image) (accounts.List, error) {
	if list := Listed(im); list != nil {
		return list, nil
	}
	c, err := OpenContents(s, im)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return readAccounts(c.Tree)
}

// Listed returns the accounts that the manifest of an image lists. It is nil for images of an older
// ingot.
func Listed(im image.Image) accounts.List {
	m := im.Manifest
	if len(m.Users) == 0 {
		return nil
	}
	list := accounts.List{}
	for name, n := range m.Users {
		list = list.Set(accounts.User, name, n)
	}
	for name, n := range m.Groups {
		list = list.Set(accounts.Group, name, n)
	}
	return list
}

// Moved compares the numbers that a plan gives to accounts with those in the newest image of its
// profile, which it returns, too. Accounts that the plan does not know yet are not compared.
func Moved(ctx context.Context, s *image.Store, plan *Plan) (im image.Image, list []ingot.MovedAccount, err error) {
	im, found, err := newest(ctx, s, plan.Profile.Name)
	if err != nil || !found || plan.Accounts == nil {
		return im, nil, err
	}
	before, err := Accounts(s, im)
	if err != nil {
		return im, nil, err
	}
	// What the plan does not say stays as it is.
	var from, to ingot.ImageManifest
	from.Users, from.Groups = byName(before)
	to.Users, to.Groups = byName(before.With(plan.Accounts))
	return im, ingot.MovedAccounts(&from, &to), nil
}

// MovedBetween returns the accounts whose numbers differ between two images.
func MovedBetween(s *image.Store, before, after image.Image) ([]ingot.MovedAccount, error) {
	var manifests [2]ingot.ImageManifest
	for i, im := range []image.Image{before, after} {
		list, err := Accounts(s, im)
		if err != nil {
			return nil, err
		}
		manifests[i].Users, manifests[i].Groups = byName(list)
	}
	return ingot.MovedAccounts(&manifests[0], &manifests[1]), nil
}
