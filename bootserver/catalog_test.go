package bootserver

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
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

// TestDamagedImagesAreNotServed: a file of an image whose content is not what was built is not served
// under the digest of what was built, whenever it changed and however; operators see why, and the same
// image from elsewhere mends it.
func TestDamagedImagesAreNotServed(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("kernel of v1"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(blob string) error{
		"a flipped bit": func(blob string) error { return os.WriteFile(blob, []byte("kernel of v0"), 0o644) },
		"a replaced file": func(blob string) error {
			return errors.Join(os.WriteFile(blob+".new", []byte("kernel of v0"), 0o644), os.Rename(blob+".new", blob))
		},
		"a flipped bit, with the time of before": func(blob string) error {
			st, err := os.Stat(blob)
			return errors.Join(err, os.WriteFile(blob, []byte("kernel of v0"), 0o644),
				os.Chtimes(blob, st.ModTime(), st.ModTime()))
		},
		"a missing end":   func(blob string) error { return os.Truncate(blob, 3) },
		"a symbolic link": func(blob string) error { return errors.Join(os.Remove(blob), os.Symlink(secret, blob)) },
		"a FIFO":          func(blob string) error { return errors.Join(os.Remove(blob), syscall.Mkfifo(blob, 0o644)) },
	} {
		for _, served := range []bool{true, false} {
			h := newHouse(t)
			im := h.put("v1")
			key := h.boots(firstMachine)
			kernel := h.base + ingot.BootPath(key, im.Digest.Hex()+"/kernel")
			if got := h.do("GET", kernel, nil); served && got != http.StatusOK {
				t.Fatalf("GET kernel = %d", got)
			}
			if err := damage(h.images.Blob(im.Manifest.Kernel.Digest)); err != nil {
				t.Fatal(err)
			}
			if got := h.do("GET", kernel, nil); got != http.StatusNotFound {
				t.Errorf("%s (served before: %t): GET kernel = %d; want 404", name, served, got)
			}
			var p api.Problem
			if _, err := h.api.Assign(t.Context(), machineID, "lab:v1", ""); !errors.As(err, &p) ||
				p.Code != api.CodeImageDamaged {
				t.Errorf("%s: assign: %v; want %s", name, err, api.CodeImageDamaged)
			}
			h.clock = h.clock.Add(time.Minute)
			if _, script := h.ask(); strings.Contains(script, "kernel ") {
				t.Errorf("%s: the script is\n%s", name, script)
			}
			if why := h.why(); !strings.Contains(why, image.Repair) {
				t.Errorf("%s: why: %s", name, why)
			}
			h.put("v1")
			id, script := h.ask()
			kernel = h.base + ingot.BootPath(h.BootKey(id), im.Digest.Hex()+"/kernel")
			if !strings.Contains(script, "kernel ") {
				t.Errorf("%s: after the image was stored again, the script is\n%s", name, script)
			}
			if got := h.do("GET", kernel, nil); got != http.StatusOK {
				t.Errorf("%s: after the image was stored again, GET kernel = %d; want 200", name, got)
			}
		}
	}
}

// TestUnusableImagesAreLogged: why machines wait for an image is in the log once, however often they ask and
// however they boot, and so are another reason and that the image can be served again.
func TestUnusableImagesAreLogged(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	h.ask()
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	h.said.into(&said)
	logged := func(what, level, text string, want int) {
		t.Helper()
		for range 3 {
			h.seen(asks(ingot.FirmwareUEFIx64HTTP, true))
			boot, _ := h.ask()
			h.get(h.BootURL(h.base, boot, "script"))
			h.get(h.BootURL(h.base, boot, im.Digest.Hex()+"/kernel"))
			h.clock = h.clock.Add(5 * time.Second)
		}
		n := 0
		for line := range strings.Lines(said.String()) {
			if strings.Contains(line, "level="+level) && strings.Contains(line, text) &&
				strings.Contains(line, "image="+im.Digest.Short()) {
				n++
			}
		}
		if n != want {
			t.Errorf("%s: %d messages %q of level %s; want %d:\n%s", what, n, text, level, want, said.String())
		}
	}
	const unusable, again = "an image that a machine asks for cannot be served", "an image can be served again"
	logged("sound", "WARN", unusable, 0)
	kernel := h.images.Blob(im.Manifest.Kernel.Digest)
	if err := os.WriteFile(kernel, []byte("kernel of v0"), 0o644); err != nil {
		t.Fatal(err)
	}
	logged("damaged", "WARN", unusable, 1)
	_, script := h.ask()
	reason, _, _ := strings.Cut(script, "set tries")
	if want := "cannot be served: image lab:v1: "; !strings.Contains(reason, want) || strings.Contains(reason, "?") {
		t.Errorf("the screen is\n%s\nwant that it says %q and why, readably", reason, want)
	}
	if err := os.Remove(kernel); err != nil {
		t.Fatal(err)
	}
	logged("missing", "WARN", unusable, 2)
	logged("missing", "INFO", again, 0)
	h.put("v1")
	logged("repaired", "INFO", again, 1)
	logged("repaired", "WARN", unusable, 2)
}

// TestFirstImageComesLater: machines that were approved while their first image was missing or damaged say so,
// and are given it once it can be served, whether --image or a rule names it. An operator's choice stays.
func TestFirstImageComesLater(t *testing.T) {
	for name, policy := range map[string]booter.Policy{
		"--image": {ApproveAll: true, Image: "lab:v1"},
		"a rule":  {Rules: []fleet.Rule{{MAC: "52:54:00:*", Approve: true, Image: "lab:v1"}}},
	} {
		for _, missing := range []bool{true, false} {
			h := newHouse(t)
			var said bytes.Buffer
			h.said.into(&said)
			h.SetPolicy(policy)
			if !missing {
				kernel := h.images.Blob(h.put("v1").Manifest.Kernel.Digest)
				if err := os.WriteFile(kernel, []byte("kernel of v0"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 {
				if _, script := h.ask(); strings.Contains(script, "kernel ") {
					t.Fatalf("%s: the script is\n%s", name, script)
				}
			}
			if why := h.why(); !strings.Contains(why, "waits for its first image. lab:v1 cannot be served") {
				t.Errorf("%s (missing: %t): why: %s", name, missing, why)
			}
			if n := strings.Count(said.String(), "looking up the image of the boot policy"); n != 1 {
				t.Errorf("%s (missing: %t): %d messages in the log; want 1", name, missing, n)
			}
			h.put("v1")
			if why := h.why(); !strings.Contains(why, "is given lab:v1 when it next asks what to boot") {
				t.Errorf("%s (missing: %t): why: %s", name, missing, why)
			}
			if _, script := h.ask(); !strings.Contains(script, "kernel ") {
				t.Errorf("%s (missing: %t): once the image can be served, the script is\n%s", name, missing, script)
			}
			v2 := h.put("v2")
			if _, err := h.api.Assign(t.Context(), machineID, "lab:v2", ""); err != nil {
				t.Fatal(err)
			}
			h.ask()
			if m, _ := h.machine1(); m.Assignment.Image != v2.Digest {
				t.Errorf("%s: an operator's image was replaced by %s", name, m.Assignment.Name)
			}
		}
	}
}

// TestFirstImageReachesAWaitingMachine: a machine that waits in iPXE for its first image boots it as soon as
// it can be served, without another DHCP request.
func TestFirstImageReachesAWaitingMachine(t *testing.T) {
	for name, policy := range map[string]booter.Policy{
		"--image": {ApproveAll: true, Image: "lab:v1"},
		"a rule":  {Rules: []fleet.Rule{{MAC: "52:54:00:*", Approve: true, Image: "lab:v1"}}},
	} {
		h := newHouse(t)
		h.SetPolicy(policy)
		boot, script := h.ask()
		again := func() string {
			h.clock = h.clock.Add(5 * time.Second)
			_, script := h.get(h.BootURL(h.base, boot, "script"))
			return script
		}
		for range 3 {
			if script = again(); strings.Contains(script, "kernel ") {
				t.Fatalf("%s: without an image, the script is\n%s", name, script)
			}
		}
		why, err := h.api.Why(t.Context(), machineID)
		if err != nil {
			t.Fatal(err)
		}
		var next []string
		for _, s := range why.Steps {
			next = append(next, s.Command())
		}
		if got := strings.Join(next, "; "); !strings.HasPrefix(got, "ingot image ls; ingot build lab --version v1; ") ||
			strings.Contains(got, "verify") {
			t.Errorf("%s: why advises %s", name, got)
		}
		im := h.put("v1")
		if script = again(); !strings.Contains(script, im.Digest.Hex()+"/kernel") {
			t.Errorf("%s: once the image can be served, the script is\n%s", name, script)
		}
		m, b := h.machine1()
		if m.Assignment.Image != im.Digest || b.ID != boot || b.Image.Image != im.Digest {
			t.Errorf("%s: assigned %s, boot %s of %s; want lab:v1 in the boot that waited", name, m.Assignment.Name, b.ID,
				b.Image.Name)
		}
		h.put("v2")
		if _, err := h.api.Assign(t.Context(), machineID, "lab:v2", ""); err != nil {
			t.Fatal(err)
		}
		again()
		if m, _ := h.machine1(); m.Assignment.Name != "lab:v2" {
			t.Errorf("%s: an operator's image was replaced by %s", name, m.Assignment.Name)
		}
	}
}
