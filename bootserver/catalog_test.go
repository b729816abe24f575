package bootserver

import (
	"path/filepath"
	"strings"
	"testing"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
)

// TestOnlyTrustedImagesAreServed: whatever way an image got to a machine, it is
// not served while no key that is trusted signed it; when its key is trusted,
// the machine that waits goes on.
func TestOnlyTrustedImagesAreServed(t *testing.T) {
	h := newHouse(t)
	builder, err := image.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	unsigned, foreign := putSmall(t, h.images, image.Keys{}, "v0"), putSmall(t, h.images, builder, "v1")
	v2 := h.put("v2")
	keys := filepath.Join(h.images.Root(), "keys")
	h.ask()
	force := func(im image.Image) {
		if err := h.state.Update(func(tx state.Tx) error {
			m, _ := tx.Machine(machineID)
			m.State = fleet.Approved
			tx.StoreMachine(fleet.Assign(m, fleet.Assignment{ImageRef: fleet.ImageRef{Image: im.Digest,
				Name: im.Name.String()}}))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, im := range []image.Image{unsigned, foreign} {
		force(im)
		boot, script := h.ask()
		if strings.Contains(script, "kernel ") || !strings.Contains(script, "cannot be served") {
			t.Errorf("%s, which nobody here signed: the script is\n%s", im.Name, script)
		}
		if _, err := h.Artifact(boot, im.Digest, "kernel"); err == nil || h.catalog.Servable(im.Digest) {
			t.Errorf("%s: Artifact = %v, have = %t; want a refusal", im.Name, err, h.catalog.Servable(im.Digest))
		}
		if got := h.why(); !strings.Contains(got, "cannot be served: image "+im.Name.String()+": bad signature") {
			t.Errorf("why = %q", got)
		}
	}
	if err := image.Trust(keys, "builder", builder.Release.Public); err != nil {
		t.Fatal(err)
	}
	if _, script := h.ask(); !strings.Contains(script, "kernel ") || !h.catalog.Servable(foreign.Digest) {
		t.Errorf("once its key is trusted the script is\n%s", script)
	}
	if err := image.Distrust(keys, "builder"); err != nil {
		t.Fatal(err)
	}
	if h.catalog.Servable(foreign.Digest) || !h.catalog.Servable(v2.Digest) {
		t.Errorf("once its key is not trusted: have(its image) = %t, have(ours) = %t",
			h.catalog.Servable(foreign.Digest), h.catalog.Servable(v2.Digest))
	}
}
