package squashfs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// TestMain is also a writer of its own, for tests that kill it.
func TestMain(m *testing.M) {
	if dir := os.Getenv("INGOT_TEST_WRITER"); dir != "" {
		if err := writerProcess(dir, os.Getenv("INGOT_TEST_IMAGE")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// shared is the tree that all writers of a cache write.
func shared() []Entry { return system(21, 300) }

func writerProcess(cache, image string) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = Write(context.Background(), f, shared(), Options{Level: 1, Cache: &Cache{Dir: cache}})
	return err
}

func startWriter(t *testing.T, cache, image string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "INGOT_TEST_WRITER="+cache, "INGOT_TEST_IMAGE="+image)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// leftovers are the files below dir that are no packs.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*", packPartial+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestCacheSurvivesKilledWriters(t *testing.T) {
	want, _ := mustWrite(t, shared(), Options{Level: 1})
	dir, r := t.TempDir(), rand.New(rand.NewPCG(1, 1))
	image := filepath.Join(t.TempDir(), "image")
	for range 8 {
		cmd := startWriter(t, dir, image)
		time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
	}
	got, info := mustWrite(t, shared(), Options{Level: 1, Cache: &Cache{Dir: dir}})
	if !bytes.Equal(got, want) || info.Repaired != 0 {
		t.Errorf("after kills the image is equal: %v; %d repaired", bytes.Equal(got, want), info.Repaired)
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("killed writers left %q", left)
	}
}

func TestCacheServesManyWriters(t *testing.T) {
	want, _ := mustWrite(t, shared(), Options{Level: 1})
	dir, images := t.TempDir(), t.TempDir()
	for round := range 2 {
		var cmds []*exec.Cmd
		for i := range 4 {
			cmds = append(cmds, startWriter(t, dir, filepath.Join(images, fmt.Sprint(i))))
		}
		for i, cmd := range cmds {
			if err := cmd.Wait(); err != nil {
				t.Errorf("writer %d of round %d: %v", i, round, err)
			}
			got, err := os.ReadFile(cmd.Env[len(cmd.Env)-1][len("INGOT_TEST_IMAGE="):])
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("writer %d of round %d made another image (%v)", i, round, err)
			}
		}
	}
	if left := leftovers(t, dir); len(left) > 0 {
		t.Errorf("writers left %q", left)
	}
}

// TestCacheIsRepaired: whatever happens to a pack, the image is right, the
// damage is reported once, and then everything comes from the cache again.
func TestCacheIsRepaired(t *testing.T) {
	entries := system(3, 400)
	want, _ := mustWrite(t, entries, Options{Level: 1})
	for name, damage := range map[string]func(b []byte) []byte{
		"bits of blocks": func(b []byte) []byte {
			for i := range 5 {
				b[len(b)/10*i+100] ^= 4
			}
			return b
		},
		"index":       func(b []byte) []byte { b[len(b)-packFooter-10] ^= 1; return b },
		"footer":      func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"cut off":     func(b []byte) []byte { return b[:len(b)/2] },
		"empty":       func(b []byte) []byte { return nil },
		"all zero":    func(b []byte) []byte { clear(b); return b },
		"zero blocks": func(b []byte) []byte { clear(b[:len(b)/2]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			cache := &Cache{Dir: t.TempDir()}
			mustWrite(t, entries, Options{Level: 1, Cache: cache})
			packs, _ := filepath.Glob(filepath.Join(cache.Dir, "*", "*"+packSuffix))
			if len(packs) != 1 {
				t.Fatalf("%d packs; want 1", len(packs))
			}
			b, err := os.ReadFile(packs[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(packs[0], damage(b), 0o644); err != nil {
				t.Fatal(err)
			}
			for run := range 3 {
				got, info := mustWrite(t, entries, Options{Level: 1, Cache: cache})
				if !bytes.Equal(got, want) {
					t.Errorf("run %d gives another image", run)
				}
				if (info.Repaired > 0) != (run == 0) || run > 0 && info.Cached != info.Blocks {
					t.Errorf("run %d: %d repaired, %d of %d from the cache", run, info.Repaired, info.Cached, info.Blocks)
				}
			}
		})
	}
}

// TestCacheIsBounded: in bytes, and in files, however many versions there are.
func TestCacheIsBounded(t *testing.T) {
	cache := &Cache{Dir: t.TempDir(), Max: 1 << 20}
	for i := range 2 * maxPacks {
		entries := []Entry{file("same", words(1, 200_000)), file("other", noise(uint64(i), 200)),
			file("more", words(uint64(i), 100_000))}
		_, info := mustWrite(t, entries, Options{Level: 1, BlockSize: 64 << 10, Cache: cache})
		if i > 0 && info.Cached < 3 {
			t.Errorf("version %d: %d blocks from the cache; want those of the file that stays", i, info.Cached)
		}
		packs, _ := filepath.Glob(filepath.Join(cache.Dir, "*", "*"+packSuffix))
		var sum int64
		for _, p := range packs {
			st, err := os.Stat(p)
			if err != nil {
				t.Fatal(err)
			}
			sum += st.Size()
		}
		if sum > cache.Max || len(packs) > maxPacks {
			t.Fatalf("version %d: %d bytes in %d packs; want at most %d in %d", i, sum, len(packs), cache.Max, maxPacks)
		}
	}
}

// TestBuffersAreBounded: what is allocated does not grow with the content. The
// peak memory of a process that writes gigabytes is for package builder's BenchmarkMemory.
func TestBuffersAreBounded(t *testing.T) {
	big := Entry{Path: "big", Kind: File, Size: 96 << 20, Mode: 0o644, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(chaCha(1), 96<<20)), nil
	}}
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Write(t.Context(), f, []Entry{big}, Options{Level: 1, Workers: 2}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 48<<20 {
		t.Errorf("writing 96 MiB allocates %d MiB; want no more than the buffers", got>>20)
	}
}
