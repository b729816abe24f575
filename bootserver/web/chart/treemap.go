package chart

import (
	"cmp"
	"fmt"
	"slices"

	"ingot/bootserver/web/format"
)

// Rect is a rectangle.
type Rect struct{ X, Y, W, H float64 }

// worst is the largest ratio of the sides of rectangles that fill a row, by their areas: the row is a strip
// along a side.
func worst(row []float64, side float64) float64 {
	sum, least, most := 0.0, row[0], row[0]
	for _, a := range row {
		sum, least, most = sum+a, min(least, a), max(most, a)
	}
	return max(side*side*most/(sum*sum), sum*sum/(side*side*least))
}

// Squarify divides a rectangle into one for each weight, whose areas are as the weights are and whose sides
// differ little. Weights are positive, and sorted from the largest (Bruls, Huizing, van Wijk: Squarified
// Treemaps, 2000).
func Squarify(weights []float64, in Rect) []Rect {
	total := 0.0
	for _, w := range weights {
		total += w
	}
	areas := make([]float64, len(weights))
	for i, w := range weights {
		areas[i] = w / total * in.W * in.H
	}
	out := make([]Rect, 0, len(weights))
	for len(areas) > 0 {
		side := min(in.W, in.H)
		n := 1
		for n < len(areas) && worst(areas[:n+1], side) <= worst(areas[:n], side) {
			n++
		}
		var row []Rect
		row, in = lay(areas[:n], in)
		out, areas = append(out, row...), areas[n:]
	}
	return out
}

// lay puts a row along the shorter side of a rectangle, and returns what is left of that.
func lay(areas []float64, in Rect) (row []Rect, left Rect) {
	sum := 0.0
	for _, a := range areas {
		sum += a
	}
	at := 0.0
	if in.W >= in.H { // a column at the left
		w := sum / in.H
		for _, a := range areas {
			row = append(row, Rect{in.X, in.Y + at, w, a / w})
			at += a / w
		}
		return row, Rect{in.X + w, in.Y, max(in.W-w, 0), in.H}
	}
	h := sum / in.W
	for _, a := range areas {
		row = append(row, Rect{in.X + at, in.Y, a / h, h})
		at += a / h
	}
	return row, Rect{in.X, in.Y + h, in.W, max(in.H-h, 0)}
}

// Item is something of a size.
type Item struct {
	Name, Text string // the text is its size
	Size       int64
	Rest       bool // the sum of others, drawn in grey
}

// Tile is an item in a treemap.
type Tile struct {
	Item
	X, W     string // in per cent
	Y, H, In string // in pixels; In is the height of what is drawn
	Tint     int    // of the accent, in per cent
	Label    string // the name, or as much of it as there is room for
	Written  bool   // there is room for the text as well
}

// Treemap is a picture of sizes: an area for each item.
type Treemap struct {
	Height int
	Tiles  []Tile
}

// widths of letters in pixels at the size of a chart's text, on the safe side.
const letter, margin = 6.3, 18.0

// shortened is as much of a text as has room within a width; empty if that is next to nothing.
func shortened(text string, width float64) string {
	const least = 4 // letters
	room := int((width - margin) / letter)
	letters := []rune(text)
	switch {
	case len(letters) <= room:
		return text
	case room <= least:
		return ""
	}
	return string(letters[:room-1]) + "…"
}

// NewTreemap draws items in a box of a height, in pixels, that is about as wide as width. Items of no size
// are left out.
func NewTreemap(items []Item, width, height int) Treemap {
	items = slices.DeleteFunc(slices.Clone(items), func(i Item) bool { return i.Size <= 0 })
	slices.SortStableFunc(items, func(a, b Item) int { return cmp.Compare(b.Size, a.Size) })
	t := Treemap{Height: height}
	if len(items) == 0 {
		return t
	}
	weights := make([]float64, len(items))
	for i, one := range items {
		weights[i] = float64(one.Size)
	}
	w := float64(width)
	for i, r := range Squarify(weights, Rect{W: w, H: float64(height)}) {
		tile := Tile{Item: items[i], X: format.Percent(r.X, w), W: format.Percent(r.W, w), Y: fmt.Sprintf("%.1f", r.Y),
			H: fmt.Sprintf("%.1f", r.H), In: fmt.Sprintf("%.1f", max(r.H-2, 0)),
			Tint: 10 + int(18*weights[i]/weights[0])}
		if r.H >= 28 {
			tile.Label = shortened(items[i].Name, r.W)
		}
		tile.Written = tile.Label != "" && r.H >= 46 && shortened(items[i].Text, r.W) == items[i].Text
		t.Tiles = append(t.Tiles, tile)
	}
	return t
}
