package chart

import (
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestSquarifyOfThePaper is the example of the paper: areas 6, 6, 4, 3, 2, 2, 1 in a rectangle of 6 by 4.
func TestSquarifyOfThePaper(t *testing.T) {
	got := ""
	for _, r := range Squarify([]float64{6, 6, 4, 3, 2, 2, 1}, Rect{W: 6, H: 4}) {
		got += fmt.Sprintf("%.2f,%.2f %.2fx%.2f\n", r.X, r.Y, r.W, r.H)
	}
	const want = "0.00,0.00 3.00x2.00\n0.00,2.00 3.00x2.00\n3.00,0.00 1.71x2.33\n4.71,0.00 1.29x2.33\n" +
		"3.00,2.33 1.20x1.67\n4.20,2.33 1.20x1.67\n5.40,2.33 0.60x1.67\n"
	if got != want {
		t.Errorf("Squarify = \n%s; want\n%s", got, want)
	}
}

// TestSquarifyFills: whatever the weights, the areas are as they are, nothing overlaps and nothing is outside.
func TestSquarifyFills(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "n")
		weights, total := make([]float64, n), 0.0
		last := 1e9
		for i := range weights {
			last = max(rapid.Float64Range(0.01, 1).Draw(t, "shrinks")*last, 1)
			weights[i] = last
			total += last
		}
		in := Rect{W: rapid.Float64Range(50, 1000).Draw(t, "w"), H: rapid.Float64Range(50, 1000).Draw(t, "h")}
		list := Squarify(weights, in)
		if len(list) != n {
			t.Fatalf("%d rectangles of %d weights", len(list), n)
		}
		const loose = 1e-6
		for i, r := range list {
			if want := weights[i] / total * in.W * in.H; math.Abs(r.W*r.H-want) > loose*in.W*in.H {
				t.Fatalf("rectangle %d has area %g; want %g", i, r.W*r.H, want)
			}
			if r.X < -loose || r.Y < -loose || r.X+r.W > in.W+loose || r.Y+r.H > in.H+loose {
				t.Fatalf("rectangle %d reaches out of %v: %v", i, in, r)
			}
			for k, o := range list[:i] {
				if min(r.X+r.W, o.X+o.W)-max(r.X, o.X) > loose && min(r.Y+r.H, o.Y+o.H)-max(r.Y, o.Y) > loose {
					t.Fatalf("rectangles %d and %d overlap: %v, %v", k, i, o, r)
				}
			}
		}
	})
}

// TestTreemapLeavesOut what has no size, and writes only where there is room.
func TestTreemapLeavesOut(t *testing.T) {
	m := NewTreemap([]Item{{Name: "none"}, {Name: "small", Text: "1 B", Size: 1},
		{Name: "large", Text: "1 KiB", Size: 1000}}, 300, 200)
	if len(m.Tiles) != 2 || m.Tiles[0].Name != "large" || !m.Tiles[0].Written || m.Tiles[1].Label != "" {
		t.Errorf("treemap = %+v; want large with its text, and small without", m)
	}
	got := NewTreemap([]Item{{Name: "linux-image-6.12", Text: "1 MiB", Size: 1}}, 90, 60).Tiles[0]
	if got.Label != "linux-imag…" || !got.Written {
		t.Errorf("a long name is drawn as %q; want as much of it as there is room for", got.Label)
	}
	if empty := NewTreemap([]Item{{Name: "none"}}, 300, 200); len(empty.Tiles) != 0 {
		t.Errorf("a treemap of nothing = %+v", empty)
	}
}
