package bootserver

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"

	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp"
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
	note(&r.Changed, "tftp", old.TFTP, now.TFTP)
	note(&r.Changed, "boots", old.Boots, now.Boots)
	note(&r.Changed, "api.names", old.API.Names, now.API.Names)
	note(&r.Restart, "api.listen", old.API.Listen, now.API.Listen)
	note(&r.Restart, "api.metrics", old.API.Metrics, now.API.Metrics)
	port := func(p uint16) uint16 {
		if p == 0 {
			return 80
		}
		return p
	}
	note(&r.Restart, "http.port", port(old.HTTP.Port), port(now.HTTP.Port))
	socket := now.Socket
	if socket == "" {
		socket = filepath.Join(store, "ingot.sock")
	}
	note(&r.Restart, "socket", old.Socket, socket)
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
	if c, err = s.conf.Settle(); err != nil {
		return c, err
	}
	return c, s.booter.checkFirst(ctx, c.Boots)
}

// rearrange takes over what DHCP is told: interfaces come and go, and the
// others keep their sockets and leases. An interface keeps its mode until a
// restart, since other ports belong to another mode.
func (s *Server) rearrange(ctx context.Context, c *config.Config, r *api.Reloaded) error {
	old := s.conf.Settings
	keepModes(old, c, r)
	four, six := !reflect.DeepEqual(old.DHCP, c.DHCP), !reflect.DeepEqual(old.DHCP6, c.DHCP6)
	if !four && !six {
		return nil
	}
	now, err := look(*c, s.conf.Range, s.conf.Range6)
	if err != nil {
		return err
	}
	opened := map[string]*ports{}
	for _, l := range now.links {
		if s.ports[l.key()] == nil {
			if opened[l.key()], err = s.open(ctx, l); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = s.lend.Load().four.Apply(now.dhcp, now.cards)
	}
	if err == nil {
		if err = s.lend.Load().six.Apply(now.dhcp6, now.cards6); err != nil { // then nothing has changed
			if before, lookErr := look(old, s.conf.Range, s.conf.Range6); lookErr == nil {
				err = errors.Join(err, s.lend.Load().four.Apply(before.dhcp, before.cards))
			}
		}
	}
	if err != nil {
		for _, p := range opened {
			if p != nil {
				p.close()
			}
		}
		return err
	}
	s.exchange(now, opened, r)
	for what, changed := range map[string]bool{"dhcp": four, "dhcp6": six} {
		if changed {
			r.Changed = append(r.Changed, what)
		}
	}
	return nil
}

// keepModes takes back what takes a restart: another mode of an interface.
func keepModes(old config.Config, c *config.Config, r *api.Reloaded) {
	c.DHCP.Interfaces, c.DHCP6.Interfaces = slices.Clone(c.DHCP.Interfaces), slices.Clone(c.DHCP6.Interfaces)
	for n, i := range c.DHCP.Interfaces {
		at := slices.IndexFunc(old.DHCP.Interfaces, func(o dhcp.Interface) bool { return o.Name == i.Name })
		if at >= 0 && old.DHCP.Interfaces[at].Mode != i.Mode {
			r.Restart = append(r.Restart, "dhcp.interfaces: the mode of "+i.Name)
			c.DHCP.Interfaces[n].Mode = old.DHCP.Interfaces[at].Mode
		}
	}
	for n, i := range c.DHCP6.Interfaces {
		at := slices.IndexFunc(old.DHCP6.Interfaces, func(o dhcp6.Interface) bool { return o.Name == i.Name })
		if at >= 0 && old.DHCP6.Interfaces[at].Mode != i.Mode {
			r.Restart = append(r.Restart, "dhcp6.interfaces: the mode of "+i.Name)
			c.DHCP6.Interfaces[n].Mode = old.DHCP6.Interfaces[at].Mode
		}
	}
}

// exchange serves the links that are new and leaves those that are gone.
func (s *Server) exchange(now site, opened map[string]*ports, r *api.Reloaded) {
	for key, p := range opened {
		s.ports[key] = p
		s.serve(key)
		r.Changed = append(r.Changed, fmt.Sprintf("dhcp.interfaces: %s is served", key))
	}
	for key, p := range s.ports {
		if !slices.ContainsFunc(now.links, func(l link) bool { return l.key() == key }) {
			p.close()
			delete(s.ports, key)
			r.Changed = append(r.Changed, fmt.Sprintf("dhcp.interfaces: %s is left", key))
		}
	}
}
