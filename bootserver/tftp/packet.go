package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
)

// Opcodes (RFC 1350 section 5, RFC 2347).
const (
	opRead  = 1
	opWrite = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOack  = 6
)

// Error codes (RFC 1350 appendix, RFC 2347).
const (
	codeNotFound = 1
	codeAccess   = 2
	codeIllegal  = 4
)

// Bounds of what is agreed to.
const (
	maxRequest  = 512  // bytes of a request (RFC 2347)
	plainBlock  = 512  // bytes of a block without options
	minBlock    = 8    // RFC 2348
	maxBlock    = 1468 // what fits an Ethernet frame without fragments; clients that ask for less get less
	maxWindow   = 16   // blocks in flight (RFC 7440)
	maxSeconds  = 255  // RFC 2349
	overheadLen = 4    // opcode and block number
)

// request is a read request with what we agree to of its options.
type request struct {
	name    string
	block   int // bytes
	window  int // blocks
	seconds int // until a retransmission; 0: ours
	oack    []string
}

// errMode: the client wants its bytes translated.
var errMode = errors.New("only mode octet is served")

// parseRequest reads a read or write request after its opcode. Options that
// are unknown or make no sense are passed over, as RFC 2347 has it.
func parseRequest(b []byte, size func(name string) int) (r request, err error) {
	if len(b) > maxRequest || len(b) == 0 || b[len(b)-1] != 0 {
		return r, errors.New("malformed request")
	}
	words := bytes.Split(b[:len(b)-1], []byte{0})
	if len(words) < 2 {
		return r, errors.New("malformed request")
	}
	r = request{name: string(words[0]), block: plainBlock, window: 1}
	if !strings.EqualFold(string(words[1]), "octet") {
		return r, errMode
	}
	seen := map[string]bool{}
	for words = words[2:]; len(words) >= 2; words = words[2:] {
		option := strings.ToLower(string(words[0]))
		v, err := strconv.Atoi(string(words[1]))
		if err != nil || seen[option] { // RFC 2347: an option is named once
			continue
		}
		seen[option] = true
		r.agree(option, v, size)
	}
	return r, nil
}

func (r *request) agree(option string, v int, size func(string) int) {
	switch {
	case option == "blksize" && v >= minBlock:
		v = min(v, maxBlock)
		r.block = v
	case option == "windowsize" && v >= 1 && v <= 65535:
		v = min(v, maxWindow)
		r.window = v
	case option == "timeout" && v >= 1 && v <= maxSeconds:
		r.seconds = v
	case option == "tsize" && v >= 0:
		v = size(r.name)
	default:
		return
	}
	r.oack = append(r.oack, option, strconv.Itoa(v))
}

// putOack writes the acknowledgement of options.
func putOack(options []string) []byte {
	b := []byte{0, opOack}
	for _, o := range options {
		b = append(append(b, o...), 0)
	}
	return b
}

// putError writes an error packet.
func putError(code byte, text string) []byte {
	return append(append([]byte{0, opError, 0, code}, text...), 0)
}

// putHeader writes the beginning of a data packet.
func putHeader(b []byte, block int) {
	binary.BigEndian.PutUint16(b, opData)
	binary.BigEndian.PutUint16(b[2:], uint16(block)) // wraps around
}
