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
// The variables that name them are unset: they are not for our children.
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

// manager tells systemd how the server does (sd_notify(3)). Where nothing
// manages it, nobody is told.
type manager struct {
	log      *slog.Logger
	watchdog time.Duration // how long systemd waits for a sign of life; 0: it does not
	last     atomic.Int64  // nanoseconds of the last sign
}

func newManager(log *slog.Logger) *manager {
	m := &manager{log: log}
	var err error
	if m.watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		log.Warn("the watchdog's variables make no sense", "err", err)
	}
	return m
}

func (m *manager) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.log.Warn("telling systemd", "state", state, "err", err)
	}
}

func (m *manager) ready()    { m.tell(daemon.SdNotifyReady + "\nSTATUS=serving") }
func (m *manager) stopping() { m.tell(daemon.SdNotifyStopping) }

// reloading tells that a reload begins or has ended; systemd wants the time of
// the beginning with it (Type=notify-reload).
func (m *manager) reloading(begin bool) {
	if begin {
		m.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
		return
	}
	m.tell(daemon.SdNotifyReady)
}

// alive passes a sign of life on, three times in the watchdog's interval.
func (m *manager) alive() {
	now := time.Now().UnixNano()
	if m.watchdog == 0 || time.Duration(now-m.last.Load()) < m.watchdog/3 {
		return
	}
	m.last.Store(now)
	m.tell(daemon.SdNotifyWatchdog)
}
