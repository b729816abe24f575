package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/webhook"
	"ingot/internal/harmless"
)

// Bounds of one request and its answer.
const (
	maxBody   = 64 << 10 // of a request
	maxAnswer = 64 << 10 // of an answer that is read, so that the connection can be used again
	maxHeader = 32 << 10
	maxWhy    = 300 // of what is kept of an answer or an error
	dialTime  = 5 * time.Second
	drainTime = time.Second // for the body of an answer
)

// event is what is sent in one request.
type event struct {
	id   string
	seq  uint64 // of the entry; of a gap its end
	gap  *webhook.Gap
	from fleet.Change
}

// eventOf returns the event of an entry.
func eventOf(hook string, c fleet.Change) event {
	return event{id: webhook.EventID(hook, c.Seq, c.At, string(c.Code)), seq: c.Seq, from: c}
}

// gapEvent returns the event of a gap, which is not an entry of the ledger.
func gapEvent(w webhook.Webhook, g webhook.Gap) event {
	c := gapChange(w, g)
	return event{id: webhook.EventID(w.ID, g.To, g.At, string(c.Code)), seq: g.To, gap: &g, from: c}
}

// gapChange is the entry of the ledger about a gap.
func gapChange(w webhook.Webhook, g webhook.Gap) fleet.Change {
	return fleet.Change{At: g.At, Code: fleet.CodeWebhookGap, Subject: w.ID, Name: w.Name,
		To: fleet.Values{"from": int64(g.From), "to": int64(g.To), "entries": int64(g.Entries), "reason": g.Reason}}
}

// body returns the JSON of an event. One that is too large loses what has no bound of its own.
func (n *Notifier) body(e event) ([]byte, error) {
	b := api.WebhookEvent{Type: string(e.from.Code), Timestamp: e.from.At.UTC(), Data: n.Data(e.from)}
	if m, known := n.State.Machine(e.from.Machine); known {
		b.Data.MachineName = m.Hostname()
	}
	text, err := json.Marshal(b)
	if err == nil && len(text) > maxBody {
		b.Data.Truncated, b.Data.From, b.Data.To = true, nil, nil
		b.Data.Text, b.Data.Detail = fleet.Clip(b.Data.Text, maxBody/8), fleet.Clip(b.Data.Detail, maxBody/8)
		text, err = json.Marshal(b)
	}
	return harmless.JSON(text), err
}

// clientOf returns what connects to the receiver of a webhook: to no address that is not allowed, whatever
// a name resolves to, by no proxy, and to no other receiver.
func clientOf(w webhook.Webhook) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if w.CA != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(w.CA)) {
			return nil, errors.New("its CA is no certificate in PEM")
		}
	}
	d := &net.Dialer{Timeout: dialTime, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return webhook.Reachable(at.Addr(), w.Allow)
	}}
	return &http.Client{
		Transport: &http.Transport{DialContext: d.DialContext, TLSClientConfig: conf, TLSHandshakeTimeout: dialTime,
			MaxResponseHeaderBytes: maxHeader, DisableCompression: true, MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1,
			IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// post makes one attempt.
func (n *Notifier) post(ctx context.Context, c *http.Client, w webhook.Webhook, keys [][]byte, id string,
	body []byte) webhook.Result {
	ctx, cancel := context.WithTimeout(ctx, n.Timeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return webhook.Result{Why: why(err)}
	}
	now := n.Now()
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("User-Agent", "ingot/"+n.Version)
	q.Header.Set(webhook.HeaderID, id)
	q.Header.Set(webhook.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	q.Header.Set(webhook.HeaderSignature, webhook.Sign(id, now, body, keys...))
	resp, err := c.Do(q)
	if err != nil {
		if ctx.Err() != nil {
			return webhook.Result{Late: true, Why: fmt.Sprintf("no answer within %s", n.Timeout)}
		}
		return webhook.Result{Why: why(err)}
	}
	defer resp.Body.Close()
	defer time.AfterFunc(drainTime, cancel).Stop()           // the rest of the answer is of no use
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxWhy)) // what cannot be read is not shown
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
	r := webhook.Result{Status: resp.StatusCode, After: retryAfter(resp.Header.Get("Retry-After"), now)}
	if r.OK() {
		return r
	}
	r.Why = fmt.Sprintf("answer %d", r.Status)
	if r.Status >= 300 && r.Status < 400 {
		r.Why += ": redirects are not followed"
		return r
	}
	r.Said = clip(string(text))
	return r
}

// why is the text of an error, without the URL, which may be long.
func why(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return clip(err.Error())
}

func clip(text string) string {
	text = harmless.Text(strings.TrimSpace(strings.ToValidUTF8(text, "")))
	if r := []rune(text); len(r) > maxWhy {
		return string(r[:maxWhy]) + "…"
	}
	return text
}

// retryAfter parses the header of that name (RFC 9110, section 10.2.3): seconds, or a time.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// Test sends an event that is in no ledger, once, and returns what became of it and how long it took.
func (n *Notifier) Test(ctx context.Context, w webhook.Webhook) (r webhook.Result, took time.Duration, err error) {
	keys, err := n.keysOf(w)
	if err != nil {
		return r, 0, err
	}
	c, err := clientOf(w)
	if err != nil {
		return r, 0, err
	}
	defer c.CloseIdleConnections()
	now := n.Now()
	e := eventOf(w.ID, fleet.Change{At: now, Code: fleet.CodeWebhookTest, Subject: w.ID, Name: w.Name})
	body, err := n.body(e)
	if err != nil {
		return r, 0, err
	}
	began := time.Now()
	r = n.post(ctx, c, w, keys, e.id, body)
	return r, time.Since(began), nil
}
