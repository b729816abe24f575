package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/state/bolt"
	"ingot/image"
)

// holding puts an image whose plan says that it holds the keys of the shop as they are.
func (s *shop) holding(t *testing.T, version string, features ...ingot.Feature) {
	t.Helper()
	keys, err := image.LoadOrCreateKeys(filepath.Join(s.root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"keys": map[string]ingot.Digest{
		"server": ingot.DigestOf(keys.Server.Public.Text()), "release": ingot.DigestOf(keys.Release.Public.Text())}})
	if err != nil {
		t.Fatal(err)
	}
	plan, file := filepath.Join(t.TempDir(), "plan"), filepath.Join(t.TempDir(), "file")
	if err := errors.Join(os.WriteFile(plan, text, 0o644), os.WriteFile(file, []byte(version), 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.images.Put(t.Context(), &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: version,
		Created: time.Unix(9, 0), Features: features},
		image.Files{Kernel: file, Initramfs: file, Root: file, Plan: plan}, keys.Release.Secret); err != nil {
		t.Fatal(err)
	}
}

// TestKeyRotate: keys are replaced at the command line, which lists what follows from it, and says the
// next step. It is in the audit log.
func TestKeyRotate(t *testing.T) {
	s := newShop(t)
	s.holding(t, "old")
	s.holding(t, "new", ingot.FeatureSuccessors)
	ingotIn := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := call(t, "", append(args, "--store", s.root)...)
		if code != want {
			t.Fatalf("ingot %v = %d\n%s%s", args, code, stdout, stderr)
		}
		return stdout, stderr
	}
	ingotIn(2, "key", "rotate")
	ingotIn(2, "key", "rotate", "ca")
	ingotIn(1, "key", "show", "ABCDEF")
	text, _ := ingotIn(0, "key", "rotate", "server")
	for _, want := range []string{"was replaced by", "lab:old", "cannot follow", "ingot key distrust old-", "back up"} {
		if !strings.Contains(text, want) {
			t.Errorf("rotate says\n%s\nwant %q", text, want)
		}
	}
	if strings.Contains(text, "lab:new") {
		t.Errorf("rotate says\n%s\nalthough lab:new follows", text)
	}
	var old api.SigningKey
	text, _ = ingotIn(0, "key", "rotate", "release", "--leaked", "-o", "json")
	if err := json.Unmarshal([]byte(text), &old); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, im := range old.Images {
		names[im.Name] = ""
		for _, m := range im.Machines {
			names[im.Name] += m.Name
		}
	}
	if len(names) != 5 || names["lab:v1"] != "node01" || old.State != api.KeyLeaked || old.Use != ingot.KeyRelease {
		t.Errorf("the leaked key is %+v; want all five images, and node01 with lab:v1", old)
	}
	var again []api.SigningKey
	text, _ = ingotIn(0, "key", "show", old.ID, "-o", "json")
	if err := json.Unmarshal([]byte(text), &again); err != nil || len(again) != 1 || len(again[0].Images) != 5 {
		t.Errorf("key show %s = %v, %+v", old.ID, err, again)
	}
	for _, ref := range []string{"lab:v1", "lab:new"} { // known before the leak
		ingotIn(0, "image", "verify", ref)
	}
	text, _ = ingotIn(0, "key", "show")
	for _, want := range []string{"in use", "leaked", "replaced, kept", "old-" + old.ID} {
		if !strings.Contains(text, want) {
			t.Errorf("key show says\n%s\nwant %q", text, want)
		}
	}
	if _, stderr := ingotIn(1, "key", "distrust", old.Name); !strings.Contains(stderr, "node01 is assigned it (lab:v1)") ||
		!strings.Contains(stderr, "ingot key show "+old.ID) {
		t.Errorf("withdrawing a key that node01 needs says\n%s", stderr)
	}
	ingotIn(0, "key", "distrust", old.Name, "--force")
	ingotIn(1, "image", "verify", "lab:v1")
	s.edit(t, func(st *bolt.Store) {
		want := "key.rotate server, key.rotate release, key.distrust " + old.Name
		if got := strings.Join(auditLines(t, st), ", "); got != want {
			t.Errorf("the audit log has %s; want %s", got, want)
		}
	})
}

// TestKeyRotateWhileServing: the running server replaces its own key, and needs no release key for
// anything, also when that is replaced by a command beside it.
func TestKeyRotateWhileServing(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	f.serve()
	rotate := func(args ...string) (k api.SigningKey) {
		t.Helper()
		argv := append([]string{"--store", f.store, "-o", "json", "key", "rotate"}, args...)
		out, err := asIngot(f.lan.Command(f.ctx, os.Args[0], argv...)).Output()
		if err = errors.Join(err, json.Unmarshal(out, &k)); err != nil {
			t.Fatalf("ingot key rotate %v: %v\n%s", args, err, out)
		}
		return k
	}
	before, err := image.OpenSigner(filepath.Join(f.store, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	was, err := before.Public()
	if err != nil {
		t.Fatal(err)
	}
	if k := rotate("server"); k.ID != was.ID() || k.State != api.KeyReplaced {
		t.Errorf("rotate server = %+v; want that %s was replaced", k, was.ID())
	}
	if now, err := before.Public(); err != nil || now.ID() == was.ID() {
		t.Errorf("the key is %s, %v; want another one", now.ID(), err)
	}
	if k := rotate("release", "--leaked"); k.State != api.KeyLeaked || k.Use != ingot.KeyRelease {
		t.Errorf("rotate release = %+v", k)
	}
	out, err := asIngot(f.lan.Command(f.ctx, os.Args[0], "--store", f.store, "-o", "json", "audit")).Output()
	if err != nil || strings.Count(string(out), `"key.rotate"`) != 2 {
		t.Errorf("the audit log is %s, %v; want two rotations", out, err)
	}
}
