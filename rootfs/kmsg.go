package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// KernelLog reads the kernel's log from its beginning: what the kernel said,
// and what ingot-init and systemd wrote into it (kernel documentation,
// ABI/testing/dev-kmsg). Text that the kernel overwrote before it was read is
// left out.
type KernelLog struct{ fd int }

// OpenKernelLog opens /dev/kmsg and skips records before the sequence number
// from.
func OpenKernelLog(from uint64) (*KernelLog, error) {
	// Not by package os: a read must return at once when there is nothing new.
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the kernel's log: %w", err)
	}
	k := &KernelLog{fd}
	for from > 0 {
		_, next, ok := k.record()
		if !ok || next >= from {
			break
		}
	}
	return k, nil
}

// Close closes the log.
func (k *KernelLog) Close() { _ = unix.Close(k.fd) }

// Read returns lines of at most about most bytes, and the sequence number of
// what comes next; no text means that there is none now.
func (k *KernelLog) Read(most int) (text string, next uint64) {
	var b strings.Builder
	for b.Len() < most {
		line, n, ok := k.record()
		if !ok {
			break
		}
		next = n
		b.WriteString(line)
	}
	return b.String(), next
}

// record reads one record.
func (k *KernelLog) record() (line string, next uint64, ok bool) {
	buf := make([]byte, 8<<10) // longer ones the kernel cuts
	for range 100 {
		n, err := unix.Read(k.fd, buf)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR): // overwritten: the next one is there
			continue
		case err != nil || n <= 0:
			return "", 0, false
		}
		line, seq := ParseRecord(string(buf[:n]))
		return line, seq + 1, true
	}
	return "", 0, false
}

// ParseRecord makes a line of a record of /dev/kmsg, "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT".
func ParseRecord(record string) (line string, seq uint64) {
	head, text, ok := strings.Cut(record, ";")
	f := strings.Split(head, ",")
	if !ok || len(f) < 3 {
		return "", 0
	}
	seq, _ = strconv.ParseUint(f[1], 10, 64) // what is not a number sorts first
	us, _ := strconv.ParseUint(f[2], 10, 64)
	text, _, _ = strings.Cut(text, "\n") // device properties follow, one a line
	return fmt.Sprintf("[%5d.%06d] %s\n", us/1e6, us%1e6, text), seq
}

// WriteKernelLog adds a line to the kernel's log, where it is kept in order
// with the kernel's own messages, and survives a crash as far as they do.
func WriteKernelLog(line string) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return // it was on the console
	}
	defer f.Close()
	_, _ = f.WriteString("<6>" + line + "\n")
}
