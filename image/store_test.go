package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"ingot"
)

// stored is a store with keys and a way to put small images.
type stored struct {
	*Store
	keys   Keys
	dir    string
	attach func(ingot.Digest) ([]Attachment, error)
}

func newStore(t *testing.T, root string) stored {
	t.Helper()
	s, err := Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return stored{Store: s, keys: keys, dir: t.TempDir()}
}

func (s stored) put(ctx context.Context, version, content string) (Image, error) {
	dir, err := os.MkdirTemp(s.dir, "")
	if err != nil {
		return Image{}, err
	}
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			panic(err)
		}
		return p
	}
	m := &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: version, Arch: ingot.AMD64, Created: time.Unix(1, 0)}
	return s.Put(ctx, m, Files{Kernel: write("kernel", "kernel"), Initramfs: write("initramfs", "initramfs"),
		Root: write("root", content), Plan: write("plan", "{}"), Attach: s.attach}, s.keys.Release.Secret)
}

func TestPutAndGet(t *testing.T) {
	s := newStore(t, t.TempDir())
	root := strings.Repeat("0123456789abcdef", chunkSize/8) + "end" // two chunks and a bit
	im, err := s.put(t.Context(), "v1", root)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(im.Manifest.Chunks); n != 3 || im.Manifest.Chunks[2].Size != 3 {
		t.Errorf("chunks = %d, the last of %d bytes; want 3, the last of 3 bytes", n, im.Manifest.Chunks[n-1].Size)
	}
	if im.Manifest.Root.Digest != ingot.DigestOf([]byte(root)) {
		t.Errorf("root digest = %s; want that of the file", im.Manifest.Root.Digest)
	}
	for _, ref := range []string{"lab:v1", "lab", string(im.Digest), im.Digest.Hex()[:8]} {
		if got, err := s.Get(t.Context(), ref); err != nil || got.Digest != im.Digest {
			t.Errorf("Get(%q) = %s, %v; want %s", ref, got.Digest, err, im.Digest)
		}
	}
	if err := s.keys.Release.Public.Verify(im.OCI, im.Signature); err != nil {
		t.Errorf("the signature of a fresh image: %v", err)
	}
	if err := s.keys.Server.Public.Verify(im.OCI, im.Signature); !errors.Is(err, ErrSignature) {
		t.Errorf("verifying with another key = %v; want ErrSignature", err)
	}
}

// TestSameContentSameDigest: in another store, with other keys, at another time.
func TestSameContentSameDigest(t *testing.T) {
	a, errA := newStore(t, t.TempDir()).put(t.Context(), "v1", "root")
	b, errB := newStore(t, t.TempDir()).put(t.Context(), "v1", "root")
	if errA != nil || errB != nil || a.Digest != b.Digest {
		t.Errorf("digests %s, %s (%v, %v); want the same", a.Digest, b.Digest, errA, errB)
	}
}

func TestPutAgain(t *testing.T) {
	s := newStore(t, t.TempDir())
	first, err := s.put(t.Context(), "v1", "root")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.put(t.Context(), "v1", "root"); err != nil || again.Digest != first.Digest {
		t.Errorf("putting the same = %s, %v; want %s", again.Digest, err, first.Digest)
	}
	_, err = s.put(t.Context(), "v1", "another root")
	if !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "choose another --version") {
		t.Errorf("putting other content under the name = %v; want ErrExists with the next step", err)
	}
	if list, err := s.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("List = %d images, %v; want 1", len(list), err)
	}
}

func TestIncompleteIsNotListed(t *testing.T) {
	s := newStore(t, t.TempDir())
	im, err := s.put(t.Context(), "v1", "root")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.Blob(im.Manifest.Root.Digest), 2); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("List with a short blob = %d images, %v; want none", len(list), err)
	}
	if _, err := s.Get(t.Context(), "lab:v1"); !errors.Is(err, ErrDamaged) {
		t.Errorf("Get of an incomplete image = %v; want ErrDamaged", err)
	}
	if again, err := s.put(t.Context(), "v1", "root"); err != nil || again.Digest != im.Digest {
		t.Errorf("putting it again = %v; want the store repaired", err)
	}
}

