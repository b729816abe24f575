package squashfs_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"ingot/builder/squashfs"
)

// An image is written and read again. The same entries give the same bytes, in any order.
func Example() {
	f, err := os.CreateTemp("", "root.squashfs")
	if err != nil {
		log.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()

	text := "Welcome.\n"
	open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
	entries := []squashfs.Entry{
		{Path: "etc/motd", Kind: squashfs.File, Mode: 0o644, Size: int64(len(text)), Open: open},
		{Path: "etc", Kind: squashfs.Dir, Mode: 0o755},
		{Path: "etc/issue", Kind: squashfs.Symlink, Mode: 0o777, Target: "motd"},
	}
	info, err := squashfs.Write(context.Background(), f, entries, squashfs.Options{Epoch: time.Unix(1e9, 0)})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Inodes, "inodes,", info.Size, "bytes")

	r, err := squashfs.Open(f, info.Size)
	if err != nil {
		log.Fatal(err)
	}
	list, err := r.Entries()
	if err != nil {
		log.Fatal(err)
	}
	for _, e := range list {
		fmt.Printf("%s %04o /%s\n", squashfs.KindName(e.Kind), e.Mode, e.Path)
		if e.Kind == squashfs.File {
			content, err := e.Open()
			if err != nil {
				log.Fatal(err)
			}
			b, err := io.ReadAll(content)
			content.Close()
			fmt.Printf("%q %v\n", b, err)
		}
	}
	// Output:
	// 4 inodes, 4096 bytes
	// folder 0755 /
	// folder 0755 /etc
	// link 0777 /etc/issue
	// file 0644 /etc/motd
	// "Welcome.\n" <nil>
}

// With a cache, blocks that an earlier image had are not compressed again.
func ExampleCache() {
	dir, err := os.MkdirTemp("", "squashfs")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	content := bytes.Repeat([]byte("all work and no play "), 50_000)
	entries := []squashfs.Entry{{Path: "file", Kind: squashfs.File, Mode: 0o644, Size: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}}
	o := squashfs.Options{Cache: &squashfs.Cache{Dir: dir}}
	for range 2 {
		f, err := os.CreateTemp(dir, "image")
		if err != nil {
			log.Fatal(err)
		}
		info, err := squashfs.Write(context.Background(), f, entries, o)
		f.Close()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(info.Cached, "of", info.Blocks, "blocks from the cache")
	}
	// Output:
	// 0 of 9 blocks from the cache
	// 9 of 9 blocks from the cache
}
