package builder

import (
	"bytes"
	"context"
	"crypto"
	_ "crypto/sha512" // the bank sha384 of a TPM
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/builder/sbom"
	"ingot/builder/source"
	"ingot/builder/squashfs"
	"ingot/builder/tree"
	"ingot/builder/uki"
	"ingot/builder/uuid"
	"ingot/builder/verity"
	"ingot/image"
)

// seal completes an image whose kernel, initramfs and root are made: it appends the dm-verity tree
// to the root, makes the UKI that names the tree's root hash, predicts what a TPM measures of the
// UKI, and describes the contents in an SBOM.
func (b *build) seal(ctx context.Context, root *tree.Tree, vmlinuz []byte,
	m *ingot.ImageManifest, f *image.Files) error {
	b.Report("seal", 0, 0, "")
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		bom, err := sbom.Describe(sbom.Contents{Root: root, Manifest: m, Packages: b.plan.Packages, Kernel: b.plan.Kernel,
			Stub: b.plan.Stub, Init: b.plan.Init})
		if err != nil {
			return fmt.Errorf("writing the SBOM: %w", err)
		}
		f.Attach = sbom.Attach(bom)
		return nil
	})
	g.Go(func() error { return b.bind(ctx, root, vmlinuz, m, f) })
	if err := g.Wait(); err != nil {
		return err
	}
	b.Report("seal", 1, 1, "UKI "+sizeOf(f.UKI)+", verity "+m.Verity.RootHash[:12])
	return nil
}

// bind makes the hash tree, then the UKI that names its root hash, and measures the UKI.
func (b *build) bind(ctx context.Context, root *tree.Tree, vmlinuz []byte,
	m *ingot.ImageManifest, f *image.Files) (err error) {
	if m.Verity, err = b.appendVerity(ctx, f); err != nil {
		return err
	}
	stub, err := b.stub(ctx)
	if err != nil {
		return err
	}
	f.UKI = b.at("uki.efi")
	if err := writeUKI(f.UKI, stub, b.ukiParts(root, vmlinuz, m), f.Initramfs); err != nil {
		return err
	}
	m.PCR11, err = predictPCR11(f.UKI)
	return err
}

// verityCut is the size in bytes of the chunks of a hash tree. They are small,
// since a tree changes wherever the root's data moves.
const verityCut = squashfs.MinCut

