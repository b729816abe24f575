package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// errWatch: the kernel sends no more changes, as when too many came at once.
var errWatch = errors.New("watching interfaces: the kernel closed the subscription")

// Watch reports on changed, without waiting, that interfaces or addresses of this host
// may have changed since the last time, and once at the beginning. It returns when ctx
// ends, or with an error when changes may have been missed.
func Watch(ctx context.Context, changed chan<- struct{}) error {
	done := make(chan struct{})
	links, addresses := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	if err := netlink.LinkSubscribe(links, done); err != nil {
		close(done)
		return fmt.Errorf("watching interfaces: %w", err)
	}
	if err := netlink.AddrSubscribe(addresses, done); err != nil {
		close(done)
		go drain(links)
		return fmt.Errorf("watching addresses: %w", err)
	}
	defer func() {
		close(done)
		go drain(links)
		go drain(addresses)
	}()
	for open := true; open; {
		select {
		case changed <- struct{}{}:
		default: // what was reported before is not handled yet
		}
		select {
		case <-ctx.Done():
			return nil
		case _, open = <-links:
		case _, open = <-addresses:
		}
	}
	return errWatch
}

// drain lets a subscription end: it may be sending.
func drain[T any](c <-chan T) {
	for range c { //nolint:revive // it only waits
	}
}
