package bootserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Holder names the process that has a port open, "dnsmasq (process 123)"; it is
// empty when nobody has, or when that cannot be known.
func Holder(proto string, port int) string {
	return strings.TrimPrefix(holder(proto, port), " by ")
}

// holder names the process that has a port open, " by dnsmasq (process 123)",
// or nothing when that cannot be known (proc_pid_net(5)).
// proto is "udp", "tcp", or one of them with a 6 behind it.
func holder(proto string, port int) string {
	table, err := os.ReadFile("/proc/net/" + proto)
	if err != nil {
		return ""
	}
	suffix := fmt.Sprintf(":%04X", port)
	for _, line := range strings.Split(string(table), "\n") {
		f := strings.Fields(line)
		if len(f) < 10 || !strings.HasSuffix(f[1], suffix) {
			continue
		}
		if name := owner("socket:[" + f[9] + "]"); name != "" {
			return " by " + name
		}
	}
	return ""
}

// owner finds the process that holds a socket.
func owner(socket string) string {
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != socket {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(name)), pid)
	}
	return ""
}
