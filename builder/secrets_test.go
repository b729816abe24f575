package builder

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ingot/builder/accounts"
	"ingot/builder/buildertest"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/profiles"
)

const sharedKey = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n" +
	"-----END PRIVATE KEY-----\n"

// TestSecretsFailTheBuild: a key that nobody knows is refused with its path and the way to allow it;
// one that the profile brings or allows is not; a known one is left out.
func TestSecretsFailTheBuild(t *testing.T) {
	var said bytes.Buffer
	check := func(p *profiles.Profile, random ...string) error {
		t.Helper()
		b := &build{Env: &Env{Log: slog.New(slog.NewTextHandler(&said, nil))}, p: p, random: random}
		tr := buildertest.SystemdTree(t)
		for path, text := range map[string]string{"etc/app/tls.key": sharedKey, "etc/munge/munge.key": sharedKey,
			"etc/lot": "1", "etc/libvirt/qemu/networks/default.xml": "<uuid>1</uuid>\n"} {
			if err := tr.PutFile(path, 0o600, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.removeSecrets(tr); err != nil {
			t.Fatal(err)
		}
		for _, f := range p.Files {
			if err := addFile(tr, f, []byte(f.Content)); err != nil {
				t.Fatal(err)
			}
		}
		return b.checkSecrets(tr)
	}
	err := check(&profiles.Profile{})
	if !errors.Is(err, ErrSecrets) || !strings.Contains(err.Error(), "/etc/app/tls.key: a private key\n") ||
		!strings.Contains(err.Error(), `secrets: {allow: [{path: "/etc/app/tls.key", reason: "…"}]}`) ||
		strings.Contains(err.Error(), "munge") {
		t.Errorf("an unknown key = %v; want ErrSecrets with its path and the way to allow it", err)
	}
	allow := profiles.Secrets{Allow: []profiles.AllowedSecret{{Path: "/etc/app/*", Reason: "a test"}}}
	if err := check(&profiles.Profile{Secrets: allow}); err != nil {
		t.Errorf("an allowed key: %v", err)
	}
	if !strings.Contains(said.String(), "the image lacks a secret that its machines must share") ||
		!strings.Contains(said.String(), "/etc/munge/munge.key") {
		t.Errorf("the build said %s\nwant that MUNGE's key must be supplied", said.String())
	}
	said.Reset()
	brought := []profiles.File{{Path: "/etc/app/tls.key", Content: sharedKey},
		{Path: "/etc/munge/munge.key", Content: sharedKey}}
	if err := check(&profiles.Profile{Files: brought}); err != nil || strings.Contains(said.String(), "lacks") {
		t.Errorf("keys that the profile brings: %v, said %s", err, said.String())
	}
	err = check(&profiles.Profile{Secrets: allow}, "/etc/lot", "/etc/gone", "/etc/app/tls.key",
		"/etc/libvirt/qemu/networks/default.xml")
	if !errors.Is(err, ErrSecrets) || !strings.Contains(err.Error(), "/etc/lot: differs between two runs") ||
		strings.Contains(err.Error(), "gone") || strings.Contains(err.Error(), "tls.key") ||
		strings.Contains(err.Error(), "libvirt") {
		t.Errorf("random files = %v; want the one that is in the image, not allowed and not cleaned", err)
	}
}

// TestRandomPathsAreReported: who verifies gets every random path of the root, and why it is allowed,
// instead of a refusal.
func TestRandomPathsAreReported(t *testing.T) {
	p := &profiles.Profile{Files: []profiles.File{{Path: "/etc/brought"}}, Secrets: profiles.Secrets{
		Allow: []profiles.AllowedSecret{{Path: "/etc/key", Reason: "a test"}}}}
	b := &build{Env: &Env{}, p: p, random: []string{"/etc/brought", "/etc/gone", "/etc/key", "/etc/seed"}}
	var got []RandomPath
	b.Random = func(r RandomPath) { got = append(got, r) }
	tr := buildertest.SystemdTree(t)
	for _, path := range []string{"etc/brought", "etc/key", "etc/seed"} {
		if err := tr.PutFile(path, 0o644, []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.checkSecrets(tr); err != nil {
		t.Fatal(err)
	}
	if want := []RandomPath{{"/etc/key", "a test"}, {"/etc/seed", ""}}; !slices.Equal(got, want) {
		t.Errorf("random paths = %v; want %v", got, want)
	}
}

// TestSecondRunIsCached: the result of a second run is found again by what the plan installs, also by
// a build whose other caches are empty and whose plan knows accounts that no package made, as that
// of a finished image does. Another number of an account, or other packages, are another plan.
func TestSecondRunIsCached(t *testing.T) {
	made := accounts.List{{Name: "munge", UID: 201, GID: 201}}
	cache := t.TempDir()
	newer := func(dir string, known accounts.List, change func(*build)) (*build, *tree.Tree) {
		n := newNumberedBuild(t, &profiles.Profile{Name: "x"}, dir, known)
		n.build.runs.dir = prepare(&Env{CacheDir: dir}, n.plan, BuildOptions{Earlier: cache}).runs.dir
		if change != nil {
			change(n.build)
		}
		return n.build, n.install(known, made)
	}
	first, root := newer(cache, made, nil)
	key, err := first.runKey(root)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = first.runs.get(t.Context(), key, func(fresh string) error {
		return os.WriteFile(fresh, []byte(`["/etc/seed"]`), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	later, again := newer(t.TempDir(), append(slices.Clone(made), accounts.Account{Name: "operator", UID: 900, GID: 900}),
		func(b *build) { b.Check = true })
	if err := later.findRandom(t.Context(), again); err != nil || !slices.Equal(later.random, []string{"/etc/seed"}) {
		t.Errorf("a later build finds %v, %v; want the result of the first", later.random, err)
	}
	for what, change := range map[string]func(*build){
		"other packages": func(b *build) { b.plan.Packages = []source.Package{buildertest.Package("bash", "5.2")} },
		"another epoch":  func(b *build) { b.epoch = b.epoch.AddDate(1, 0, 0) },
	} {
		other, root := newer(t.TempDir(), made, change)
		if err := other.findRandom(t.Context(), root); err != nil || other.random != nil {
			t.Errorf("a build with %s finds %v, %v; want nothing", what, other.random, err)
		}
	}
}

// TestAllowedSecretsAreExplained: an entry needs a path and a reason, and extends adds to the list.
func TestAllowedSecretsAreExplained(t *testing.T) {
	dir := t.TempDir()
	load := func(text string) (*profiles.Profile, error) {
		file := filepath.Join(dir, "p.yaml")
		if err := os.WriteFile(file, []byte("name: x\nextends: lab\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
		return profiles.Load(file)
	}
	_, err := load("secrets: {allow: [{path: etc/x, reason: why}, {path: /etc/y}]}\n")
	for _, want := range []string{`"etc/x" cannot be a path in the root`,
		`the secret "/etc/y" is allowed without a reason`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load = %v; want %s", err, want)
		}
	}
	p, err := load("secrets: {allow: [{path: /etc/x/*.key, reason: why}]}\n")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"/etc/x/a.key": true, "/etc/x/a.key/below": true, "/etc/x/a": false,
		"/etc/x/d/a.key": false} {
		if got := p.Secrets.Allows(path); got != want {
			t.Errorf("Allows(%s) = %v; want %v", path, got, want)
		}
	}
}
