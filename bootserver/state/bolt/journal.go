package bolt

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ingot/bootserver/state"
)

// journalFile holds changes that are durable and not yet in the state's file, while a server runs and
// after a crash. A server that is stopped leaves none.
//
// It is a sequence of records, one for each write. A record is
//
//	8 bytes   journalMagic
//	16        id of the journal, which the state's file has, too
//	8         its number: each one has the next; 0 has no content, and is written as the journal is made
//	4         length of the content
//	4         CRC-32C of all of the record but these 4 bytes
//	          content: entries, see appendEntry
//
// and zeros up to the next page: no write touches a page that an earlier one filled. When all records
// are in the state's file, the next one is written at the beginning; those behind it have lower numbers.
const journalFile = "ingot.journal"

const (
	journalMagic = "ingot\x00J1"
	journalPage  = 4096
	journalHead  = len(journalMagic) + idSize + 8 + 4 + 4
	idSize       = 16
	firstSize    = 64 << 10 // of the file, in bytes; it grows up to maxJournal
	maxJournal   = 4 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// journalID tells journals apart.
type journalID [idSize]byte

// journal is one that is written.
type journal struct {
	f    *os.File
	id   journalID
	last uint64 // number of the last record
	next int64  // where the next one begins
	size int64  // of the file: all of it was written once, so that syncing a record writes nothing else
	page []byte // for the next record
}

// createJournal makes an empty journal in dir, which is durable when it returns.
func createJournal(dir string) (*journal, error) {
	path := filepath.Join(dir, journalFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("making the journal: %w", err)
	}
	j := &journal{f: f}
	_, _ = rand.Read(j.id[:]) // never fails, see crypto/rand
	err = j.grow(firstSize)
	if err == nil {
		err = j.write(0, nil)
	}
	if err := firstOf(err, giveToOwner(dir, path), syncDir(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("making the journal: %w", err), f.Close(), os.Remove(path))
	}
	return j, nil
}

// grow makes the file larger.
func (j *journal) grow(size int64) error {
	_, err := j.f.WriteAt(make([]byte, size-j.size), j.size)
	if err = firstOf(err, j.f.Sync()); err == nil {
		j.size = size
	}
	return err
}

// fit makes the file large enough for a record of a length. It reports false if it
// would have more than room bytes then.
func (j *journal) fit(length int, room int64) (bool, error) {
	end := j.next + pages(length)
	if end > room {
		return false, nil
	}
	size := j.size
	for size < end {
		size *= 4
	}
	if size == j.size {
		return true, nil
	}
	return true, j.grow(size)
}

// pages is the room that a record with a content of a length takes, in bytes.
func pages(length int) int64 {
	return (int64(journalHead+length) + journalPage - 1) / journalPage * journalPage
}

// append writes the next record, which is durable when it returns nil. The number of one that failed is
// not used again.
func (j *journal) append(content []byte) error {
	j.last++
	return j.write(j.last, content)
}

func (j *journal) write(number uint64, content []byte) error {
	b := append(j.page[:0], journalMagic...)
	b = append(b, j.id[:]...)
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	b = binary.BigEndian.AppendUint32(b, checksum(b, content))
	b = append(b, content...)
	b = append(b, make([]byte, pages(len(content))-int64(len(b)))...)
	j.page = b
	_, err := j.f.WriteAt(b, j.next)
	if err == nil {
		err = datasync(j.f)
	}
	if err != nil {
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.next += int64(len(b))
	return nil
}

func checksum(head, content []byte) uint32 {
	return crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, content)
}

// datasync is fsync without the times of the file.
func datasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// remove removes a journal of which all records are in the state's file.
func (j *journal) remove() error {
	return errors.Join(j.f.Close(), os.Remove(j.f.Name()))
}

// journalRecord is a record that was read.
type journalRecord struct {
	id      journalID
	number  uint64
	content []byte
}

// readRecord reads the record at the beginning of b.
func readRecord(b []byte) (r journalRecord, ok bool) {
	if len(b) < journalHead || !bytes.HasPrefix(b, []byte(journalMagic)) {
		return r, false
	}
	head, rest := b[:journalHead-4], b[len(journalMagic):]
	copy(r.id[:], rest)
	r.number = binary.BigEndian.Uint64(rest[idSize:])
	length := binary.BigEndian.Uint32(rest[idSize+8:])
	sum := binary.BigEndian.Uint32(rest[idSize+12:])
	if int64(length) > int64(len(b)-journalHead) {
		return r, false
	}
	r.content = b[journalHead : journalHead+int(length)]
	return r, checksum(head, r.content) == sum
}

// journalMark is what the state's file says about its journal.
type journalMark struct {
	ID      journalID
	Applied uint64 // number of the last record that is in the file
	Open    bool   // the file was not closed: there must be a journal
}

// readJournal returns the records of the journal in dir that are not in the state's file, of which mark
// is. The last record may be incomplete, because the server died as it wrote it: nobody was told that
// it is stored. Anything else that is not as it was written is state.ErrJournal.
func readJournal(dir string, mark journalMark) ([]journalRecord, error) {
	b, err := os.ReadFile(filepath.Join(dir, journalFile))
	switch {
	case errors.Is(err, fs.ErrNotExist) && mark.Open:
		return nil, fmt.Errorf("%w: it is missing, and the server that used the state file did not stop, but died",
			state.ErrJournal)
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the journal: %w", err)
	}
	for at := 0; at < len(b); at += journalPage {
		// A journal that has only its record 0 was made, and the server died before it used it.
		if r, ok := readRecord(b[at:]); ok && r.id != mark.ID && (r.number > 0 || mark.Open) {
			return nil, fmt.Errorf("%w: it belongs to another state file", state.ErrJournal)
		}
	}
	if mark.Open && !bytes.HasPrefix(b, append([]byte(journalMagic), mark.ID[:]...)) {
		return nil, fmt.Errorf("%w: its beginning is damaged", state.ErrJournal)
	}
	return notApplied(b, mark)
}

// notApplied returns the records of a journal that are not in the state's file.
func notApplied(b []byte, mark journalMark) ([]journalRecord, error) {
	list, end := leading(b)
	last := mark.Applied
	if n := len(list); n > 0 {
		last = max(last, list[n-1].number)
		if first := list[0].number; first > mark.Applied+1 {
			return nil, fmt.Errorf("%w: it begins at record %d, and the state file ends at record %d: it is an older copy",
				state.ErrJournal, first, mark.Applied)
		}
	}
	for ; end < len(b); end += journalPage {
		if r, ok := readRecord(b[end:]); ok && r.number > last {
			return nil, fmt.Errorf("%w: a record before number %d is damaged", state.ErrJournal, r.number)
		}
	}
	for len(list) > 0 && list[0].number <= mark.Applied {
		list = list[1:]
	}
	return list, nil
}

// leading returns the records at the beginning of a journal that follow each other, and where they end.
func leading(b []byte) (list []journalRecord, end int) {
	for end < len(b) {
		r, ok := readRecord(b[end:])
		if n := len(list); !ok || n > 0 && r.number != list[n-1].number+1 {
			break
		}
		list = append(list, r)
		end += int(pages(len(r.content)))
	}
	return list, end
}

// HasJournal reports whether a server used the state in dir, and was not stopped but died.
func HasJournal(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, journalFile))
	return err == nil
}
