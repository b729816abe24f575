package initrd

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ingot"
)

// BenchmarkDownload is fetching and verifying a root of 64 MiB in chunks of
// 1 MiB, without the network: what the machine's CPU costs.
func BenchmarkDownload(b *testing.B) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 64<<20/16)
	var chunks []ingot.Chunk
	for at := 0; at < len(content); at += 1 << 20 {
		chunks = append(chunks, ingot.Chunk{Digest: ingot.DigestOf(content[at : at+1<<20]), Size: 1 << 20})
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "root"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		d := &download{
			chunks: chunks,
			file:   f,
			stall:  time.Minute,
			open: func(context.Context, int64) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(content)), nil
			},
		}
		if err := d.run(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
