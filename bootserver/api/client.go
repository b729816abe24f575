package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ingot/bootserver/fleet"
)

// ErrNoServer: nobody answers at the server's address.
var ErrNoServer = errors.New("no server is running")

// Client speaks to one server.
type Client struct {
	base string
	at   string // for people
	http *http.Client
}

// Dial prepares a client for unix:///PATH, a plain path, or an http:// URL. It
// connects at the first call.
func Dial(server string) *Client {
	if strings.HasPrefix(server, "http://") || strings.HasPrefix(server, "https://") {
		return &Client{base: strings.TrimRight(server, "/"), at: server, http: &http.Client{Timeout: 30 * time.Second}}
	}
	path := strings.TrimPrefix(server, "unix://")
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
	}}
	return &Client{base: "http://ingot", at: path, http: &http.Client{Transport: t, Timeout: 30 * time.Second}}
}

func (c *Client) call(ctx context.Context, method, path string, q, into any) error {
	var body io.Reader
	if q != nil {
		b, err := json.Marshal(q)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/v1/"+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		p := Problem{Status: resp.StatusCode, Title: resp.Status}
		_ = json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&p) // else the status speaks
		return p
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	return nil
}

func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w at %s", ErrNoServer, c.at)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("opening %s: %w", c.at, fs.ErrPermission)
	case errors.Is(err, syscall.EINVAL) && len(c.at) > 100:
		return fmt.Errorf("the socket's path %s is longer than the 107 bytes that Unix sockets may have", c.at)
	}
	return fmt.Errorf("asking the server at %s: %w", c.at, err)
}

// Version is the server's version.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct{ Version string }
	err := c.call(ctx, http.MethodGet, "version", nil, &v)
	return v.Version, err
}

// Network returns what was heard and lent on the server's networks.
func (c *Client) Network(ctx context.Context) (n Network, err error) {
	return n, c.call(ctx, http.MethodGet, "network", nil, &n)
}

// Machines lists all machines, the longest known first.
func (c *Client) Machines(ctx context.Context) (list []fleet.Machine, err error) {
	return list, c.call(ctx, http.MethodGet, "machines", nil, &list)
}

// Machine returns one machine by id, name, MAC address, UUID, or the beginning of one.
func (c *Client) Machine(ctx context.Context, ref string) (m fleet.Machine, err error) {
	return m, c.call(ctx, http.MethodGet, "machines/"+url.PathEscape(ref), nil, &m)
}

// Boots lists the latest boots of one machine, or of all for an empty ref,
// oldest first; limit 0 is all of them.
func (c *Client) Boots(ctx context.Context, ref string, limit int) (list []fleet.Boot, err error) {
	q := url.Values{"machine": {ref}, "limit": {strconv.Itoa(limit)}}
	return list, c.call(ctx, http.MethodGet, "boots?"+q.Encode(), nil, &list)
}

func (c *Client) change(ctx context.Context, ref, verb string, q any) (m fleet.Machine, err error) {
	return m, c.call(ctx, http.MethodPost, "machines/"+url.PathEscape(ref)+"/"+verb, q, &m)
}

// Approve lets a machine boot.
func (c *Client) Approve(ctx context.Context, ref string, q ApproveRequest) (fleet.Machine, error) {
	return c.change(ctx, ref, "approve", q)
}

// Assign chooses the image of a machine's next boot.
func (c *Client) Assign(ctx context.Context, ref, image, why string) (fleet.Machine, error) {
	return c.change(ctx, ref, "assign", AssignRequest{Image: image, Why: why})
}

// Rollback assigns the last other image that was healthy on a machine.
func (c *Client) Rollback(ctx context.Context, ref string) (fleet.Machine, error) {
	return c.change(ctx, ref, "rollback", struct{}{})
}

// Resume tries the assigned image of a machine again that gave it up.
func (c *Client) Resume(ctx context.Context, ref string) (fleet.Machine, error) {
	return c.change(ctx, ref, "resume", struct{}{})
}

// Grant lets one boot initialise one blank disk as a volume.
func (c *Client) Grant(ctx context.Context, ref, volume, disk string, ttl time.Duration) (fleet.Machine, error) {
	return c.change(ctx, ref, "grants", GrantRequest{Volume: volume, Disk: disk, For: ttl})
}

// Reload makes the server read its configuration again.
func (c *Client) Reload(ctx context.Context) (r Reloaded, err error) {
	return r, c.call(ctx, http.MethodPost, "reload", nil, &r)
}
