package testvm_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"ingot/testvm"
)

// A machine with UEFI firmware boots from the network of an isolated LAN, on which `ingot serve`
// answers. The example is compiled and not run: it needs QEMU and a store.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "lan")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	lan, err := testvm.NewLAN(ctx, testvm.Options{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer lan.Close()

	server := lan.Command(ctx, "ingot", "serve", "--store", "/srv/ingot")
	if err := lan.Start(server); err != nil {
		log.Fatal(err)
	}
	vm, err := lan.StartVM(ctx, testvm.Config{Name: "node01", Firmware: testvm.UEFI, MAC: "52:54:00:00:00:01"})
	if err != nil {
		log.Fatal(err)
	}
	defer vm.Kill()
	match, err := vm.Console.WaitFor(ctx, `([a-z0-9]+) login:`)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("booted:", match[1])
}
