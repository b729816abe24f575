package squashfs

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// content is the Open of a file whose bytes are in memory.
func inMemory(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// file is a regular file of root's.
func file(path string, b []byte) Entry {
	return Entry{Path: path, Kind: File, Mode: 0o644, Size: int64(len(b)), Open: inMemory(b), ModTime: 1_700_000_000}
}

func dir(path string) Entry { return Entry{Path: path, Kind: Dir, Mode: 0o755, ModTime: 1_700_000_000} }

// words is text of n bytes that compresses like text does.
func words(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = fmt.Appendf(b, "%x ", r.Uint32N(4000))
	}
	return b[:n]
}

// noise is n bytes that do not compress.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// zeroReader is a sparse file: its bytes are made as they are read.
type zeroReader struct {
	left, at int64
	marks    map[int64]byte // bytes other than zero
}

func (z *zeroReader) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), z.left))
	clear(p[:n])
	for at, b := range z.marks {
		if at >= z.at && at < z.at+int64(n) {
			p[at-z.at] = b
		}
	}
	z.at += int64(n)
	z.left -= int64(n)
	return n, nil
}

func sparse(path string, size int64, marks map[int64]byte) Entry {
	return Entry{Path: path, Kind: File, Mode: 0o600, Size: size, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(&zeroReader{left: size, marks: marks}), nil
	}}
}

// corpus is the trees that have broken writers of squashfs, by name.
func corpus(t testing.TB) map[string][]Entry {
	trees := map[string][]Entry{
		"empty":         nil,
		"only the root": {{Path: "", Kind: Dir, Mode: 0o700, UID: 5, GID: 6, ModTime: 7}},
		"modes and owners": {
			dir("bin"), dir("tmp"),
			{Path: "bin/su", Kind: File, Mode: 0o4755, Size: 2, Open: inMemory([]byte("su")), ModTime: 1},
			{Path: "bin/wall", Kind: File, Mode: 0o2755, UID: 1_000_000, GID: 1<<32 - 2},
			{Path: "tmp/sticky", Kind: Dir, Mode: 0o1777, ModTime: 1<<32 - 1},
			{Path: "none", Kind: File, Mode: 0, UID: 65534, GID: 65534},
		},
		"kinds": {
			{Path: "null", Kind: CharDevice, Mode: 0o666, Major: 1, Minor: 3},
			{Path: "large", Kind: BlockDevice, Mode: 0o660, Major: 4095, Minor: 1<<20 - 1},
			{Path: "mid", Kind: CharDevice, Mode: 0o660, Major: 259, Minor: 70_000},
			{Path: "fifo", Kind: Fifo, Mode: 0o600}, {Path: "socket", Kind: Socket, Mode: 0o755},
			{Path: "link", Kind: Symlink, Mode: 0o777, Target: "nowhere/at all"},
			{Path: "long link", Kind: Symlink, Mode: 0o777, Target: strings.Repeat("a/", 2047) + "b"},
		},
		"hard links": {
			dir("a"), file("a/first", words(1, 5000)),
			{Path: "a/second", Hard: "a/first"}, {Path: "b", Hard: "a/first"}, {Path: "0 before it", Hard: "a/first"},
			{Path: "dev", Kind: CharDevice, Mode: 0o600, Major: 5, Minor: 1}, {Path: "dev2", Hard: "dev"},
		},
		"names": {
			file("\xff\xfe not UTF-8 \x80", []byte("x")), file("new\nline", []byte("y")), file("tab\tand \\ and \x1b[31m", nil),
			file(strings.Repeat("n", 255), []byte("long")), file("ünïcödé", nil), dir(" "), file(" / ", []byte("blank")),
		},
		"sizes": nil, "extended attributes": nil, "duplicates": nil, "deep": nil,
	}
	const bs = DefaultBlockSize
	for i, n := range []int{0, 1, 4095, 4096, bs - 1, bs, bs + 1, 2 * bs, 2*bs + 1, 5*bs - 1} {
		trees["sizes"] = append(trees["sizes"], file(fmt.Sprintf("words-%d", n), words(uint64(i), n)),
			file(fmt.Sprintf("noise-%d", n), noise(uint64(i), n)))
	}
	for i := range 1000 {
		e := file(fmt.Sprintf("%04d", i), nil)
		e.Xattrs = map[string]string{"user.value": string(noise(uint64(i), 300)),
			"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
		trees["extended attributes"] = append(trees["extended attributes"], e)
	}
	for i, e := range []Entry{dir("dir"), {Path: "link", Kind: Symlink, Mode: 0o777, Target: "x"},
		{Path: "fifo", Kind: Fifo, Mode: 0o600},
		{Path: "char", Kind: CharDevice, Mode: 0o600, Major: 1, Minor: 3}, file("empty value", words(3, 10))} {
		e.Xattrs = map[string]string{"trusted.one": strings.Repeat("v", i*1000), "security.same": "for all"}
		trees["extended attributes"] = append(trees["extended attributes"], e)
	}
	for i := range 40 {
		trees["duplicates"] = append(trees["duplicates"], file(fmt.Sprintf("small-%02d", i), words(uint64(i%3), 9000)),
			file(fmt.Sprintf("large-%02d", i), words(uint64(i%2), 3*bs+77)))
	}
	path := ""
	for i := range 100 {
		path = strings.TrimPrefix(path+"/"+fmt.Sprintf("level%d", i), "/")
		trees["deep"] = append(trees["deep"], dir(path))
	}
	trees["sparse"] = []Entry{
		sparse("all holes", 3*bs, nil), sparse("ends in a hole", 10*bs, map[int64]byte{5: 'x', 4 * bs: 'y'}),
		sparse("holes and an end", 7*bs+100, map[int64]byte{3*bs - 1: 'x', 7*bs + 50: 'z'}),
	}
	return trees
}

// large are the trees that take longer.
func large() map[string][]Entry {
	const bs = DefaultBlockSize
	many := []Entry{dir("many")}
	for i := range 100_000 {
		many = append(many, Entry{Path: fmt.Sprintf("many/entry-%06d-%s", i, strings.Repeat("x", i%40)), Kind: File,
			Mode: 0o644})
	}
	return map[string][]Entry{
		"100,000 entries": many,
		"5 GiB sparse": {sparse("image", 5<<30+bs/2, map[int64]byte{0: 'a', 1 << 32: 'b', 5<<30 + 100: 'c'}),
			file("after", words(1, 10))},
	}
}

// roots is a tree like a small system, of about n files.
func system(seed uint64, n int) []Entry {
	r := rand.New(rand.NewPCG(seed, 3))
	var entries []Entry
	for d := range n/50 + 1 {
		name := fmt.Sprintf("d%03d", d)
		entries = append(entries, dir(name))
		for f := range 50 {
			size := int(r.ExpFloat64() * 12_000)
			if r.IntN(60) == 0 {
				size += r.IntN(1 << 20)
			}
			entries = append(entries, file(fmt.Sprintf("%s/f%02d", name, f), words(r.Uint64(), size)))
		}
	}
	return entries
}

// chaCha is noise without an end.
func chaCha(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }
