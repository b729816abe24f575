package rootfs

import (
	"encoding/binary"
	"io"
	"os"
)

// maxDMI bounds the table that is read; real ones have a few KiB.
const maxDMI = 1 << 20

// InstalledMemory is the size in bytes of the memory modules that are plugged
// in, from SMBIOS. It is 0 where there is no SMBIOS, or
// where it does not know.
func InstalledMemory() int64 {
	f, err := os.Open("/sys/firmware/dmi/tables/DMI")
	if err != nil {
		return 0
	}
	defer f.Close()
	table, err := io.ReadAll(io.LimitReader(f, maxDMI))
	if err != nil {
		return 0
	}
	return modules(table)
}

// Structures of SMBIOS and their fields (DSP0134, version 3.7).
const (
	typeMemoryArray  = 16 // section 7.17
	arrayUse         = 0x05
	arrayUseSystem   = 3
	typeMemoryDevice = 17 // section 7.18
	deviceArray      = 0x04
	deviceSize       = 0x0C
	deviceType       = 0x12
	deviceExtended   = 0x1C
	typeEndOfTable   = 127 // section 7.45
)

// modules sums the memory devices of a table: those of the arrays that are
// system memory, and of them those that forget. 0 when the size of one is not
// known, since the sum would be wrong.
func modules(table []byte) (sum int64) {
	type device struct {
		array uint16
		size  int64
	}
	var devices []device
	other := map[uint16]bool{} // arrays for flash, video and caches
	for s, rest := structure(table); s != nil && s[0] != typeEndOfTable; s, rest = structure(rest) {
		switch {
		case s[0] == typeMemoryArray && len(s) > arrayUse:
			other[binary.LittleEndian.Uint16(s[2:])] = s[arrayUse] != arrayUseSystem
		case s[0] == typeMemoryDevice && len(s) > deviceType:
			size, known := moduleSize(s)
			if !known {
				return 0
			}
			if !lasting(s[deviceType]) {
				devices = append(devices, device{binary.LittleEndian.Uint16(s[deviceArray:]), size})
			}
		}
	}
	for _, d := range devices {
		if !other[d.array] {
			sum += d.size
		}
	}
	return sum
}

// structure cuts the first structure off a table, without the strings that
// follow it: those end with two zeros (section 6.1.3). It returns nil when
// there is no whole one.
func structure(table []byte) (formatted, rest []byte) {
	if len(table) < 4 || table[1] < 4 || len(table) < int(table[1])+2 {
		return nil, nil
	}
	formatted, rest = table[:table[1]], table[table[1]:]
	for i := 0; i+1 < len(rest); i++ {
		if rest[i] == 0 && rest[i+1] == 0 {
			return formatted, rest[i+2:]
		}
	}
	return nil, nil
}

// moduleSize is the size of a memory device in bytes (section 7.18.4 and
// 7.18.5); 0 for an empty slot.
func moduleSize(s []byte) (size int64, known bool) {
	const inKiB, unknown, extended = 0x8000, 0xFFFF, 0x7FFF
	switch n := binary.LittleEndian.Uint16(s[deviceSize:]); {
	case n == unknown:
		return 0, false
	case n == extended:
		if len(s) < deviceExtended+4 {
			return 0, false
		}
		return int64(binary.LittleEndian.Uint32(s[deviceExtended:])&^(1<<31)) << 20, true
	case n&inKiB != 0:
		return int64(n&^inKiB) << 10, true
	default:
		return int64(n) << 20, true
	}
}

// lasting reports whether a kind of memory keeps its contents: ROM, flash,
// EEPROM, FEPROM, EPROM, and the logical devices of persistent memory (section
// 7.18.2).
func lasting(kind byte) bool { return kind >= 0x08 && kind <= 0x0C || kind == 0x1F }
