package initrd

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"ingot/rootfs"
)

// console writes to every console of the machine: screen and serial line may both
// be watched.
type console struct {
	mu  sync.Mutex
	out []io.Writer
}

// openConsole opens the kernel's active consoles, or /dev/console alone.
func openConsole() *console {
	c := &console{}
	c.open(activeConsoles())
	return c
}

// open opens consoles, or /dev/console alone, in place of those that are open: the end of a terminal's
// session hangs up what was open before (tty_vhangup_session in Linux).
func (c *console) open(names []string) {
	var out []io.Writer
	for _, name := range names {
		if f, err := os.OpenFile("/dev/"+name, os.O_WRONLY, 0); err == nil {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		if f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
			out = append(out, f)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.out {
		if f, is := w.(*os.File); is {
			_ = f.Close() // nothing is written to it any more
		}
	}
	c.out = out
}

// activeConsoles returns the names of the kernel's active consoles.
func activeConsoles() []string {
	b, _ := os.ReadFile("/sys/class/tty/console/active") // without it there is /dev/console
	return strings.Fields(string(b))
}

// say prints one line, and keeps it in the kernel's log.
func (c *console) say(format string, args ...any) {
	line := "ingot: " + fmt.Sprintf(format, args...)
	rootfs.WriteKernelLog(line)
	c.write(line + "\r\n")
}

func (c *console) write(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.out {
		_, _ = io.WriteString(w, s) // a console that fails must not stop the boot
	}
}

// frame prints a message in a frame, so that it stands out.
func (c *console) frame(lines ...string) {
	for _, line := range lines {
		rootfs.WriteKernelLog("ingot: " + line)
	}
	const width = 76
	var s strings.Builder
	edge := "+" + strings.Repeat("-", width) + "+\r\n"
	s.WriteString("\r\n" + edge)
	for _, line := range lines {
		for _, part := range wrap(line, width-2) {
			fmt.Fprintf(&s, "| %-*s |\r\n", width-2, part)
		}
	}
	s.WriteString(edge)
	c.write(s.String())
}

// wrap breaks a line at spaces so that no part is longer than width bytes.
func wrap(line string, width int) []string {
	const indent = "  "
	var parts []string
	for len(line) > width {
		at := strings.LastIndexByte(line[:width+1], ' ')
		if at <= len(indent) { // the word is longer than the line: cut it
			at = width
		}
		parts = append(parts, line[:at])
		line = indent + strings.TrimLeft(line[at:], " ")
	}
	return append(parts, line)
}

// meter prints the progress of a download, at most every two seconds.
func (c *console) meter(what string, total int64) func(done int64) {
	start, last := time.Now(), time.Now()
	return func(done int64) {
		if time.Since(last) < 2*time.Second && done < total {
			return
		}
		last = time.Now()
		rate := float64(done) / (1 << 20) / max(time.Since(start).Seconds(), 0.001)
		c.say("%s %3d %%  %d of %d MiB, %.1f MiB/s", what, done*100/max(total, 1), done>>20, total>>20, rate)
	}
}
