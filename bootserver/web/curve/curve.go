// Package curve draws the test that stops a rollout: its value after each boot, on the way to one of its
// two bounds. What it returns are attributes of SVG: across in per cent or in boots, down in pixels, so
// that a picture fits every width and its text keeps its size.
package curve

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

// Height is that of a picture, without the figures below it.
const Height = 232

// Bounds of what is drawn.
const (
	MostBoots = 600 // the latest
	mostDots  = 60  // above, boots that went well have no dot
	mostNames = 6   // of boots that failed, the latest
	ticks     = 6
	leastWide = 12 // boots
	// aheadMiddle is the part of the width up to which the text about what is ahead has room on both sides: it needs
	// 140 pixels, of 270 on a phone.
	aheadMiddle = .7
)

// Picture is the test as it is drawn.
type Picture struct {
	Boots, Bad int     // that are counted, all of them
	Hidden     int     // boots that are not drawn: the first ones
	At         float64 // the test now
	Left       int     // healthy boots until it starts anew; 0: it has stopped the rollout
	Over       bool    // it has stopped the rollout

	Wide               int    // boots across
	Zero, Stop, Accept string // where they are, down
	Below              string // height of what is below Accept
	Lines              []string
	Ahead              Line // as it goes on if every boot is healthy
	AheadText          Tick // what is said of it; it stays within the picture
	Ticks              []Tick
	Dots               []Dot
}

// Line is one from the first point to the second, across in boots.
type Line struct{ X1, Y1, X2, Y2 string }

// Tick is a mark of the axis.
type Tick struct{ X, Text, Anchor string }

// Dot is a boot.
type Dot struct {
	X, Y  string
	Bad   bool
	Name  string // beside it; empty: none
	Left  bool   // the name is on its left
	Title string
	Link  string // of the boot
}

// Of draws a test: its points, its two bounds and its rates. name returns the name of a machine.
func Of(d api.RolloutDetail, name func(ingot.MachineID) string) Picture {
	p := Picture{Boots: len(d.Curve)}
	points := d.Curve
	for _, b := range points {
		if b.Bad {
			p.Bad++
		}
	}
	if n := len(points); n > 0 {
		last := points[n-1]
		p.Over = last.Verdict == "bad"
		if p.At = last.Ratio; last.Verdict == "good" {
			p.At = 0
		}
	}
	p.Hidden = max(0, len(points)-MostBoots)
	points = points[p.Hidden:]
	down := math.Log((1 - d.Policy.Test.Bad) / (1 - d.Policy.Test.Usual)) // of a healthy boot
	if !p.Over && down < 0 {
		p.Left = max(1, int(math.Ceil((d.Good-p.At)/down)))
	}
	p.Wide = max(leastWide, len(points)+p.Left, len(points)+1)
	s := scaleOf(points, d.Stops, d.Good)
	p.Zero, p.Stop, p.Accept = s.y(0), s.y(d.Stops), s.y(d.Good)
	p.Below = pixels(Height - s.at(d.Good))
	p.lines(points, s)
	if p.Left > 0 {
		n := len(points)
		p.Ahead = Line{strconv.Itoa(n), s.y(p.At), strconv.Itoa(n + p.Left), s.y(p.At + float64(p.Left)*down)}
		p.AheadText = Tick{X: percent(float64(n)+.55*float64(p.Left), p.Wide), Anchor: "middle"}
		if middle := (float64(n) + .55*float64(p.Left)) / float64(p.Wide); middle > aheadMiddle {
			p.AheadText = Tick{X: "100%", Anchor: "end"}
		}
	}
	p.axis()
	p.dots(points, s, name)
	return p
}

// scale is that of the values of a test.
type scale struct{ top, bottom float64 }

// scaleOf has room for both bounds and all values.
func scaleOf(points []api.RolloutPoint, stops, good float64) scale {
	s := scale{top: 1.2 * stops, bottom: 1.25 * good}
	for _, p := range points {
		s.top, s.bottom = max(s.top, p.Ratio+.06*stops), min(s.bottom, p.Ratio-.06*stops)
	}
	return s
}

func (s scale) at(v float64) float64 { return Height * (s.top - v) / (s.top - s.bottom) }
func (s scale) y(v float64) string   { return pixels(s.at(v)) }

func pixels(v float64) string { return fmt.Sprintf("%.1f", v) }

func percent(boots float64, wide int) string { return format.Percent(boots, float64(wide)) }

// lines are those through the points: a new one whenever the test started anew.
func (p *Picture) lines(points []api.RolloutPoint, s scale) {
	var b strings.Builder
	begin := func(i int) { fmt.Fprintf(&b, "%d,%s", i, s.y(0)) }
	if p.Hidden == 0 {
		begin(0)
	}
	for i, o := range points {
		fmt.Fprintf(&b, " %d,%s", i+1, s.y(o.Ratio))
		if o.Verdict == "good" {
			p.Lines = append(p.Lines, strings.TrimSpace(b.String()))
			b.Reset()
			begin(i + 1)
		}
	}
	if strings.Count(b.String(), ",") > 1 {
		p.Lines = append(p.Lines, strings.TrimSpace(b.String()))
	}
}

// axis are round numbers of boots.
func (p *Picture) axis() {
	step := 1
	for _, s := range []int{1, 2, 5, 10, 20, 50, 100, 200} {
		if step = s; p.Wide/s <= ticks {
			break
		}
	}
	for at := 0; at <= p.Wide; at += step {
		t := Tick{percent(float64(at), p.Wide), strconv.Itoa(p.Hidden + at), "middle"}
		if at == 0 {
			t.Anchor = "start"
		} else if at+step > p.Wide {
			t.Text += " boots"
			t.Anchor = "end"
			if 10*at < 9*p.Wide {
				t.Anchor = "middle"
			}
		}
		p.Ticks = append(p.Ticks, t)
	}
}

// dots are the boots: all of a few, else those that failed.
func (p *Picture) dots(points []api.RolloutPoint, s scale, name func(ingot.MachineID) string) {
	named := 0
	for i := len(points) - 1; i >= 0; i-- {
		o := points[i]
		if !o.Bad && len(points) > mostDots {
			continue
		}
		d := Dot{X: percent(float64(i+1), p.Wide), Y: s.y(o.Ratio), Bad: o.Bad, Left: 10*(i+1) > 3*p.Wide,
			Link: "/machines/" + string(o.Machine) + "/boots/" + string(o.Boot)}
		how := "healthy"
		if o.Bad {
			how = "failed"
		}
		d.Title = fmt.Sprintf("%s %s, %s: %.2f", name(o.Machine), how, format.Stamp(o.At), o.Ratio)
		if o.Bad && named < mostNames {
			d.Name = name(o.Machine)
			named++
		}
		p.Dots = append(p.Dots, d)
	}
}
