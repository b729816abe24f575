package tree_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"ingot/builder/tree"
)

// A layer is merged into a base. Links of the base are followed, and a link replaces a folder.
func Example() {
	base := tree.New()
	layer := tree.New()
	for _, err := range []error{
		base.PutFile("usr/bin/app", 0o755, []byte("first")),
		base.PutLink("bin", "usr/bin"), // a merged /usr
		layer.PutFile("bin/app", 0o755, []byte("second")),
		layer.PutLink("etc/app.conf", "../usr/share/app/default.conf"),
		base.Merge(layer),
	} {
		if err != nil {
			log.Fatal(err)
		}
	}
	for _, e := range base.Entries() {
		fmt.Printf("%04o /%s", e.Mode, e.Path)
		if e.Target != "" {
			fmt.Printf(" -> %s", e.Target)
		}
		fmt.Println()
	}
	content, err := base.ReadFile("bin/app")
	fmt.Println(string(content), err)
	// Output:
	// 0755 /
	// 0777 /bin -> usr/bin
	// 0755 /etc
	// 0777 /etc/app.conf -> ../usr/share/app/default.conf
	// 0755 /usr
	// 0755 /usr/bin
	// 0755 /usr/bin/app
	// second <nil>
}

// A tree that was read from a tar has the digest of the tree that the tar was written from.
func ExampleFromTar() {
	dir, err := os.MkdirTemp("", "tree")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	t := tree.New()
	if err := t.PutFile("etc/motd", 0o644, []byte("hello\n")); err != nil {
		log.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "root.tar"))
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if err := t.WriteTar(context.Background(), f, time.Unix(0, 0)); err != nil {
		log.Fatal(err)
	}
	again, err := tree.FromTar(context.Background(), f.Name())
	if err != nil {
		log.Fatal(err)
	}
	first, err := t.Digest()
	if err != nil {
		log.Fatal(err)
	}
	second, err := again.Digest()
	fmt.Println(first == second, err)
	fmt.Println(again.RemoveMatching("etc/mo*"), again.Get("etc/motd") == nil)
	// Output:
	// true <nil>
	// <nil> true
}
