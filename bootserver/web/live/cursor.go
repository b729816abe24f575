package live

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"

	"ingot"
	"ingot/bootserver/api"
)

// Cursor is where the ledger is. Nothing but this package takes it apart.
func (h *Hub) Cursor(ctx context.Context) string {
	e, err := h.Ledger.Events(ctx, api.EventsRequest{Newest: true, Limit: 1})
	if err != nil {
		return ""
	}
	return cursorOf(e)
}

func cursorOf(e api.Events) string {
	return base64.RawURLEncoding.EncodeToString([]byte("1." + e.Ledger + "." + strconv.FormatUint(e.Last, 10)))
}

// placeOf takes a cursor apart.
func placeOf(cursor string) (ledger string, seq uint64, ok bool) {
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return "", 0, false
	}
	version, rest, _ := strings.Cut(string(text), ".")
	ledger, number, _ := strings.Cut(rest, ".")
	seq, err = strconv.ParseUint(number, 10, 64)
	return ledger, seq, err == nil && version == "1"
}

// Order names the parts of a page and their order: a page with others is made anew.
func Order(ids []string) string {
	var all strings.Builder
	for _, id := range ids {
		all.WriteString(id + "\n")
	}
	return ingot.DigestOf([]byte(all.String())).Short()
}

// mostMissed is how many entries of the ledger a browser may have missed before its page is made anew.
const mostMissed = 10_000

// gap reports whether a browser at one place of the ledger cannot go on from there.
func gap(from, to string) bool {
	ledger, seq, ok := placeOf(from)
	now, last, _ := placeOf(to)
	return !ok || ledger != now || seq > last || last-seq > mostMissed
}
