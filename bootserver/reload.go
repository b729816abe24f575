package bootserver

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"

	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
)

// changed compares settings: what a reload takes over, and what takes a restart.
func changed(old, now config.Config, store string) (r api.Reloaded) {
	note := func(list *[]string, what string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			*list = append(*list, what)
		}
	}
	note(&r.Changed, "http", old.HTTP.Limits(), now.HTTP.Limits())
	note(&r.Changed, "tftp", old.TFTP.Limits(), now.TFTP.Limits())
	note(&r.Changed, "boots", old.Boots, now.Boots)
	note(&r.Changed, "api.names", old.API.Names, now.API.Names)
	note(&r.Changed, "api.certificate", [2]string{old.API.Certificate, old.API.Key},
		[2]string{now.API.Certificate, now.API.Key})
	note(&r.Changed, "api.oidc", old.API.OIDC, now.API.OIDC)
	note(&r.Restart, "api.listen", old.API.Listen, now.API.Listen)
	note(&r.Restart, "api.metrics", old.API.Metrics, now.API.Metrics)
	port := func(p uint16) uint16 {
		if p == 0 {
			return 80
		}
		return p
	}
	note(&r.Restart, "tftp.singlePort", old.TFTP.SinglePort, now.TFTP.SinglePort)
	note(&r.Restart, "http.port", port(old.HTTP.Port), port(now.HTTP.Port))
	socket := now.Socket
	if socket == "" {
		socket = filepath.Join(store, "ingot.sock")
	}
	note(&r.Restart, "socket", old.Socket, socket)
	note(&r.Restart, "socketGroup", old.SocketGroup, now.SocketGroup)
	if now.Store != "" {
		note(&r.Restart, "store", filepath.Clean(store), filepath.Clean(now.Store))
	}
	return r
}

// settings reads what is written now. A panic over it is a fault of ours that
// must not end a server that machines boot from: it is an error like others.
func (s *Server) settings(ctx context.Context) (c config.Config, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("a panic while reading the configuration", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("ingot has a bug with what is written there: %v", p)
		}
	}()
	if c, err = s.conf.Reread(); err != nil {
		return c, err
	}
	if err = s.checkCertificate(s.conf.Settings.API, c.API); err != nil {
		return c, err
	}
	if o := LoginProvider(c.API); o != nil && !reflect.DeepEqual(s.conf.Settings.API.OIDC, c.API.OIDC) {
		if _, err := o.Secret(); err != nil {
			return c, err
		}
	}
	return c, s.checkFirst(ctx, c.Boots)
}

// rearrange takes over what DHCP is told, and what has become of the interfaces
// themselves: interfaces and addresses come and go, and the others keep their
// sockets and leases. One that does not exist is served when it appears. An interface
// keeps its mode until a restart, since other ports belong to another mode.
func (s *Server) rearrange(ctx context.Context, c *config.Config, r *api.Reloaded) error {
	old := s.conf.Settings
	s.keepModes(old, c, r)
	now, err := look(*c, s.conf.Range, s.conf.Range6)
	if err != nil {
		return err
	}
	if reflect.DeepEqual(s.site, now) {
		return nil
	}
	opened, err := s.open(ctx, now)
	if err != nil {
		return err
	}
	if err = s.apply(now); err != nil {
		opened.closeUnserved()
		return err
	}
	if now, opened, err = s.refuseReloaded(ctx, *c, now, opened); err != nil {
		return err
	}
	for _, what := range s.site.changes(now) {
		r.Changed = append(r.Changed, "dhcp.interfaces: "+what)
	}
	s.exchange(now, opened)
	s.refusePastRelays()
	if !reflect.DeepEqual(old.DHCP, c.DHCP) {
		r.Changed = append(r.Changed, "dhcp")
	}
	if !reflect.DeepEqual(old.DHCP6, c.DHCP6) {
		r.Changed = append(r.Changed, "dhcp6")
	}
	return nil
}

// keepModes takes back what takes a restart: another mode of an interface that is served.
func (s *Server) keepModes(old config.Config, c *config.Config, r *api.Reloaded) {
	c.DHCP.Interfaces, c.DHCP6.Interfaces = slices.Clone(c.DHCP.Interfaces), slices.Clone(c.DHCP6.Interfaces)
	for n, i := range c.DHCP.Interfaces {
		at := slices.IndexFunc(old.DHCP.Interfaces, func(o dhcp4.Interface) bool { return o.Name == i.Name })
		if at >= 0 && old.DHCP.Interfaces[at].Mode != i.Mode && s.site.has(link{name: i.Name}) {
			r.Restart = append(r.Restart, "dhcp.interfaces: the mode of "+i.Name)
			c.DHCP.Interfaces[n].Mode = old.DHCP.Interfaces[at].Mode
		}
	}
	for n, i := range c.DHCP6.Interfaces {
		at := slices.IndexFunc(old.DHCP6.Interfaces, func(o dhcp6.Interface) bool { return o.Name == i.Name })
		if at >= 0 && old.DHCP6.Interfaces[at].Mode != i.Mode && s.site.has(link{name: i.Name, six: &i}) {
			r.Restart = append(r.Restart, "dhcp6.interfaces: the mode of "+i.Name)
			c.DHCP6.Interfaces[n].Mode = old.DHCP6.Interfaces[at].Mode
		}
	}
}

// exchange serves what is new of the ports and closes what is gone.
func (s *Server) exchange(now site, opened ports) {
	before := s.ports.all()
	s.setSite(now)
	s.ports = opened
	s.serve(opened.all())
	for _, p := range before {
		if !slices.Contains(opened.all(), p) {
			p.close()
		}
	}
}

// has reports whether a link is served.
func (s site) has(l link) bool {
	return slices.ContainsFunc(s.links, func(o link) bool { return o.key() == l.key() })
}

// card is the index of a link's interface.
func (s site) card(l link) int {
	if l.six != nil {
		return s.cards6[l.name].Index
	}
	return s.cards[l.name].Index
}

// changes says, for people, what is served of another site and not of this one,
// and the other way round.
func (s site) changes(now site) (list []string) {
	for _, l := range now.links {
		i := slices.IndexFunc(s.links, func(o link) bool { return o.key() == l.key() })
		if i < 0 {
			list = append(list, l.key()+" is served")
			continue
		}
		was := s.links[i]
		if s.card(was) != now.card(l) {
			list = append(list, l.key()+" is another interface of that name now, and served")
		}
		for _, a := range l.addresses {
			if !slices.Contains(was.addresses, a) {
				list = append(list, fmt.Sprintf("%s on %s is served", a, l.name))
			}
		}
		for _, a := range was.addresses {
			if !slices.Contains(l.addresses, a) {
				list = append(list, fmt.Sprintf("%s on %s is left", a, l.name))
			}
		}
	}
	for _, a := range now.absent {
		if !slices.ContainsFunc(s.absent, func(o absence) bool { return o.key() == a.key() && o.why == a.why }) {
			list = append(list, a.key()+" is not served: "+a.why)
		}
	}
	for _, was := range s.links {
		if !slices.ContainsFunc(now.links, func(l link) bool { return l.key() == was.key() }) &&
			!slices.ContainsFunc(now.absent, func(a absence) bool { return a.key() == was.key() }) {
			list = append(list, was.key()+" is left")
		}
	}
	return list
}
