package live

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/url"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"ingot"
	"ingot/bootserver/access"
)

// view is one page as some streams see it.
type view struct {
	hub     *Hub
	key     string
	url     *url.URL
	who     access.Who // its scope is that of all of the streams
	streams map[*stream]bool
	stop    context.CancelFunc
	changed chan struct{}   // something happened, or a stream came
	machine ingot.MachineID // see Page; empty as long as the page was not made

	// of the goroutine of the view alone
	made   map[string]made // the parts
	order  string          // see Order
	every  time.Duration   // see Page
	cursor string
}

// made is a part as it was made last.
type made struct {
	key  any // see Part
	html string
	sum  uint64 // of html, which is kept with a key alone
}

// run makes the page again whenever something happened that concerns it, and sends what differs.
func (v *view) run(ctx context.Context) {
	for {
		v.hub.turn.Lock() // however many views there are, they take one processor at most
		began, used := time.Now(), threadTime()
		v.update(ctx)
		rest := v.hub.spend(began, used())
		v.hub.turn.Unlock()
		if !wait(ctx, max(rest, v.every)) {
			return
		}
		idle := time.NewTimer(quietest)
		select {
		case <-ctx.Done():
			idle.Stop()
			return
		case <-v.changed:
		case <-idle.C:
		}
		idle.Stop()
	}
}

// threadTime begins to count the processor time of the goroutine, which stays on its thread until the time is
// asked for. Wall-clock time would also count what other programs use.
func threadTime() (used func() time.Duration) {
	runtime.LockOSThread()
	begin := rusage()
	return func() time.Duration {
		defer runtime.UnlockOSThread()
		return rusage() - begin
	}
}

// rusage is the processor time of the thread.
func rusage() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &r) // it cannot fail with these arguments
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// wait waits; false: ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// wake makes a view look at its page soon.
func (v *view) wake() {
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// update makes the page, and sends each stream what it lacks.
func (v *view) update(ctx context.Context) {
	cursor := v.hub.Cursor(ctx)
	p, err := v.hub.Render(ctx, v.url, v.who)
	if err != nil {
		v.close()
		return
	}
	all, some, err := v.make(p.Parts)
	if err != nil {
		v.close()
		return
	}
	v.every, v.cursor = p.Every, cursor
	v.hub.mu.Lock()
	v.machine = p.Machine
	v.hub.mu.Unlock()
	v.deliver(cursor, all, some)
}

// make makes the parts of a page; some are those that are not as they were.
func (v *view) make(parts []Part) (all, some [][2]string, err error) {
	now := make(map[string]made, len(parts))
	all = make([][2]string, 0, len(parts))
	ids := make([]string, 0, len(parts))
	for _, p := range parts {
		was, had := v.made[p.ID]
		one := was
		if !had || p.Key == nil || p.Key != was.key {
			html, err := p.Make()
			if err != nil {
				return nil, nil, err
			}
			one = made{p.Key, html, maphash.String(seed, html)}
		}
		all, ids = append(all, [2]string{p.ID, one.html}), append(ids, p.ID)
		if !had || one.sum != was.sum {
			some = append(some, all[len(all)-1])
		}
		if p.Key == nil {
			one.html = ""
		}
		now[p.ID] = one
	}
	if v.made == nil { // every stream just came
		some = nil
	}
	v.made, v.order = now, Order(ids)
	return all, some, nil
}

var seed = maphash.MakeSeed()

// deliver sends the parts that changed, all of them to streams that just came and may have missed some,
// and a reload where the page has other parts than before. A page may be ahead of its cursor: the state has
// what the ledger does not list yet. So a stream that just came gets all parts with the first change, too.
func (v *view) deliver(cursor string, all, some [][2]string) {
	v.hub.mu.Lock()
	defer v.hub.mu.Unlock()
	var whole, changed []byte // made when needed
	for st := range v.streams {
		var m []byte
		switch {
		case st.order != v.order, st.late && st.cursor != cursor && gap(st.cursor, cursor):
			m = message("reload", cursor, nil)
		case st.late && st.cursor != cursor:
			if whole == nil {
				whole = message("parts", cursor, all)
			}
			m = whole
		case len(some) > 0:
			if changed == nil {
				changed = message("parts", cursor, some)
			}
			m = changed
		}
		st.late = st.late && st.cursor == cursor && st.order == v.order
		st.cursor, st.order = cursor, v.order
		if m == nil {
			continue
		}
		select {
		case st.messages <- m:
		default:
			close(st.messages)
			delete(v.streams, st)
		}
	}
}

// close ends all streams: their page is not there any more.
func (v *view) close() {
	v.hub.mu.Lock()
	defer v.hub.mu.Unlock()
	for st := range v.streams {
		close(st.messages)
		delete(v.streams, st)
	}
}

// message is a server-sent event.
func message(event, cursor string, parts [][2]string) []byte {
	if parts == nil {
		parts = [][2]string{}
	}
	var m bytes.Buffer
	fmt.Fprintf(&m, "id: %s\nevent: %s\ndata: ", cursor, event)
	e := json.NewEncoder(&m)
	e.SetEscapeHTML(false) // nothing reads it as HTML before the script took it apart
	_ = e.Encode(parts)    // strings always can be; it ends the line
	return append(m.Bytes(), '\n')
}
