package api

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

// TestAReaderThatStops: an answer ends whose reader takes nothing of it any
// more; one that is slow gets all of it.
func TestAReaderThatStops(t *testing.T) {
	const patience = 200 * time.Millisecond
	ended := make(chan error, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		out, piece := &paced{w: w, patience: patience}, make([]byte, 1<<20)
		for range 64 {
			if _, err := out.Write(piece); err != nil {
				ended <- err
				return
			}
			if q.URL.Path == "/slow" {
				time.Sleep(patience / 40) // more than patience in all
			}
		}
		ended <- nil
	}))
	defer s.Close()
	stopped, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer stopped.Body.Close()
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the answer to a reader that stopped ends with %v; want the deadline", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the answer to a reader that stopped does not end")
	}
	slow, err := http.Get(s.URL + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	buf, read := make([]byte, 1<<20), 0
	for {
		n, err := slow.Body.Read(buf)
		if read += n; err != nil {
			break
		}
	}
	if err := <-ended; err != nil || read != 64<<20 {
		t.Errorf("a slow reader gets %d bytes, and the answer ends with %v; want %d", read, err, 64<<20)
	}
}

// TestARecorderHasNoDeadline: an answer that goes to no connection is written.
func TestARecorderHasNoDeadline(t *testing.T) {
	r := httptest.NewRecorder()
	if _, err := (&paced{w: r, patience: time.Second}).Write([]byte("all of it")); err != nil ||
		r.Body.String() != "all of it" {
		t.Errorf("a recorder gets %q, %v", r.Body, err)
	}
}
