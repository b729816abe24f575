package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/instance"
	"ingot/bootserver/operator"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/cmd/ingot/client"
	"ingot/cmd/ingot/doctor"
	"ingot/image"
)

// shop is a store with images lab:v1 to lab:v3, and a state in which one
// machine is assigned the first.
type shop struct {
	root   string
	images *image.Store
}

func newShop(t *testing.T) *shop {
	t.Helper()
	for _, name := range []string{"INGOT_SERVER", "INGOT_CONTEXT", "INGOT_TOKEN", "INGOT_STORE"} {
		t.Setenv(name, "")
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	s := &shop{root: t.TempDir()}
	var err error
	if s.images, err = image.Open(t.Context(), s.root); err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(s.root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	var first image.Image
	for i, v := range []string{"v1", "v2", "v3"} {
		file := filepath.Join(t.TempDir(), v)
		if err := os.WriteFile(file, []byte(v), 0o644); err != nil {
			t.Fatal(err)
		}
		im, err := s.images.Put(t.Context(), &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: v,
			Created: time.Unix(int64(i), 0)},
			image.Files{Kernel: file, Initramfs: file, Root: file, Plan: file}, keys.Release.Secret)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = im
		}
	}
	s.edit(t, func(st *bolt.Store) {
		if err := st.Update(func(tx state.Tx) error {
			tx.StoreMachine(fleet.Machine{ID: "m-1", Name: "node01", State: fleet.Approved,
				Assignment: fleet.Assignment{ImageRef: fleet.ImageRef{Image: first.Digest, Name: "lab:v1"}}})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
	return s
}

// edit opens the state, as a server would.
func (s *shop) edit(t *testing.T, f func(*bolt.Store)) {
	t.Helper()
	st, err := bolt.Open(t.Context(), filepath.Join(s.root, state.Folder))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	f(st)
}

// auditLines are the actions in the audit log, and who did them.
func auditLines(t *testing.T, st *bolt.Store) (list []string) {
	t.Helper()
	all, _, err := st.Changes(state.Query{Audit: true, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Actor.Kind != string(access.Local) || c.Actor.UID == nil || *c.Actor.UID != os.Getuid() {
			t.Errorf("%s is by %+v; want this user", c.Code, c.Actor)
		}
		list = append(list, string(c.Code)+" "+c.Name)
	}
	return list
}

// emptyHanded is a server that knows no machine, and has no image.
type emptyHanded struct{ spiteful }

func (emptyHanded) Machines() []api.Machine { return nil }
func (emptyHanded) LatestBoots() []api.Boot { return nil }

// TestTheStoreOfThisHost: while a context is in use whose server knows no
// machine, images of this host's store that its own machines need stay. No
// server runs, so the command asks the state, and writes its audit log.
func TestTheStoreOfThisHost(t *testing.T) {
	s := newShop(t)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	listen(t, l, emptyHanded{}, &access.Keeper{Find: nobody, Now: time.Now})
	if err := (client.Contexts{Current: "berlin", Contexts: map[string]api.Target{"berlin": {Server: "unix://" +
		socket}}}).Save(); err != nil {
		t.Fatal(err)
	}
	t.Setenv("INGOT_CONTEXT", "berlin")
	for _, args := range [][]string{{"image", "rm", "lab:v1"}, {"image", "gc", "--keep", "1"}, {"image", "tag", "lab:v3",
		"lab:stable"}} {
		code, stdout, stderr := call(t, "", append(args, "--store", s.root)...)
		if want := args[1] == "rm"; (code != 0) != want || want && !strings.Contains(stderr, "node01 is assigned it") {
			t.Errorf("ingot %v = %d\n%s%s", args, code, stdout, stderr)
		}
	}
	if list, err := s.images.List(t.Context()); err != nil || len(list) != 2 || list[0].Name.Version != "v1" {
		t.Errorf("the store has %d images, %v; want v1 and v3", len(list), err)
	}
	build, err := image.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pub := filepath.Join(t.TempDir(), "build1.pub")
	if err := os.WriteFile(pub, build.Release.Public.Text(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"key", "trust", pub}, {"key", "distrust", "build1"}} {
		if code, _, stderr := call(t, "", append(args, "--store", s.root)...); code != 0 {
			t.Errorf("ingot %v = %d %s", args, code, stderr)
		}
	}
	s.edit(t, func(st *bolt.Store) {
		want := "image.gc lab:v2, image.gc , image.tag lab:stable, key.trust build1, key.distrust build1"
		if got := strings.Join(auditLines(t, st), ", "); got != want {
			t.Errorf("the audit log has %s; want %s", got, want)
		}
	})
}

// keeper is a server that has a store.
type keeper struct {
	spiteful
	editor operator.Editor
}

func (k keeper) RemoveImage(ctx context.Context, ref string) (api.Image, error) {
	return k.editor.RemoveImage(ctx, ref)
}

// TestTheServerOfTheStore: a server that runs is found wherever its
// configuration put the socket, and does what is asked; until it says where, a
// command waits for it.
func TestTheServerOfTheStore(t *testing.T) {
	s := newShop(t)
	socket := filepath.Join(t.TempDir(), "elsewhere")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s.edit(t, func(st *bolt.Store) {
		listen(t, l, keeper{editor: operator.Editor{Store: s.images, State: st, Now: time.Now}}, &access.Keeper{Find: nobody,
			Now: time.Now})
		time.AfterFunc(300*time.Millisecond, func() { _, _ = instance.Write(s.root, socket) }) // it was starting
		if code, stdout, stderr := call(t, "", "--store", s.root, "image", "rm", "lab:v1"); code != 1 ||
			!strings.Contains(stderr, "node01 is assigned it") {
			t.Errorf("image rm lab:v1 = %d\n%s%s", code, stdout, stderr)
		}
		if code, stdout, stderr := call(t, "", "--server", "unix://"+socket, "image", "rm", "lab:v2"); code != 0 {
			t.Errorf("image rm lab:v2 = %d\n%s%s", code, stdout, stderr)
		}
		if got := strings.Join(auditLines(t, st), ", "); got != "image.rm lab:v2" {
			t.Errorf("the audit log has %s; want the removal of lab:v2", got)
		}
	})
	for _, args := range [][]string{{"image", "inspect", "lab:v1"}, {"key", "ls"}, {"image", "ls", "lab:v1"}} {
		if code, _, stderr := call(t, "", append(args, "--server", "unix://"+socket)...); code != 2 ||
			!strings.Contains(stderr, "without --server") {
			t.Errorf("ingot %v --server … = %d %s; want it refused", args, code, stderr)
		}
	}
}

// TestDamagedImagesAreShown: damage of each kind is in image ls, image verify and doctor, in words and in JSON,
// with the next step; what needs reading is found by those that read.
func TestDamagedImagesAreShown(t *testing.T) {
	s := newShop(t)
	v1, err1 := s.images.Get(t.Context(), "lab:v1")
	v2, err2 := s.images.Get(t.Context(), "lab:v2")
	if err := errors.Join(err1, err2, os.Remove(s.images.Blob(v1.Manifest.Root.Digest)),
		os.WriteFile(s.images.Blob(v2.Manifest.Root.Digest), []byte("xx"), 0o644)); err != nil {
		t.Fatal(err)
	}
	const next = "→ " + image.Repair
	code, out, stderr := call(t, "", "--store", s.root, "image", "ls")
	if code != 0 || !strings.Contains(out, "lab:v1") || strings.Count(out, "damaged") < 2 ||
		!strings.Contains(out, next) || !strings.Contains(out, "complete") {
		t.Errorf("image ls: %d, %s%s; want lab:v1 as damaged, with the next step", code, out, stderr)
	}
	var listed []struct{ Name, State, Problem string }
	_, out, _ = call(t, "", "--store", s.root, "-o", "json", "image", "ls")
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed) != 3 {
		t.Fatalf("image ls -o json: %v: %s", err, out)
	}
	for _, im := range listed {
		if damaged := im.Name == "lab:v1"; (im.State == "damaged") != damaged || (im.Problem != "") != damaged {
			t.Errorf("image ls -o json: %+v", im)
		}
	}
	for _, name := range []string{"lab:v1", "lab:v2"} {
		code, out, stderr := call(t, "", "--store", s.root, "-o", "json", "image", "verify", name)
		var answer struct {
			OK            bool
			Problem, Next string
		}
		if err := json.Unmarshal([]byte(out), &answer); err != nil || code != 1 || answer.OK || answer.Problem == "" ||
			answer.Next != image.Repair || !strings.Contains(stderr, next) {
			t.Errorf("image verify %s: %d, %v, %s%s; want the problem and the next step", name, code, err, out, stderr)
		}
	}
	var findings []doctor.Finding
	_, out, _ = call(t, "", "--store", s.root, "-o", "json", "doctor", "--no-trial", "--config=", "--interface",
		"nowhere")
	if err := json.Unmarshal([]byte(out), &findings); err != nil {
		t.Fatalf("doctor: %v: %s", err, out)
	}
	for _, name := range []string{"lab:v1", "lab:v2"} {
		if !slices.ContainsFunc(findings, func(f doctor.Finding) bool {
			return f.Check == "image "+name && f.State == doctor.Error && f.Fix == image.Repair
		}) {
			t.Errorf("doctor does not report %s: %+v", name, findings)
		}
	}
}

// TestConversionIsReported: a command that converts the state of an older schema says so, and where the file from
// before is; one that only reads converts nothing.
func TestConversionIsReported(t *testing.T) {
	s := newShop(t)
	dir := filepath.Join(s.root, state.Folder)
	file := filepath.Join(dir, "ingot.db")
	f, err := os.Open(filepath.Join("..", "..", "bootserver", "state", "bolt", "testdata", "schema1.db.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	old, err := io.ReadAll(z)
	if err := errors.Join(err, os.WriteFile(file, old, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"image", "gc", "--dry-run"}, {"image", "ls"}, {"image", "verify", "lab:v1"}} {
		code, out, stderr := call(t, "", append([]string{"--store", s.root}, args...)...)
		if now, err := os.ReadFile(file); code != 0 || err != nil || !bytes.Equal(now, old) || stderr != "" {
			t.Errorf("ingot %v: %d, %v, %s%s; the state has %d bytes and had %d; want it unchanged", args, code, err, out,
				stderr, len(now), len(old))
		}
	}
	_, _, stderr := call(t, "", "--store", s.root, "image", "tag", "lab:v3", "lab:stable")
	want := "note: the state " + file + " was converted from schema 1 to schema 2, which older versions of ingot " +
		"refuse; the file from before is " + file + ".before-schema-2\n"
	if kept, err := os.ReadFile(file + ".before-schema-2"); stderr != want || err != nil || len(kept) < len(old)/2 {
		t.Errorf("image tag: %q, %v; want %q", stderr, err, want)
	}
	if _, _, stderr := call(t, "", "--store", s.root, "image", "tag", "lab:v3", "lab:stable"); stderr != "" {
		t.Errorf("image tag, once more: %q; want nothing about a conversion", stderr)
	}
}

// TestRemovedByWholeName: an image is removed by what names no other one tomorrow. Anything else is
// refused with what it means now, and the command that removes that.
func TestRemovedByWholeName(t *testing.T) {
	s := newShop(t)
	v3, err := s.images.Tag(t.Context(), "lab:v3", "lab:stable")
	if err != nil {
		t.Fatal(err)
	}
	v2, err := s.images.Get(t.Context(), "lab:v2")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ ref, says string }{
		{"lab", `"lab" is a profile with 3 images, lab:v1, lab:v2, lab:v3, and means lab:v3, the newest of them`},
		{"lab:stable", "lab:stable is a tag, which can move; it means lab:v3 now"},
		{v3.Digest.Hex()[:7], `"` + v3.Digest.Hex()[:7] + `" has too few digits; it means lab:v3 now`},
		{string(v3.Digest[:len("sha256:")+6]), "has too few digits; it means lab:v3 now"},
	} {
		code, stdout, stderr := call(t, "", "--store", s.root, "image", "rm", c.ref)
		if code != 1 || !strings.Contains(stderr, c.says) || !strings.Contains(stderr, "→ if you mean that image: "+
			"ingot image rm lab:v3\n") {
			t.Errorf("ingot image rm %s = %d\n%s%s\nwant %q, and how to remove lab:v3", c.ref, code, stdout, stderr, c.says)
		}
	}
	if list, err := s.images.List(t.Context()); err != nil || len(list) != 3 {
		t.Fatalf("the store has %d images, %v; want all three", len(list), err)
	}
	_, completed, _ := call(t, "", "__complete", "--store", s.root, "image", "rm", "")
	for _, want := range []string{"lab:v1\t", "lab:v2\t", "lab:v3\t"} {
		if !strings.Contains(completed, want) || strings.Contains(completed, "stable") {
			t.Errorf("ingot image rm completes\n%s\nwant %q, and no tag", completed, want)
		}
	}
	for _, ref := range []string{v2.Digest.Hex()[:8], "lab:v3"} {
		if code, stdout, stderr := call(t, "", "--store", s.root, "image", "rm", ref); code != 0 {
			t.Errorf("ingot image rm %s = %d\n%s%s", ref, code, stdout, stderr)
		}
	}
	if code, _, stderr := call(t, "", "--store", s.root, "image", "rm", "lab"); code != 1 ||
		!strings.Contains(stderr, `"lab" is a profile, and means lab:v1, its only image`) {
		t.Errorf("ingot image rm lab = %d %s; want it refused also when there is one image", code, stderr)
	}
}

// TestCheckSaysMissingImages: the check of a configuration warns of images for new machines that this
// host's store lacks. Without a store there is nothing to compare with.
func TestCheckSaysMissingImages(t *testing.T) {
	s := newShop(t)
	file := filepath.Join(t.TempDir(), "ingot.yaml")
	const text = "boots:\n  rules:\n    - {mac: '52:54:00:*', approve: true, image: 'lab:v9'}\n" +
		"    - {vendor: QEMU, image: 'lab:v1'}\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := call(t, "", "--store", s.root, "config", "check", "--config", file)
	want := "warning: the rule for mac 52:54:00:* gives lab:v9 to new machines, which " + s.root +
		" does not have\n  → build"
	if code != 0 || !strings.Contains(stdout, want) || strings.Contains(stdout, "lab:v1") {
		t.Errorf("config check = %d\n%s%s\nwant %q, and nothing of lab:v1", code, stdout, stderr, want)
	}
	_, stdout, _ = call(t, "", "--store", s.root, "config", "check", "--config", file, "-o", "json")
	if !strings.Contains(stdout, `"image": "lab:v9"`) {
		t.Errorf("config check -o json:\n%s\nwant lab:v9 in it", stdout)
	}
	none := filepath.Join(t.TempDir(), "none")
	if code, stdout, _ := call(t, "", "--store", none, "config", "check", "--config", file); code != 0 ||
		strings.Contains(stdout, "warning") {
		t.Errorf("config check without a store = %d\n%s", code, stdout)
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("config check made a store")
	}
}
