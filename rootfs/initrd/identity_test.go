package initrd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot"
	"ingot/rootfs/volumes"
)

// TestIdentityIsRoots: the service that owns the identity volume cannot put an identity there, whose
// files would be read and copied as root.
func TestIdentityIsRoots(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to own files")
	}
	root := t.TempDir()
	results := []volumes.Result{{VolumeResult: ingot.VolumeResult{Volume: "pgdata", State: ingot.VolumeMounted},
		Spec: ingot.Volume{Name: "pgdata", Mount: "/data", Identity: true}}}
	elsewhere := t.TempDir()
	if err := os.MkdirAll(filepath.Join(elsewhere, identityDir, "ssh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(root, "data/.ingot")); err != nil {
		t.Fatal(err)
	}
	kept, err := keptIdentity(root, results)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := filepath.EvalSymlinks(filepath.Dir(kept)); err != nil || !strings.HasPrefix(at, root) {
		t.Errorf("the identity is read from %s (%v); want a folder of the volume", at, err)
	}
	results[0].State = ingot.VolumeFailed
	if kept, err := keptIdentity(root, results); kept != "" || err != nil {
		t.Errorf("without its volume, the identity is in %q (%v)", kept, err)
	}
}
