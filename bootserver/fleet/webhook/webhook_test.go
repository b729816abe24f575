package webhook

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 12, 1, 3, 0, 0, 0, time.UTC)

// TestSign compares a signature with that of the reference libraries of Standard Webhooks.
func TestSign(t *testing.T) {
	key, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`), key)
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("Sign = %s; want %s", got, want)
	}
}

func TestSecrets(t *testing.T) {
	key := slices.Repeat([]byte{0xfb}, NewSecret)
	if got, err := ParseSecret(FormatSecret(key) + "\n"); err != nil || !slices.Equal(got, key) {
		t.Errorf("ParseSecret(FormatSecret(key)) = %x, %v", got, err)
	}
	for _, text := range []string{"", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!!",
		FormatSecret(make([]byte, MaxSecret+1))} {
		if _, err := ParseSecret(text); !errors.Is(err, ErrSecret) || strings.Contains(err.Error(), "MfKQ") {
			t.Errorf("ParseSecret(%q) = %v; want ErrSecret, without the text", text, err)
		}
	}
}

func TestReachable(t *testing.T) {
	for _, c := range []struct {
		ip    string
		allow []string
		fault string // empty: it is reached
	}{
		{"10.0.0.5", nil, ""}, {"192.168.1.1", nil, ""}, {"fd00::5", nil, ""}, {"2001:db8::1", nil, ""},
		{"127.0.0.1", nil, "loopback"}, {"127.9.9.9", nil, "loopback"}, {"::1", nil, "loopback"},
		{"::ffff:127.0.0.1", nil, "loopback"}, {"64:ff9b::7f00:1", nil, "loopback"}, {"2002:7f00:1::", nil, "loopback"},
		{"169.254.169.254", nil, "link-local"}, {"::ffff:169.254.169.254", nil, "link-local"},
		{"64:ff9b::a9fe:a9fe", nil, "link-local"}, {"fe80::1%eth0", nil, "link-local"},
		{"fd00:ec2::254", nil, "metadata"}, {"100.100.100.200", nil, "metadata"}, {"192.0.0.192", nil, "metadata"},
		{"168.63.129.16", nil, "metadata"}, {"fd20:ce::254", nil, "metadata"}, {"::ffff:168.63.129.16", nil, "metadata"},
		{"::127.0.0.1", nil, "loopback"}, {"::ffff:0:127.0.0.1", nil, "loopback"}, {"0.0.0.7", nil, "unspecified"},
		{"64:ff9b:1::7f00:1", nil, "loopback"}, {"::a9fe:a9fe", nil, "link-local"}, {"::", nil, "unspecified"},
		{"0.0.0.0", nil, "unspecified"}, {"::", nil, "unspecified"}, {"224.0.0.1", nil, "multicast"},
		{"ff02::1", nil, "multicast"}, {"255.255.255.255", nil, "multicast"},
		{"127.0.0.1", []string{"127.0.0.1"}, ""}, {"127.0.0.2", []string{"127.0.0.1"}, "loopback"},
		{"::1", []string{"127.0.0.0/8"}, "loopback"}, {"fe80::1%eth0", []string{"fe80::/64"}, ""},
		{"169.254.169.254", []string{"169.254.0.0/16"}, ""},
	} {
		allow, err := ParseAllowed(c.allow)
		if err != nil {
			t.Fatal(err)
		}
		err = Reachable(netip.MustParseAddr(c.ip), allow)
		if c.fault == "" && err != nil || c.fault != "" && (!errors.Is(err, ErrAddress) || !strings.Contains(err.Error(),
			c.fault)) {
			t.Errorf("Reachable(%s, %v) = %v; want %q", c.ip, c.allow, err, c.fault)
		}
	}
	if err := Reachable(netip.Addr{}, nil); !errors.Is(err, ErrAddress) {
		t.Errorf("Reachable of no address = %v", err)
	}
	for _, list := range [][]string{{"localhost"}, {"10.0.0.0/33"}, slices.Repeat([]string{"::1"}, MaxAllowed+1)} {
		if _, err := ParseAllowed(list); !errors.Is(err, ErrAddress) {
			t.Errorf("ParseAllowed(%v) = %v; want ErrAddress", list, err)
		}
	}
}

func TestCheckURL(t *testing.T) {
	for url, fault := range map[string]string{
		"https://a.example/x?y=z": "", "http://10.0.0.1:8080/": "", "https://[fd00::1]/": "",
		"": "https://", "ftp://a/": "https://", "a.example/x": "https://", "https:///x": "no host",
		"https://u:p@a/": "password",
		"https://a/#x":   "fragment", "https://a:0/": "port 0", "https://a/" + strings.Repeat("x", MaxURL): "characters",
		"http://a b/": "cannot be read", "file:///etc/passwd": "https://",
	} {
		err := CheckURL(url)
		if fault == "" && err != nil || fault != "" && (!errors.Is(err, ErrURL) || !strings.Contains(err.Error(), fault)) {
			t.Errorf("CheckURL(%.40q) = %v; want %q", url, err, fault)
		}
		if err != nil && strings.Contains(err.Error(), "u:p") {
			t.Errorf("the error repeats a password: %v", err)
		}
	}
}

func TestWants(t *testing.T) {
	w := Webhook{Events: []string{"boot-ended", "rollout"}}
	for _, c := range []struct {
		code   string
		topics []string
		want   bool
	}{{"boot-ended", []string{"boot"}, true}, {"boot-stage", []string{"boot"}, false},
		{"rollout-state", []string{"rollout"}, true}, {"image.build", []string{"image", "audit"}, false}} {
		if got := w.Wants(c.code, c.topics); got != c.want {
			t.Errorf("Wants(%s, %v) = %v", c.code, c.topics, got)
		}
	}
}

// TestAfter: what follows from answers, one after the other.
func TestAfter(t *testing.T) {
	p := Policy{}.WithDefaults()
	now := t0
	w := Progress{Webhook: "w"}
	fail := func(r Result, after time.Duration) Verdict {
		now = now.Add(after)
		var v Verdict
		w, v = p.After(w, r, now, 0.5)
		return v
	}
	var pauses []time.Duration
	for i := range 9 { // it is refused ten times
		if v := fail(Result{Status: 400}, p.Wait(w, now)); v != Retry || w.Attempts != i+1 {
			t.Fatalf("attempt %d: %v, %+v", i+1, v, w)
		}
		pauses = append(pauses, p.Wait(w, now))
	}
	for i, d := range pauses {
		if whole := min(DefaultFirst<<i, DefaultLongest); d < whole/2 || d > whole {
			t.Errorf("pause %d is %s; want between a half and the whole of %s", i+1, d, whole)
		}
	}
	if v := fail(Result{Status: 400}, p.Wait(w, now)); v != Dead || w.Attempts != 0 || p.Wait(w, now) != 0 {
		t.Errorf("the tenth refusal: %v, %+v", v, w)
	}
	if v := fail(Result{Status: 204}, 0); v != Delivered || w.Failures != 0 || w.Last != nil || w.Sent != 1 {
		t.Errorf("after acceptance: %v, %+v", v, w)
	}
	for range 100 { // without an answer it is tried for ever
		if v := fail(Result{Why: "refused"}, 20*time.Hour); v != Retry || !w.Began.IsZero() {
			t.Fatalf("without an answer: %v, %+v", v, w)
		}
	}
	for _, status := range []int{401, 404, 429, 302, 502, 503} { // neither does this condemn an event
		fail(Result{Status: status}, 0)
		if v := fail(Result{Status: status}, 2*DefaultPatience); v != Retry {
			t.Errorf("two days of %d: %v", status, v)
		}
	}
	for range 9 {
		if v := fail(Result{Status: 400}, 0); v != Retry { // none of the attempts before counts
			t.Fatalf("refused %d times: %v", w.Refusals, v)
		}
	}
	if v := fail(Result{Status: 400}, 0); v != Dead {
		t.Errorf("refused ten times: %v", v)
	}
	fail(Result{Late: true}, 0)
	if v := fail(Result{Status: 500}, DefaultPatience); v != Dead || !w.Stuck {
		t.Errorf("it fails at the event for a day: %v, %+v", v, w)
	}
	fail(Result{Status: 500}, 0)
	if v := fail(Result{Status: 500}, 2*DefaultPatience); v != Retry {
		t.Errorf("it fails at the next one as well: %v", v)
	}
	if v := fail(Result{Status: 429, After: 2 * time.Hour}, 0); v != Retry || p.Wait(w, now) != 2*time.Hour {
		t.Errorf("Retry-After: %v, wait %s; want 2h", v, p.Wait(w, now))
	}
	if v := fail(Result{Status: 503, After: 1000 * time.Hour}, 0); v != Retry || p.Wait(w, now) != maxRetryAfter {
		t.Errorf("Retry-After of 1000 hours: %v, wait %s", v, p.Wait(w, now))
	}
	if d := p.Wait(w, now.Add(-1000*time.Hour)); d != 0 {
		t.Errorf("after the clock was set back, it waits for %s", d)
	}
	if v := fail(Result{Status: 410}, 0); v != Gone || w.Attempts != 0 {
		t.Errorf("410: %v, %+v", v, w)
	}
}

// TestAfterAlways: whatever the receiver answers and the clock does, no pause is longer than it may be, an event is
// given up only for answers about it, and never because of a receiver that is away.
func TestAfterAlways(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{Refused: rapid.IntRange(1, 12).Draw(t, "refused")}.WithDefaults()
		w, now := Progress{Stuck: rapid.Bool().Draw(t, "stuck")}, t0
		wasStuck := w.Stuck
		statuses := []int{0, 301, 400, 404, 408, 429, 500, 503}
		refused := 0
		failing := time.Time{} // since when it fails at the event
		for range 60 {
			r := Result{Status: rapid.SampledFrom(statuses).Draw(t, "status"),
				After: time.Duration(rapid.Int64Range(-1, int64(100*time.Hour)).Draw(t, "after"))}
			switch {
			case r.Status == 400:
				refused++
			case r.Status != 500:
				failing = time.Time{}
			case failing.IsZero():
				failing = now
			}
			var v Verdict
			w, v = p.After(w, r, now, rapid.Float64Range(0, 0.999).Draw(t, "random"))
			if d := p.Wait(w, now); d < 0 || d > max(DefaultLongest, maxRetryAfter) {
				t.Fatalf("a pause of %s", d)
			}
			long := r.Status == 500 && now.Sub(failing) >= DefaultPatience && !wasStuck
			if is := r.Status == 400 && refused == p.Refused || long; is != (v == Dead) {
				t.Fatalf("verdict %v for %d after %d refusals, failing for %s", v, r.Status, refused, now.Sub(failing))
			}
			if v == Dead {
				return
			}
			now = now.Add(max(p.Wait(w, now), time.Millisecond))
		}
	})
}

func TestEventID(t *testing.T) {
	id := EventID("w", 7, t0, "boot-ended")
	if id != EventID("w", 7, t0, "boot-ended") || len(id) != 36 {
		t.Errorf("EventID = %q", id)
	}
	for _, other := range []string{EventID("x", 7, t0, "boot-ended"), EventID("w", 8, t0, "boot-ended"),
		EventID("w", 7, t0.Add(1), "boot-ended"), EventID("w", 7, t0, "boot-stage")} {
		if other == id {
			t.Error("another event has the same id")
		}
	}
}

func TestJoin(t *testing.T) {
	var none *Gap
	a := none.Join(Gap{From: 5, To: 9, Entries: 5, Reason: GapRetention, At: t0})
	b := a.Join(Gap{From: 10, To: 12, Entries: 3, Reason: GapSkipped, At: t0.Add(1)})
	if *b != (Gap{From: 5, To: 12, Entries: 8, Reason: GapSkipped, At: t0.Add(1)}) {
		t.Errorf("Join = %+v", b)
	}
	if c := b.Join(Gap{From: 20, To: 20, Reason: GapRestored}); c.Entries != 0 || c.From != 5 {
		t.Errorf("Join with a gap of unknown size = %+v", c)
	}
}
