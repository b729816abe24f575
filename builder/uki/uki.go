// Package uki assembles unified kernel images: one PE executable for UEFI that contains
// systemd-stub, a kernel, its initramfs and its arguments as sections (UAPI group, "Unified Kernel
// Image"; systemd-stub(7); Microsoft, "PE Format"). It also predicts what the stub will measure of
// them (PCR11).
//
// The same stub and sections give the same bytes. What follows the stub's last section, a symbol
// table or a signature, is cut off: signing tools disagree about the digest of a file with such a
// tail. Left out: profiles (sections for several kernels in one file), and signing, which sbsign
// does; IsSigned reports whether a signature is the only change to an image. The package does not
// know ingot.
package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// Section is one named part of an image. systemd-stub uses .linux, .osrel, .cmdline, .initrd,
// .ucode, .splash, .dtb, .uname and others.
type Section struct {
	Name    string // with its dot, at most 8 bytes
	Size    int64  // bytes
	Content io.Reader
}

// Errors that callers may test for with errors.Is.
var (
	// ErrStub: the stub is not an executable that sections can be added to.
	ErrStub = errors.New("not a usable stub")
	// ErrSection: a section's name or size is not valid.
	ErrSection = errors.New("not a valid section")
)

// Out is where an image is written to: sequentially, and at the end once near its beginning.
// *os.File is one.
type Out interface {
	io.Writer
	io.WriterAt
}

const (
	pageSize      = 4096 // sections begin at multiples of it in memory
	sectionHeader = 40   // bytes of a row of the section table
	maxImage      = math.MaxUint32 - 64<<20
	// The flags of every added section: initialised data that can be read.
	dataFlags = pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ
)

// Write writes stub with the sections added, in their order, to out from offset 0 on, and returns
// the size of the image in bytes.
func Write(out Out, stub []byte, sections []Section) (size int64, err error) {
	h, err := parseStub(stub)
	if err != nil {
		return 0, fmt.Errorf("assembling a unified kernel image: %w", err)
	}
	if err := h.add(sections); err != nil {
		return 0, fmt.Errorf("assembling a unified kernel image: %w", err)
	}
	w := &checksummer{w: out}
	if err := h.write(w, stub, sections); err != nil {
		return 0, fmt.Errorf("assembling a unified kernel image: %w", err)
	}
	if _, err := out.WriteAt(le.AppendUint32(nil, w.sum()), h.optional+optCheckSum); err != nil {
		return 0, fmt.Errorf("assembling a unified kernel image: %w", err)
	}
	return w.n, nil
}

var le = binary.LittleEndian

// Offsets in bytes of the fields that change: in the COFF file header, and in
// the optional header of PE32+ (PE Format, "COFF File Header", "Optional Header").
const (
	coffSections      = 2
	coffSymbols       = 8 // pointer, then number
	coffSize          = 20
	optInitializedSum = 8
	optImageSize      = 56
	optCheckSum       = 64
	optSecurity       = 112 + 4*8 // the data directory's entry for signatures
)

// header is the head of a stub, which add turns into that of an image.
type header struct {
	b         []byte // everything before the first section
	coff      int64  // offset of the COFF file header
	optional  int64  // offset of the optional header
	table     int64  // offset of the section table
	sections  int    // rows in it
	names     []string
	fileAlign int64
	body      int64 // end of the stub's last section in the file
	memory    int64 // end of the last section in memory
	data      int64 // bytes of initialised data
	file      int64 // end of the last section in the file
}

// parseStub reads the head of a stub. What follows its sections is not part of the image.
func parseStub(stub []byte) (*header, error) {
	f, err := pe.NewFile(bytes.NewReader(stub))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStub, err)
	}
	o, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || o.NumberOfRvaAndSizes < 5 || len(f.Sections) == 0 {
		return nil, fmt.Errorf("%w: it is not a PE32+ executable", ErrStub)
	}
	coff := int64(le.Uint32(stub[0x3c:])) + 4
	h := &header{coff: coff, optional: coff + coffSize, table: coff + coffSize + int64(f.SizeOfOptionalHeader),
		sections: len(f.Sections), fileAlign: int64(o.FileAlignment), data: int64(o.SizeOfInitializedData)}
	if h.fileAlign <= 0 || int64(o.SizeOfHeaders) > int64(len(stub)) ||
		h.table+int64(h.sections)*sectionHeader > int64(o.SizeOfHeaders) {
		return nil, fmt.Errorf("%w: its head is damaged", ErrStub)
	}
	h.b = slices.Clone(stub[:o.SizeOfHeaders])
	h.body = int64(len(h.b))
	for _, s := range f.Sections {
		h.names = append(h.names, s.Name)
		h.memory = max(h.memory, int64(s.VirtualAddress)+int64(s.VirtualSize))
		h.body = max(h.body, int64(s.Offset)+int64(s.Size))
	}
	if h.body > int64(len(stub)) {
		return nil, fmt.Errorf("%w: it is truncated", ErrStub)
	}
	h.file = h.body
	clear(h.b[coff+coffSymbols : coff+coffSymbols+8])
	clear(h.b[h.optional+optSecurity : h.optional+optSecurity+8])
	clear(h.b[h.optional+optCheckSum : h.optional+optCheckSum+4])
	return h, nil
}

