package rootfs

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// WatchdogTimeout is after how long without a sign of life the machine is reset.
const WatchdogTimeout = 60 * time.Second

// Watchdog is the machine's watchdog timer (kernel documentation,
// watchdog/watchdog-api.rst). It runs from the moment that it is opened and is
// never stopped: closing it leaves it running for the next program that feeds it.
type Watchdog struct {
	file    *os.File
	Timeout time.Duration // as the hardware took it
	Name    string        // of the driver
}

// OpenWatchdog starts the watchdog.
func OpenWatchdog(path string) (*Watchdog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("starting the watchdog: %w", err)
	}
	w := &Watchdog{file: f, Timeout: WatchdogTimeout}
	if info, err := unix.IoctlGetWatchdogInfo(int(f.Fd())); err == nil {
		w.Name = unix.ByteSliceToString(info.Identity[:])
	}
	// Hardware that cannot take the time keeps its own, which is read back.
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, int(WatchdogTimeout/time.Second))
	if s, err := unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETTIMEOUT); err == nil && s > 0 {
		w.Timeout = time.Duration(s) * time.Second
	}
	return w, nil
}

// Feed says that the machine lives.
// a watchdog that cannot be fed resets the machine
func (w *Watchdog) Feed() { _ = unix.IoctlWatchdogKeepalive(int(w.file.Fd())) }

// Leave closes the watchdog and lets it run.
func (w *Watchdog) Leave() { w.file.Close() }