// appendVerity appends superblock and tree to the root, and their chunks.
func (b *build) appendVerity(ctx context.Context, files *image.Files) (*ingot.Verity, error) {
	f, err := os.OpenFile(files.Root, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("sealing the root: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("sealing the root: %w", err)
	}
	o := verityOptions(b.p.Name)
	hash, err := verity.Write(ctx, f, st.Size(), f, st.Size(), o)
	if err != nil {
		return nil, fmt.Errorf("sealing the root: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("sealing the root: %w", err)
	}
	for left := verity.Size(st.Size()); left > 0; left -= verityCut {
		files.Chunks = append(files.Chunks, min(left, verityCut))
	}
	return &ingot.Verity{RootHash: hash.String(), Salt: hex.EncodeToString(o.Salt),
		UUID: uuid.UUID(o.UUID).String(), HashOffset: st.Size()}, nil
}

// verityOptions are a profile's salt and UUID. They are the same for all its versions, so that
// equal data has an equal tree, which an upgrade need not download again. A random salt would
// protect against nothing here: the builder, which could search for collisions, would choose it.
func verityOptions(profile string) verity.Options {
	salt := ingot.DigestOf([]byte("ingot: salt of the dm-verity trees of " + profile))
	id := ingot.DigestOf([]byte("ingot: UUID of the dm-verity trees of " + profile))
	o := verity.Options{UUID: uuid.From(id)}
	o.Salt, _ = hex.DecodeString(salt.Hex()) // cannot fail: a digest is hex digits
	return o
}

// stubFiles say where the package lock.StubPackage keeps systemd-stub.
var stubFiles = map[ingot.Arch]string{
	ingot.AMD64: "usr/lib/systemd/boot/efi/linuxx64.efi.stub",
	ingot.ARM64: "usr/lib/systemd/boot/efi/linuxaa64.efi.stub",
}

// stub returns the systemd-stub of the plan.
func (b *build) stub(ctx context.Context) ([]byte, error) {
	path, _, err := b.layers.get(ctx, "stub-1-"+b.plan.Stub.SHA256, func(fresh string) error {
		tar := b.at("stub.tar")
		if err := source.Unpack(ctx, b.cache, b.plan.Stub, tar); err != nil {
			return err
		}
		t, err := tree.FromTar(ctx, tar)
		if err != nil {
			return err
		}
		content, err := t.ReadFile(stubFiles[b.p.Arch])
		if err != nil {
			return fmt.Errorf("%w: %s %s has no systemd-stub for %s", ErrNotBootable,
				b.plan.Stub.Name, b.plan.Stub.Version, b.p.Arch)
		}
		return os.WriteFile(fresh, content, 0o644)
	})
	if err != nil {
		return nil, fmt.Errorf("unpacking systemd-stub: %w", err)
	}
	return os.ReadFile(path)
}

// ukiParts returns the sections of the UKI without the initramfs.
func (b *build) ukiParts(root *tree.Tree, vmlinuz []byte, m *ingot.ImageManifest) []uki.Section {
	var list []uki.Section
	add := func(name string, content []byte) {
		list = append(list, uki.Section{Name: name, Size: int64(len(content)), Content: bytes.NewReader(content)})
	}
	arguments := append(append([]string{}, m.Arguments...), ingot.ArgRootHash+"="+m.Verity.RootHash)
	add(".osrel", brandedRelease(root, m.Name()))
	add(".cmdline", []byte(strings.Join(arguments, " ")))
	add(".uname", []byte(m.KernelRelease))
	add(".linux", vmlinuz)
	return list
}

// brandedRelease is the root's os-release(5) with the image's name and version,
// which boot loaders show and sort by.
func brandedRelease(root *tree.Tree, name ingot.ImageName) []byte {
	text, err := root.ReadFile("usr/lib/os-release")
	if err != nil {
		text = []byte("ID=linux\n") // what os-release(5) says of a system without one
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "IMAGE_ID=") && !strings.HasPrefix(line, "IMAGE_VERSION=") {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	fmt.Fprintf(&b, "IMAGE_ID=%s\nIMAGE_VERSION=%s\n", name.Profile, name.Version)
	return b.Bytes()
}

// writeUKI assembles the UKI; the initramfs goes before the kernel, which is last.
func writeUKI(path string, stub []byte, parts []uki.Section, initramfs string) error {
	in, err := os.Open(initramfs)
	if err != nil {
		return fmt.Errorf("making the UKI: %w", err)
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return fmt.Errorf("making the UKI: %w", err)
	}
	last := len(parts) - 1
	parts = append(parts[:last:last], uki.Section{Name: ".initrd", Size: st.Size(), Content: in}, parts[last])
	out, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("making the UKI: %w", err)
	}
	defer out.Close()
	if _, err := uki.Write(out, stub, parts); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("making the UKI: %w", err)
	}
	return nil
}

// banks are the hash functions of the TPM banks whose PCR 11 is predicted.
var banks = map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384}

func predictPCR11(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("measuring the UKI: %w", err)
	}
	defer f.Close()
	var g errgroup.Group
	sums := map[string][]byte{}
	for name := range banks {
		sums[name] = make([]byte, banks[name].Size())
		into := sums[name]
		g.Go(func() error {
			sum, err := uki.PCR11(f, banks[name])
			copy(into, sum)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("measuring the UKI: %w", err)
	}
	values := map[string]string{}
	for name, sum := range sums {
		values[name] = hex.EncodeToString(sum)
	}
	return values, nil
}