// add puts the rows of sections into the table and completes the head.
func (h *header) add(sections []Section) error {
	for _, s := range sections {
		row := h.table + int64(h.sections)*sectionHeader
		switch {
		case len(s.Name) < 2 || len(s.Name) > 8 || s.Name[0] != '.':
			return fmt.Errorf("%w: the name %q; want a dot and at most seven more bytes", ErrSection, s.Name)
		case slices.Contains(h.names, s.Name):
			return fmt.Errorf("%w: two sections are named %q", ErrSection, s.Name)
		case s.Size <= 0:
			return fmt.Errorf("%w: %q is empty", ErrSection, s.Name)
		case h.memory+s.Size > maxImage:
			return fmt.Errorf("%w: with %q the image is larger than an executable can be", ErrSection, s.Name)
		case row+sectionHeader > int64(len(h.b)):
			return fmt.Errorf("%w: its head has no space for %q", ErrStub, s.Name)
		}
		at, from := align(h.memory, pageSize), align(h.file, h.fileAlign)
		raw := align(s.Size, h.fileAlign)
		var b [sectionHeader]byte
		copy(b[:8], s.Name)
		for i, v := range []int64{s.Size, at, raw, from} { // VirtualSize, VirtualAddress, SizeOfRawData, PointerToRawData
			le.PutUint32(b[8+4*i:], uint32(v))
		}
		le.PutUint32(b[36:], dataFlags)
		copy(h.b[row:], b[:])
		h.names = append(h.names, s.Name)
		h.sections++
		h.memory, h.file, h.data = at+s.Size, from+raw, h.data+raw
	}
	le.PutUint16(h.b[h.coff+coffSections:], uint16(h.sections))
	le.PutUint32(h.b[h.optional+optInitializedSum:], uint32(h.data))
	le.PutUint32(h.b[h.optional+optImageSize:], uint32(align(h.memory, pageSize)))
	return nil
}

// write writes head, body and sections, each padded to the file's alignment.
func (h *header) write(w *checksummer, stub []byte, sections []Section) error {
	if _, err := w.Write(h.b); err != nil {
		return err
	}
	if _, err := w.Write(stub[len(h.b):h.body]); err != nil {
		return err
	}
	for _, s := range sections {
		if err := w.fill(h.fileAlign); err != nil {
			return err
		}
		n, err := io.Copy(w, s.Content)
		if err != nil {
			return fmt.Errorf("reading %q: %w", s.Name, err)
		}
		if n != s.Size {
			return fmt.Errorf("%w: %q has %d bytes, not %d", ErrSection, s.Name, n, s.Size)
		}
	}
	return w.fill(h.fileAlign)
}

func align(n, to int64) int64 { return (n + to - 1) / to * to }

// checksummer computes the checksum of a PE file while it is written: the sum
// of its 16-bit words with carries added back, and its length (PE Format,
// "CheckSum"; the field itself counts as zero).
type checksummer struct {
	w     io.Writer
	n     int64
	words uint64
}

func (c *checksummer) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	b := p[:n]
	if c.n%2 == 1 && len(b) > 0 {
		c.words += uint64(b[0]) << 8
		b = b[1:]
	}
	for ; len(b) >= 2; b = b[2:] {
		c.words += uint64(b[0]) | uint64(b[1])<<8
	}
	if len(b) == 1 {
		c.words += uint64(b[0])
	}
	c.n += int64(n)
	return n, err
}

// fill writes zeros up to the next multiple of a size.
func (c *checksummer) fill(to int64) error {
	_, err := c.Write(make([]byte, align(c.n, to)-c.n))
	return err
}

func (c *checksummer) sum() uint32 {
	s := c.words
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint32(s) + uint32(c.n)
}
