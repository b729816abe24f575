// Package tftp serves the first stage of a network boot: loaders of a few
// hundred KB, read-only, from memory. A name outside its list of files does not
// exist, so no path can be traversed.
//
// The protocol (RFC 1350, with the options of RFC 2347, 2348 and 2349) is
// github.com/pin/tftp in its ordinary mode, where each transfer has a socket and
// a port of its own. This package adds the limits, the bounds of retransmission
// and the end of a server. What the library leaves out, this package leaves out:
// the options windowsize and timeout, blocks below 512 bytes, and requests to
// IPv6 link-local addresses at a socket of all addresses. Writing is refused.
//
// Answers from another port do not pass through every address translation or
// firewall. With Server.SinglePort a forwarder relays all transfers through the
// port of the requests; see forwarder. It stands in front of the library, since
// the library's own mode of that kind panics on repeated acknowledgements, and
// since it is a fifth of the code of a transfer loop.
package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pin/tftp/v3"

	"ingot"
)

// Server sends files by their base name.
type Server struct {
	Files map[string][]byte
	// Served is called after each whole transfer, in several goroutines at once;
	// nil is fine. It may block.
	Served func(client netip.Addr, file string, bytes int64)
	// Known reports whether DHCP knows an address. Those go first while clients that acknowledged nothing
	// yet wait; nil knows none. It must not block.
	Known func(netip.Addr) bool
	// SinglePort sends all answers from the port of the requests.
	SinglePort bool
	Log        *slog.Logger

	timeout time.Duration // until a retransmission; 0 means retransmitAfter

	gate gate // of all sockets together

	mu        sync.Mutex
	limits    Limits
	transfers int                // under way
	clients   map[netip.Addr]int // transfers under way of each client
	reports   int                // calls of Served under way
}

// Limits bound what clients can request, at all sockets of a server together.
// Zero values are the defaults.
type Limits struct {
	Transfers int // under way at once; 0 means 4096
	PerClient int // under way at once of one address; 0 means 16
}

// SetLimits changes the limits. Transfers under way continue.
func (s *Server) SetLimits(l Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
}

// maxFile bounds a file that Load reads.
const maxFile = 4 << 20

// Load reads the regular files of a folder, each at most 4 MiB. A file that has a digest in want and
// does not match it is left out; that is logged, and so are files that have none, which ingot did not fetch.
func Load(dir string, want map[string]ingot.Digest, log *slog.Logger) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the loaders: %w", err)
	}
	files, own := map[string][]byte{}, []string{}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the loaders: %w", err)
		}
		digest, known := want[e.Name()]
		switch {
		case len(b) > maxFile:
			continue
		case known && ingot.DigestOf(b) != digest:
			log.Error("a boot loader is damaged and is not served; run: ingot loaders", "file", e.Name(), "bytes", len(b))
			continue
		case !known:
			own = append(own, e.Name())
		}
		files[e.Name()] = b
	}
	if len(own) > 0 {
		log.Info("serving files of the folder loaders that ingot did not fetch or has no digests of", "files", own)
	}
	return files, nil
}

// Bounds of a transfer. A block is sent at most 1 + retries times, and a silent
// client holds a place for at most as many seconds.
const (
	retransmitAfter = time.Second
	retries         = 8
	maxBlock        = 1468 // bytes; what fits an Ethernet frame with the headers of IPv4, UDP and TFTP
	maxReports      = 1024 // calls of Served at once
)

// Errors that clients receive, with code 1 as the library sends all of them.
var (
	errNoFile   = errors.New("no such file")
	errBusy     = errors.New("too many transfers, try again later")
	errReadOnly = errors.New("files cannot be written")
)

// Serve answers requests at a socket until ctx ends or the socket is closed. It
// closes the socket. Transfers under way at that moment continue without it,
// since an error would make firmware give up, but are no longer reported.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = conn.SetReadBuffer(4 << 20) // requests of a rack come at once; a smaller buffer works as well
	l := &listener{Server: s}
	defer l.close()
	serve := l.serve
	if s.SinglePort {
		serve = l.forward
	}
	if err := serve(ctx, conn); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("serving TFTP: %w", err)
	}
	return nil
}

// listener is the server at one socket.
type listener struct {
	*Server
	forwarder *forwarder // nil where the library answers clients itself

	reporting sync.RWMutex // held for reading while Served runs
	closed    bool
}

// close waits for calls of Served and prevents later ones.
func (l *listener) close() {
	l.reporting.Lock()
	defer l.reporting.Unlock()
	l.closed = true
}

// serve runs the library. The library reads on after its socket was closed,
// without a pause, until Shutdown is called; so serve looks at the socket once a
// second. Shutdown waits for transfers, and nobody waits for Shutdown.
func (l *listener) serve(ctx context.Context, conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	server := tftp.NewServer(l.read, l.write)
	server.SetTimeout(l.retransmitAfter())
	server.SetRetries(retries)
	server.SetBackoff(func(int) time.Duration { return 0 })
	server.SetBlockSize(maxBlock)
	server.SetHook(l)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for open := true; open; {
			select {
			case <-ctx.Done():
				open = false
			case <-tick.C:
				open = raw.Control(func(uintptr) {}) == nil
			}
		}
		// A request that was read must have started its transfer: Shutdown counts
		// transfers, and one that starts meanwhile would be a race.
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		time.Sleep(10 * time.Millisecond)
		server.Shutdown()
	}()
	return server.Serve(conn)
}

