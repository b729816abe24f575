package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// Ledger is what the server remembers of what happened.
type Ledger interface {
	// LatestBoots are the latest boots of all machines.
	LatestBoots() []fleet.Boot
	// Events returns entries after a sequence number, and waits for some until
	// ctx ends when there are none.
	Events(ctx context.Context, q EventsRequest) (Events, error)
	// Console is what kernel and ingot-init said in a boot.
	Console(ref, boot string) (Console, error)
	// Why says in words how a machine is, and why.
	Why(ref string) (Why, error)
	// Backup writes a copy of the state as it is now.
	Backup(w io.Writer) error
	// Restore puts a backup in the place of the state.
	Restore(r io.Reader) (Restored, error)
}

// EventsRequest chooses entries of the ledger.
type EventsRequest struct {
	Machine string        // empty: of all
	After   uint64        // only later ones
	Newest  bool          // the newest ones, not the oldest
	Limit   int           // 0: 1000
	Wait    time.Duration // how long to wait when there are none
}

// Events are entries of the ledger, oldest first. Last is the sequence number
// to go on after.
type Events struct {
	Events []fleet.Entry `json:"events"`
	Last   uint64        `json:"last"`
}

// Console is the text of one boot's console, harmless for a terminal.
type Console struct {
	Boot fleet.Boot `json:"boot"`
	Text string     `json:"text"`
}

// Why explains a machine.
type Why struct {
	Machine ingot.MachineID `json:"machine"`
	Name    string          `json:"name"`
	Words   string          `json:"words"`
	Next    []string        `json:"next,omitempty"` // commands that may help
}

// Restored says what a backup brought back.
type Restored struct {
	Machines int    `json:"machines"`
	Before   string `json:"before"` // file that holds the state from before
}

// maxWait bounds how long a request waits for events.
const maxWait = 25 * time.Second

// maxBackup bounds the state file that is taken.
const maxBackup = 16 << 30

func ledgerRoutes(mux *http.ServeMux, b Ledger) {
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		q := EventsRequest{Machine: r.FormValue("machine"), Newest: r.FormValue("newest") != ""}
		q.After, _ = strconv.ParseUint(r.FormValue("after"), 10, 64) // what is no number is 0
		q.Limit, _ = strconv.Atoi(r.FormValue("limit"))
		q.Limit = max(0, min(q.Limit, 10_000))
		q.Wait, _ = time.ParseDuration(r.FormValue("wait"))
		q.Wait = max(0, min(q.Wait, maxWait))
		list, err := b.Events(r.Context(), q)
		if list.Events == nil {
			list.Events = []fleet.Entry{}
		}
		answer(w, list, err)
	})
	mux.HandleFunc("GET /v1/machines/{ref}/console", func(w http.ResponseWriter, r *http.Request) {
		c, err := b.Console(r.PathValue("ref"), r.FormValue("boot"))
		answer(w, c, err)
	})
	mux.HandleFunc("GET /v1/machines/{ref}/why", func(w http.ResponseWriter, r *http.Request) {
		y, err := b.Why(r.PathValue("ref"))
		answer(w, y, err)
	})
	mux.HandleFunc("GET /v1/backup", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		if err := b.Backup(w); err != nil {
			panic(http.ErrAbortHandler) // half a backup must not look like one
		}
	})
	mux.HandleFunc("POST /v1/restore", func(w http.ResponseWriter, r *http.Request) {
		done, err := b.Restore(http.MaxBytesReader(w, r.Body, maxBackup))
		answer(w, done, err)
	})
}

// LatestBoots lists the latest boot of each machine.
func (c *Client) LatestBoots(ctx context.Context) (list []fleet.Boot, err error) {
	return list, c.call(ctx, http.MethodGet, "boots?latest=1", nil, &list)
}

// Events lists entries of the ledger.
func (c *Client) Events(ctx context.Context, q EventsRequest) (e Events, err error) {
	v := url.Values{"machine": {q.Machine}, "after": {strconv.FormatUint(q.After, 10)}, "limit": {strconv.Itoa(q.Limit)}, "wait": {q.Wait.String()}}
	if q.Newest {
		v.Set("newest", "1")
	}
	return e, c.call(ctx, http.MethodGet, "events?"+v.Encode(), nil, &e)
}

// Console returns what a boot said: the latest one for an empty boot.
func (c *Client) Console(ctx context.Context, ref, boot string) (t Console, err error) {
	return t, c.call(ctx, http.MethodGet, "machines/"+url.PathEscape(ref)+"/console?"+url.Values{"boot": {boot}}.Encode(), nil, &t)
}

// Why explains a machine.
func (c *Client) Why(ctx context.Context, ref string) (y Why, err error) {
	return y, c.call(ctx, http.MethodGet, "machines/"+url.PathEscape(ref)+"/why", nil, &y)
}

// Backup writes the server's state as it is now.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	resp, err := c.stream(ctx, http.MethodGet, "backup", nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		return n, fmt.Errorf("reading the backup: %w", err)
	}
	return n, nil
}

// Restore puts a backup in the place of the server's state.
func (c *Client) Restore(ctx context.Context, from io.Reader) (done Restored, err error) {
	resp, err := c.stream(ctx, http.MethodPost, "restore", from)
	if err != nil {
		return done, err
	}
	defer resp.Body.Close()
	return done, json.NewDecoder(resp.Body).Decode(&done)
}

// stream is a call whose bodies may be large and take their time.
func (c *Client) stream(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/v1/"+path, body)
	if err != nil {
		return nil, err
	}
	patient := *c.http
	patient.Timeout = 0
	resp, err := patient.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		p := Problem{Status: resp.StatusCode, Title: resp.Status}
		if json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&p) != nil {
			return nil, errors.New(resp.Status)
		}
		return nil, p
	}
	return resp, nil
}
