package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is when machines may be moved, such as "Mon-Fri 09:00-16:00 Europe/Berlin". Boots that are
// under way go on after it, and are judged.
type Window struct {
	Days     [7]bool // by time.Weekday
	From, To time.Duration
	Zone     string // of the tz database; empty: UTC
}

var errWindow = errors.New(`use days, hours and a time zone, such as "Mon-Fri 09:00-16:00 Europe/Berlin"`)

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// ParseWindow reads a window. Days are a range or a list: "Mon-Fri", "Sat,Sun". The zone may be left
// out. Hours that end before they begin go over midnight, and belong to the day on which they begin.
func ParseWindow(text string) (w Window, err error) {
	parts := strings.Fields(text)
	if len(parts) < 2 || len(parts) > 3 {
		return w, fmt.Errorf("window %q: %w", text, errWindow)
	}
	if len(parts) == 3 {
		w.Zone = parts[2]
	}
	if w.Days, err = parseDays(parts[0]); err == nil {
		w.From, w.To, err = parseHours(parts[1])
	}
	if err != nil {
		return w, fmt.Errorf("window %q: %w", text, err)
	}
	return w, nil
}

func parseDays(text string) (days [7]bool, err error) {
	for part := range strings.SplitSeq(strings.ToLower(text), ",") {
		first, last, isRange := strings.Cut(part, "-")
		from := slices.Index(weekdays, first)
		to := from
		if isRange {
			to = slices.Index(weekdays, last)
		}
		if from < 0 || to < 0 {
			return days, errWindow
		}
		for d := from; ; d = (d + 1) % 7 {
			days[d] = true
			if d == to {
				break
			}
		}
	}
	return days, nil
}

func parseHours(text string) (from, to time.Duration, err error) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		return 0, 0, errWindow
	}
	if from, err = parseClock(first); err == nil {
		to, err = parseClock(last)
	}
	if err == nil && from == to {
		err = errWindow
	}
	return from, to, err
}

// parseClock reads a time of day: 09:00, up to 24:00.
func parseClock(text string) (time.Duration, error) {
	if text == "24:00" {
		return 24 * time.Hour, nil
	}
	t, err := time.Parse("15:04", text)
	if err != nil {
		return 0, errWindow
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}

// Open reports whether a time, in the zone of the window, is within it.
func (w Window) Open(local time.Time) bool {
	clock := time.Duration(local.Hour())*time.Hour + time.Duration(local.Minute())*time.Minute +
		time.Duration(local.Second())*time.Second
	today := w.Days[local.Weekday()]
	if w.From < w.To {
		return today && clock >= w.From && clock < w.To
	}
	yesterday := w.Days[(local.Weekday()+6)%7]
	return today && clock >= w.From || yesterday && clock < w.To
}
