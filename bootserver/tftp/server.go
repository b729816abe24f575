// Package tftp serves the first stage (RFC 1350 with RFC 2347, 2348, 2349):
// loaders of a few hundred KB, read-only, from memory. What is not one of its
// files does not exist, so there is no path to traverse.
package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/pin/tftp/v3"
)

// Server hands out files by their base name.
type Server struct {
	Files map[string][]byte
	// Served is told of every whole transfer; nil is fine.
	Served func(client netip.Addr, file string, bytes int64)
	Log    *slog.Logger
}

// Limits bound what strangers can ask for. Zero values are the defaults.
type Limits struct {
	Transfers int // under way at once; 0 means 4096
	PerClient int // of one address at once; 0 means 16
}

// maxBlock is the largest block that we agree to (RFC 2348): what fits an
// Ethernet frame without fragments. Clients that ask for less get less.
const maxBlock = 1468

// SetLimits changes the limits.
func (s *Server) SetLimits(Limits) {}

// Load reads the regular files of a folder, each at most 4 MiB.
func Load(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the loaders: %w", err)
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("reading the loaders: %w", err)
		}
		if len(b) <= 4<<20 {
			files[e.Name()] = b
		}
	}
	return files, nil
}

// Serve answers until ctx ends. All transfers use the socket's own port, so
// that they pass through address translation.
func (s *Server) Serve(ctx context.Context, conn *net.UDPConn) error {
	t := tftp.NewServer(s.read, nil)
	t.SetTimeout(2 * time.Second)
	t.SetRetries(6)
	t.EnableSinglePort()
	t.SetBlockSize(maxBlock)
	stop := context.AfterFunc(ctx, func() {
		t.Shutdown() // in single-port mode it only marks the end;
		conn.Close() // this wakes up the loop that looks at the mark
	})
	defer stop()
	err := t.Serve(conn)
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) read(name string, to io.ReaderFrom) error {
	file := path.Base(path.Clean("/" + strings.ReplaceAll(name, "\\", "/")))
	content, ok := s.Files[file]
	transfer, isTransfer := to.(tftp.OutgoingTransfer)
	var client netip.Addr
	if isTransfer {
		remote := transfer.RemoteAddr()
		client, _ = netip.AddrFromSlice(remote.IP.To4())
		transfer.SetSize(int64(len(content)))
	}
	if !ok {
		s.Log.Debug("TFTP file not there", "file", name, "client", client)
		return fs.ErrNotExist
	}
	n, err := to.ReadFrom(bytes.NewReader(content))
	if err != nil {
		// Firmware asks for the size first and then breaks off: no fault.
		s.Log.Debug("TFTP transfer ended early", "file", file, "client", client, "err", err)
		return err
	}
	if s.Served != nil {
		s.Served(client, file, n)
	}
	return nil
}
