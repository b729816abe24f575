package image_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"ingot"
	"ingot/image"
)

// An image is stored, found by the name of its profile, and verified.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := image.Open(ctx, dir)
	if err != nil {
		log.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(dir, "keys"))
	if err != nil {
		log.Fatal(err)
	}
	for _, part := range []string{"kernel", "initramfs", "root", "plan"} {
		if err := os.WriteFile(filepath.Join(dir, part), []byte("the "+part), 0o644); err != nil {
			log.Fatal(err)
		}
	}
	manifest := &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: "v1", Arch: ingot.AMD64}
	files := image.Files{
		Kernel: filepath.Join(dir, "kernel"), Initramfs: filepath.Join(dir, "initramfs"),
		Root: filepath.Join(dir, "root"), Plan: filepath.Join(dir, "plan"),
	}
	if _, err := store.Put(ctx, manifest, files, keys.Release.Secret); err != nil {
		log.Fatal(err)
	}

	found, err := store.Get(ctx, "lab")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found.Name, "has a root of", found.Manifest.Root.Size, "bytes")
	fmt.Println("with the release key:", store.Verify(ctx, found, keys.Release.Public))
	err = store.Verify(ctx, found, keys.Server.Public)
	fmt.Println("with another key:", errors.Is(err, image.ErrSignature))
	// Output:
	// lab:v1 has a root of 8 bytes
	// with the release key: <nil>
	// with another key: true
}
