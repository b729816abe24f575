package builder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

func TestLayerCache(t *testing.T) {
	var said []string
	c := layerCache{dir: filepath.Join(t.TempDir(), "layers"), warn: func(what string) { said = append(said, what) }}
	made := 0
	get := func(key string) (string, bool) {
		t.Helper()
		path, kept, err := c.get(t.Context(), key, func(path string) error {
			made++
			return os.WriteFile(path, []byte("content of "+key), 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "content of "+key {
			t.Fatalf("layer %s holds %q (%v)", key, b, err)
		}
		return path, kept
	}
	path, kept := get("a")
	if _, again := get("a"); kept || !again || made != 1 {
		t.Errorf("kept %v, then %v, made %d times; want false, true, once", kept, again, made)
	}
	if err := os.WriteFile(path, []byte("content of A"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, kept := get("a"); kept || len(said) != 1 {
		t.Errorf("a damaged layer: kept %v, said %q; want it made again, with a warning", kept, said)
	}
	broken := errors.New("broken")
	if _, _, err := c.get(t.Context(), "b", func(string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a layer that cannot be made: %v", err)
	}
	if left, _ := os.ReadDir(c.dir); len(left) != 1 {
		t.Errorf("the cache holds %v; want one layer", left)
	}
}

func TestLayersArePruned(t *testing.T) {
	c := layerCache{dir: t.TempDir()}
	for i := range keptLayers + 5 {
		path, _, err := c.get(t.Context(), "layer"+strconv.Itoa(i),
			func(path string) error { return os.WriteFile(path, nil, 0o644) })
		if err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(c.dir, "*"))
	if len(left) != keptLayers {
		t.Errorf("%d layers are left; want %d", len(left), keptLayers)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "layer4.00000000")); err == nil {
		t.Error("the oldest layer is still there")
	}
	if _, err := os.Stat(filepath.Join(c.dir, "layer5.00000000")); err != nil {
		t.Errorf("a layer was removed too early: %v", err)
	}
}

// TestLayersInUseStay: a layer that a build uses stays until it ends, although others fill the cache.
func TestLayersInUseStay(t *testing.T) {
	c := layerCache{dir: t.TempDir(), warn: func(what string) { t.Errorf("warned: %s", what) }}
	release, err := c.hold()
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string) error { return os.WriteFile(path, []byte("layer"), 0o600) }
	used, _, err := c.get(t.Context(), "used", write)
	if err != nil {
		t.Fatal(err)
	}
	if again, kept, err := c.get(t.Context(), "used", write); err != nil || !kept || again != used {
		t.Errorf("the second get = %s, %t, %v; want %s from the cache", again, kept, err, used)
	}
	other := layerCache{dir: c.dir, warn: c.warn}
	for i := range 2 * keptLayers {
		if _, _, err := other.get(t.Context(), fmt.Sprintf("other%d", i), write); err != nil {
			t.Fatal(err)
		}
	}
	if other.has("used") {
		t.Fatal("the others did not fill the cache")
	}
	if b, err := os.ReadFile(used); err != nil || string(b) != "layer" {
		t.Errorf("the layer in use is %q, %v; want it to stay", b, err)
	}
	release()
	entries, err := os.ReadDir(c.dir)
	if err != nil || len(entries) != keptLayers {
		t.Errorf("after the build, the cache has %d entries (%v); want %d", len(entries), err, keptLayers)
	}
}
