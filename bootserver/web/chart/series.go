package chart

import (
	"slices"

	"ingot/bootserver/web/format"
)

// Dot is a value of a series: where it is, and where the line to it begins.
type Dot struct{ X, Y, X0, Y0, Title string }

// Lines are medians and 95th percentiles of buckets of time.
type Lines struct {
	P50, P95 []Dot
	Most     string // what the height stands for
}

// Any reports whether there is something to draw.
func (l Lines) Any() bool { return len(l.P50) > 0 }

// Quantile is that of a list, which it sorts; 0 of an empty one.
func Quantile[T ~int64 | ~float64](list []T, q float64) (none T) {
	if len(list) == 0 {
		return none
	}
	slices.Sort(list)
	return list[min(int(q*float64(len(list))), len(list)-1)]
}

// NewLines draws the values of buckets. A bucket without values has no dot. names are those of the buckets,
// and text writes a value.
func NewLines(buckets [][]float64, names []string, text func(float64) string) (l Lines) {
	most := 0.0
	for _, b := range buckets {
		most = max(most, Quantile(b, .95))
	}
	most = max(most*1.1, 1e-9)
	l.Most = text(most)
	line := func(q float64) (dots []Dot) {
		for i, b := range buckets {
			if len(b) == 0 {
				continue
			}
			v := Quantile(b, q)
			p := Dot{X: format.Percent(float64(i)+.5, float64(len(buckets))), Y: format.Percent(most-v, most),
				Title: names[i] + ": " + text(v)}
			p.X0, p.Y0 = p.X, p.Y
			if len(dots) > 0 {
				p.X0, p.Y0 = dots[len(dots)-1].X, dots[len(dots)-1].Y
			}
			dots = append(dots, p)
		}
		return dots
	}
	l.P50, l.P95 = line(.5), line(.95)
	return l
}

// Column is a bucket of time with values that are stacked, the first one lowest.
type Column struct {
	Title, X, W string
	Blocks      []Block
}

// Block is one value of a column.
type Block struct {
	Kind string // "a", or "bad"
	Y, H string
}

// Columns are stacked values over time.
type Columns struct {
	List []Column
	Most float64 // what the height stands for
}

// Any reports whether there is something to draw.
func (c Columns) Any() bool {
	return slices.ContainsFunc(c.List, func(col Column) bool { return len(col.Blocks) > 0 })
}

// Stack is the values of a bucket: good ones below, bad ones on top.
type Stack struct {
	Title     string
	Good, Bad float64
}

// NewColumns draws stacks. The height stands for the highest of them, or for most.
func NewColumns(list []Stack, most float64) Columns {
	for _, s := range list {
		most = max(most, s.Good+s.Bad)
	}
	c := Columns{Most: most}
	for i, s := range list {
		n := float64(len(list))
		col := Column{Title: s.Title, X: format.Percent(float64(i)+.12, n), W: format.Percent(.76, n)}
		if s.Good > 0 {
			col.Blocks = append(col.Blocks, Block{"a", format.Percent(most-s.Good, most), format.Percent(s.Good, most)})
		}
		if s.Bad > 0 {
			col.Blocks = append(col.Blocks, Block{"bad", format.Percent(most-s.Good-s.Bad, most), format.Percent(s.Bad, most)})
		}
		c.List = append(c.List, col)
	}
	return c
}
