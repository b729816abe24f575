// Package format prints sizes, times and commands as the pages of the dashboard show them.
package format

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/advice"
)

// NBSP keeps a number and its unit on one line.
const NBSP = "\u00a0"

// Size prints a number of bytes.
func Size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d"+NBSP+"B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f"+NBSP+"%ciB", v, units[i])
}

// Mebibytes is a number of bytes in MiB, for columns.
func Mebibytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }

// Seconds prints a duration in seconds, for columns.
func Seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

// Figure prints a duration, or nothing.
func Figure(d time.Duration) string {
	if d <= 0 {
		return "–"
	}
	return Seconds(d)
}

// Brief prints a duration in its largest unit.
func Brief(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0" + NBSP + "s"
	case d < time.Minute:
		return fmt.Sprintf("%d"+NBSP+"s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d"+NBSP+"min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d"+NBSP+"h", int(d.Hours()))
	}
	return fmt.Sprintf("%d"+NBSP+"d", int(d.Hours()/24))
}

// Ago says how long ago something was.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return Brief(now.Sub(t))
}

// Clock is the time of a day; the server's time zone is that of all pages.
func Clock(t time.Time) string { return t.Local().Format("15:04:05") }

// Stamp is a date with its time.
func Stamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// Day is when something was: the time if it was today, else the date as well.
func Day(t, now time.Time) string {
	t, now = t.Local(), now.Local()
	switch {
	case t.IsZero():
		return "–"
	case t.Format(time.DateOnly) == now.Format(time.DateOnly):
		return "today" + NBSP + t.Format("15:04")
	case t.Year() == now.Year():
		return t.Format("2" + NBSP + "Jan" + NBSP + "15:04")
	}
	return t.Format("2" + NBSP + "Jan" + NBSP + "2006")
}

// Short is the beginning of a digest or an id.
func Short(v any) string {
	switch v := v.(type) {
	case ingot.Digest:
		return v.Short()
	case ingot.BootID:
		return v.Short()
	}
	return fmt.Sprint(v)
}

// Percent is a share as an attribute of SVG.
func Percent(part, whole float64) string {
	if whole <= 0 {
		return "0%"
	}
	return fmt.Sprintf("%.2f%%", 100*min(max(part/whole, 0), 1))
}

// Plural is "1 machine", "3 machines".
func Plural(n int, noun string) string {
	if n == 1 {
		return "1" + NBSP + noun
	}
	return fmt.Sprintf("%d"+NBSP+"%ss", n, noun)
}

// Command is a command line that can be pasted into a shell; what must not be is in capitals.
func Command(words ...string) string {
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

// Title begins with a capital.
func Title(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// Sentence ends with a stop, and begins with a capital unless its first word is a name.
func Sentence(s string) string {
	if s == "" {
		return ""
	}
	if word, _, _ := strings.Cut(s, " "); !strings.ContainsAny(word, "0123456789:/.") {
		s = Title(s)
	}
	if !strings.ContainsAny(s[len(s)-1:], ".!?") {
		s += "."
	}
	return s
}

// Dash stands for nothing.
func Dash(s string) string { return cmp.Or(s, "–") }
