package initrd

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
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
	// ErrArguments: the kernel was started with other arguments than image and ticket allow.
	ErrArguments = rootfs.NewFailure(ingot.FailureArguments,
		"the kernel command line is not the one that image and ticket allow")
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

// loaderArguments may be anywhere on a command line: loaders add them, and they change nothing. The
// kernel got its initramfs otherwise, or this program would not run.
var loaderArguments = []string{"kernel", "initrd=initramfs", "initrd=initrd.magic"}

// verifyArguments compares a kernel command line with what is allowed: the image's arguments and the
// ticket's, in this order, and ingot's own, each once. Arguments are compared in order because of several
// with one key, the kernel uses the last one. Without Secure Boot this stops nobody who can replace
// the initramfs as well. It shows that something between server and kernel changes arguments.
func verifyArguments(cmdline string, m *ingot.ImageManifest, t ingot.Ticket) error {
	own := map[string]bool{}
	var have []string
	for _, a := range words(cmdline) {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case ingot.ArgServer, ingot.ArgBoot, ingot.ArgMAC, ingot.ArgRootHash:
			if own[key] {
				return fmt.Errorf("%w: it has %s twice", ErrArguments, key)
			}
			own[key] = true
			if key == ingot.ArgRootHash && (m.Verity == nil || value != m.Verity.RootHash) {
				return fmt.Errorf("%w: it has another root hash than the image", ErrArguments)
			}
			continue
		}
		if !slices.Contains(loaderArguments, a) {
			have = append(have, a)
		}
	}
	want := slices.Concat(m.Arguments, t.Arguments)
	// The script adds it unless the image says otherwise; a UKI lacks it.
	if last := len(have) - 1; last >= 0 && have[last] == ingot.ArgPanic && len(have) > len(want) {
		have = have[:last]
	}
	if slices.Equal(have, want) {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrArguments, argumentsText(have, want))
}

// argumentsText says how the arguments of a kernel differ from those that are allowed.
func argumentsText(have, want []string) string {
	var words []string
	if more := missing(want, have); len(more) > 0 {
		words = append(words, "it has "+strings.Join(more, " "))
	}
	if less := missing(have, want); len(less) > 0 {
		words = append(words, "it lacks "+strings.Join(less, " "))
	}
	if words == nil {
		return "it has them in another order"
	}
	return strings.Join(words, " and ")
}

// missing returns the elements of b that a lacks, each as often as it lacks it.
func missing(a, b []string) (list []string) {
	left := slices.Clone(a)
	for _, e := range b {
		if i := slices.Index(left, e); i >= 0 {
			left = slices.Delete(left, i, i+1)
		} else {
			list = append(list, e)
		}
	}
	return list
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
