package rootfs

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
)

// dmiStructure is one of a table: DSP0134, section 6.1.2.
func dmiStructure(kind byte, length int, handle uint16, fields map[int]any, texts ...string) []byte {
	b := make([]byte, length)
	b[0], b[1] = kind, byte(length)
	binary.LittleEndian.PutUint16(b[2:], handle)
	for at, v := range fields {
		var w bytes.Buffer
		_ = binary.Write(&w, binary.LittleEndian, v) // into memory
		copy(b[at:], w.Bytes())
	}
	for _, t := range texts {
		b = append(append(b, t...), 0)
	}
	if len(texts) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

// module is a memory device as SMBIOS 3 has it: DDR4 in array 0x1000.
func module(size uint16, extended uint32) []byte {
	return dmiStructure(
		17,
		84,
		0x1100,
		map[int]any{0x04: uint16(0x1000), 0x0C: size, 0x12: byte(0x1A), 0x1C: extended},
		"DIMM 0",
		"Samsung",
		"4D",
	)
}

var (
	bios = dmiStructure(0, 24, 0, nil, "American Megatrends", "1.4", "05/06/2021")
	end  = dmiStructure(127, 4, 0xFEFF, nil)
)

func memoryArray(handle uint16, use byte) []byte {
	return dmiStructure(16, 23, handle, map[int]any{0x05: use})
}

// TestModules reads tables as boards and emulators write them.
func TestModules(t *testing.T) {
	array := memoryArray(0x1000, 3)
	for name, c := range map[string]struct {
		table [][]byte
		want  int64
	}{
		"eight modules of 32 GiB, with eight empty slots": {append(slices.Repeat([][]byte{module(0x7FFF, 32<<10),
			module(0, 0)}, 8), array), 256 << 30},
		"modules of 16 GiB in MiB":                     {[][]byte{array, module(16<<10, 0), module(16<<10, 0)}, 32 << 30},
		"a module of 32 GiB less one MiB":              {[][]byte{array, module(0x7FFF, 0x7FFF)}, 0x7FFF << 20},
		"a module of 4 TiB":                            {[][]byte{array, module(0x7FFF, 4<<20)}, 4 << 40},
		"the top bit of the extended size is reserved": {[][]byte{array, module(0x7FFF, 1<<31|64<<10)}, 64 << 30},
		"an old board, sizes in KiB, SMBIOS 2.1": {[][]byte{array,
			dmiStructure(17, 21, 1, map[int]any{0x04: uint16(0x1000), 0x0C: uint16(0x8000 | 16384), 0x12: byte(0x0F)})},
			16 << 20},
		"QEMU": {[][]byte{dmiStructure(16, 23, 0x1000, map[int]any{0x04: byte(1), 0x05: byte(3)}),
			dmiStructure(17, 40, 0x1100,
				map[int]any{0x04: uint16(0x1000), 0x0C: uint16(2048), 0x0E: byte(9), 0x12: byte(7)}, "DIMM 0", "QEMU")}, 2 << 30},
		"the flash of the BIOS in an array of its own": {[][]byte{module(1024, 0),
			dmiStructure(17, 40, 2, map[int]any{0x04: uint16(0x2000), 0x0C: uint16(16), 0x12: byte(2)}),
			array, memoryArray(0x2000, 5)}, 1 << 30},
		"flash, and persistent memory": {[][]byte{module(1024, 0),
			dmiStructure(17, 40, 2, map[int]any{0x04: uint16(0x1000), 0x0C: uint16(16), 0x12: byte(9)}),
			dmiStructure(17, 84, 3, map[int]any{0x04: uint16(0x1000), 0x0C: uint16(0x7FFF), 0x12: byte(0x1F),
				0x1C: uint32(128 << 10)})}, 1 << 30},
		"a module of unknown size": {[][]byte{array, module(1024, 0), module(0xFFFF, 0)}, 0},
		"an extended size that is not there": {[][]byte{array, dmiStructure(17, 27, 1,
			map[int]any{0x04: uint16(0x1000), 0x0C: uint16(0x7FFF)})}, 0},
		"no modules":                            {[][]byte{array}, 0},
		"a structure shorter than its header":   {[][]byte{{17, 3, 0, 0, 0, 0}, module(1024, 0)}, 0},
		"what follows the end is not the table": {[][]byte{module(1024, 0), end, module(1024, 0)}, 1 << 30},
	} {
		table := slices.Concat(bios, slices.Concat(c.table...), end)
		if got := modules(table); got != c.want {
			t.Errorf("%s: modules = %d MiB; want %d MiB", name, got>>20, c.want>>20)
		}
	}
}

// FuzzModules: firmware may write anything.
func FuzzModules(f *testing.F) {
	f.Add(slices.Concat(bios, memoryArray(0x1000, 3), module(0x7FFF, 32<<10), module(1024, 0), end))
	f.Add(module(1024, 0)[:30])
	f.Fuzz(func(t *testing.T, table []byte) {
		got := modules(table)
		if most := int64(len(table)/21+1) << 51; got < 0 || got > most {
			t.Errorf("modules = %d; want from 0 to %d", got, most)
		}
	})
}
