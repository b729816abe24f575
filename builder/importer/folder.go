package importer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocidigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/internal/harmless"
	"ingot/profiles"
)

// writeLayout copies a container image from the cache into an OCI layout.
func writeLayout(ctx context.Context, trees *source.Trees, pin source.Pin, dir string) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	raw, err := trees.Blobs.Read(pin.Digest)
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	digests := []ingot.Digest{pin.Digest, ingot.Digest(m.Config.Digest.String())}
	for _, l := range m.Layers {
		digests = append(digests, ingot.Digest(l.Digest.String()))
	}
	for _, d := range digests {
		if err := copyFile(ctx, trees.Blobs.Path(d), filepath.Join(blobs, d.Hex())); err != nil {
			return fmt.Errorf("writing the image: %w", err)
		}
	}
	mediaType := m.MediaType
	if mediaType == "" {
		mediaType = ocispec.MediaTypeImageManifest
	}
	index, err := json.MarshalIndent(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{
			MediaType: mediaType, Digest: ocidigest.Digest(pin.Digest), Size: int64(len(raw)),
		}},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "index.json"), append(index, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte("{\"imageLayoutVersion\": \"1.0.0\"}\n"), 0o644))
}

func copyFile(ctx context.Context, from, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// folderWriter writes a profile's folder under a hidden name beside it, and renames it at the end.
type folderWriter struct {
	o       *importing
	dir     string // being written
	scratch string // for temporary files
	lock    *os.File
}

// begin prepares the folder. It removes what a killed import has left there.
func (o *importing) begin() (*folderWriter, error) {
	if o.Arch == "" {
		o.Arch = ingot.AMD64
	}
	if !ingot.ValidProfileName(o.Name) {
		return nil, fmt.Errorf("%q cannot be the name of a profile; use lower-case letters, digits and dashes, at most 63",
			o.Name)
	}
	o.Folder = filepath.Clean(o.Folder)
	if _, err := os.Lstat(o.Folder); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("writing %s: %w; choose another --name or --into, or remove it", o.Folder, ErrExists)
	}
	dir := filepath.Join(filepath.Dir(o.Folder), "."+filepath.Base(o.Folder)+".importing")
	w := &folderWriter{o: o, dir: dir, scratch: filepath.Join(dir, ".scratch")}
	if left, err := os.Open(filepath.Join(w.scratch, "lock")); err == nil {
		err = unix.Flock(int(left.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		left.Close()
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w: another import is writing it", o.Folder, ErrExists)
		}
	}
	err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755), os.Mkdir(w.scratch, 0o700))
	if err == nil {
		w.lock, err = os.Create(filepath.Join(w.scratch, "lock"))
	}
	if err == nil {
		err = unix.Flock(int(w.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", o.Folder, err)
	}
	return w, nil
}

func (w *folderWriter) abandon() {
	os.RemoveAll(w.dir)
	w.lock.Close()
}

// writeTree writes a root to the folder, as root.tar.zst. Only its owner may read it: whole systems
// hold password hashes and keys.
func (w *folderWriter) writeTree(ctx context.Context, root *tree.Tree, newest int64) error {
	w.o.Report("pack", 0, 0, "")
	f, err := os.OpenFile(filepath.Join(w.dir, "root.tar.zst"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("writing the root: %w", err)
	}
	defer f.Close()
	if err := source.WriteTarZstd(ctx, f, root, newest); err != nil {
		return fmt.Errorf("writing the root: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the root: %w", err)
	}
	st, err := os.Stat(f.Name())
	if err != nil {
		return fmt.Errorf("writing the root: %w", err)
	}
	w.o.Report("pack", 1, 1, fmt.Sprintf("%.1f MiB", float64(st.Size())/(1<<20)))
	return nil
}

// finish writes profile and report, and renames the folder.
func (w *folderWriter) finish(im *Result, base profiles.Base, root *tree.Tree) error {
	im.Folder = w.o.Folder
	report, err := json.MarshalIndent(im, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	text, err := startingProfile(im, base, w.o.Kernel, root)
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(filepath.Join(w.dir, "profile.yaml"), []byte(text), 0o644),
		os.WriteFile(filepath.Join(w.dir, "import.json"), append(harmless.JSON(report), '\n'), 0o644),
		os.RemoveAll(w.scratch)); err != nil {
		return fmt.Errorf("writing %s: %w", w.o.Folder, err)
	}
	if err := os.Rename(w.dir, w.o.Folder); err != nil {
		return fmt.Errorf("writing %s: %w", w.o.Folder, err)
	}
	return nil
}

// clipped returns the first n items of a list, and how many more there are.
func clipped(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(slices.Clone(list[:n]), ", "), len(list)-n)
}
