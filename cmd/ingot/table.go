package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"ingot/internal/harmless"
)

// show prints v as JSON with -o json, else what table writes. In both, what
// machines say of themselves is made harmless for a terminal.
func (a *app) show(v any, table func(w io.Writer)) error {
	if a.output == "json" {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(append(harmless.JSON(text), '\n'))
		return err
	}
	// The cells are harmless already; this is for the one that was forgotten.
	var b bytes.Buffer
	table(&b)
	_, err := io.WriteString(a.stdout, harmless.Lines(b.String()))
	return err
}

// line prints v as one line of JSON, for what goes on and on.
func (a *app) line(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(append(harmless.JSON(text), '\n'))
	return err
}

// row writes cells to a tabwriter, made harmless for a terminal.
func row(w io.Writer, cells ...string) {
	for i, c := range cells {
		cells[i] = plain(c)
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

func tabs(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 4, 2, ' ', 0) }

// plain replaces control characters: names and serial numbers come from
// machines and must not move the cursor of whoever reads them.
func plain(s string) string { return harmless.Text(s) }

// dash shows an absent value.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// size prints bytes in binary units with one decimal, as ls -h does.
func size(n int64) string {
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

// ago says how long ago t was, in one unit.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return brief(now.Sub(t)) + " ago"
}

// brief prints a duration in its largest unit.
func brief(d time.Duration) string {
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

// isTerminal reports whether w is a terminal that may be drawn on.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}
