package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrPeer is returned for a local user without permission to administer the server.
var ErrPeer = errors.New("this user may not administer the server")

// Peers are the local users of the administrator's socket: root, the server's user, and the members of
// a group. Others are refused. The mode of the socket says the same; but a socket can be passed to the server
// with any mode, and file descriptors can be passed on.
type Peers struct {
	GID int // of the group; 0 is none
}

// GroupID returns the number of a group.
func GroupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	gid, err := strconv.Atoi(g.Gid)
	if err == nil && gid == 0 {
		err = fmt.Errorf("group %q is that of root, who needs no group", name)
	}
	return gid, err
}

type peerKey struct{}

// peer is the process at the other end of the administrator's socket.
type peer struct {
	who Who
	err error // ErrPeer
}

// ConnContext is that of an http.Server that serves the administrator's socket: it asks the kernel
// who opened the connection (unix(7), SO_PEERCRED).
func (p Peers) ConnContext(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var groups []uint32
	var got error
	if err := raw.Control(func(fd uintptr) {
		if cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); got == nil && p.GID != 0 {
			groups = peerGroups(fd)
		}
	}); err != nil || got != nil {
		return ctx
	}
	found := peer{who: LocalUser(int(cred.Uid), int(cred.Pid))}
	if !p.allow(cred, groups) {
		found.err = fmt.Errorf("%w: %s", ErrPeer, found.who.Name)
	}
	return context.WithValue(ctx, peerKey{}, found)
}

// allow reports whether a process with these credentials and supplementary groups may administer.
func (p Peers) allow(cred *unix.Ucred, groups []uint32) bool {
	return cred.Uid == 0 || int(cred.Uid) == os.Geteuid() ||
		p.GID != 0 && (int(cred.Gid) == p.GID || slices.Contains(groups, uint32(p.GID)))
}

// peerGroups returns the supplementary groups of the process that opened a connection
// (SO_PEERGROUPS, Linux 4.13), or none.
func peerGroups(fd uintptr) []uint32 {
	list := make([]uint32, 1<<16) // NGROUPS_MAX
	size := uint32(4 * len(list))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&list[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil
	}
	return list[:size/4]
}
