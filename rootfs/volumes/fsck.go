package volumes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"ingot"
)

// Progress is how far the check of a filesystem is.
type Progress struct {
	Volume  string
	Device  string // "/dev/vdb"
	Percent int
}

// check repairs what can be repaired without asking (e2fsck(8), -p). A large filesystem takes
// hours, so m.Progress hears of each advance.
func (m Mounter) check(ctx context.Context, volume, device string) error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("checking %s: %w", device, err)
	}
	defer read.Close()
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		follow(read, func(percent int) {
			if m.Progress != nil {
				m.Progress(Progress{volume, device, percent})
			}
		})
	}()
	cmd, err := m.command(ctx, "/usr/sbin/e2fsck", "-p", "-C", "3", device)
	var out []byte
	if err == nil {
		cmd.ExtraFiles = []*os.File{write} // descriptor 3
		out, err = cmd.CombinedOutput()
	}
	write.Close()
	<-followed
	var exit *exec.ExitError
	switch said := strings.TrimSpace(string(out)); {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode()&^3 == 0: // 1 and 2: errors were corrected
		m.Log("the filesystem on %s was repaired: %s", device, said)
		return nil
	case errors.Is(err, os.ErrNotExist):
		m.Log("the root has no e2fsck (package e2fsprogs); %s is mounted unchecked", device)
		return nil
	default:
		return problem{ingot.VolumeUnrepaired, fmt.Errorf("the filesystem on %s cannot be repaired automatically: "+
			"e2fsck: %w: %s; on another system: %s", device, err, said, remedy(ingot.VolumeUnrepaired, device))}
	}
}

// passes are the shares of the work, in percent, that e2fsck's passes begin and end with, as its
// own progress bar has them (e2fsck/unix.c, struct percent_tbl).
var passes = []int{0, 70, 90, 92, 95, 100}

// follow reads lines "PASS NOW MAX DEVICE" and reports each advance.
func follow(r io.Reader, advanced func(percent int)) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var pass int
		var now, most int64
		if n, _ := fmt.Sscan(lines.Text(), &pass, &now, &most); n < 3 || pass < 1 || pass >= len(passes) || most <= 0 {
			continue
		}
		from, to := passes[pass-1], passes[pass]
		advanced(from + int(int64(to-from)*min(now, most)/most))
	}
	_, _ = io.Copy(io.Discard, r) // a line that is too long must not block the check
}
