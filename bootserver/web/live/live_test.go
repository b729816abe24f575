package live

import (
	"strings"
	"testing"
)

// TestPageAheadOfItsCursor: the first page that a view makes may have a change that the ledger does not list
// yet, and that of the browser, of the same cursor, may not. The browser gets all parts once it is listed.
func TestPageAheadOfItsCursor(t *testing.T) {
	st := &stream{messages: make(chan []byte, backlog), cursor: "MS5hLjE", order: "o", late: true} // 1.a.1
	v := &view{hub: &Hub{}, streams: map[*stream]bool{st: true}, order: "o"}
	all := [][2]string{{"a", `<p id="a">new</p>`}}
	for _, c := range []struct {
		cursor string
		gets   bool
	}{{"MS5hLjE", false}, {"MS5hLjE", false}, {"MS5hLjI", true}, {"MS5hLjM", false}} {
		v.deliver(c.cursor, all, nil)
		select {
		case m := <-st.messages:
			if !c.gets || !strings.Contains(string(m), "new") {
				t.Errorf("at %s the browser gets %s", c.cursor, m)
			}
		default:
			if c.gets {
				t.Errorf("at %s the browser gets nothing", c.cursor)
			}
		}
	}
}
