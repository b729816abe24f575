package rollout

import (
	"cmp"
	"math"
	"slices"
	"time"

	"ingot"
)

// Test are the parameters of the sequential probability ratio test (A. Wald, Sequential Tests of
// Statistical Hypotheses, 1945): after each boot it compares two hypotheses, that boots fail as often
// as usual and that they fail far more often, until one of them is accepted.
type Test struct {
	Usual float64 `json:"usual"` // rate of boots that fail, of images that are good
	Bad   float64 `json:"bad"`   // rate of an image that must be stopped
	Alpha float64 `json:"alpha"` // probability of stopping an image that is good, for each test
	Beta  float64 `json:"beta"`  // probability of not stopping one that fails as often as Bad
}

// Defaults of a Test.
const (
	FloorRate    = 0.01 // of Test.Usual, however rarely boots fail
	ceilingRate  = 0.25
	badTimes     = 10 // Test.Bad is so many times Test.Usual
	maxBadRate   = 0.5
	defaultAlpha = 0.003
	defaultBeta  = 0.05
)

// TestFor returns the test for a fleet of which so many boots usually fail.
func TestFor(usual float64) Test {
	usual = min(max(usual, FloorRate), ceilingRate)
	return Test{Usual: usual, Bad: min(badTimes*usual, maxBadRate), Alpha: defaultAlpha, Beta: defaultBeta}
}

// Valid reports whether a test can decide.
func (t Test) Valid() bool {
	return t.Usual > 0 && t.Bad > t.Usual && t.Bad < 1 && t.Alpha > 0 && t.Beta > 0 && t.Alpha+t.Beta < 1
}

// Bounds returns the logarithms of the ratio at which the image counts as bad, and as good.
func (t Test) Bounds() (bad, good float64) {
	return math.Log((1 - t.Beta) / t.Alpha), math.Log(t.Beta / (1 - t.Alpha))
}

// Point is the test after one boot.
type Point struct {
	Machine ingot.MachineID `json:"machine"`
	Boot    ingot.BootID    `json:"boot"`
	At      time.Time       `json:"at"`
	Bad     bool            `json:"bad"`
	Ratio   float64         `json:"ratio"`   // logarithm of the ratio of both probabilities
	Verdict Class           `json:"verdict"` // Good: accepted, and the test starts anew; Bad: stop
}

// Curve returns the test after each boot that it counts. It ends with a Verdict of Bad, if there is
// one.
func Curve(r Rollout, members []Member) []Point {
	type counted struct {
		Result
		machine ingot.MachineID
	}
	var list []counted
	for i := range members {
		for _, res := range members[i].Results {
			if res.Seq > r.Seen && !res.Void && !res.Again && (res.Class == Good || res.Class == Bad) {
				list = append(list, counted{res, members[i].Machine})
			}
		}
	}
	slices.SortFunc(list, func(a, b counted) int { return cmp.Compare(a.Seq, b.Seq) })
	t := r.Policy.Test
	stop, accept := t.Bounds()
	up, down := math.Log(t.Bad/t.Usual), math.Log((1-t.Bad)/(1-t.Usual))
	points := make([]Point, 0, len(list))
	ratio := 0.0
	for _, c := range list {
		p := Point{Machine: c.machine, Boot: c.Boot, At: c.At, Bad: c.Class == Bad}
		if p.Bad {
			ratio += up
		} else {
			ratio += down
		}
		p.Ratio = ratio
		switch {
		case ratio >= stop:
			p.Verdict = Bad
		case ratio <= accept:
			p.Verdict, ratio = Good, 0
		}
		points = append(points, p)
		if p.Verdict == Bad {
			break
		}
	}
	return points
}

// Past is a boot of which the usual rate of failures is computed.
type Past struct {
	Image   ingot.Digest
	Started time.Time
	Class   Class
	Rollout bool // it was a rollout's own
}

// RateAge is the age up to which boots count for the usual rate of failures.
const RateAge = 30 * 24 * time.Hour

// UsualRate returns the rate of failed boots of the last 30 days, and the number of boots: those of
// images that had been healthy before, without failures elsewhere and without a rollout's own.
func UsualRate(boots []Past, now time.Time) (rate float64, n int) {
	boots = slices.Clone(boots)
	slices.SortStableFunc(boots, func(a, b Past) int { return a.Started.Compare(b.Started) })
	proven := map[ingot.Digest]bool{}
	failed := 0
	for _, b := range boots {
		before := proven[b.Image]
		if b.Class == Good {
			proven[b.Image] = true
		}
		if !before || b.Rollout || now.Sub(b.Started) > RateAge || b.Class != Good && b.Class != Bad {
			continue
		}
		n++
		if b.Class == Bad {
			failed++
		}
	}
	if n == 0 {
		return 0, 0
	}
	return float64(failed) / float64(n), n
}
