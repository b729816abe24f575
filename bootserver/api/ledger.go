package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/bootserver/access"
)

// Ledger is what the server remembers of what happened.
type Ledger interface {
	// LatestBoots are the latest boots of all machines.
	LatestBoots() []Boot
	// Events returns entries after a sequence number, and waits for some until
	// ctx ends when there are none.
	Events(ctx context.Context, q EventsRequest) (Events, error)
	// Console is what kernel and ingot-init said in a boot.
	Console(ref, boot string) (Console, error)
	// Hardware is what a machine told of its hardware in a boot.
	Hardware(ref, boot string) (Hardware, error)
	// Why says in words how a machine is, and why.
	Why(ref string) (Why, error)
	// Backup writes a copy of the state as it is now.
	Backup(ctx context.Context, w io.Writer) error
	// Restore puts a backup in the place of the state.
	Restore(ctx context.Context, r io.Reader) (Restored, error)
}

// EventsRequest chooses entries of the ledger.
type EventsRequest struct {
	Machine  string        // empty: of all
	Machines []string      // of any of these besides
	After    uint64        // only later ones
	Ledger   string        // where After is from, as answered: a restore changes what numbers mean
	Newest   bool          // the newest ones, not the oldest
	Limit    int           // 0: 1000
	Wait     time.Duration // how long to wait when there are none
}

// Events are entries of the ledger, oldest first. Last is the sequence number
// to go on after.
type Events struct {
	Events []Entry `json:"events"`
	Last   uint64  `json:"last"`
	Ledger string  `json:"ledger,omitempty"` // changes when a backup was restored
}

// Console is the text of one boot's console, harmless for a terminal.
type Console struct {
	Boot Boot   `json:"boot"`
	Text string `json:"text"`
}

// Hardware is what a machine told of itself in one boot.
type Hardware struct {
	Boot    ingot.BootID `json:"boot"`
	Same    ingot.BootID `json:"same"` // the boot that told the same first, and all since: this one or one before it
	Facts   ingot.Facts  `json:"facts"`
	Changes []string     `json:"changes,omitempty"` // since the boot before, in words
}

// Why explains a machine.
type Why struct {
	Machine ingot.MachineID `json:"machine"`
	Name    string          `json:"name"`
	Words   string          `json:"words"`
	Steps   []Step          `json:"steps,omitempty"` // what may help next, the most useful first
}

// Restored says what a backup brought back.
type Restored struct {
	Machines int    `json:"machines"`
	Before   string `json:"before"` // file that holds the state from before
	// names of approved machines that the state from before had and the backup has not, as far as it
	// could be read; those that run come back with their next report
	Missing []string `json:"missing"`
}

// MaxNamed is how many machines one request may name.
const MaxNamed = 200

// maxWait bounds how long a request waits for events.
const maxWait = 25 * time.Second

// maxBackup bounds the state file that is taken.
const maxBackup = 16 << 30

// maxStall is how long the reader of a backup may take nothing.
const maxStall = 2 * time.Minute

