package bootserver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ingot/image"
)

// TestShelfFollowsTheStore: what is kept at hand is what the store has.
func TestShelfFollowsTheStore(t *testing.T) {
	h := newHouse(t)
	v1 := h.put("v1")
	for range 2 {
		if im, err := h.shelf.get(h.images, v1.Digest); err != nil || im.Digest != v1.Digest {
			t.Fatalf("get(v1) = %s, %v", im.Digest.Short(), err)
		}
	}
	v2 := h.put("v2")
	if im, err := h.shelf.get(h.images, v2.Digest); err != nil || im.Digest != v2.Digest {
		t.Errorf("get(v2) = %s, %v; want the image that was put meanwhile", im.Digest.Short(), err)
	}
	index := filepath.Join(h.images.Root(), "images", "index.json")
	text, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(index), os.WriteFile(index, []byte(`{"schemaVersion":2,"manifests":[]}`), 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.shelf.get(h.images, v1.Digest); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("get(v1) after it left the index: %v; want ErrNotFound", err)
	}
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	if _, err := h.shelf.get(h.images, v1.Digest); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("get(v1) without an index: %v; want ErrNotFound", err)
	}
	if err := os.WriteFile(index, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := h.shelf.get(h.images, v1.Digest); err != nil {
		t.Errorf("get(v1) after it came back: %v", err)
	}
}
