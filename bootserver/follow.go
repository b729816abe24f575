package bootserver

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"ingot/bootserver/network"
)

// How the server follows the interfaces and addresses of this host.
const (
	// Changes come in groups: an interface, its state, its addresses.
	quietTime = 100 * time.Millisecond
	// The longest pauses between two looks, should the kernel's word be lost: when all is
	// served, and when something of the configuration is not.
	pauseServed, pauseUnserved = 30 * time.Second, 5 * time.Second
)

// follow serves the interfaces of the configuration as they come, go and are made again,
// and as their addresses change, until ctx ends.
func (s *Server) follow(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	s.group.Go(func() error { return s.watch(ctx, changed) })
	again := time.NewTimer(pauseServed)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		case <-changed:
			if !sleep(ctx, quietTime) {
				return nil
			}
		}
		if s.lookAgain(ctx) {
			again.Reset(pauseServed)
		} else {
			again.Reset(pauseUnserved)
		}
	}
}

// watch reports changes of interfaces and addresses until ctx ends.
func (s *Server) watch(ctx context.Context, changed chan<- struct{}) error {
	for {
		err := network.Watch(ctx, changed)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the expected end
		}
		s.log.Warn("changes of interfaces may have been missed; looking at all of them", "err", err)
		select {
		case changed <- struct{}{}:
		default: // it is going to be looked at
		}
		if !sleep(ctx, time.Second) {
			return nil
		}
	}
}

// sleep waits. It reports false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// lookAgain looks at this host's interfaces and serves what is there now, with the
// settings as they are. It reports whether all of the configuration is served.
func (s *Server) lookAgain(ctx context.Context) bool {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if s.group == nil { // the server ends
		return true
	}
	now, err := look(s.conf.Settings, s.conf.Range, s.conf.Range6)
	if err != nil {
		s.log.Warn("looking at the interfaces", "err", err)
		return false
	}
	if reflect.DeepEqual(s.site, now) && !s.others.holding() {
		return len(now.absent) == 0
	}
	now, opened, err := s.openWhatCan(ctx, now)
	if err != nil {
		err = errors.Join(err, s.apply(s.site))
		s.log.Error("following the interfaces; what was served is served on", "err", err)
		return false
	}
	if !reflect.DeepEqual(s.site, now) {
		s.logChanges(now)
		s.exchange(now, opened)
	}
	return len(now.absent) == 0 && !s.others.holding()
}

// openWhatCan opens the ports of a site and makes the DHCP servers answer there. Links
// for which that fails become absent, so that one of them does not keep the others from
// being served.
func (s *Server) openWhatCan(ctx context.Context, now site) (site, ports, error) {
	for {
		opened, err := s.open(ctx, now)
		if err == nil {
			if err = s.apply(now); err == nil {
				refused, err := s.lookForOthers(ctx, now)
				if err == nil && len(refused) == 0 {
					return now, opened, nil
				}
				opened.closeUnserved()
				if err != nil {
					return now, ports{}, err
				}
				now = now.withoutRefused(refused)
				continue
			}
			opened.closeUnserved()
		}
		leave := func(l link) bool { return !s.site.serves(now, l) } // one of those that are new is at fault
		var failed *linkError
		if errors.As(err, &failed) {
			leave = func(l link) bool { return l.key() == failed.key }
		}
		less := now.without(err.Error(), leave)
		if len(less.links) == len(now.links) {
			return now, ports{}, err
		}
		now = less
	}
}

// serves reports whether a link of another site is served with the same interface and
// addresses.
func (s site) serves(now site, l link) bool {
	return slices.ContainsFunc(s.links, func(o link) bool {
		return o.key() == l.key() && s.card(o) == now.card(l) && slices.Equal(o.addresses, l.addresses)
	})
}

// apply makes the DHCP servers answer on a site. If it fails, nothing has changed.
func (s *Server) apply(now site) error {
	servers := s.dhcp.Load()
	if err := servers.four.Apply(now.dhcp, now.cards); err != nil {
		return err
	}
	if err := servers.six.Apply(now.dhcp6, now.cards6); err != nil {
		return errors.Join(err, servers.four.Apply(s.site.dhcp, s.site.cards))
	}
	return nil
}

// logChanges logs what is served from now on and what is not any more.
func (s *Server) logChanges(now site) {
	for _, what := range s.site.changes(now) {
		s.log.Warn("an interface changed: " + what)
	}
}
