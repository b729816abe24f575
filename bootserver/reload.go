package bootserver

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"

	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp"
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

// rearrange takes over what DHCP is told: interfaces come and go, and the
// others keep their sockets and leases. An interface keeps its mode until a
// restart, since other ports belong to another mode.
func (s *Server) rearrange(ctx context.Context, c *config.Config, r *api.Reloaded) error {
	old := s.conf.Settings.DHCP
	c.DHCP.Interfaces = slices.Clone(c.DHCP.Interfaces)
	for n, i := range c.DHCP.Interfaces {
		at := slices.IndexFunc(old.Interfaces, func(o dhcp.Interface) bool { return o.Name == i.Name })
		if at >= 0 && old.Interfaces[at].Mode != i.Mode {
			r.Restart = append(r.Restart, "dhcp.interfaces: the mode of "+i.Name)
			c.DHCP.Interfaces[n].Mode = old.Interfaces[at].Mode
		}
	}
	if reflect.DeepEqual(old, c.DHCP) {
		return nil
	}
	now, err := look(*c, s.conf.Range)
	if err != nil {
		return err
	}
	opened := map[string]*ports{}
	for _, l := range now.links {
		if s.ports[l.Name] == nil {
			if opened[l.Name], err = s.open(ctx, l); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = s.dhcp.Apply(now.dhcp, now.cards)
	}
	if err != nil {
		for _, p := range opened {
			if p != nil {
				p.close()
			}
		}
		return err
	}
	for name, p := range opened {
		s.ports[name] = p
		s.serve(name)
		r.Changed = append(r.Changed, fmt.Sprintf("dhcp.interfaces: %s is served", name))
	}
	for name, p := range s.ports {
		if !slices.ContainsFunc(now.links, func(l link) bool { return l.Name == name }) {
			p.close()
			delete(s.ports, name)
			r.Changed = append(r.Changed, fmt.Sprintf("dhcp.interfaces: %s is left", name))
		}
	}
	r.Changed = append(r.Changed, "dhcp")
	return nil
}