func ledgerRoutes(r *routes, b Ledger) {
	type eventsIn struct {
		Machine []string `query:"machine,explode" maxItems:"200" doc:"Of these machines; without any, of all."`
		After   uint64   `query:"after" doc:"Only what came after this sequence number."`
		Ledger  string   `query:"ledger" maxLength:"40" doc:"The ledger of that number, from the same answer."`
		Newest  bool     `query:"newest" doc:"The newest ones instead of the oldest."`
		Limit   int      `query:"limit" minimum:"0" maximum:"10000" default:"1000"`
		Wait    string   `query:"wait" maxLength:"20" doc:"How long to wait when there are none: 20s. At most 25s."`
	}
	add(r, "GET /v1/events", access.Read, "The ledger: what happened, oldest first",
		func(ctx context.Context, in *eventsIn) (Events, error) {
			wait, err := time.ParseDuration(cmp.Or(in.Wait, "0s"))
			if err != nil {
				return Events{}, NewProblem(CodeInvalidWait, fmt.Sprintf("wait: %q is not a duration", in.Wait))
			}
			list, err := b.Events(ctx, EventsRequest{Machines: in.Machine, After: in.After, Ledger: in.Ledger,
				Newest: in.Newest, Limit: in.Limit, Wait: max(0, min(wait, maxWait))})
			if list.Events == nil {
				list.Events = []Entry{}
			}
			return list, err
		})
	type bootIn struct {
		MachineIn
		Boot string `query:"boot" maxLength:"32" doc:"Id of the boot, or the beginning of one; else the latest."`
	}
	add(r, "GET /v1/machines/{ref}/console", access.Read, "What kernel and ingot-init said in a boot",
		func(_ context.Context, in *bootIn) (Console, error) {
			return b.Console(in.Ref, in.Boot)
		})
	add(r, "GET /v1/machines/{ref}/hardware", access.Read,
		"What a machine told of its hardware in a boot, and what was other than before",
		func(_ context.Context, in *bootIn) (Hardware, error) {
			return b.Hardware(in.Ref, in.Boot)
		})
	add(r, "GET /v1/machines/{ref}/why", access.Read, "How a machine is, and why, in words",
		func(_ context.Context, in *MachineIn) (Why, error) { return b.Why(in.Ref) })
	r.addPlain("GET /v1/backup", access.Admin, "The state as it is now", func(w http.ResponseWriter, q *http.Request) {
		out := &paced{w: w, patience: maxStall}
		if err := b.Backup(q.Context(), out); err != nil && !out.began {
			write(w, problem(err))
		} else if err != nil {
			panic(http.ErrAbortHandler) // half a backup must not look like one
		}
	})
	r.addPlain("POST /v1/restore", access.Admin, "Put a backup in the place of the state",
		func(w http.ResponseWriter, q *http.Request) {
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // a large file takes its time
			done, err := b.Restore(q.Context(), http.MaxBytesReader(w, q.Body, maxBackup))
			if err != nil {
				write(w, problem(err))
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = jsonFormat.Marshal(w, done) // a client that hung up wants no answer
		})
}

// paced ends an answer whose reader takes nothing of it for longer than patience:
// the deadline moves on with each write.
type paced struct {
	w        http.ResponseWriter
	patience time.Duration
	began    bool
}

func (p *paced) Write(b []byte) (int, error) {
	if !p.began {
		p.began = true
		p.w.Header().Set("Content-Type", "application/octet-stream")
	}
	// What is no connection has no deadline, and nobody to wait for.
	if err := http.NewResponseController(p.w).SetWriteDeadline(time.Now().Add(p.patience)); err != nil &&
		!errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.w.Write(b)
}

// LatestBoots lists the latest boot of each machine.
func (c *Client) LatestBoots(ctx context.Context) ([]Boot, error) {
	return list[Boot](ctx, c, "boots?latest=true")
}

// Events lists entries of the ledger.
func (c *Client) Events(ctx context.Context, q EventsRequest) (e Events, err error) {
	v := url.Values{"after": {strconv.FormatUint(q.After, 10)}, "limit": {strconv.Itoa(q.Limit)},
		"wait": {q.Wait.String()}}
	if q.Machine != "" {
		v.Add("machine", q.Machine)
	}
	for _, m := range q.Machines {
		v.Add("machine", m)
	}
	if q.Newest {
		v.Set("newest", "true")
	}
	if q.Ledger != "" {
		v.Set("ledger", q.Ledger)
	}
	return e, c.call(ctx, http.MethodGet, "events?"+v.Encode(), nil, &e)
}

// Console returns what a boot said: the latest one for an empty boot.
func (c *Client) Console(ctx context.Context, ref, boot string) (t Console, err error) {
	return t, c.call(ctx, http.MethodGet,
		"machines/"+url.PathEscape(ref)+"/console?"+url.Values{"boot": {boot}}.Encode(), nil, &t)
}

// Hardware returns what a machine told of its hardware in a boot: the latest one
// for an empty boot.
func (c *Client) Hardware(ctx context.Context, ref, boot string) (h Hardware, err error) {
	return h, c.call(ctx, http.MethodGet,
		"machines/"+url.PathEscape(ref)+"/hardware?"+url.Values{"boot": {boot}}.Encode(), nil, &h)
}

// Why explains a machine.
func (c *Client) Why(ctx context.Context, ref string) (y Why, err error) {
	return y, c.call(ctx, http.MethodGet, "machines/"+url.PathEscape(ref)+"/why", nil, &y)
}

// Backup writes the server's state as it is now.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.stream(ctx, http.MethodGet, "/v1/backup", nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := receive(w, resp.Body, maxBackup, maxSilence, cancel)
	if err != nil {
		return n, fmt.Errorf("reading the backup: %w", err)
	}
	return n, nil
}

// Restore puts a backup in the place of the server's state.
func (c *Client) Restore(ctx context.Context, from io.Reader) (done Restored, err error) {
	return c.restore(ctx, from, maxSilence)
}

// restore gives up when the server takes nothing of the backup, or ends no answer, for so long. Until its
// answer begins, the server has five times as long: it puts the backup in place.
func (c *Client) restore(ctx context.Context, from io.Reader, silence time.Duration) (done Restored, err error) {
	stalled := fmt.Errorf("sending the backup: the server took nothing of it for %s", silence)
	silent := fmt.Errorf("sending the backup: the server has all of it, and did not answer for %s", 5*silence)
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var whole atomic.Bool // the server has all of it
	alarm := time.AfterFunc(silence, func() {
		if whole.Load() {
			cancel(silent)
			return
		}
		cancel(stalled)
	})
	defer alarm.Stop()
	resp, err := c.stream(within, http.MethodPost, "/v1/restore", watched{from, alarm, silence, &whole})
	alarm.Stop()
	if cause := context.Cause(within); errors.Is(cause, stalled) || errors.Is(cause, silent) {
		return done, cause
	}
	if err != nil {
		return done, err
	}
	defer resp.Body.Close()
	defer time.AfterFunc(silence, func() { cancel(nil) }).Stop()
	return done, decode(resp.Body, &done)
}

// watched is a reader that postpones an alarm each time something is read, and at the end by five times as
// much. Close closes the reader below, as net/http does.
type watched struct {
	io.Reader
	alarm   *time.Timer
	silence time.Duration
	whole   *atomic.Bool
}

// Read implements io.Reader.
func (w watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err == nil {
		w.alarm.Reset(w.silence)
	} else {
		w.whole.Store(true)
		w.alarm.Reset(5 * w.silence)
	}
	return n, err
}

// Close implements io.Closer.
func (w watched) Close() error {
	if c, is := w.Reader.(io.Closer); is {
		return c.Close()
	}
	return nil
}
