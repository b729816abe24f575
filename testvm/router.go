package testvm

import (
	"context"
	"fmt"
	"os"
)

// router is the configuration of a router that announces no prefix, no route and no DHCPv6.
const router = `interface ` + Bridge + ` {
  AdvSendAdvert on;
  MinRtrAdvInterval 3;
  MaxRtrAdvInterval 4;
  AdvDefaultLifetime 0;
};
`

// StartRouter starts radvd, an IPv6 router that offers nothing, until the LAN
// is closed. The iPXE in the ROM of QEMU's card asks for a router whenever it
// configures the card, and goes on only when one has answered or after 16 s.
func (l *LAN) StartRouter(ctx context.Context) error {
	conf := l.path("radvd.conf")
	if err := os.WriteFile(conf, []byte(router), 0o600); err != nil {
		return fmt.Errorf("starting a router: %w", err)
	}
	log, err := os.Create(l.path("radvd.log"))
	if err != nil {
		return fmt.Errorf("starting a router: %w", err)
	}
	defer log.Close()
	cmd := l.Command(context.WithoutCancel(ctx), "radvd", "--nodaemon", "--logmethod", "stderr", "--config", conf,
		"--pidfile", l.path("radvd.pid"))
	cmd.Stderr = log
	if err := l.Start(cmd); err != nil {
		return fmt.Errorf("starting a router: %w", err)
	}
	go func() { _ = cmd.Wait() }() // reaped; without it, BIOS machines are only slower
	return nil
}
