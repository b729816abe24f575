package initrd

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"ingot"
)

// ErrRootHash: the command line's root hash is not that of the image.
var ErrRootHash = errors.New("the root hash on the kernel command line is not the image's")

// verityName is the name of the mapped device.
const verityName = "ingot-root"

// openVerity maps a device that holds a root and its dm-verity tree, and
// returns the mapped one, which verifies each block against the root hash:
// reading a block that does not match is an I/O error.
func openVerity(device string, v *ingot.Verity, rootHash string) (string, error) {
	if rootHash != v.RootHash {
		return "", fmt.Errorf("%w: it says %.12s, the image %.12s", ErrRootHash, rootHash, v.RootHash)
	}
	table, err := verityTable(device, v)
	if err != nil {
		return "", err
	}
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("opening the device mapper: %w; are dm_mod and dm_verity in the initramfs?", err)
	}
	defer control.Close()
	m := mapper{control.Fd()}
	_ = m.do(unix.DM_DEV_REMOVE, &dmRequest{name: verityName}) // of an attempt before this one
	if err := m.do(unix.DM_DEV_CREATE, &dmRequest{name: verityName}); err != nil {
		return "", fmt.Errorf("mapping the root: %w", err)
	}
	load := dmRequest{
		name:    verityName,
		flags:   dmReadOnly,
		sectors: uint64(v.HashOffset) / 512,
		target:  "verity",
		params:  table,
	}
	if err := m.do(unix.DM_TABLE_LOAD, &load); err != nil {
		return "", fmt.Errorf("mapping the root with dm-verity: %w", err)
	}
	resume := dmRequest{name: verityName}
	if err := m.do(unix.DM_DEV_SUSPEND, &resume); err != nil { // without the flag to suspend, it resumes
		return "", fmt.Errorf("mapping the root: %w", err)
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(resume.dev)), nil
}

// verityTable are the parameters of a verity target (Linux, Documentation/
// admin-guide/device-mapper/verity.rst): version, data and hash device, block
// sizes, data blocks, first hash block, algorithm, root hash, salt. The hash
// blocks begin behind the superblock, which has a block to itself.
func verityTable(device string, v *ingot.Verity) (string, error) {
	const block = 4096
	for _, s := range []string{v.RootHash, v.Salt} {
		if _, err := hex.DecodeString(s); err != nil {
			return "", fmt.Errorf("reading the image's dm-verity tree: %w", err)
		}
	}
	if len(v.RootHash) != 64 || v.HashOffset <= 0 || v.HashOffset%block != 0 {
		return "", fmt.Errorf("%w: its dm-verity tree cannot be at byte %d", ErrImageDigest, v.HashOffset)
	}
	salt := v.Salt
	if salt == "" {
		salt = "-"
	}
	return fmt.Sprintf(
		"1 %s %s %d %d %d %d sha256 %s %s",
		device,
		device,
		block,
		block,
		v.HashOffset/block,
		v.HashOffset/block+1,
		v.RootHash,
		salt,
	), nil
}

// mapper is the interface of the device mapper (Linux, include/uapi/linux/dm-ioctl.h).
type mapper struct{ fd uintptr }

const dmReadOnly = 1 << 0

// dmRequest is one ioctl; dev is its answer.
type dmRequest struct {
	name    string
	flags   uint32
	dev     uint64
	sectors uint64 // with target: the table's one row
	target  string
	params  string
}

// dmSpec is struct dm_target_spec.
type dmSpec struct {
	Start, Length uint64
	Status        int32
	Next          uint32
	Type          [16]byte
}

func (m mapper) do(request uintptr, r *dmRequest) error {
	const head = int(unsafe.Sizeof(unix.DmIoctl{}))
	buf := make([]byte, 4096)
	io := unix.DmIoctl{Version: [3]uint32{4, 0, 0}, Data_size: uint32(len(buf)), Data_start: uint32(head), Flags: r.flags}
	copy(io.Name[:], r.name)
	var row bytes.Buffer
	if r.target != "" {
		io.Target_count = 1
		spec := dmSpec{Length: r.sectors}
		copy(spec.Type[:], r.target)
		if err := binary.Write(&row, binary.NativeEndian, spec); err != nil {
			return err
		}
		row.WriteString(r.params)
		row.WriteByte(0)
	}
	*(*unix.DmIoctl)(unsafe.Pointer(&buf[0])) = io
	if copy(buf[head:], row.Bytes()) < row.Len() {
		return errors.New("the dm-verity table is too long")
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, m.fd, request, uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
		return errno
	}
	r.dev = (*unix.DmIoctl)(unsafe.Pointer(&buf[0])).Dev
	return nil
}
