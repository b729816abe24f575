package volumes

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"ingot"
)

// A volume says whose it is in its first sector, which ext4 leaves to boot loaders: a line of
// text, a line of JSON with fleet, machine, volume and the UUID of the filesystem, and a line with
// a checksum. It is read without mounting, with "head -c 446 DEVICE". Of a volume that ingot made,
// the UUID itself is derived from the owner: it is of version 8 (RFC 9562, section 5.8), so that
// it is known as ingot's when the first sector was overwritten.

const (
	stampTitle = "ingot-volume 1\n"
	stampSize  = 446 // a partition table would follow
)

type stampText struct {
	ingot.VolumeOwner
	UUID string `json:"uuid"`
}

// volumeUUID is the UUID of a volume that ingot makes.
func volumeUUID(o ingot.VolumeOwner) string {
	sum := sha256.Sum256([]byte("ingot-volume\x00" + o.Fleet + "\x00" + string(o.Machine) + "\x00" + o.Volume))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return canonicalUUID(sum[:16])
}

// derived reports whether ingot made the filesystem of a UUID.
func derived(uuid string) bool { return len(uuid) == 36 && uuid[14] == '8' }

// encodeStamp returns the first bytes of a volume.
func encodeStamp(o ingot.VolumeOwner, uuid string) ([]byte, error) {
	b, err := json.Marshal(stampText{o, uuid})
	if err != nil {
		return nil, fmt.Errorf("encoding the owner: %w", err)
	}
	text := append([]byte(stampTitle), append(b, '\n')...)
	text = append(text, stampSum(text)+"\n"...)
	if len(text) > stampSize {
		return nil, fmt.Errorf("encoding the owner: %d bytes; at most %d fit", len(text), stampSize)
	}
	return append(text, make([]byte, stampSize-len(text))...), nil
}

func stampSum(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// decodeStamp reads what encodeStamp wrote for the filesystem of a UUID. It returns nil if there
// is nothing, or a stamp of an earlier filesystem, or half of one.
func decodeStamp(b []byte, uuid string) *ingot.VolumeOwner {
	text := string(bytes.TrimRight(b, "\x00"))
	body, ok := strings.CutPrefix(text, stampTitle)
	line, sum, found := strings.Cut(body, "\n")
	if !ok || !found || strings.TrimSuffix(sum, "\n") != stampSum([]byte(stampTitle+line+"\n")) {
		return nil
	}
	var s stampText
	if err := json.Unmarshal([]byte(line), &s); err != nil || s.UUID != uuid {
		return nil
	}
	return &s.VolumeOwner
}

// readOwner reads the owner that a volume carries.
func readOwner(r io.ReaderAt, uuid string) *ingot.VolumeOwner {
	b := make([]byte, stampSize)
	if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF {
		return nil
	}
	return decodeStamp(b, uuid)
}

// errBootLoader: the first sector is in use.
var errBootLoader = errors.New("its first sector holds something else, maybe a boot loader")

// writeStamp writes the owner to a device whose filesystem is not mounted. It is the only write
// to a volume that is not the kernel's or e2fsprogs'. A first sector that holds anything but a
// stamp is left alone.
func writeStamp(node string, o ingot.VolumeOwner, uuid string) error {
	// O_EXCL of a block device: the kernel refuses if it is mounted or part of something.
	f, err := os.OpenFile(node, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	now := make([]byte, stampSize)
	if _, err := f.ReadAt(now, 0); err != nil {
		return err
	}
	if !allZero(now) && !bytes.HasPrefix(now, []byte(stampTitle)) {
		return errBootLoader
	}
	text, err := encodeStamp(o, uuid)
	if err != nil {
		return err
	}
	if bytes.Equal(text, now) {
		return nil
	}
	if _, err := f.WriteAt(text, 0); err != nil {
		return err
	}
	return f.Sync()
}
