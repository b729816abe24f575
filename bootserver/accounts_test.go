package bootserver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot"
	"ingot/bootserver/api"
	"ingot/image"
)

// putWith puts an image whose volumes and accounts are given.
func (h *house) putWith(version string, m ingot.ImageManifest) image.Image {
	h.t.Helper()
	dir := h.t.TempDir()
	file := func(name string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(name+" of "+version), 0o644); err != nil {
			h.t.Fatal(err)
		}
		return p
	}
	m.Schema, m.Profile, m.Version = 1, "lab", version
	im, err := h.images.Put(h.t.Context(), &m, image.Files{Kernel: file("kernel"), Initramfs: file("initramfs"),
		Root: file("root"), Plan: file("plan"), UKI: file("uki")}, h.keys.Release.Secret)
	if err != nil {
		h.t.Fatal(err)
	}
	return im
}

// TestMovedAccountsAreRefused: a machine with volumes does not get an image whose accounts have other
// numbers than in the image that used the volumes last, unless by force, whichever way it is
// assigned.
func TestMovedAccountsAreRefused(t *testing.T) {
	h := newHouse(t)
	volumes := []ingot.Volume{{Name: "data", Mount: "/var/lib/postgresql"}}
	groups := map[string]int{"postgres": 105}
	h.putWith("v1", ingot.ImageManifest{Volumes: volumes, Users: map[string]int{"postgres": 102}, Groups: groups})
	h.putWith("same", ingot.ImageManifest{Volumes: volumes, Groups: groups,
		Users: map[string]int{"postgres": 102, "redis": 103}})
	h.putWith("moved", ingot.ImageManifest{Volumes: volumes, Groups: groups,
		Users: map[string]int{"postgres": 106, "Debian-snmp": 102}})
	h.putWith("diskless", ingot.ImageManifest{Groups: groups, Users: map[string]int{"postgres": 107}})
	h.putWith("older", ingot.ImageManifest{Volumes: volumes})
	h.ask()
	if _, err := h.api.Approve(t.Context(), machineID,
		api.ApproveRequest{Name: "node01", Image: "lab:moved"}); err != nil {
		t.Fatal(err)
	}
	assign := func(image string, force bool) error {
		_, err := h.api.AssignBy(t.Context(), machineID, api.AssignRequest{Image: image, Force: force})
		return err
	}
	// Nothing has run yet, so no file belongs to anybody.
	if err := assign("lab:v1", false); err != nil {
		t.Fatalf("an assignment before the first boot: %v", err)
	}
	h.attempt("", "")
	refused := func(what string, err error) {
		t.Helper()
		var p api.Problem
		if !errors.As(err, &p) || p.Code != api.CodeAccountsMoved || p.Status != 409 ||
			!strings.Contains(p.Detail, "user postgres 102 → 106 (102 is now Debian-snmp)") ||
			!strings.Contains(p.Hint(), "ingot image diff lab:v1 lab:moved") || !strings.Contains(p.Hint(), "--force") {
			t.Errorf("%s: %v; want a refusal that names the accounts", what, err)
		}
	}
	refused("assign", assign("lab:moved", false))
	for _, image := range []string{"lab:same", "lab:diskless", "lab:older", "lab:v1"} {
		if err := assign(image, false); err != nil {
			t.Errorf("%s: %v", image, err)
		}
	}
	// An image without volumes in between changes nothing.
	if err := assign("lab:diskless", false); err != nil {
		t.Fatal(err)
	}
	h.attempt("", "")
	refused("assign after an image without volumes", assign("lab:moved", false))
	_, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:moved"})
	refused("approve", err)
	list := []api.Planned{{Name: "node01", MACs: []string{firstMachine.MAC}, Image: "lab:moved"}}
	_, err = h.api.Import(t.Context(), api.ImportRequest{Machines: list})
	refused("import", err)
	_, err = h.api.Import(t.Context(), api.ImportRequest{Machines: list, DryRun: true})
	refused("import --dry-run", err)
	if m, err := h.api.Machine(t.Context(), machineID); err != nil || m.Assignment.Name != "lab:diskless" {
		t.Errorf("after refusals it is assigned %s, %v; want what it was", m.Assignment.Name, err)
	}
	if err := assign("lab:moved", true); err != nil {
		t.Fatalf("by force: %v", err)
	}
	h.attempt("", "")
	// The way back is refused as well: the volumes are those of the new image now.
	if err := assign("lab:v1", false); err == nil || !strings.Contains(err.Error(), "user postgres 106 → 102") {
		t.Errorf("back to lab:v1: %v; want a refusal", err)
	}
}

// TestRollbackOverMovedAccounts: a rollback is refused like an assignment, and goes through by force.
func TestRollbackOverMovedAccounts(t *testing.T) {
	h := newHouse(t)
	volumes := []ingot.Volume{{Name: "data", Mount: "/data"}}
	h.putWith("v1", ingot.ImageManifest{Volumes: volumes, Users: map[string]int{"postgres": 102}})
	h.putWith("v2", ingot.ImageManifest{Volumes: volumes, Users: map[string]int{"postgres": 345}})
	h.ask()
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	h.attempt("", "")
	if _, err := h.api.AssignBy(t.Context(), machineID, api.AssignRequest{Image: "lab:v2", Force: true}); err != nil {
		t.Fatal(err)
	}
	h.attempt("", "")
	var p api.Problem
	if _, err := h.api.Rollback(t.Context(), machineID); !errors.As(err, &p) || p.Code != api.CodeAccountsMoved {
		t.Errorf("Rollback = %v; want %s", err, api.CodeAccountsMoved)
	}
	if m, err := h.api.ForceRollback(t.Context(), machineID); err != nil || m.Assignment.Name != "lab:v1" {
		t.Errorf("ForceRollback = %s, %v; want lab:v1", m.Assignment.Name, err)
	}
}
