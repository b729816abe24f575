package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"
	"time"
)

// TestUploadEnds: the HTTP transport may still read a body after the request has failed (net/http,
// RoundTripper). What it reads then is not counted: the next attempt begins at zero.
func TestUploadEnds(t *testing.T) {
	var last int64
	p := &push{progress: func(done, _ int64) { last = done }}
	w := newWatch(context.Background(), time.Minute)
	defer w.stop()
	u := &upload{r: bytes.NewReader(make([]byte, 1<<20)), push: p, watch: w}
	var transport sync.WaitGroup
	started := make(chan struct{})
	transport.Go(func() {
		b := make([]byte, 512)
		_, err := u.Read(b)
		close(started)
		for err == nil {
			_, err = u.Read(b)
		}
		if !errors.Is(err, fs.ErrClosed) && !errors.Is(err, io.EOF) {
			t.Errorf("reading an upload that has ended: %v; want fs.ErrClosed", err)
		}
	})
	<-started
	p.advance(-u.end())
	transport.Wait()
	if p.advance(0); last != 0 {
		t.Errorf("%d bytes are counted after the end of the upload; want 0", last)
	}
}
