package booter

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/catalog"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/bootserver/state/memory"
	"ingot/image"
)

// house is a Booter with a store, a state and a clock; no sockets and no operator.
type house struct {
	*Booter
	t       *testing.T
	images  *image.Store
	release image.SecretKey
	clock   time.Time
}

// openState opens a state on the backend that is tested.
func openState(dir string) (state.Store, error) {
	if os.Getenv("INGOT_TEST_STATE") == "memory" {
		return memory.Open(context.Background(), dir)
	}
	return bolt.Open(context.Background(), dir)
}

func newHouse(t *testing.T) *house {
	t.Helper()
	root := t.TempDir()
	images, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := image.OpenSigner(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := openState(filepath.Join(root, "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	h := &house{t: t, images: images, release: keys.Release.Secret, clock: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	h.Booter = New(Config{State: st, Catalog: catalog.New(images), Keys: signer, Port: 80, Now: func() time.Time {
		return h.clock
	},
		Loaders: map[string][]byte{"snponly.efi": []byte("a loader"), "ipxe.efi": []byte("another")}})
	return h
}

// base is the URL of the server.
const base = "http://10.99.0.1"

// put puts a small image into the store.
func (h *house) put(version string) image.Image {
	h.t.Helper()
	dir := h.t.TempDir()
	file := func(name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(name+" of "+version), 0o644); err != nil {
			h.t.Fatal(err)
		}
		return p
	}
	im, err := h.images.Put(h.t.Context(), &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: version,
		Arguments: []string{"quiet"}},
		image.Files{Kernel: file("kernel"), Initramfs: file("initramfs"), Root: file("root"), Plan: file("plan"),
			UKI: file("uki")}, h.release)
	if err != nil {
		h.t.Fatal(err)
	}
	return im
}

// firstMachine is UEFI firmware that was just given an address and asks what to load.
var firstMachine = client.Sighting{
	Client: client.Client{MAC: "52:54:00:12:00:01", UUID: "d1b2c3a4-0000-4000-8000-525400120001", Kind: client.Firmware,
		Firmware: ingot.FirmwareUEFIx64},
	Address: netip.MustParseAddr("10.99.0.100"), Server: netip.MustParseAddr("10.99.0.1"),
	Loaders: client.DefaultLoaders[ingot.FirmwareUEFIx64], Begins: true}

const machineID = "m-525400120001"

// boots is firmware, TFTP and loader up to the script.
func (h *house) boots() ingot.BootID {
	h.t.Helper()
	loader := firstMachine
	loader.Kind, loader.IPXE = client.Loader, true
	for _, s := range []client.Sighting{firstMachine, loader} {
		if _, err := h.Observe(s); err != nil {
			h.t.Fatal(err)
		}
		if s.Kind == client.Firmware {
			h.LoaderServed(firstMachine.Address, "snponly.efi", 300_000)
		}
	}
	m, _ := h.machine()
	h.script(m.Boot)
	return m.Boot
}

func (h *house) script(boot ingot.BootID) string {
	h.t.Helper()
	text, err := h.Script(boot, base)
	if err != nil {
		h.t.Fatal(err)
	}
	return text
}

// machine is the client's, and its latest boot.
func (h *house) machine() (fleet.Machine, fleet.Boot) {
	h.t.Helper()
	m, known := h.state.Machine(machineID)
	if !known {
		h.t.Fatalf("%s is not known", machineID)
	}
	b, _ := h.state.Boot(m.Boot)
	return m, b
}

// approve lets the client boot an image.
func (h *house) approve(im image.Image) {
	h.t.Helper()
	if err := h.state.Update(func(tx state.Tx) error {
		m, _ := tx.Machine(machineID)
		m.State = fleet.Approved
		tx.StoreMachine(fleet.Assign(m, fleet.Assignment{ImageRef: fleet.ImageRef{Image: im.Digest,
			Name: im.Name.String()}}))
		return nil
	}); err != nil {
		h.t.Fatal(err)
	}
}
