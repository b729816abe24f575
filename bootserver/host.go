package bootserver

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/operator"
)

// host is the server as operators see it.
type host struct{ *Server }

// operator returns what answers operators of this server.
func (s *Server) operator() *operator.Operator {
	return operator.New(operator.Config{Host: host{s}, State: s.state, Catalog: s.catalog, Editor: s.editor(),
		Rollouts: s.rollouts, Webhooks: s.webhooks(), Now: s.conf.Now, Started: s.started, Log: s.log})
}

// editor returns what changes the images of this server.
func (s *Server) editor() operator.Editor {
	first := func() []string { return s.booter.Policy().FirstImages() }
	return operator.Editor{Store: s.conf.Store, Catalog: s.catalog, State: s.state, First: first, Now: s.conf.Now,
		Log: s.log, Measurer: s.measurer}
}

// Version implements operator.Host.
func (h host) Version() string { return h.conf.Version }

// Ready implements operator.Host.
func (h host) Ready() error {
	if !h.ready.Load() {
		return errors.New("the server is starting or ending")
	}
	return nil
}

// Metrics implements operator.Host.
func (h host) Metrics() http.Handler { return h.metrics.handler() }

// Network implements operator.Host.
func (h host) Network() api.Network {
	servers := h.dhcp.Load()
	if servers == nil {
		return api.Network{}
	}
	n := networkOf(servers.leases(), servers.four.Observations(), servers.six.Observations())
	if now := h.shown.Load(); now != nil {
		n.Interfaces = append(n.Interfaces, now.interfaces(h.others.answers)...)
	}
	return n
}

// HeardOf implements operator.Host.
func (h host) HeardOf(macs []string) []fleet.Other {
	servers := h.dhcp.Load()
	if servers == nil {
		return nil
	}
	return append(servers.four.Others(macs), servers.six.Others(macs)...)
}

// Interfaces implements operator.Host.
func (h host) Interfaces() (names []string) {
	h.reloading.Lock()
	defer h.reloading.Unlock()
	for _, l := range h.site.links {
		names = append(names, l.name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Reload implements operator.Host.
func (h host) Reload(ctx context.Context) (api.Reloaded, error) { return h.Server.Reload(ctx) }

// Authority implements operator.Host.
func (h host) Authority() api.Authority {
	return api.Authority{Certificate: string(h.ca.PEM()), Fingerprint: h.ca.Fingerprint(), Listens: h.remoteAt()}
}

// Issue implements operator.Host.
func (h host) Issue(c access.Credential, request []byte) (access.Credential, []byte, error) {
	return h.ca.Issue(c, request)
}

// MachineKey implements operator.Host.
func (h host) MachineKey(id ingot.MachineID) string { return h.booter.MachineKey(id) }

// Required implements operator.Host.
func (h host) Required(m ingot.ImageManifest) error { return h.booter.Required(m) }

// FirstImage implements operator.Host.
func (h host) FirstImage(m fleet.Machine) string {
	name, _ := h.booter.Policy().FirstImage(m)
	return name
}

// HealingPolicy implements operator.Host.
func (h host) HealingPolicy() fleet.Policy { return h.booter.HealingPolicy() }

// Sending implements operator.Host.
func (h host) Sending(boot ingot.BootID) map[string]int64 {
	if h.http == nil {
		return nil
	}
	return h.http.Sending(boot)
}

// KeepLeases implements operator.Host.
func (h host) KeepLeases() error { return h.keepLeases() }

// SetRules implements operator.Host.
func (h host) SetRules(rules []fleet.Rule) { h.booter.SetRules(rules) }

// ChangeIdentity implements operator.Host.
func (h host) ChangeIdentity() error { return h.changeIdentity() }

// figures measures the server for its metrics.
func (s *Server) figures() figures {
	f := figures{ready: s.ready.Load(), state: s.state.Counts()}
	now := s.conf.Now()
	for _, c := range s.state.Credentials() {
		if c.Live(now) {
			f.live++
		}
	}
	if s.http != nil {
		f.http = s.http.Counts()
	}
	if s.booter != nil {
		f.volumes = s.booter.VolumeProblems()
	}
	if s.notifier != nil {
		f.webhooks = s.webhookFigures()
	}
	if s.packets != nil {
		f.dropped = s.packets.Dropped()
	}
	if servers := s.dhcp.Load(); servers != nil {
		f.leases = len(servers.leases())
		if now := s.shown.Load(); now != nil {
			for _, i := range now.interfaces(s.others.answers) {
				if !i.Served {
					f.unserved++
				}
			}
		}
		f.foreign = len(servers.four.Observations().Servers) + len(servers.six.Observations().Servers)
	}
	return f
}

// webhookFigures measures all webhooks together.
func (s *Server) webhookFigures() webhookFigures {
	f := webhookFigures{states: map[string]int{}, counts: s.notifier.Counts()}
	for _, w := range s.webhooks().Webhooks() {
		f.states[w.State]++
		f.letter += w.Dead
		f.behind = max(f.behind, w.Behind)
	}
	return f
}
