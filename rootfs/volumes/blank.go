package volumes

import (
	"io"
	"slices"
)

// A disk that was wiped at its ends only is not blank: copies of superblocks and the data itself
// are still inside. All of a large disk cannot be read in a boot, so samples are.
const (
	sample      = 64 << 10 // bytes of a sample
	fewSamples  = 32       // for the facts of each boot; half a second on a spinning disk
	manySamples = 2048     // before a filesystem is made; half a minute
)

// nonzeroInside reads samples of a device and returns the offset of one that is not zero, or -1:
// n evenly distributed, and, if these are many, the places where filesystems keep copies of their
// superblocks.
func nonzeroInside(r io.ReaderAt, size int64, n int) (int64, error) {
	buf := make([]byte, sample)
	for _, at := range sampled(size, n) {
		b := buf[:min(sample, size-at)]
		if _, err := r.ReadAt(b, at); err != nil && err != io.EOF {
			return -1, err
		}
		if !allZero(b) {
			return at, nil
		}
	}
	return -1, nil
}

// sampled returns the offsets of samples between the ends of a device, in order, each once.
func sampled(size int64, n int) (list []int64) {
	add := func(at int64) {
		if at >= edge && at < size-edge {
			list = append(list, at)
		}
	}
	for i := range int64(n) {
		add(size / int64(n) * i &^ 4095)
	}
	if n < manySamples {
		return list
	}
	// ext2, ext3 and ext4: groups 1 and the powers of 3, 5 and 7, with blocks of 1 and 4 KiB.
	groups := []int64{1}
	for _, base := range []int64{3, 5, 7} {
		for g := base; g < 1<<22; g *= base {
			groups = append(groups, g)
		}
	}
	for _, g := range groups {
		add(g * 8 << 20)
		add(g * 128 << 20)
	}
	add(64 << 20)  // btrfs
	add(256 << 30) // btrfs
	for i := range int64(64) {
		add(size / 4 * i &^ 4095) // xfs: allocation groups are quarters of small disks,
		add(i << 40)              // and 1 TiB on large ones
	}
	slices.Sort(list)
	return slices.Compact(list)
}