// read handles one read request. It must not return nil without a call of
// ReadFrom, which closes the transfer's socket; the library closes it after an
// error. A repeated request is another request.
func (l *listener) read(name string, to io.ReaderFrom) error {
	transfer := to.(tftp.OutgoingTransfer)
	client, known := l.clientOf(transfer)
	if !known {
		return silent(transfer)
	}
	log := l.Log.With("file", baseName(name), "client", client)
	content, ok := l.find(name)
	if !ok {
		log.Debug("TFTP file does not exist")
		return l.refuse(transfer, client, errNoFile)
	}
	if !l.admit(client) {
		log.Debug("TFTP request exceeds the limits")
		return l.refuse(transfer, client, errBusy)
	}
	defer l.release(client)
	pass := l.gate.enter(client, l.Known != nil && l.Known(client), time.Duration(retries+2)*l.retransmitAfter())
	if pass == nil {
		log.Debug("TFTP request not answered: the client has acknowledged nothing yet, and others wait")
		return silent(transfer)
	}
	transfer.SetSize(int64(len(content)))
	prove := sync.OnceFunc(pass.prove)
	n, err := to.ReadFrom(&acknowledged{Reader: bytes.NewReader(content), prove: prove})
	if provedBy(err) {
		prove()
	}
	if err != nil {
		// Firmware requests the size first and then breaks off: that is normal.
		log.Debug("TFTP transfer abandoned", "bytes", n, "err", err)
		return err
	}
	if !l.report(client, baseName(name), int64(len(content))) {
		log.Warn("TFTP transfer not recorded: too many at once")
	}
	return nil
}

// refuse returns the error that a client receives, or none if it has acknowledged nothing yet and
// received several.
func (s *Server) refuse(t transfer, client netip.Addr, err error) error {
	if !s.gate.mayRefuse(client) {
		return silent(t)
	}
	return err
}

// write refuses a write request.
func (l *listener) write(_ string, from io.WriterTo) error {
	t := from.(tftp.IncomingTransfer)
	client, known := l.clientOf(t)
	if !known {
		return silent(t)
	}
	return l.refuse(t, client, errReadOnly)
}

// clientOf returns the address of a client, unless the request was not forwarded by our forwarder.
func (l *listener) clientOf(t transfer) (client netip.Addr, known bool) {
	remote := t.RemoteAddr()
	if l.forwarder != nil {
		client = l.forwarder.client(remote.Port)
		return client, client.IsValid()
	}
	return remote.AddrPort().Addr().Unmap(), true
}

// retransmitAfter is the time until a block is sent again.
func (s *Server) retransmitAfter() time.Duration {
	if s.timeout > 0 {
		return s.timeout
	}
	return retransmitAfter
}

// admit counts a transfer, or refuses it.
func (s *Server) admit(client netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	total, each := s.limits.Transfers, s.limits.PerClient
	if total <= 0 {
		total = 4096
	}
	if each <= 0 {
		each = 16
	}
	if s.transfers >= total || s.clients[client] >= each {
		return false
	}
	if s.clients == nil {
		s.clients = map[netip.Addr]int{}
	}
	s.transfers++
	s.clients[client]++
	return true
}

// release ends what admit counted.
func (s *Server) release(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.transfers--
	if s.clients[client]--; s.clients[client] <= 0 {
		delete(s.clients, client)
	}
}

// report calls Served, and returns false when too many calls are under way.
func (l *listener) report(client netip.Addr, file string, size int64) bool {
	l.reporting.RLock()
	defer l.reporting.RUnlock()
	if l.Served == nil || l.closed {
		return true
	}
	if !l.addReport(1) {
		return false
	}
	defer l.addReport(-1)
	l.Served(client, file, size)
	return true
}

func (s *Server) addReport(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reports+n > maxReports {
		return false
	}
	s.reports += n
	return true
}

// OnFailure implements tftp.Hook. Failures of transfers are logged by read; those
// without a client are of packets that the library could not answer.
func (l *listener) OnFailure(stats tftp.TransferStats, err error) {
	if stats.RemoteAddr == nil {
		l.Log.Debug("TFTP packet ignored", "err", err)
	}
}

// OnSuccess implements tftp.Hook.
func (l *listener) OnSuccess(tftp.TransferStats) {}

// baseName is the file that a client's name means: its last part, without the
// folders and drives that firmware puts before it.
func baseName(name string) string {
	return path.Base(path.Clean("/" + strings.ReplaceAll(name, "\\", "/")))
}

// find returns the file that a client means. Some ROMs take the name to be longer than it
// is, up to the next zero byte of the DHCP answer: "undionly.kpxe\xff". Then it is the
// longest name of a file with which the request begins.
func (s *Server) find(name string) (content []byte, ok bool) {
	base := baseName(name)
	if content, ok = s.Files[base]; ok || !strings.ContainsFunc(base, func(r rune) bool { return r < ' ' || r > '~' }) {
		return content, ok
	}
	longest := ""
	for file := range s.Files {
		if strings.HasPrefix(base, file) && len(file) > len(longest) {
			longest = file
		}
	}
	content, ok = s.Files[longest]
	return content, ok
}
