package image

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
)

// follow walks from a key over successors as a machine does, and returns the last key.
func follow(t *testing.T, from PublicKey, use ingot.KeyUse, list []ingot.Successor) PublicKey {
	t.Helper()
	for _, s := range list {
		if from.Verify(ingot.SuccessorText(use, s.Key), s.Signature) != nil {
			continue
		}
		next, err := ParsePublicKey([]byte(s.Key))
		if err != nil {
			t.Fatal(err)
		}
		from = next
	}
	return from
}

func newKeys(t *testing.T) (dir string, keys Keys) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "keys")
	keys, err := LoadOrCreateKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, keys
}

// holds is an image with a server key in its initramfs.
func holds(follows bool) Image {
	var im Image
	if follows {
		im.Manifest.Features = []ingot.Feature{ingot.FeatureSuccessors}
	}
	return im
}

// TestRotateServer: after one and two rotations, tickets lead from each earlier key to the one that
// signs; images that cannot follow get tickets by the key that they hold, as long as it is kept.
func TestRotateServer(t *testing.T) {
	dir, keys := newKeys(t)
	s, err := OpenSigner(dir)
	if err != nil {
		t.Fatal(err)
	}
	first, ticket := keys.Server.Public, []byte(`{"boot":"x"}`)
	olds := []PublicKey{first}
	for range 2 {
		_, fresh, err := Rotate(dir, Rotation{Use: ingot.KeyServer, Now: time.Unix(1, 0), Keep: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, old := range olds {
			signed, err := s.Sign(ticket, "c", holds(true), ingot.DigestOf(old.Text()))
			if err != nil {
				t.Fatal(err)
			}
			end := follow(t, old, ingot.KeyServer, signed.ServerKeys)
			if end.ID() != fresh.ID() || end.Verify(ticket, signed.Signature) != nil {
				t.Errorf("from %s the ticket leads to %s; want %s, which signed", old.ID(), end.ID(), fresh.ID())
			}
			if follow(t, old, ingot.KeyRelease, signed.ServerKeys).ID() != old.ID() {
				t.Errorf("the successor of server key %s is taken for a release key", old.ID())
			}
			rigid, err := s.Sign(ticket, "c", holds(false), ingot.DigestOf(old.Text()))
			if err != nil || old.Verify(ticket, rigid.Signature) != nil {
				t.Errorf("an image that cannot follow gets a ticket that %s did not sign (%v)", old.ID(), err)
			}
		}
		if now, err := s.Public(); err != nil || now.ID() != fresh.ID() {
			t.Errorf("the signer has key %s, %v; want %s", now.ID(), err, fresh.ID())
		}
		olds = append(olds, fresh)
	}
	ring, err := ReadKeyring(dir)
	if err != nil {
		t.Fatal(err)
	}
	held := ingot.DigestOf(first.Text())
	if err := errors.Join(ring.Follows(holds(true), held), ring.Follows(holds(false), held)); err != nil {
		t.Errorf("images with the first key: %v", err)
	}
	if !ring.Accepts(holds(true), ingot.KeyServer, held, ingot.DigestOf(olds[1].Text())) {
		t.Error("an image that follows from the first key does not accept the second; a leak of it would not concern it")
	}
	if ring.Accepts(holds(false), ingot.KeyServer, held, ingot.DigestOf(olds[1].Text())) {
		t.Error("an image that cannot follow accepts the second key")
	}
	if err := Distrust(dir, "old-"+first.ID()); err != nil {
		t.Fatal(err)
	}
	if ring, err = ReadKeyring(dir); err != nil {
		t.Fatal(err)
	}
	for _, follows := range []bool{true, false} {
		if err := ring.Follows(holds(follows), held); !errors.Is(err, ErrReplacedKey) {
			t.Errorf("an image (follows: %t) whose key was withdrawn: %v; want ErrReplacedKey", follows, err)
		}
	}
	if err := ring.Follows(holds(true), ingot.DigestOf(olds[1].Text())); err != nil {
		t.Errorf("the second key was withdrawn with the first: %v", err)
	}
	if _, err := os.Stat(keptFile(dir, first.ID())); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the private half of a withdrawn key is there: %v", err)
	}
}

// TestRotateWithoutKeeping: when no image needs it, the old private half is gone, and images of an
// older ingot that come later are refused.
func TestRotateWithoutKeeping(t *testing.T) {
	dir, keys := newKeys(t)
	before, err := os.ReadFile(filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Rotate(dir, Rotation{Use: ingot.KeyServer, Now: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if b, _ := os.ReadFile(filepath.Join(dir, e.Name())); strings.Contains(string(b), strings.TrimSpace(string(before))) {
			t.Errorf("%s has the old private half", e.Name())
		}
		if info, err := e.Info(); err != nil || strings.HasSuffix(e.Name(), ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v)", e.Name(), info.Mode(), err)
		}
	}
	ring, err := ReadKeyring(dir)
	if err != nil {
		t.Fatal(err)
	}
	held := ingot.DigestOf(keys.Server.Public.Text())
	if err := ring.Follows(holds(false), held); !errors.Is(err, ErrReplacedKey) {
		t.Errorf("an image that cannot follow: %v; want ErrReplacedKey", err)
	}
	if err := ring.Follows(holds(true), held); err != nil {
		t.Errorf("an image that follows: %v", err)
	}
	if err := ring.Follows(holds(false), ingot.DigestOf([]byte("a key of another store"))); err != nil {
		t.Errorf("an image for another server: %v", err)
	}
}

// TestRotateRelease: images that the old key signed are accepted further on. After a leak only those
// that were there are, and no others, from anywhere.
func TestRotateRelease(t *testing.T) {
	for _, leaked := range []bool{false, true} {
		dir, keys := newKeys(t)
		known, later := Image{OCI: []byte("known")}, Image{OCI: []byte("later")}
		for _, im := range []*Image{&known, &later} {
			im.Digest, im.Signature = ingot.DigestOf(im.OCI), keys.Release.Secret.Sign(im.OCI, "c")
		}
		old, fresh, err := Rotate(dir, Rotation{Use: ingot.KeyRelease, Now: time.Unix(1, 0), Leaked: leaked,
			Images: []ingot.Digest{known.Digest}})
		if err != nil {
			t.Fatal(err)
		}
		ring, err := ReadKeyring(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := known.VerifySignature(ring.For(known.Digest)...); err != nil {
			t.Errorf("leaked: %t: an image of the store: %v", leaked, err)
		}
		if err := later.VerifySignature(ring.For(later.Digest)...); (err == nil) == leaked {
			t.Errorf("leaked: %t: an image that came later: %v", leaked, err)
		}
		trusted, err := TrustedKeys(dir)
		if err != nil || trusted[0].ID != fresh.ID() || trusted[0].Name != OwnKey ||
			slices.ContainsFunc(trusted, func(k NamedKey) bool { return k.ID == old.ID }) == leaked {
			t.Errorf("leaked: %t: trusted are %+v, %v", leaked, trusted, err)
		}
		if err := Trust(dir, "old-x", fresh); !errors.Is(err, ErrKeyName) {
			t.Errorf("trusting a key under the name of a replaced one: %v", err)
		}
		s, err := OpenSigner(dir)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := s.Sign([]byte("{}"), "c", known, "")
		if err != nil || follow(t, keys.Release.Public, ingot.KeyRelease, signed.ReleaseKeys).ID() != fresh.ID() {
			t.Errorf("leaked: %t: tickets do not lead to the new release key (%v)", leaked, err)
		}
		if err := Distrust(dir, old.Name()); err != nil {
			t.Fatal(err)
		}
		if ring, err = ReadKeyring(dir); err != nil {
			t.Fatal(err)
		}
		if err := known.VerifySignature(ring.For(known.Digest)...); !errors.Is(err, ErrSignature) {
			t.Errorf("leaked: %t: an image of a withdrawn key: %v", leaked, err)
		}
	}
}

// TestServerNeedsNoReleaseKey: what signs tickets neither makes nor reads the private half of the
// release key.
func TestServerNeedsNoReleaseKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if _, err := OpenSigner(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"release.key", "release.pub"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made: %v", name, err)
		}
	}
	if _, _, err := Rotate(dir, Rotation{Use: ingot.KeyRelease}); !errors.Is(err, ErrNoSecretKey) {
		t.Errorf("rotating a key that is elsewhere: %v; want ErrNoSecretKey", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "release.key"), []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSigner(dir); err != nil {
		t.Errorf("a release key that cannot be read stops the server: %v", err)
	}
}

// TestKilledWhileRotating kills a process that rotates at random moments. Whatever is left, the
// server starts, what it signs is accepted from every key that was ever in use, and the next
// rotation succeeds.
func TestKilledWhileRotating(t *testing.T) {
	if dir := os.Getenv("IMAGE_TEST_ROTATE"); dir != "" {
		fmt.Println("it begins")
		for {
			if _, _, err := Rotate(dir, Rotation{Use: ingot.KeyServer, Now: time.Unix(1, 0), Keep: true}); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir, keys := newKeys(t)
	first := keys.Server.Public
	seen := map[string]PublicKey{first.ID(): first}
	ticket := []byte(`{"boot":"x"}`)
	for range 15 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhileRotating$")
		cmd.Env = append(os.Environ(), "IMAGE_TEST_ROTATE="+dir)
		out, err := cmd.StdoutPipe()
		if err := errors.Join(err, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil { // it has begun, however busy the machine is
			t.Fatal(err)
		}
		time.Sleep(rand.N(60 * time.Millisecond))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s, err := OpenSigner(dir)
		if err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		now, err := s.Public()
		if err != nil {
			t.Fatal(err)
		}
		seen[now.ID()] = now
		if mended, err := readPublicKey(filepath.Join(dir, "server.pub")); err != nil || mended.ID() != now.ID() {
			t.Fatalf("server.pub has key %s, %v; server.key %s", mended.ID(), err, now.ID())
		}
		ring, err := ReadKeyring(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, old := range seen {
			held := ingot.DigestOf(old.Text())
			signed, err := s.Sign(ticket, "c", holds(true), held)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(signed.ServerKeys); n < ingot.MaxSuccessors &&
				follow(t, old, ingot.KeyServer, signed.ServerKeys).Verify(ticket, signed.Signature) != nil {
				t.Fatalf("an image with key %s does not accept the ticket of %s", old.ID(), now.ID())
			}
			rigid, err := s.Sign(ticket, "c", holds(false), held)
			if err != nil || old.Verify(ticket, rigid.Signature) != nil {
				t.Fatalf("an image with key %s that cannot follow does not accept its ticket (%v)", old.ID(), err)
			}
			if err := ring.Follows(holds(false), held); err != nil {
				t.Fatalf("key %s: %v", old.ID(), err)
			}
		}
	}
	if len(seen) < 3 {
		t.Errorf("only %d keys were seen; nothing was rotated", len(seen))
	}
}
