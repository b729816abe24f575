package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
)

// A backup ends with a line that has the SHA-256 of everything before it. A mark in its content says
// so: if that is there and the line is not, the backup was cut off or something was added to it.
// Backups of earlier versions, and plain copies of a state file, have neither.
const sealPrefix = "\ningot backup sha256 "

// KeptRestores is how many states from before a restore are kept.
const KeptRestores = 3

// SealMark is the mark of a backup that is a file of bbolt. It is in the first page, of which bbolt
// uses 80 bytes, and is gone when bbolt writes the page again.
const (
	SealMark   = "ingot backup, sealed"
	SealMarkAt = 512
)

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

// ErrUnsealed is an ErrDamaged: a backup that had a checksum has none at its end.
var ErrUnsealed = fmt.Errorf("%w: its checksum is not at its end: it was cut off, or something was added", ErrDamaged)

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
		mark := make([]byte, len(SealMark))
		if _, err := r.ReadAt(mark, SealMarkAt); err == nil && string(mark) == SealMark {
			return 0, ErrUnsealed
		}
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
