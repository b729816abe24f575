package rootfs

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Uptime is the time since the kernel started (proc_uptime(5)); 0 when unknown.
func Uptime() time.Duration {
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	s, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}

// Memory returns MemTotal and MemTotal - MemAvailable in bytes (proc_meminfo(5)).
func Memory() (total, used int64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	values := map[string]int64{}
	for _, line := range strings.Split(string(b), "\n") {
		key, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) > 0 {
			n, err := strconv.ParseInt(f[0], 10, 64)
			if err == nil {
				values[key] = n << 10
			}
		}
	}
	return values["MemTotal"], values["MemTotal"] - values["MemAvailable"]
}

// Space returns used and total bytes of the filesystem of a path. Of the root, an overlay, that
// is the tmpfs to which everything is written (statfs(2)); 0 when unknown.
func Space(path string) (used, total int64) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, 0
	}
	size := int64(st.Bsize)
	return (int64(st.Blocks) - int64(st.Bfree)) * size, int64(st.Blocks) * size
}
