package bootserver

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
)

// putHolding puts an image whose initramfs has keys of the house as they are, as its plan says.
func (h *house) putHolding(version string, features ...ingot.Feature) image.Image {
	h.t.Helper()
	keys, err := image.LoadOrCreateKeys(filepath.Join(h.images.Root(), "keys"))
	if err != nil {
		h.t.Fatal(err)
	}
	plan, err := json.Marshal(map[string]any{"keys": map[ingot.KeyUse]ingot.Digest{
		ingot.KeyServer:  ingot.DigestOf(keys.Server.Public.Text()),
		ingot.KeyRelease: ingot.DigestOf(keys.Release.Public.Text())}})
	if err != nil {
		h.t.Fatal(err)
	}
	return putPlanned(h.t, h.images, keys, version, string(plan),
		func(m *ingot.ImageManifest) { m.Features = features })
}

// accepts boots the machine with an image, and reports whether an initramfs that holds a server key
// accepts the ticket as it came: as such, and when it follows successors.
func (h *house) accepts(ref string, held image.PublicKey) (asItIs, following bool) {
	h.t.Helper()
	if _, err := h.api.Assign(h.t.Context(), machineID, ref, ""); err != nil {
		h.t.Fatal(err)
	}
	boot, _ := h.ask()
	status, body := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce})
	var signed ingot.SignedTicket
	if err := json.Unmarshal(body, &signed); status != 200 || err != nil {
		h.t.Fatalf("ticket for %s: %d %s", ref, status, body)
	}
	asItIs = held.Verify(signed.Ticket, signed.Signature) == nil
	for _, s := range signed.ServerKeys {
		if held.Verify(ingot.SuccessorText(ingot.KeyServer, s.Key), s.Signature) == nil {
			var err error
			if held, err = image.ParsePublicKey([]byte(s.Key)); err != nil {
				h.t.Fatal(err)
			}
		}
	}
	return asItIs, held.Verify(signed.Ticket, signed.Signature) == nil
}

// TestServerKeyIsReplaced: machines with images that were made before a rotation go on: those that
// follow successors with tickets by the new key, also after two rotations, older ones with tickets by
// the key that they hold. What a leak concerns is listed, and a key can be withdrawn in the end.
func TestServerKeyIsReplaced(t *testing.T) {
	h := newHouse(t)
	first := h.keys.Server.Public
	h.putHolding("rigid")
	h.putHolding("v1", ingot.FeatureSuccessors)
	h.ask()
	ctx := t.Context()
	if _, err := h.api.Approve(ctx, machineID, api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	if now, _ := h.accepts("lab:v1", first); !now {
		t.Error("before a rotation, the ticket is not by the key that the image holds")
	}
	old, err := h.api.RotateKey(ctx, api.RotateRequest{Use: ingot.KeyServer})
	if err != nil || old.ID != first.ID() || old.State != api.KeyReplaced || !old.Kept || len(old.Images) != 2 {
		t.Fatalf("RotateKey = %+v, %v; want the first key, kept, with two images", old, err)
	}
	h.putHolding("v2", ingot.FeatureSuccessors)
	second, err := signerOf(t, h.images).Public()
	if err != nil {
		t.Fatal(err)
	}
	leaked, err := h.api.RotateKey(ctx, api.RotateRequest{Use: ingot.KeyServer, Leaked: true})
	if err != nil || leaked.ID != second.ID() || leaked.State != api.KeyLeaked || leaked.Kept {
		t.Fatalf("RotateKey = %+v, %v; want the second key, leaked, not kept", leaked, err)
	}
	for _, c := range []struct {
		ref               string
		holds             image.PublicKey
		asItIs, following bool
	}{{"lab:rigid", first, true, false}, {"lab:v1", first, false, true}, {"lab:v2", second, false, true}} {
		asItIs, following := h.accepts(c.ref, c.holds)
		if asItIs != c.asItIs || !c.asItIs && following != c.following {
			t.Errorf("after two rotations %s accepts its ticket as it is: %t, following: %t", c.ref, asItIs, following)
		}
	}
	keys, err := h.api.SigningKeys(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range keys {
		if k.ID != second.ID() {
			continue
		}
		for _, im := range k.Images {
			line := im.Name
			if im.Holds {
				line += " holds it,"
			}
			for _, m := range im.Machines {
				line += " " + m.Name
				if m.Runs {
					line += " runs it"
				}
			}
			got = append(got, line)
		}
	}
	if want := "lab:v1; lab:v2 holds it, node01 runs it"; strings.Join(got, "; ") != want {
		t.Errorf("the leaked key concerns %q; want %q", strings.Join(got, "; "), want)
	}
	h.withdraw(leaked)
	lines, _, err := h.state.Changes(state.Query{Audit: true, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	rotations := 0
	for _, l := range lines {
		if l.Code == fleet.ActionKeyRotate {
			rotations++
		}
	}
	if rotations != 2 {
		t.Errorf("the audit log has %d rotations; want 2", rotations)
	}
}

// withdraw withdraws a leaked server key that the image of node01 holds.
func (h *house) withdraw(k api.SigningKey) {
	h.t.Helper()
	ctx, t := h.t.Context(), h.t
	var p api.Problem
	if _, err := h.api.DistrustKey(ctx, k.Name, false); !errors.As(err, &p) || p.Code != api.CodeKeyInUse ||
		!strings.Contains(p.Detail, "node01") {
		t.Errorf("withdrawing a key that node01 needs: %v; want %s with its name", err, api.CodeKeyInUse)
	}
	h.putHolding("v3", ingot.FeatureSuccessors)
	if _, err := h.api.Assign(ctx, machineID, "lab:v3", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.DistrustKey(ctx, k.Name, true); err != nil {
		t.Errorf("withdrawing it by force: %v", err)
	}
	for _, ref := range []string{"lab:v1", "lab:v2"} { // v1 would follow to the leaked key
		if _, err := h.api.Assign(ctx, machineID, ref, ""); !errors.As(err, &p) || p.Code != api.CodeImageCannotFollow {
			t.Errorf("assigning %s, which accepts a withdrawn key: %v", ref, err)
		}
	}
	if _, err := h.api.Assign(ctx, machineID, "lab:rigid", ""); err != nil {
		t.Errorf("assigning an image that holds a key from before it and cannot follow: %v", err)
	}
}

// TestServerWithoutReleaseKey: a server needs the public half of the release key only, and makes none.
func TestServerWithoutReleaseKey(t *testing.T) {
	h := newHouseOf(t)
	secret := filepath.Join(h.images.Root(), "keys", "release.key")
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	h.begin(h.port)
	boot, _ := h.ask()
	if status, body := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce}); status != 200 {
		t.Errorf("ticket: %d %s", status, body)
	}
	if _, err := os.Stat(secret); !os.IsNotExist(err) {
		t.Errorf("the server made a release key: %v", err)
	}
}