func TestPutsAtOnce(t *testing.T) {
	root := t.TempDir()
	a, b := newStore(t, root), newStore(t, root)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			s := []stored{a, b}[i%2]
			if _, err := s.put(context.Background(), fmt.Sprintf("v%d", i), fmt.Sprint("root ", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := a.List(t.Context()); err != nil || len(list) != 16 {
		t.Errorf("after 16 puts at once List = %d images, %v; want 16", len(list), err)
	}
}

// TestMinisignAgrees lets the real minisign judge our keys and signatures.
func TestMinisignAgrees(t *testing.T) {
	if _, err := exec.LookPath("minisign"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("minisign is not installed; run scripts/setup test")
		}
		t.Skip("minisign is not installed")
	}
	root := t.TempDir()
	s := newStore(t, root)
	im, err := s.put(t.Context(), "v1", "root")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"m": im.OCI, "m.minisig": []byte(im.Signature)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(key string) error {
		minisign := exec.Command("minisign", "-V", "-m", filepath.Join(dir, "m"), "-p", filepath.Join(root, "keys", key))
		out, err := minisign.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := verify("release.pub"); err != nil {
		t.Errorf("minisign refuses our signature: %v", err)
	}
	if verify("server.pub") == nil {
		t.Error("minisign accepts the signature under another key")
	}
}

func TestKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	first, err := LoadOrCreateKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKeys(dir)
	if err != nil || string(again.Server.Public.Text()) != string(first.Server.Public.Text()) {
		t.Errorf("loading again = %v; want the same keys", err)
	}
	for _, name := range []string{"release.key", "server.key"} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode of %s = %v, %v; want 0600", name, st.Mode().Perm(), err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "server.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKeys(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read = %v; want an error that says chmod 600", err)
	}
}

// TestKilledWhilePutting kills a writer at random moments. The store must stay
// whole, and the next put must succeed.
func TestKilledWhilePutting(t *testing.T) {
	if root := os.Getenv("IMAGE_TEST_PUT"); root != "" {
		s := newStore(t, root)
		for i := 0; ; i++ {
			version, content := fmt.Sprintf("k%d-%d", os.Getpid(), i), strings.Repeat(fmt.Sprint(i, os.Getpid()), 200_000)
			if _, err := s.put(context.Background(), version, content); err != nil {
				t.Fatal(err)
			}
		}
	}
	root, scratch := t.TempDir(), t.TempDir()
	newStore(t, root)
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhilePutting$")
		cmd.Env = append(os.Environ(), "IMAGE_TEST_PUT="+root, "TMPDIR="+scratch) // it dies with its folders
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20*time.Millisecond + rand.N(120*time.Millisecond)) // the moment of the power cut
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		s := newStore(t, root)
		if _, err := s.Clean(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.put(t.Context(), fmt.Sprintf("after-%d", round), fmt.Sprint(round)); err != nil {
			t.Fatalf("put after a kill: %v", err)
		}
		list, err := s.List(t.Context())
		if err != nil {
			t.Fatalf("list after a kill: %v", err)
		}
		for _, im := range list {
			b, err := os.ReadFile(s.Blob(im.Manifest.Root.Digest))
			if err != nil || ingot.DigestOf(b) != im.Manifest.Root.Digest {
				t.Fatalf("after a kill %s is listed with a damaged root: %v", im.Name, err)
			}
			if err := s.keys.Release.Public.Verify(im.OCI, im.Signature); err != nil {
				t.Fatalf("after a kill %s is listed without its signature: %v", im.Name, err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(root, "images/blobs/sha256", tempPrefix+"*")); len(left) > 0 {
			t.Errorf("Clean leaves %v", left)
		}
	}
}

// TestPutUsesGivenChunks: chunks lie where the writer of the root wants them.
func TestPutUsesGivenChunks(t *testing.T) {
	root := strings.Repeat("0123456789abcdef", 1000)
	for _, c := range []struct {
		sizes []int64
		want  error
	}{
		{[]int64{16000}, nil}, {[]int64{1, 15000, 999}, nil},
		{[]int64{16001}, ErrChunks}, {[]int64{15999}, ErrChunks}, {[]int64{16000, 1}, ErrChunks},
		{[]int64{0, 16000}, ErrChunks}, {[]int64{-1, 16001}, ErrChunks},
	} {
		k := &chunker{sizes: c.sizes}
		_, err := io.Copy(k, iotest.OneByteReader(strings.NewReader(root)))
		var chunks []ingot.Chunk
		if err == nil {
			chunks, err = k.finish()
		}
		if !errors.Is(err, c.want) {
			t.Errorf("cutting at %v: %v; want %v", c.sizes, err, c.want)
		}
		if err != nil {
			continue
		}
		at := int64(0)
		for i, chunk := range chunks {
			if chunk.Size != c.sizes[i] || chunk.Digest != ingot.DigestOf([]byte(root[at:at+chunk.Size])) {
				t.Errorf("cutting at %v: chunk %d is %+v", c.sizes, i, chunk)
			}
			at += chunk.Size
		}
	}
}

// TestStoreOfAnotherUser: what root writes into the store of a server belongs to the server's user.
func TestStoreOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	root := t.TempDir()
	if err := os.Chown(root, 4321, 4322); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, root)
	other, err := LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := Trust(filepath.Join(root, "keys"), "other", other.Release.Public); err != nil {
		t.Fatal(err)
	}
	if _, err := s.put(t.Context(), "v1", "root"); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 4321 || st.Gid != 4322 {
			t.Errorf("%s belongs to %d:%d; want 4321:4322", path, st.Uid, st.Gid)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
