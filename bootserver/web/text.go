package web

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/advice"
)

// nbsp keeps a number and its unit on one line.
const nbsp = "\u00a0"

// size prints a number of bytes.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d"+nbsp+"B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f"+nbsp+"%ciB", v, units[i])
}

// mebibytes is a number of bytes in MiB, for columns.
func mebibytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }

// seconds prints a duration in seconds, for columns.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

// brief prints a duration in its largest unit.
func brief(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0" + nbsp + "s"
	case d < time.Minute:
		return fmt.Sprintf("%d"+nbsp+"s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d"+nbsp+"min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d"+nbsp+"h", int(d.Hours()))
	}
	return fmt.Sprintf("%d"+nbsp+"d", int(d.Hours()/24))
}

// ago says how long ago something was.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return brief(now.Sub(t))
}

// clock is the time of a day; the server's time zone is that of all pages.
func clock(t time.Time) string { return t.Local().Format("15:04:05") }

// stamp is a date with its time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// day is when something was: the time if it was today, else the date as well.
func day(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	switch {
	case t.IsZero():
		return "–"
	case t.Format(time.DateOnly) == now.Format(time.DateOnly):
		return "today" + nbsp + t.Format("15:04")
	case t.Year() == now.Year():
		return t.Format("2" + nbsp + "Jan" + nbsp + "15:04")
	}
	return t.Format("2" + nbsp + "Jan" + nbsp + "2006")
}

// short is the beginning of a digest or an id.
func short(v any) string {
	switch v := v.(type) {
	case ingot.Digest:
		return v.Short()
	case ingot.BootID:
		return v.Short()
	}
	return fmt.Sprint(v)
}

// percent is a share as an attribute of SVG.
func percent(part, whole float64) string {
	if whole <= 0 {
		return "0%"
	}
	return fmt.Sprintf("%.2f%%", 100*min(max(part/whole, 0), 1))
}

// plural is "1 machine", "3 machines".
func plural(n int, noun string) string {
	if n == 1 {
		return "1" + nbsp + noun
	}
	return fmt.Sprintf("%d"+nbsp+"%ss", n, noun)
}

// command is a command line that can be pasted into a shell; what must not be is in capitals.
func command(words ...string) string {
	for i, w := range words {
		argument, ok := advice.Argument(w)
		if strings.HasPrefix(w, "-") && !strings.ContainsAny(w, " '\"") { // a flag of ours
			argument, ok = w, true
		}
		if !ok {
			argument = "VALUE"
		}
		words[i] = argument
	}
	return "ingot " + strings.Join(words, " ")
}

// sentence ends with a stop, and begins with a capital unless its first word is a name.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	if word, _, _ := strings.Cut(s, " "); !strings.ContainsAny(word, "0123456789:/.") {
		s = title(s)
	}
	if !strings.ContainsAny(s[len(s)-1:], ".!?") {
		s += "."
	}
	return s
}

// dash stands for nothing.
func dash(s string) string { return cmp.Or(s, "–") }
