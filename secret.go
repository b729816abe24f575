package ingot

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Authentication of what a machine sends after its ticket. Machine and server agree on a BootSecret by
// X25519 (RFC 7748) with one public half each: the machine's is in the TicketRequest, the server's in
// the signed Ticket, which repeats both. HKDF (RFC 5869) makes a key of it for each direction and each
// part of a boot. A message carries a counter and an HMAC (RFC 2104) over its method, path, counter and
// body; an answer carries an HMAC over the message's counter and the answer. The content is not
// encrypted.

// Errors that callers may test for with errors.Is.
var (
	// ErrBadHalf: not a public half of X25519, or one that gives no secret.
	ErrBadHalf = errors.New("not a public half of X25519")
	// ErrBadProof: the text in HeaderAuth has another form.
	ErrBadProof = errors.New("not a counter and a MAC")
)

// Header fields of authenticated messages and of the answers to them.
const (
	HeaderAuth  = "Ingot-Auth"  // a Proof
	HeaderToken = "Ingot-Token" // Ticket.Token, unchanged
)

// Half is the public half of a key agreement: 32 bytes (RFC 7748, section 6.1).
type Half []byte

// Same reports whether two halves are the same and not empty.
func (h Half) Same(o Half) bool { return len(h) > 0 && bytes.Equal(h, o) }

// Check returns ErrBadHalf if h has another length. Zero points are found by NewBootSecret.
func (h Half) Check() error {
	if _, err := ecdh.X25519().NewPublicKey(h); err != nil {
		return ErrBadHalf
	}
	return nil
}

// BootSecret is what a server and a machine share for one boot: 32 bytes that never cross the wire.
type BootSecret []byte

// NewBootSecret computes the secret of a boot from the private half of one side and the public halves
// of both. Both sides get the same. The error is ErrBadHalf.
func NewBootSecret(own *ecdh.PrivateKey, boot BootID, machine, server Half) (BootSecret, error) {
	peer := machine
	if machine.Same(own.PublicKey().Bytes()) {
		peer = server
	}
	key, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return nil, ErrBadHalf
	}
	shared, err := own.ECDH(key)
	if err != nil { // all zeros: a point of low order (RFC 7748, section 6.1)
		return nil, ErrBadHalf
	}
	salt := sha256.Sum256(joined("ingot boot secret 1", string(boot), string(machine), string(server)))
	return hkdf.Extract(sha256.New, shared, salt[:])
}

// joined joins texts so that no other list gives the same bytes.
func joined(texts ...string) []byte {
	var b []byte
	for _, t := range texts {
		b = strconv.AppendInt(b, int64(len(t)), 10)
		b = append(b, ':')
		b = append(b, t...)
	}
	return b
}

// Message is a request of a machine after its ticket, as far as its MAC covers it.
type Message struct {
	Method  string
	Path    string // of the URL: BootPath
	Counter uint64 // larger than in every earlier message of the same boot and part
	Body    []byte
}

// Part is the part of the boot that the message is for: the last element of its path. Each part has
// keys and counters of its own.
func (m Message) Part() string { return path.Base(m.Path) }

// Answer is the server's answer to a Message, as far as its MAC covers it.
type Answer struct {
	Status  int
	Counter uint64 // of the Message
	Newest  uint64 // the largest counter that the server accepted for the part
	Body    []byte
}

// Proof is the content of HeaderAuth: in a message its counter and MAC, in an answer Answer.Newest
// and the answer's MAC.
type Proof struct {
	Counter uint64
	MAC     []byte // HMAC-SHA-256
}

// String returns the text for HeaderAuth: the counter, a space, and the MAC in base64 (RFC 4648,
// section 5, without padding).
func (p Proof) String() string {
	return strconv.FormatUint(p.Counter, 10) + " " + base64.RawURLEncoding.EncodeToString(p.MAC)
}

// ParseProof reads what String wrote. The error is ErrBadProof.
func ParseProof(s string) (Proof, error) {
	counter, mac, _ := strings.Cut(s, " ")
	n, err := strconv.ParseUint(counter, 10, 64)
	if err != nil {
		return Proof{}, fmt.Errorf("%w: the counter is not a number", ErrBadProof)
	}
	b, err := base64.RawURLEncoding.DecodeString(mac)
	if err != nil || len(b) != sha256.Size {
		return Proof{}, fmt.Errorf("%w: the MAC does not have %d bytes in base64", ErrBadProof, sha256.Size)
	}
	return Proof{n, b}, nil
}

// mac returns the MAC of texts by the key for a direction and a part.
func (s BootSecret) mac(direction, part string, texts ...string) []byte {
	key, err := hkdf.Expand(sha256.New, s, "ingot boot 1 "+direction+" "+part, sha256.Size)
	if err != nil { // only for lengths above 255 hashes
		panic("deriving a key: " + err.Error())
	}
	h := hmac.New(sha256.New, key)
	h.Write(joined(texts...)) // never fails, see hash.Hash
	return h.Sum(nil)
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

// Prove returns the proof of a message.
func (s BootSecret) Prove(m Message) Proof {
	return Proof{m.Counter, s.mac("to server", m.Part(), m.Method, m.Path, number(m.Counter), string(m.Body))}
}

// Proves reports whether a MAC is that of a message, in constant time.
func (s BootSecret) Proves(m Message, mac []byte) bool { return hmac.Equal(mac, s.Prove(m).MAC) }

// ProveAnswer returns the proof of an answer to a message for a part.
func (s BootSecret) ProveAnswer(part string, a Answer) Proof {
	return Proof{a.Newest, s.mac("to machine", part, strconv.Itoa(a.Status), number(a.Counter), number(a.Newest),
		string(a.Body))}
}

// ProvesAnswer reports whether a MAC is that of an answer, in constant time.
func (s BootSecret) ProvesAnswer(part string, a Answer, mac []byte) bool {
	return hmac.Equal(mac, s.ProveAnswer(part, a).MAC)
}
