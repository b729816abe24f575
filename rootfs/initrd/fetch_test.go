package initrd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ingot"
)

const testChunk = 4096

// testRoot is some content and its chunk list.
func testRoot(chunks int) ([]byte, []ingot.Chunk) {
	r := rand.NewChaCha8([32]byte{1})
	content := make([]byte, chunks*testChunk-100)
	_, _ = r.Read(content)
	var list []ingot.Chunk
	for at := 0; at < len(content); at += testChunk {
		part := content[at:min(len(content), at+testChunk)]
		list = append(list, ingot.Chunk{Digest: ingot.DigestOf(part), Size: int64(len(part))})
	}
	return content, list
}

// fetchFrom downloads from a handler into a file, trying again after passing
// failures as the machine does.
func fetchFrom(t *testing.T, h http.Handler, chunks []ingot.Chunk, stall time.Duration) ([]byte, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	f, err := os.Create(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := newRemote(srv.URL, ingot.NewBootKey(ingot.NewBootID([16]byte{7}), [16]byte{8}))
	image := ingot.DigestOf([]byte("image"))
	d := &download{
		chunks: chunks,
		file:   f,
		stall:  stall,
		open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
			return r.root(ctx, image, offset)
		},
	}
	quick := patience{First: time.Millisecond, Most: 5 * time.Millisecond, Total: 10 * time.Second}
	err = retry(t.Context(), quick, func(error, time.Duration) {}, func() error { return d.run(t.Context()) })
	got, readErr := os.ReadFile(f.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return got, err
}

func serveContent(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

func TestDownload(t *testing.T) {
	content, chunks := testRoot(20)
	got, err := fetchFrom(t, serveContent(content), chunks, time.Minute)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("download: %v, %d bytes equal %t; want all of them", err, len(got), bytes.Equal(got, content))
	}
}

// TestDownloadResumes: a server that drops every connection after some bytes,
// and that is away now and then, delays the download and no more. No byte of a
// finished chunk is asked for again.
func TestDownloadResumes(t *testing.T) {
	content, chunks := testRoot(30)
	requests, furthest := 0, 0
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		if requests%3 == 0 {
			http.Error(w, "restarting", http.StatusServiceUnavailable)
			return
		}
		at := 0
		if v := r.Header.Get("Range"); v != "" {
			if _, err := sscan(v, &at); err != nil {
				t.Errorf("Range %q: %v", v, err)
			}
		}
		if at%testChunk != 0 || at < furthest {
			t.Errorf("asked from byte %d after chunk end %d; want the first byte that is missing", at, furthest)
		}
		furthest = at
		serveContent(content)(&dropping{ResponseWriter: w, left: 3*testChunk + 17}, r)
	})
	got, err := fetchFrom(t, h, chunks, time.Minute)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("download over dropped connections: %v", err)
	}
	if requests < 10 {
		t.Errorf("%d requests; the server dropped too few connections to prove anything", requests)
	}
}

func sscan(v string, at *int) (int, error) {
	s := strings.TrimSuffix(strings.TrimPrefix(v, "bytes="), "-")
	n := 0
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	*at = n
	return n, nil
}

// dropping hangs up after so many bytes.
type dropping struct {
	http.ResponseWriter
	left int
}

func (d *dropping) Write(p []byte) (int, error) {
	if len(p) > d.left {
		_, _ = d.ResponseWriter.Write(p[:d.left])
		panic(http.ErrAbortHandler)
	}
	d.left -= len(p)
	return d.ResponseWriter.Write(p)
}

// TestDownloadFlippedByte: one flipped byte stops the boot and names its place.
func TestDownloadFlippedByte(t *testing.T) {
	content, chunks := testRoot(8)
	bad := bytes.Clone(content)
	bad[5*testChunk+9] ^= 1
	requests := 0
	_, err := fetchFrom(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		serveContent(bad)(w, r)
	}), chunks, time.Minute)
	if !errors.Is(err, ErrChunk) || !strings.Contains(err.Error(), "chunk 6 of 8 (bytes 20480–24575)") {
		t.Errorf("download of a damaged root = %v; want ErrChunk that names chunk 6", err)
	}
	if requests != badChunks {
		t.Errorf("asked %d times; want %d", requests, badChunks)
	}
}

// TestDownloadOneBadTransfer: a chunk that was damaged once on the way is
// fetched again.
func TestDownloadOneBadTransfer(t *testing.T) {
	content, chunks := testRoot(8)
	bad := bytes.Clone(content)
	bad[3*testChunk] ^= 1
	first := true
	got, err := fetchFrom(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if first {
			first = false
			serveContent(bad)(w, r)
			return
		}
		serveContent(content)(w, r)
	}), chunks, time.Minute)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("download with one bad transfer: %v", err)
	}
}

func TestDownloadStalls(t *testing.T) {
	content, chunks := testRoot(8)
	requests := 0
	got, err := fetchFrom(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests == 1 {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(content[:testChunk+5])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		serveContent(content)(w, r)
	}), chunks, 50*time.Millisecond)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("download over a stalled connection: %v", err)
	}
}

// TestRefusalIsFinal: what the server decided is not asked again and again.
func TestRefusalIsFinal(t *testing.T) {
	_, chunks := testRoot(2)
	requests := 0
	_, err := fetchFrom(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests++
		http.Error(w, "refused: not what this boot may run", http.StatusForbidden)
	}), chunks, time.Minute)
	if requests != 1 || err == nil || !strings.Contains(err.Error(), "not what this boot may run") {
		t.Errorf("after %d requests: %v; want one request and the server's words", requests, err)
	}
}

// TestComesBack: a machine that is asked to come back does so when it was told
// to, jittered, and its patience does not run out as long as the server says so.
func TestComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		var pauses []time.Duration
		err := retry(t.Context(), patience{First: time.Second, Most: time.Second, Total: 10 * time.Second},
			func(_ error, pause time.Duration) { pauses = append(pauses, pause) },
			func() error {
				if asked++; asked <= 20 {
					return fmt.Errorf("fetching: %w", busy{refusal{status: 503}, retryAfter(http.Header{"Retry-After": {"8"}})})
				}
				return nil
			})
		if err != nil || asked != 21 {
			t.Fatalf("retry = %v after %d times; want success at the 21st", err, asked)
		}
		different := map[time.Duration]bool{}
		for _, p := range pauses {
			if p < 8*time.Second || p > 12*time.Second {
				t.Errorf("a pause of %s; want 8 to 12 s", p)
			}
			different[p] = true
		}
		if len(different) < 10 {
			t.Errorf("%d different pauses of %d; want them jittered", len(different), len(pauses))
		}
		asked = 0
		begin := time.Now()
		err = retry(
			t.Context(),
			patience{First: time.Second, Most: time.Second, Total: 10 * time.Second},
			func(error, time.Duration) {},
			func() error { return busy{refusal{status: 500}, 0} },
		)
		if took := time.Since(begin); err == nil || took < 10*time.Second || took > 13*time.Second {
			t.Errorf("a broken server: %v after %s; want an error when patience ends", err, took)
		}
	})
	for header, want := range map[string]time.Duration{"": 0, "0": 0, "3": 3 * time.Second, "-1": 0, "x": 0, "1e9": 0,
		"99999999": longestWait, "99999999999999999999": 0, "Fri, 31 Dec 1999 23:59:59 GMT": 0} {
		if got := retryAfter(http.Header{"Retry-After": {header}}); got != want {
			t.Errorf("retryAfter(%q) = %s; want %s", header, got, want)
		}
	}
}
