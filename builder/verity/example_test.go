package verity_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"

	"ingot/builder/verity"
)

// A hash tree is appended to the data that it protects. The kernel then takes data and tree from
// one device, at the offset of the tree:
//
//	veritysetup open FILE root FILE ROOTHASH --hash-offset=8192
func ExampleWrite() {
	f, err := os.CreateTemp("", "verity")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	const size = 2 * verity.BlockSize
	if _, err := f.Write(bytes.Repeat([]byte("data"), size/4)); err != nil {
		log.Fatal(err)
	}
	hash, err := verity.Write(context.Background(), f, size, f, size, verity.Options{Salt: []byte("salt")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("root hash", hash)
	st, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("data and tree:", st.Size(), "bytes; tree:", verity.Size(size), "bytes")
	head := make([]byte, 6)
	if _, err := f.ReadAt(head, size); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("superblock: %s\n", head)
	// Output:
	// root hash d5888a33b08a8b38fa21b091965a6c2ecd0422e76c9de7ab0417248b0c9d2aff
	// data and tree: 16384 bytes; tree: 8192 bytes
	// superblock: verity
}
