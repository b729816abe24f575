package bootserver

import (
	"path/filepath"
	"reflect"

	"ingot/bootserver/api"
	"ingot/bootserver/config"
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
	note(&r.Restart, "dhcp", old.DHCP, now.DHCP)
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
