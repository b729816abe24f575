package access

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPeers: root, the server's user and the members of one group may use the socket; others may not.
func TestPeers(t *testing.T) {
	own := uint32(os.Geteuid())
	for _, c := range []struct {
		name   string
		gid    int
		cred   unix.Ucred
		groups []uint32
		want   bool
	}{
		{"root", 0, unix.Ucred{Uid: 0, Gid: 0}, nil, true},
		{"the server's user", 0, unix.Ucred{Uid: own, Gid: 4711}, nil, true},
		{"another user", 0, unix.Ucred{Uid: own + 4711, Gid: 4711}, []uint32{4711}, false},
		{"another user in root's group", 0, unix.Ucred{Uid: own + 4711}, []uint32{0}, false},
		{"a user of the group", 800, unix.Ucred{Uid: own + 4711, Gid: 800}, nil, true},
		{"a member of the group", 800, unix.Ucred{Uid: own + 4711, Gid: 4711}, []uint32{27, 800}, true},
		{"a user of other groups", 800, unix.Ucred{Uid: own + 4711, Gid: 4711}, []uint32{27, 0}, false},
	} {
		if got := (Peers{GID: c.gid}).allow(&c.cred, c.groups); got != c.want {
			t.Errorf("%s: allowed = %v; want %v", c.name, got, c.want)
		}
	}
}

// TestWrongTokens: wrong tokens are logged and slowed, each more than the one before; while several wait,
// the address is refused without a look; good ones of other addresses are not affected.
func TestWrongTokens(t *testing.T) {
	var log strings.Builder
	var delays []time.Duration
	good, err := NewCredential("ci", Token, Read, time.Hour, Who{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	good, token := good.Secret([28]byte{1, 2, 3})
	k := &Keeper{Now: time.Now, Find: func(id string) (Credential, bool) { return good, id == good.ID }}
	k.Throttle.Log = slog.New(slog.NewTextHandler(&log, nil))
	k.Throttle.Wait = func(_ context.Context, d time.Duration) { delays = append(delays, d) }
	who := func(from, text string) error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://server/v1/machines", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr, r.TLS = from, &tls.ConnectionState{}
		r.Header.Set("Authorization", "Bearer "+text)
		_, err = k.Who(r)
		return err
	}
	const wrong = Prefix + "00112233445566770000000000000000000000000000000000000000"
	for range 8 {
		if err := who("10.0.0.9:1234", wrong); !errors.Is(err, ErrWrong) {
			t.Fatalf("a wrong token: %v; want ErrWrong", err)
		}
	}
	if len(delays) != 8 || delays[0] != firstDelay || delays[1] != 2*firstDelay || delays[7] != maxDelay {
		t.Errorf("wrong tokens are delayed by %v", delays)
	}
	if n := strings.Count(log.String(), "10.0.0.9"); n != 4 {
		t.Errorf("8 wrong tokens are logged %d times; want 4:\n%s", n, &log)
	}
	if strings.Contains(log.String(), wrong[len(Prefix):]) {
		t.Error("the log has the token")
	}
	from, _ := source("10.0.0.9:1")
	inside := make(chan error, 1)
	k.Throttle.Wait = func(context.Context, time.Duration) {
		k.Throttle.mu.Lock()
		waiting := k.Throttle.clients[from].waiting
		k.Throttle.mu.Unlock()
		if waiting < maxDelayed {
			_ = who("10.0.0.9:1234", wrong)
			return
		}
		if err := who("10.0.0.9:1234", wrong); !errors.Is(err, ErrTooManyWrong) {
			t.Errorf("a fifth wrong token while four wait: %v; want ErrTooManyWrong", err)
		}
		inside <- errors.Join(who("10.0.0.9:99", token), who("10.0.0.10:99", token))
	}
	_ = who("10.0.0.9:1234", wrong)
	if err := <-inside; err != nil {
		t.Errorf("while four wrong ones wait, a good token is refused: %v", err)
	}
	if err := who("10.0.0.9:99", token); err != nil {
		t.Errorf("afterwards, a good token: %v", err)
	}
}
