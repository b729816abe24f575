package tftp

import (
	"net"
	"net/netip"
	"time"
)

// transfer is one file on its way to one client. Blocks are counted from 1 and
// do not wrap around here, only in packets.
type transfer struct {
	client  netip.AddrPort
	to      *net.UDPAddr // the same, as the socket wants it
	local   []byte       // control message that makes answers leave from the address that was asked; nil where the socket says it
	name    string
	content []byte
	block   int
	window  int
	oack    []byte // sent instead of a first block; nil without options
	acked   int    // blocks that have arrived; -1 while the acknowledgement of options has not
	sent    int    // last block that is under way
	timeout time.Duration
	due     time.Time // when to send again
	tries   int
}

// Retransmission: firmware waits several seconds and then starts over.
const (
	firstTimeout = time.Second
	maxTries     = 6
)

// newTransfer begins one; what it sends first is what send says.
func newTransfer(r request, client netip.AddrPort, content []byte) *transfer {
	t := &transfer{client: client, name: r.name, content: content, block: r.block, window: r.window, timeout: firstTimeout}
	if len(r.oack) > 0 {
		t.oack, t.acked, t.sent = putOack(r.oack), -1, -1
	}
	if r.seconds > 0 {
		t.timeout = time.Duration(r.seconds) * time.Second
	}
	return t
}

// blocks is how many blocks the file has: the last is shorter than the others,
// and may be empty.
func (t *transfer) blocks() int { return len(t.content)/t.block + 1 }

// data returns the content of a block.
func (t *transfer) data(block int) []byte {
	from := (block - 1) * t.block
	return t.content[from:min(from+t.block, len(t.content))]
}

// again is what to send first, or once more: the acknowledgement of options,
// or the window after what has arrived.
func (t *transfer) again(now time.Time) (oack bool, from, to int) {
	t.due = now.Add(t.timeout << min(t.tries, 2))
	if t.acked < 0 {
		t.sent = 0
		return true, 0, 0
	}
	t.sent = min(t.acked+t.window, t.blocks())
	return false, t.acked + 1, t.sent
}

// ack takes an acknowledgement and says which blocks to send, none for from >
// to, and whether the file has arrived. A repeated one is not answered, else
// every duplicate would go on to the end of the file (RFC 1123 section 4.2.3.1).
func (t *transfer) ack(number uint16, now time.Time) (from, to int, done bool) {
	if t.acked < 0 {
		if number != 0 {
			return 1, 0, false
		}
	} else {
		ahead := int(int16(number - uint16(t.acked)))
		if ahead <= 0 || t.acked+ahead > t.sent {
			return 1, 0, false
		}
		number = uint16(ahead)
	}
	t.acked = max(t.acked, 0) + int(number)
	t.tries = 0
	if t.acked >= t.blocks() {
		return 1, 0, true
	}
	// Of a window that arrived in part the rest goes again (RFC 7440 section 4).
	_, from, to = t.again(now)
	return from, to, false
}
