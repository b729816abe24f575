package testvm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Faults of a cable. Each is the probability, from 0 to 1, that a frame in one direction is
// affected.
type Faults struct {
	Loss      float64
	Duplicate float64
	Reorder   float64 // it arrives up to 20 ms late, after frames that were sent later
}

// Wire is a cable with faults. It copies frames between a network card and the bridge, because not
// every kernel has the traffic control module netem.
type Wire struct {
	faults atomic.Pointer[Faults]
	change atomic.Pointer[func(frame []byte)]
	lost   atomic.Int64
	ends   [2]*os.File
	wait   sync.WaitGroup
}

// NewWire puts a wire between the bridge and one of its ports: the tap of a machine, or the card of
// a host by the name given to NewHost. It has no faults until Set is called. It needs root.
func (l *LAN) NewWire(ctx context.Context, port string) (*Wire, error) {
	if l.user {
		return nil, errors.New("a wire with faults needs root")
	}
	near, far := port+"-w", port+"-b"
	for _, args := range [][]string{
		{"link", "set", port, "nomaster"},
		{"link", "add", near, "type", "veth", "peer", "name", far},
		{"link", "set", far, "master", Bridge},
		{"link", "set", far, "up"},
		{"link", "set", near, "up"},
	} {
		if err := l.ip(ctx, args...); err != nil {
			return nil, err
		}
	}
	// Neither end is a port of the bridge, so the host would answer ARP there.
	for _, card := range []string{port, near} {
		quiet := l.Command(ctx, "sh", "-c", "echo 8 >/proc/sys/net/ipv4/conf/"+card+"/arp_ignore")
		if out, err := quiet.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("creating a wire: %w: %s", err, out)
		}
	}
	w := &Wire{}
	w.Set(Faults{})
	for i, card := range []string{port, near} {
		end, err := l.frames(card)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("creating a wire: %w", err), w.Close())
		}
		w.ends[i] = end
	}
	w.wait.Go(func() { w.carry(w.ends[0], w.ends[1]) })
	w.wait.Go(func() { w.carry(w.ends[1], w.ends[0]) })
	return w, nil
}

// Set changes the faults.
func (w *Wire) Set(f Faults) { w.faults.Store(&f) }

// Change lets f change each frame in place. Checksums stay as they are, so f must not change the sum of
// the frame's 16-bit words: it may exchange bytes at an even distance. nil ends that.
func (w *Wire) Change(f func(frame []byte)) {
	if f == nil {
		w.change.Store(nil)
		return
	}
	w.change.Store(&f)
}

// Lost returns the number of frames lost so far.
func (w *Wire) Lost() int64 { return w.lost.Load() }

// Close removes the wire.
func (w *Wire) Close() error {
	var errs []error
	for _, end := range w.ends {
		if end != nil {
			errs = append(errs, end.Close())
		}
	}
	w.wait.Wait()
	return errors.Join(errs...)
}

// carry takes the frames that come in at one end to the other.
func (w *Wire) carry(from, to *os.File) {
	buf := make([]byte, 66<<10) // for a frame before segmentation
	for {
		n, err := from.Read(buf)
		switch {
		case errors.Is(err, unix.ENETDOWN):
			continue // the machine at its end was switched off
		case err != nil:
			return // closed
		}
		if change := w.change.Load(); change != nil {
			(*change)(buf[:n])
		}
		f := w.faults.Load()
		if rand.Float64() < f.Loss {
			w.lost.Add(1)
			continue
		}
		times := 1
		if rand.Float64() < f.Duplicate {
			times = 2
		}
		for range times {
			if rand.Float64() < f.Reorder {
				late := append([]byte(nil), buf[:n]...)
				time.AfterFunc(rand.N(20*time.Millisecond), func() { _, _ = to.Write(late) }) // as below
				continue
			}
			_, _ = to.Write(buf[:n]) // a frame that a full queue does not accept is lost
		}
	}
}

// frames opens a packet socket on a card of the LAN, see packet(7). Each frame has
// the header of struct virtio_net_hdr before it, by which checksums and
// segments that are left to the hardware survive the way through a program.
func (l *LAN) frames(card string) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is in another namespace and ends with this
		f, err := l.framesHere(card)
		done <- result{f, err}
	}()
	r := <-done
	return r.f, r.err
}

func (l *LAN) framesHere(card string) (*os.File, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", l.pid))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("entering the LAN: %w", err)
	}
	i, err := net.InterfaceByName(card)
	if err != nil {
		return nil, err
	}
	all := htons(unix.ETH_P_ALL)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(i.Index), Type: unix.PACKET_MR_PROMISC}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}))
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "frames of "+card), nil
}

// htons converts a number to network byte order (byteorder(3)).
func htons(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }
