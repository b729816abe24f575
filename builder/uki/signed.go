package uki

import (
	"bytes"
	"debug/pe"
	"fmt"
	"io"
)

// IsSigned reports whether signed is the image plain, of size bytes, with only a signature added:
// they differ in the fields of the head that a signing tool sets (checksum and place of the
// signature) and in what follows the image's end. It does not verify the signature.
func IsSigned(signed, plain io.ReaderAt, size int64) (bool, error) {
	f, err := pe.NewFile(signed)
	if err != nil {
		return false, fmt.Errorf("reading a signed image: %w", err)
	}
	o, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || o.NumberOfRvaAndSizes < 5 || int64(o.DataDirectory[4].VirtualAddress) < size ||
		o.DataDirectory[4].Size == 0 {
		return false, nil
	}
	var at [4]byte
	if _, err := plain.ReadAt(at[:], 0x3c); err != nil {
		return false, fmt.Errorf("reading an image: %w", err)
	}
	optional := int64(le.Uint32(at[:])) + 4 + coffSize
	filled := [][2]int64{{optional + optCheckSum, 4}, {optional + optSecurity, 8}} // offset and size
	var a, b [1 << 16]byte
	for from := int64(0); from < size; from += int64(len(a)) {
		n := min(int64(len(a)), size-from)
		if _, err := io.ReadFull(io.NewSectionReader(plain, from, n), a[:n]); err != nil {
			return false, fmt.Errorf("reading an image: %w", err)
		}
		if _, err := io.ReadFull(io.NewSectionReader(signed, from, n), b[:n]); err != nil {
			return false, fmt.Errorf("reading a signed image: %w", err)
		}
		for _, f := range filled {
			for i := max(f[0]-from, 0); i < min(f[0]+f[1]-from, n); i++ {
				a[i], b[i] = 0, 0
			}
		}
		if !bytes.Equal(a[:n], b[:n]) {
			return false, nil
		}
	}
	return true, nil
}
