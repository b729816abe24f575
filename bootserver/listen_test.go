package bootserver

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"ingot/bootserver/config"
	"ingot/internal/wire"
)

// TestSocketPeers: the socket has its mode from the beginning, and a user that may open it all the same
// is refused, unless a group is configured and it is a member.
func TestSocketPeers(t *testing.T) {
	wire.Need(t, "curl")
	if os.Geteuid() != 0 {
		t.Skip("other users need root")
	}
	dir, err := os.MkdirTemp("", "ingot-peers-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		group string
		mode  os.FileMode
		codes [3]string // of root, of another user, and of a member of group 1
	}{{"", 0o600, [3]string{"200", "403", "403"}}, {"daemon", 0o660, [3]string{"200", "403", "200"}}} {
		socket := filepath.Join(dir, "s"+c.group)
		s := startServer(t, config.Config{Socket: socket, SocketGroup: c.group}, "")
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != c.mode {
			t.Errorf("group %q: the socket has mode %v, %v; want %v", c.group, info.Mode().Perm(), err, c.mode)
		}
		if err := os.Chmod(socket, 0o666); err != nil { // as if it had been passed with this mode
			t.Fatal(err)
		}
		for i, who := range []syscall.Credential{{}, {Uid: 65534, Gid: 65534},
			{Uid: 65534, Gid: 65534, Groups: []uint32{1}}} {
			cmd := exec.CommandContext(t.Context(), "curl", "-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}",
				"--unix-socket", s.conf.Settings.Socket, "http://ingot/v1/machines")
			cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &who}
			if got, err := cmd.Output(); err != nil || string(got) != c.codes[i] {
				t.Errorf("group %q: user %d with groups %v gets %s, %v; want %s", c.group, who.Uid, who.Groups, got, err,
					c.codes[i])
			}
		}
	}
}

// TestSocketIsNeverOpen: between bind(2) and the first connection nobody else may open the socket.
func TestSocketIsNeverOpen(t *testing.T) {
	old := syscall.Umask(0) // the loosest
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "s")
	var seen []os.FileMode
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if info, err := os.Stat(path); err == nil {
				seen = append(seen, info.Mode().Perm())
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for range 50 {
		l, err := (&Server{}).listenSocket(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	close(stop)
	<-done
	for _, mode := range seen {
		if mode != 0o600 {
			t.Fatalf("the socket had mode %v for a moment", mode)
		}
	}
}

// TestWhichSocket: a socket that somebody passed serves the addresses that it
// is bound to, and of a socket for all of them those of its families.
func TestWhichSocket(t *testing.T) {
	four, six := netip.MustParseAddrPort("10.99.0.1:80"), netip.MustParseAddrPort("[fd00:99::1]:80")
	for _, c := range []struct {
		have        string
		only        bool
		four, other bool
	}{
		{"0.0.0.0:80", false, true, false}, {"[::]:80", false, true, true}, {"[::]:80", true, false,
			true}, {"[::]:81", false, false, false},
		{"10.99.0.1:80", false, true, false}, {"[fd00:99::1]:80", false, false, true}, {"[::ffff:10.99.0.1]:80",
			false, true, false},
	} {
		have := netip.MustParseAddrPort(c.have)
		if binds(have, four, c.only) != c.four || binds(have, six, c.only) != c.other {
			t.Errorf("%s (IPv6 only: %v) receives IPv4 %v, IPv6 %v; want %v, %v", c.have, c.only,
				binds(have, four, c.only), binds(have, six, c.only), c.four, c.other)
		}
	}
	for network, want := range map[string]wildcard{"tcp": {four: true, six: true}, "tcp4": {four: true},
		"tcp6": {six: true}} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		var w wildcard
		if w.add(l.Addr(), l); w != want {
			t.Errorf("a socket of all %s addresses serves %+v; want %+v", network, w, want)
		}
		l.Close()
	}
}
