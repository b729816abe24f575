package initrd

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"aead.dev/minisign"

	"ingot"
	"ingot/rootfs"
)

// Errors that stop a boot because something is not what it must be. Trying
// again may help only when the server mends it.
var (
	// ErrTicketKey: the ticket is not signed by the server key in this initramfs or a successor.
	ErrTicketKey = rootfs.NewFailure(ingot.FailureTicketKey,
		"the ticket's signature is not by the server key in this initramfs")
	// ErrTicketReplayed: the ticket answers another request.
	ErrTicketReplayed = rootfs.NewFailure(
		ingot.FailureTicketReplayed,
		"the ticket answers another request than this machine's",
	)
	// ErrTicketExpired: the ticket is too old.
	ErrTicketExpired = rootfs.NewFailure(ingot.FailureTicketExpired, "the ticket has expired")
	// ErrImageKey: the image is not signed by the release key in this initramfs or a successor.
	ErrImageKey = rootfs.NewFailure(ingot.FailureImageKey,
		"the image's signature is not by the release key in this initramfs")
	// ErrImageDigest: a part of the image is not the one that was assigned.
	ErrImageDigest = rootfs.NewFailure(ingot.FailureImageDigest,
		"a part of the image is not the one that was assigned")
)

// maxChunk bounds the bytes of a chunk: each is in memory once.
const maxChunk = 16 << 20

// follow returns a key and the keys that replaced it in turn, the newest last. What another key signed
// is passed over: the list begins with the oldest key of the installation.
func follow(key minisign.PublicKey, use ingot.KeyUse, list []ingot.Successor) []minisign.PublicKey {
	keys := []minisign.PublicKey{key}
	for _, s := range list[:min(len(list), ingot.MaxSuccessors)] {
		if !minisign.Verify(key, ingot.SuccessorText(use, s.Key), []byte(s.Signature)) {
			continue
		}
		var next minisign.PublicKey
		if next.UnmarshalText([]byte(s.Key)) != nil {
			continue
		}
		key = next
		keys = append(keys, key)
	}
	return keys
}

// signedBy reports whether one of the keys signed a message. The newest is tried first.
func signedBy(keys []minisign.PublicKey, message, signature []byte) bool {
	for _, k := range slices.Backward(keys) {
		if minisign.Verify(k, message, signature) {
			return true
		}
	}
	return false
}

// verifyTicket checks a signed ticket: signature, boot, nonce, age. The nonce
// proves that it was issued after our request, so with elapsed since then on
// the monotonic clock it can be no later than Issued + elapsed now; the
// machine's own clock, which may be wrong, is not asked.
func verifyTicket(
	s ingot.SignedTicket,
	key minisign.PublicKey,
	boot ingot.BootID,
	nonce string,
	elapsed time.Duration,
) (ingot.Ticket, error) {
	if !signedBy(follow(key, ingot.KeyServer, s.ServerKeys), s.Ticket, []byte(s.Signature)) {
		return ingot.Ticket{}, ErrTicketKey
	}
	var t ingot.Ticket
	if err := json.Unmarshal(s.Ticket, &t); err != nil {
		return ingot.Ticket{}, fmt.Errorf("parsing the ticket: %w", err)
	}
	if t.Boot != boot || t.Nonce != nonce {
		return ingot.Ticket{}, fmt.Errorf("%w (boot %s)", ErrTicketReplayed, t.Boot.Short())
	}
	if now := t.Issued.Add(elapsed); !now.Before(t.Expires) {
		return ingot.Ticket{}, fmt.Errorf("%w: it was valid for %s and took %s to arrive", ErrTicketExpired,
			t.Expires.Sub(t.Issued), elapsed.Round(time.Millisecond))
	}
	return t, nil
}

// imageDocuments are the three small files that describe an image.
type imageDocuments struct {
	OCI       []byte
	Signature []byte
	Config    []byte
}

// verifyImage checks that the documents are those of the image with digest
// want: first the digest, then the signature by one of the keys, then the config.
func verifyImage(d imageDocuments, want ingot.Digest, keys ...minisign.PublicKey) (*ingot.ImageManifest, error) {
	if got := ingot.DigestOf(d.OCI); got != want {
		return nil, fmt.Errorf(
			"%w: the manifest has digest %s, the ticket says %s",
			ErrImageDigest,
			got.Short(),
			want.Short(),
		)
	}
	if !signedBy(keys, d.OCI, d.Signature) {
		return nil, ErrImageKey
	}
	var oci struct {
		Config struct {
			Digest ingot.Digest `json:"digest"`
		} `json:"config"`
	}
	if err := json.Unmarshal(d.OCI, &oci); err != nil {
		return nil, fmt.Errorf("parsing the image's manifest: %w", err)
	}
	if got := ingot.DigestOf(d.Config); got != oci.Config.Digest {
		return nil, fmt.Errorf(
			"%w: the config has digest %s, the manifest says %s",
			ErrImageDigest,
			got.Short(),
			oci.Config.Digest.Short(),
		)
	}
	var m ingot.ImageManifest
	if err := json.Unmarshal(d.Config, &m); err != nil {
		return nil, fmt.Errorf("parsing the image's config: %w", err)
	}
	var sum int64
	for _, c := range m.Chunks {
		if c.Size <= 0 || c.Size > maxChunk {
			return nil, fmt.Errorf("%w: a chunk of %d bytes", ErrImageDigest, c.Size)
		}
		sum += c.Size
	}
	if sum != m.Root.Size || m.Root.Size == 0 {
		return nil, fmt.Errorf("%w: its chunks have %d bytes, its root %d", ErrImageDigest, sum, m.Root.Size)
	}
	return &m, nil
}
