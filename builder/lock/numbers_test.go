package lock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/builder/accounts"
	"ingot/builder/source"
	"ingot/profiles"
)

// numbersOf resolves a profile whose lock matches, and returns the numbers and what happened to the
// lock.
func numbersOf(t *testing.T, p *profiles.Profile, o Options) (accounts.List, Result) {
	t.Helper()
	_, r, err := Resolve(t.Context(), &source.Env{Offline: true, CacheDir: t.TempDir()}, p, o)
	if err != nil {
		t.Fatal(err)
	}
	return r.Accounts, r
}

// writeLock writes a lock that matches a profile.
func writeLock(t *testing.T, p *profiles.Profile, path string, list accounts.List) {
	t.Helper()
	f := someLock(p)
	if f.Accounts = list; list == nil {
		f.Format = oldestFormat
	}
	if err := f.write(path); err != nil {
		t.Fatal(err)
	}
}

// newestImage is Options.Accounts of a store with one image of a profile.
func newestImage(profile string, list accounts.List) func(context.Context, string) (accounts.List, error) {
	return func(_ context.Context, name string) (accounts.List, error) {
		if name == profile {
			return list, nil
		}
		return nil, nil
	}
}

// TestNumbersAreTaken: a lock without numbers, or a lost one, takes those of the newest image; one
// with numbers does not look at images.
func TestNumbersAreTaken(t *testing.T) {
	p := lockProfile()
	o := Options{Path: filepath.Join(t.TempDir(), "x.lock"),
		Accounts: newestImage("x", accounts.List{{Name: "postgres", UID: 102, GID: 105}})}
	writeLock(t, p, o.Path, nil)
	got, r := numbersOf(t, p, o)
	if got.Get(accounts.User, "postgres") != 102 || got.Get(accounts.Group, "postgres") != 105 || !r.Written {
		t.Errorf("a lock of an older ingot: %v, %+v; want the numbers of the image, written", got, r)
	}
	o.Accounts = newestImage("x", accounts.List{{Name: "postgres", UID: 300, GID: 300}})
	if again, r := numbersOf(t, p, o); again.Get(accounts.User, "postgres") != 102 || r.Written {
		t.Errorf("the same lock beside another image: %v, %+v; want what it has", again, r)
	}
	o.Mode = Exact
	writeLock(t, p, o.Path, nil)
	if got, r := numbersOf(t, p, o); got.Get(accounts.User, "postgres") != 300 || r.Written {
		t.Errorf("--locked with a lock without numbers: %v, %+v; want those of the image, and nothing written", got, r)
	}
	// Before the first build nothing is known, and a lock that says so would hide the images of another store.
	o.Mode, o.Accounts = Use, nil
	writeLock(t, p, o.Path, nil)
	if got, _ := numbersOf(t, p, o); got == nil || len(got) > 0 {
		t.Errorf("without any image: %#v; want an empty list", got)
	}
	if f, err := Read(o.Path); err != nil || f.Accounts != nil {
		t.Errorf("the lock has %v, %v; want no numbers", f.Accounts, err)
	}
	failing := errors.New("cannot be read")
	o.Accounts = func(context.Context, string) (accounts.List, error) { return nil, failing }
	if _, _, err := Resolve(t.Context(), &source.Env{Offline: true}, p, o); !errors.Is(err, failing) {
		t.Errorf("an image that cannot be read: %v; want an error, not other numbers", err)
	}
}

// TestNumbersAreInherited: a profile has the numbers of those that it extends, nearest first, unless it
// has its own.
func TestNumbersAreInherited(t *testing.T) {
	dir := t.TempDir()
	p := lockProfile()
	near, far := lockProfile(), lockProfile()
	near.Name, far.Name = "near", "far"
	p.Parents = []profiles.Parent{{Name: "near", File: filepath.Join(dir, "near/profile.yaml")}, {Name: "far"}}
	writeLock(t, near, filepath.Join(dir, "near/profile.lock"), accounts.List{{Name: "munge", UID: 310, GID: 310},
		{Name: "postgres", UID: 102, GID: 105}})
	writeLock(t, far, filepath.Join(dir, "locks/far.lock"), accounts.List{{Name: "bind", UID: 102, GID: 0},
		{Name: "munge", UID: 311, GID: 311}, {Name: "redis", UID: 320, GID: 320}})
	o := Options{Path: filepath.Join(dir, "x.lock"), Dir: filepath.Join(dir, "locks")}
	writeLock(t, p, o.Path, nil)
	want := accounts.List{{Name: "munge", UID: 310, GID: 310}, {Name: "postgres", UID: 102, GID: 105},
		{Name: "redis", UID: 320, GID: 320}} // bind cannot have 102, which is postgres'
	got, _ := numbersOf(t, p, o)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inherited (-want +got):\n%s", diff)
	}
	writeLock(t, p, o.Path, accounts.List{{Name: "postgres", UID: 200, GID: 200}})
	if got, _ = numbersOf(t, p, o); got.Get(accounts.User, "postgres") != 200 || got.Get(accounts.User, "munge") != 310 {
		t.Errorf("with numbers of its own: %v", got)
	}
	// A parent that was built by an older ingot has them in its images.
	writeLock(t, near, filepath.Join(dir, "near/profile.lock"), nil)
	o.Accounts = newestImage("near", accounts.List{{Name: "snmp", UID: 103, GID: 107}})
	if got, _ = numbersOf(t, p, o); got.Get(accounts.Group, "snmp") != 107 {
		t.Errorf("from an image of the parent: %v", got)
	}
}

