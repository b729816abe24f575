// Package show prints what commands answer: tables for people, JSON for
// programs, progress of long steps, and errors with their next step. What
// machines report about themselves is made harmless for a terminal. It knows no
// command and no server.
package show

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"

	"ingot/internal/harmless"
)

// Printer holds the streams of a command and how it prints to them.
type Printer struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Format         string // of the answer: table or json; empty means table
	Verbose        bool   // log debug messages as well
}

// JSON reports whether answers are printed as JSON.
func (p *Printer) JSON() bool { return p.Format == "json" }

// Show prints v as JSON with -o json, else what table writes.
func (p *Printer) Show(v any, table func(w io.Writer)) error {
	if p.JSON() {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return err
		}
		_, err = p.Stdout.Write(append(harmless.JSON(text), '\n'))
		return err
	}
	// Cells are made harmless one by one; this covers text outside of cells.
	var b bytes.Buffer
	table(&b)
	_, err := io.WriteString(p.Stdout, harmless.Lines(b.String()))
	return err
}

// ShowLine prints v as one line of JSON, for answers without an end.
func (p *Printer) ShowLine(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = p.Stdout.Write(append(harmless.JSON(text), '\n'))
	return err
}

// Logger logs to standard error.
func (p *Printer) Logger() *slog.Logger {
	level := slog.LevelInfo
	if p.Verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: level}))
}
