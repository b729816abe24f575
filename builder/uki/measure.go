package uki

import (
	"crypto"
	"debug/pe"
	"fmt"
	"io"
	"strings"
)

// Read lists the sections of an image, including the stub's own, with the content that each will
// have in memory. A signature is not among them.
func Read(r io.ReaderAt) ([]Section, error) {
	f, err := pe.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("reading a unified kernel image: %w", err)
	}
	var list []Section
	for _, s := range f.Sections {
		size, stored := int64(s.VirtualSize), int64(s.Size)
		content := io.Reader(io.NewSectionReader(r, int64(s.Offset), min(size, stored)))
		if size > stored {
			content = io.MultiReader(content, io.LimitReader(zeros{}, size-stored))
		}
		list = append(list, Section{s.Name, size, content})
	}
	return list, nil
}

// zeros is an endless reader of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// measured are the sections that systemd-stub 257 measures, in the order of measuring, which is not
// their order in the file (systemd-stub(7); UAPI group, "Unified Kernel Image", section "UKI TPM
// PCR Measurements"). .pcrsig is not measured: it signs the result.
var measured = []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash",
	".dtb", ".uname", ".sbat", ".pcrpkey",
	".profile", ".dtbauto", ".hwids"}

// PCR11 predicts the value of PCR 11 of a TPM, in the bank of a hash function, when systemd-stub of
// version 257 starts the image's kernel. Later programs may extend it
// (systemd-pcrphase.service(8)).
func PCR11(r io.ReaderAt, bank crypto.Hash) ([]byte, error) {
	sections, err := Read(r)
	if err != nil {
		return nil, err
	}
	pcr := make([]byte, bank.Size())
	extend := func(content io.Reader) error {
		event, extended := bank.New(), bank.New()
		if _, err := io.Copy(event, content); err != nil {
			return err
		}
		extended.Write(pcr)
		extended.Write(event.Sum(nil))
		pcr = extended.Sum(pcr[:0])
		return nil
	}
	for _, name := range measured {
		for _, s := range sections {
			if s.Name != name {
				continue
			}
			if err := extend(strings.NewReader(name + "\x00")); err != nil {
				return nil, err
			}
			if err := extend(s.Content); err != nil {
				return nil, fmt.Errorf("measuring %q: %w", name, err)
			}
			break
		}
	}
	return pcr, nil
}
