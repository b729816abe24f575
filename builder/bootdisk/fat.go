package bootdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Structures of FAT32 by Microsoft, "FAT: General Overview of On-Disk Format", 1.03. go-diskfs
// writes them with three faults, which tidy corrects: folder entries have the time of writing, even
// with the option for reproducible output; ".." of a folder in the root has the root's cluster
// instead of 0; and the count of free clusters is missing. fsck.vfat reports the latter two.

type fatVolume struct {
	f interface {
		io.ReaderAt
		io.WriterAt
	}
	start     int64 // of the volume in f, bytes
	sector    int64 // bytes
	cluster   int64 // bytes
	fat, data int64 // bytes from the volume's start
	clusters  uint32
	root      uint32
	info      []int64 // of FSInfo and its copy, bytes from the volume's start
	table     []byte  // the first FAT
}

const (
	fatFirst    = 2 // cluster
	fatEnd      = 0x0ffffff8
	fatEntry    = 32 // bytes of a folder's entry
	fatLongName = 0x0f
	fatFolder   = 0x10
	fatDate     = 1<<5 | 1 // 1980-01-01
)

// readFAT reads the head of a volume and its first FAT.
func readFAT(v *fatVolume) error {
	b := make([]byte, sector)
	if _, err := v.f.ReadAt(b, v.start); err != nil {
		return err
	}
	le := binary.LittleEndian
	v.sector = int64(le.Uint16(b[11:]))
	v.cluster = v.sector * int64(b[13])
	v.fat = v.sector * int64(le.Uint16(b[14:]))
	size := v.sector * int64(le.Uint32(b[36:]))
	v.data = v.fat + size*int64(b[16])
	total := v.sector * int64(le.Uint32(b[32:]))
	v.root = le.Uint32(b[44:])
	if v.cluster == 0 || total <= v.data || size == 0 {
		return errors.New("the volume's head is damaged")
	}
	v.clusters = uint32((total - v.data) / v.cluster)
	info := v.sector * int64(le.Uint16(b[48:]))
	v.info = []int64{info, info + v.sector*int64(le.Uint16(b[50:]))}
	v.table = make([]byte, size)
	_, err := v.f.ReadAt(v.table, v.start+v.fat)
	return err
}

func (v *fatVolume) next(c uint32) uint32 {
	return binary.LittleEndian.Uint32(v.table[4*c:]) & 0x0fffffff
}

// tidy corrects these faults, so that the volume does not depend on the time of writing.
func (v *fatVolume) tidy() error {
	if err := readFAT(v); err != nil {
		return fmt.Errorf("tidying a FAT volume: %w", err)
	}
	if err := v.folder(v.root); err != nil {
		return fmt.Errorf("tidying a FAT volume: %w", err)
	}
	var free uint32
	for c := uint32(fatFirst); c < v.clusters+fatFirst; c++ {
		if v.next(c) == 0 {
			free++
		}
	}
	for _, at := range v.info {
		if _, err := v.f.WriteAt(binary.LittleEndian.AppendUint32(nil, free), v.start+at+488); err != nil {
			return fmt.Errorf("tidying a FAT volume: %w", err)
		}
	}
	return nil
}

// folder tidies the entries of a folder and of those in it.
func (v *fatVolume) folder(first uint32) error {
	b := make([]byte, v.cluster)
	for c := first; c >= fatFirst && c < fatEnd; c = v.next(c) {
		at := v.start + v.data + int64(c-fatFirst)*v.cluster
		if _, err := v.f.ReadAt(b, at); err != nil {
			return err
		}
		for e := b; len(e) >= fatEntry && e[0] != 0; e = e[fatEntry:] {
			if e[0] == 0xe5 || e[11] == fatLongName {
				continue
			}
			sub := v.entry(e[:fatEntry])
			if sub == 0 {
				continue
			}
			if err := v.folder(sub); err != nil {
				return err
			}
		}
		if _, err := v.f.WriteAt(b, at); err != nil {
			return err
		}
	}
	return nil
}

// entry tidies one entry and returns the cluster of the folder that it names,
// or 0.
func (v *fatVolume) entry(e []byte) uint32 {
	le := binary.LittleEndian
	for _, at := range []int{14, 22} { // times: created, written
		le.PutUint16(e[at:], 0)
	}
	e[13] = 0                              // tenths of a second
	for _, at := range []int{16, 18, 24} { // dates: created, read, written
		le.PutUint16(e[at:], fatDate)
	}
	c := uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:]))
	if string(e[:11]) == "..         " && c == v.root {
		le.PutUint16(e[20:], 0)
		le.PutUint16(e[26:], 0)
	}
	if e[11]&fatFolder == 0 || e[0] == '.' {
		return 0
	}
	return c
}
