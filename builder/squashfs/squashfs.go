// Package squashfs packs a tar stream into a SquashFS 4.0 image. For now it is
// a small function around tar2sqfs of squashfs-tools-ng; our own writer will
// take its place behind the same signature. It knows nothing of ingot.
package squashfs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Options of an image. The zero value is a good start.
type Options struct {
	// Level of zstd compression, 1 to 22. Zero means 9: on a Debian root, a
	// tenth smaller than level 3 at a fraction of the time of level 15.
	Level int
	// Epoch becomes the creation time in the superblock.
	Epoch time.Time
}

// Write reads a tar from r and writes a squashfs image to the file out. The
// same tar gives the same bytes. The root folder's owner and mode come from
// the entry "./" of the tar.
func Write(ctx context.Context, r io.Reader, out string, o Options) error {
	if o.Level == 0 {
		o.Level = 9
	}
	cmd := exec.CommandContext(ctx, "tar2sqfs", "--quiet", "--force", "--compressor", "zstd",
		"--comp-extra", "level="+strconv.Itoa(o.Level), "--exportable",
		"--defaults", fmt.Sprintf("uid=0,gid=0,mode=0755,mtime=%d", o.Epoch.Unix()), out)
	cmd.Env = append(cmd.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(o.Epoch.Unix(), 10), "LC_ALL=C")
	cmd.Stdin = r
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("running tar2sqfs: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	// tar2sqfs leaves out what it does not understand and says so: that is an error here.
	if s := strings.TrimSpace(stderr.String()); s != "" {
		return fmt.Errorf("running tar2sqfs: %s", s)
	}
	return nil
}
