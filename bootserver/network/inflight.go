package network

import "sync"

// Bounds of packets that are worked on at once; strangers get a part. Few of
// those may begin: in a flood the ones that began come through, and who is left
// out asks again by itself. An answer that comes late is none.
const (
	maxInFlight  = 4096
	maxStrangers = 3072
	maxBeginners = 512
)

// Sender is what a packet tells of its place among those of others.
type Sender struct {
	Stranger bool // of a machine that we do not know
	Begins   bool // it is the first packet of a conversation: a DHCPDISCOVER, a Solicit
}

// InFlight is the packets that are being worked on. K tells a repetition from
// another packet. The zero value is ready.
type InFlight[K comparable] struct {
	mu        sync.Mutex
	packets   map[K]Sender
	strangers int
	beginners int // strangers that begin
}

// Enter lets a packet in, unless it is a repetition of one that is being worked
// on, or there are too many. Who is let in leaves again.
func (i *InFlight[K]) Enter(k K, s Sender) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.packets == nil {
		i.packets = map[K]Sender{}
	}
	_, again := i.packets[k]
	begins := s.Stranger && s.Begins
	if again || len(i.packets) >= maxInFlight || s.Stranger && i.strangers >= maxStrangers || begins && i.beginners >= maxBeginners {
		return false
	}
	i.packets[k] = s
	i.count(s, 1)
	return true
}

// Leave is called when a packet has been worked on.
func (i *InFlight[K]) Leave(k K) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if s, is := i.packets[k]; is {
		delete(i.packets, k)
		i.count(s, -1)
	}
}

func (i *InFlight[K]) count(s Sender, n int) {
	if !s.Stranger {
		return
	}
	i.strangers += n
	if s.Begins {
		i.beginners += n
	}
}