// TestProfileDecidesNumbers: a number in the profile counts more than the lock, and is shown as a
// change; one that another account has is an error with its place.
func TestProfileDecidesNumbers(t *testing.T) {
	p := lockProfile()
	o := Options{Path: filepath.Join(t.TempDir(), "x.lock")}
	kept := accounts.List{{Name: "Debian-snmp", UID: 102, GID: 108}, {Name: "postgres", UID: 106, GID: 112}}
	writeLock(t, p, o.Path, kept)
	p.Users = []profiles.User{{Name: "postgres", UID: 5432}}
	p.Groups = []profiles.Group{{Name: "ssl-cert", GID: 107}}
	o.Mode = Exact
	if _, _, err := Resolve(t.Context(), &source.Env{Offline: true}, p, o); !errors.Is(err, ErrStale) ||
		!strings.Contains(err.Error(), "user postgres is 5432, locked is 106") {
		t.Errorf("--locked: %v", err)
	}
	o.Mode = Use
	got, r := numbersOf(t, p, o)
	want := accounts.List{{Name: "Debian-snmp", UID: 102, GID: 108}, {Name: "postgres", UID: 5432, GID: 112},
		{Name: "ssl-cert", GID: 107}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("numbers (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Change{{"user postgres", "106", "5432"}}, r.Changes); diff != "" || !r.Written {
		t.Errorf("changes (-want +got), written %t:\n%s", r.Written, diff)
	}
	p.Users[0] = profiles.User{Name: "postgres", UID: 102, At: profiles.Place{File: "x.yaml", Line: 3, Column: 5}}
	if _, _, err := Resolve(t.Context(), &source.Env{Offline: true}, p, o); err == nil ||
		!strings.Contains(err.Error(), "x.yaml:3:5") ||
		!strings.Contains(err.Error(), `102 of the user "postgres" belongs to "Debian-snmp"`) {
		t.Errorf("a number that is taken: %v", err)
	}
}

// TestKeepAccounts: numbers are added to a lock, and none is ever removed.
func TestKeepAccounts(t *testing.T) {
	p, path := lockProfile(), filepath.Join(t.TempDir(), "x.lock")
	if changed, err := KeepAccounts(path, accounts.List{{Name: "a", UID: 200}}); changed || err != nil {
		t.Errorf("without a lock: %t, %v", changed, err)
	}
	writeLock(t, p, path, nil)
	list := accounts.List{{Name: "postgres", UID: 345, GID: 345}}
	for i, want := range []bool{true, false} {
		if changed, err := KeepAccounts(path, list); changed != want || err != nil {
			t.Errorf("call %d: %t, %v; want %t", i+1, changed, err, want)
		}
	}
	// What another profile's image adds is added; nothing is removed.
	if _, err := KeepAccounts(path, accounts.List{{Name: "munge", UID: 300}}); err != nil {
		t.Fatal(err)
	}
	f, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(accounts.List{{Name: "munge", UID: 300}, {Name: "postgres", UID: 345, GID: 345}},
		f.Accounts); diff != "" {
		t.Errorf("the lock (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n{\"name\":\"postgres\",\"uid\":345,\"gid\":345}\n") {
		t.Errorf("an account is not on a line of its own:\n%s", text)
	}
	broken := strings.Replace(string(text), `"uid":345`, `"uid":300`, 1)
	if err := os.WriteFile(path, []byte(broken), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), `both have the number 300`) {
		t.Errorf("a lock with one number twice: %v", err)
	}
}
