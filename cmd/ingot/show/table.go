package show

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"ingot/internal/harmless"
)

// Row writes the cells of one row, made harmless for a terminal.
func Row(w io.Writer, cells ...string) {
	for i, c := range cells {
		cells[i] = Plain(c)
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// Table aligns the cells of rows; flush it at the end.
func Table(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 4, 2, ' ', 0) }

// Plain replaces control characters: names and serial numbers come from
// machines and must not move the cursor of a terminal.
func Plain(s string) string { return harmless.Text(s) }

// Dash shows an absent value.
func Dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Size prints bytes in binary units with one decimal, as ls -h does.
func Size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

// Ago says how long ago t was, in one unit.
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return Brief(now.Sub(t)) + " ago"
}

// Brief prints a duration in its largest unit.
func Brief(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// IsTerminal reports whether w is a terminal that may be drawn on.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// Change prints how a package differs; empty means that it is not there.
func Change(w io.Writer, name, before, after string) {
	switch {
	case before == "":
		fmt.Fprintf(w, "  + %s %s\n", name, after)
	case after == "":
		fmt.Fprintf(w, "  − %s %s\n", name, before)
	default:
		fmt.Fprintf(w, "  ↑ %s %s → %s\n", name, before, after)
	}
}

// Seconds prints a duration in seconds with one decimal.
func Seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// Some joins at most most names, and says how many more there are.
func Some(names []string, most int) string {
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}
