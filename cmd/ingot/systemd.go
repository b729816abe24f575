package main

import (
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"ingot/bootserver"
)

// passedSockets are the ports that systemd opened for us (sd_listen_fds(3)).
// The variables that name them are unset: they are not for child processes.
func passedSockets() (s bootserver.Sockets, err error) {
	for _, f := range activation.Files(true) {
		if l, err := net.FileListener(f); err == nil {
			s.Streams = append(s.Streams, l)
		} else if c, err := net.FilePacketConn(f); err == nil {
			udp, ok := c.(*net.UDPConn)
			if !ok {
				return s, fmt.Errorf("the socket %s that systemd passed is neither TCP, UDP nor a Unix stream", f.Name())
			}
			s.Datagrams = append(s.Datagrams, udp)
		} else {
			return s, fmt.Errorf("taking over the socket %s that systemd passed: %w", f.Name(), err)
		}
		f.Close() // the connection has its own copy
	}
	return s, nil
}

// manager reports the server's status to systemd (sd_notify(3)). Without
// systemd it does nothing.
type manager struct {
	log      *slog.Logger
	watchdog time.Duration // interval of systemd's watchdog; 0: none
	last     atomic.Int64  // time of the last notification, in nanoseconds
}

func newManager(log *slog.Logger) *manager {
	m := &manager{log: log}
	var err error
	if m.watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		log.Warn("reading the watchdog's variables", "err", err)
	}
	return m
}

func (m *manager) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.log.Warn("notifying systemd", "state", state, "err", err)
	}
}

func (m *manager) ready()    { m.notify(daemon.SdNotifyReady + "\nSTATUS=serving") }
func (m *manager) stopping() { m.notify(daemon.SdNotifyStopping) }

// reloading reports that a reload begins or has ended, with the time of the
// beginning (Type=notify-reload).
func (m *manager) reloading(begin bool) {
	if begin {
		m.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
		return
	}
	m.notify(daemon.SdNotifyReady)
}

// alive notifies the watchdog, three times in its interval.
func (m *manager) alive() {
	now := time.Now().UnixNano()
	if m.watchdog == 0 || time.Duration(now-m.last.Load()) < m.watchdog/3 {
		return
	}
	m.last.Store(now)
	m.notify(daemon.SdNotifyWatchdog)
}
