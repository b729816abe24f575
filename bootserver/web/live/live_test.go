package live

import (
	"strings"
	"testing"
	"time"
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

// TestPartsAreMadeWhenTheyChange: an element whose key is what it was is not made again, and only what differs
// is sent.
func TestPartsAreMadeWhenTheyChange(t *testing.T) {
	made := ""
	part := func(id string, key any, html string) Part {
		return Part{ID: id, Key: key, Make: func() (string, error) {
			made += id + " "
			return html, nil
		}}
	}
	v := &view{hub: &Hub{}}
	for _, c := range []struct {
		parts        []Part
		makes, sends string
	}{
		{[]Part{part("a", 1, "x"), part("b", nil, "y")}, "a b ", ""}, // all streams just came
		{[]Part{part("a", 1, "x"), part("b", nil, "y")}, "b ", ""},
		{[]Part{part("a", 2, "x2"), part("b", nil, "y")}, "a b ", "a=x2 "},
		{[]Part{part("a", 2, "x2"), part("b", nil, "y2"), part("c", 1, "z")}, "b c ", "b=y2 c=z "},
		{[]Part{part("a", 3, "x2"), part("c", 1, "z")}, "a ", ""},
	} {
		made = ""
		all, some, err := v.make(c.parts)
		if err != nil || len(all) != len(c.parts) {
			t.Fatalf("make = %v, %v", all, err)
		}
		sends := ""
		for _, p := range some {
			sends += p[0] + "=" + p[1] + " "
		}
		if made != c.makes || sends != c.sends {
			t.Errorf("made %q and sends %q; want %q and %q", made, sends, c.makes, c.sends)
		}
	}
}

// TestViewsShareOneAccount: however many views make pages, together they take a part of one processor.
func TestViewsShareOneAccount(t *testing.T) {
	const views, cost, long = 20, 10 * time.Millisecond, time.Minute
	h := &Hub{}
	now := time.Now()
	end, due := now.Add(long), make([]time.Time, views)
	used := time.Duration(0)
	for now.Before(end) {
		for i := range due {
			if !due[i].After(now) {
				due[i] = now.Add(h.spend(now, cost))
				used += cost
			}
		}
		now = now.Add(10 * time.Millisecond)
	}
	if most := burst + long/share + views*cost; used > most || used < long/share/2 {
		t.Errorf("%d views took %s of %s; want at most %s, and about that", views, used, long, most)
	}
	h = &Hub{}
	for i := range 10 { // one page, every now and then
		if rest := h.spend(now.Add(time.Duration(i)*time.Second), 5*time.Millisecond); rest != pause {
			t.Errorf("after look %d the view waits %s; want %s", i, rest, pause)
		}
	}
}
