package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
)

// A backup ends with a line that has the SHA-256 of everything before it. Backups of earlier
// versions, and plain copies of a state file, have no such line; they are read without it.
const sealPrefix = "\ningot backup sha256 "

// sealSize is the length of that line in bytes.
const sealSize = int64(len(sealPrefix) + 2*sha256.Size + 1)

// SealWriter passes a backup on to another writer, and adds the checksum.
type SealWriter struct {
	w   io.Writer
	sum hash.Hash
}

// NewSealWriter returns a SealWriter that writes to w.
func NewSealWriter(w io.Writer) *SealWriter { return &SealWriter{w, sha256.New()} }

// Write implements io.Writer.
func (s *SealWriter) Write(p []byte) (int, error) {
	s.sum.Write(p)
	return s.w.Write(p)
}

// Seal writes the checksum of what was written. Nothing may be written after it.
func (s *SealWriter) Seal() error {
	_, err := fmt.Fprintf(s.w, "%s%x\n", sealPrefix, s.sum.Sum(nil))
	return err
}

// CheckSeal compares a backup of a size in bytes with its checksum, if it has one, and returns the
// size without it. A backup that does not match is ErrDamaged.
func CheckSeal(r io.ReaderAt, size int64) (content int64, err error) {
	line := make([]byte, sealSize)
	if size < sealSize {
		return size, nil
	}
	if _, err := r.ReadAt(line, size-sealSize); err != nil {
		return 0, fmt.Errorf("reading the checksum of the backup: %w", err)
	}
	text, sealed := bytes.CutPrefix(line, []byte(sealPrefix))
	if !sealed {
		return size, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, size-sealSize)); err != nil {
		return 0, fmt.Errorf("reading the backup: %w", err)
	}
	if want := hex.EncodeToString(h.Sum(nil)) + "\n"; string(text) != want {
		return 0, fmt.Errorf("%w: it does not match its checksum", ErrDamaged)
	}
	return size - sealSize, nil
}
