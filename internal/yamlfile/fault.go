package yamlfile

import (
	"fmt"
	"sort"
	"strings"
)

// Place is a position in a file; Line and Column count from 1.
type Place struct {
	File         string
	Line, Column int
}

func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Fault is one error in a file, and what to write instead.
type Fault struct {
	Place Place
	What  string
	Fix   string
}

func (f Fault) String() string {
	s := f.Place.String() + ": " + f.What
	if f.Fix != "" {
		s += "; " + f.Fix
	}
	return s
}

// Faults are the faults of one or several files.
type Faults []Fault

// Error lists each fault on a separate line.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	if len(lines) == 1 {
		return lines[0]
	}
	return fmt.Sprintf("%d faults:\n  %s", len(lines), strings.Join(lines, "\n  "))
}

// Add adds a fault: the fix, and what is wrong, as a format with its arguments.
func (fs *Faults) Add(at Place, fix, what string, args ...any) {
	*fs = append(*fs, Fault{Place: at, What: fmt.Sprintf(what, args...), Fix: fix})
}

// Err returns the faults as an error, or nil when there is none.
func (fs Faults) Err() error {
	if len(fs) == 0 {
		return nil
	}
	sort.SliceStable(fs, func(i, j int) bool {
		a, b := fs[i].Place, fs[j].Place
		if a.File != b.File {
			return a.File < b.File
		}
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
	return fs
}

// Nearest returns the word of words that differs least from s, or "" when none is similar.
func Nearest(s string, words []string) string {
	best, least := "", len(s)/2+1
	for _, w := range words {
		if d := distance(strings.ToLower(s), strings.ToLower(w)); d < least {
			best, least = w, d
		}
	}
	return best
}

// distance is the Levenshtein distance.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
