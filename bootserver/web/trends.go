package web

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/chart"
	"ingot/bootserver/web/format"
)

const (
	trendBoots  = 5000             // that the page looks at
	trendsEvery = 10 * time.Second // at most it is made again
	mostBeside  = 3                // images whose stages are compared
)

// trendsData is what the page Trends shows.
type trendsData struct {
	*query
	Days        int
	Image       string // only boots of this image; empty: of all
	Names       []string
	Boots       int
	Ended, Bad  int // boots that ended, and those of them that were not healthy
	Rate        string
	P50, P95    string // seconds until healthy
	Served      string
	Since       time.Time // from when on there are figures, when the boots of the page do not reach as far back
	Unit        string    // of time: day or hour
	First, Last string    // names of the buckets
	Daily       []dayTrend
	Stages      []stageTrend
	Beside      []string // images whose stages are compared
	Images      []imageTrend
	Counts      chart.Columns // boots
	Rates       chart.Columns // of failure
	Bytes       chart.Columns // sent
	Times       chart.Lines   // of healthy boots
	Downloads   chart.Lines   // of roots
	Highest     string
	HighestRate string
	HighestSent string
}

// stageTrend is how long a stage takes.
type stageTrend struct {
	Name, P50, P95 string
	W50, W95       string
	Images         []string // the same, for each image of Beside
}

// imageTrend is how boots of an image go.
type imageTrend struct {
	Name                  string
	Boots, Bad            int
	Rate, P50, P95, Share string
}

// dayTrend is what happened on a day, or in an hour.
type dayTrend struct {
	Name            string
	Good, Bad       int
	Rate            string
	P50, P95        string
	Served          int64
	Download        string // median, MiB/s
	times, speed    []float64
	began, finished time.Time
}

func (s *Server) trends(q *query) (page, error) {
	d := trendsData{query: q, Days: 14, Image: q.Get("image"), Unit: "day"}
	for _, days := range []int{1, 30, 90} {
		if q.Get("days") == strconv.Itoa(days) {
			d.Days = days
		}
	}
	all, before, err := s.backend.Boots(api.BootsRequest{Limit: trendBoots})
	if err != nil {
		return page{}, err
	}
	since := d.buckets()
	for _, b := range all {
		if before != "" && (d.Since.IsZero() || b.Started.Before(d.Since)) { // there are more
			d.Since = b.Started
		}
	}
	if d.Since.Before(since) {
		d.Since = time.Time{} // than the page shows
	}
	boots := slices.DeleteFunc(all, func(b api.Boot) bool { return b.Started.Before(since) || b.Once != nil })
	d.images(boots)
	if d.Image != "" {
		boots = slices.DeleteFunc(boots, func(b api.Boot) bool { return b.Image.Name != d.Image })
	}
	d.Boots = len(boots)
	d.stages(boots)
	d.days(boots)
	d.draw()
	p := page{title: "Trends", nav: "trends", body: "trends", data: d, every: trendsEvery,
		command: format.Command("boots", "-n", "0", "-o", "json")}
	p.parts = []part{{"trends", "trends-all", d}}
	return p, nil
}

// buckets divides the time that the page shows into days, or the hours of today; it returns its beginning.
func (d *trendsData) buckets() time.Time {
	now := d.now.Local()
	at := func(day, hour int) time.Time {
		return time.Date(now.Year(), now.Month(), now.Day()+day, hour, 0, 0, 0, now.Location())
	}
	if d.Days == 1 {
		d.Unit = "hour"
		for t := at(0, 0); t.Before(at(1, 0)); t = t.Add(time.Hour) {
			d.Daily = append(d.Daily, dayTrend{Name: t.Format("15:04"), began: t, finished: t.Add(time.Hour)})
		}
	} else {
		for i := 1 - d.Days; i <= 0; i++ { // a day has 23 or 25 hours at times
			d.Daily = append(d.Daily, dayTrend{Name: at(i, 0).Format("2" + format.NBSP + "Jan"), began: at(i, 0),
				finished: at(i+1, 0)})
		}
	}
	d.First, d.Last = d.Daily[0].Name, "today"
	if d.Days == 1 {
		d.Last = d.Daily[len(d.Daily)-1].Name
	}
	return d.Daily[0].began
}

// bad reports whether a boot ended otherwise than healthy; one that waited for an operator did not fail.
func bad(b api.Boot) bool {
	return !b.Open() && b.Outcome != ingot.OutcomeHealthy && b.Outcome != ingot.OutcomeWaiting
}

// until is how long a boot took until it was healthy.
func until(b api.Boot) float64 { return b.Ended.Sub(b.Started).Seconds() }

// stages are the times of each stage of healthy boots, and of those of the images that booted last.
func (d *trendsData) stages(boots []api.Boot) {
	all, by := map[ingot.Stage][]time.Duration{}, map[string]map[ingot.Stage][]time.Duration{}
	latest := map[string]time.Time{}
	for _, b := range boots {
		if b.Outcome != ingot.OutcomeHealthy {
			continue
		}
		took, _ := durations(b)
		if by[b.Image.Name] == nil {
			by[b.Image.Name] = map[ingot.Stage][]time.Duration{}
		}
		if b.Started.After(latest[b.Image.Name]) {
			latest[b.Image.Name] = b.Started
		}
		for s, t := range took {
			all[s] = append(all[s], t)
			by[b.Image.Name][s] = append(by[b.Image.Name][s], t)
		}
	}
	if len(by) > 1 {
		d.Beside = slices.SortedFunc(maps.Keys(by), func(a, b string) int { return latest[b].Compare(latest[a]) })
		d.Beside = d.Beside[:min(len(d.Beside), mostBeside)]
	}
	var longest time.Duration
	for _, list := range all {
		longest = max(longest, chart.Quantile(list, .95))
	}
	for _, s := range ingot.Stages {
		list := all[s]
		if len(list) == 0 {
			continue
		}
		half, most := chart.Quantile(list, .5), chart.Quantile(list, .95)
		t := stageTrend{Name: format.Title(stageName(s)), P50: format.Seconds(half), P95: format.Seconds(most),
			W50: format.Percent(float64(half), float64(longest)), W95: format.Percent(float64(most), float64(longest))}
		for _, name := range d.Beside {
			text := "–"
			if of := by[name][s]; len(of) > 0 {
				text = format.Seconds(chart.Quantile(of, .5)) + format.NBSP + "/" + format.NBSP +
					format.Seconds(chart.Quantile(of, .95))
			}
			t.Images = append(t.Images, text)
		}
		d.Stages = append(d.Stages, t)
	}
}

// images are the boots by image, those that fail most often first. Some end before they have an image.
func (d *trendsData) images(boots []api.Boot) {
	times, failed, total := map[string][]float64{}, map[string]int{}, map[string]int{}
	for _, b := range boots {
		if b.Open() || b.Outcome == ingot.OutcomeWaiting {
			continue
		}
		total[b.Image.Name]++
		if bad(b) {
			failed[b.Image.Name]++
		} else {
			times[b.Image.Name] = append(times[b.Image.Name], until(b))
		}
	}
	d.Names = slices.DeleteFunc(slices.Sorted(maps.Keys(total)), func(name string) bool { return name == "" })
	if d.Image != "" && !slices.Contains(d.Names, d.Image) {
		d.Names = append(d.Names, d.Image)
	}
	for _, name := range slices.Sorted(maps.Keys(total)) {
		d.Images = append(d.Images, imageTrend{Name: name, Boots: total[name], Bad: failed[name],
			Share: format.Percent(float64(failed[name]), float64(total[name])), Rate: rateOf(failed[name], total[name]),
			P50: figureOf(times[name], .5), P95: figureOf(times[name], .95)})
	}
	slices.SortStableFunc(d.Images, func(a, b imageTrend) int {
		return cmp.Compare(float64(b.Bad)/float64(b.Boots), float64(a.Bad)/float64(a.Boots))
	})
}

// rateOf is a share in per cent, for columns.
func rateOf(n, of int) string {
	if of == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", 100*float64(n)/float64(of))
}

// figureOf is a quantile of values, for columns.
func figureOf(list []float64, q float64) string {
	if len(list) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f", chart.Quantile(list, q))
}

// days sorts boots into the buckets: how many went well, how long they took, what was sent.
func (d *trendsData) days(boots []api.Boot) {
	var times []float64
	served := int64(0)
	for _, b := range boots {
		i, _ := slices.BinarySearchFunc(d.Daily, b.Started, func(t dayTrend, at time.Time) int {
			if t.finished.After(at) {
				return 1
			}
			return -1
		})
		if i >= len(d.Daily) || b.Open() {
			continue
		}
		t := &d.Daily[i]
		for _, n := range b.Served {
			t.Served, served = t.Served+n, served+n
		}
		switch {
		case b.Outcome == ingot.OutcomeHealthy:
			t.Good++
			t.times, times = append(t.times, until(b)), append(times, until(b))
		case bad(b):
			t.Bad++
			d.Bad++
		default:
			continue // it waited for an operator
		}
		d.Ended++
		if rate := rootRate(b); rate > 0 {
			t.speed = append(t.speed, rate)
		}
	}
	for i := range d.Daily {
		t := &d.Daily[i]
		t.Rate, t.P50, t.P95 = rateOf(t.Bad, t.Good+t.Bad), figureOf(t.times, .5), figureOf(t.times, .95)
		t.Download = figureOf(t.speed, .5)
	}
	d.Rate, d.Served = rateOf(d.Bad, d.Ended), format.Size(served)
	d.P50, d.P95 = figureOf(times, .5), figureOf(times, .95)
}

// draw makes the pictures of the buckets.
func (d *trendsData) draw() {
	var counts, rates, sent []chart.Stack
	var times, speeds [][]float64
	var names []string
	for _, t := range d.Daily {
		ended := t.Good + t.Bad
		counts = append(counts, chart.Stack{Title: fmt.Sprintf("%s: %d healthy, %d not", t.Name, t.Good, t.Bad),
			Good: float64(t.Good), Bad: float64(t.Bad)})
		rates = append(rates, chart.Stack{
			Title: fmt.Sprintf("%s: %s"+format.NBSP+"%%, %d of %d", t.Name, t.Rate, t.Bad, ended),
			Bad:   100 * float64(t.Bad) / float64(max(ended, 1))})
		sent = append(sent, chart.Stack{Title: t.Name + ": " + format.Size(t.Served), Good: float64(t.Served)})
		times, speeds, names = append(times, t.times), append(speeds, t.speed), append(names, t.Name)
	}
	d.Counts, d.Rates, d.Bytes = chart.NewColumns(counts, 1), chart.NewColumns(rates, 5), chart.NewColumns(sent, 1)
	d.Highest, d.HighestSent = format.Plural(int(d.Counts.Most), "boot"), format.Size(int64(d.Bytes.Most))
	d.HighestRate = fmt.Sprintf("%.0f"+format.NBSP+"%%", d.Rates.Most)
	d.Times = chart.NewLines(times, names, func(v float64) string { return fmt.Sprintf("%.0f"+format.NBSP+"s", v) })
	d.Downloads = chart.NewLines(speeds, names, func(v float64) string {
		return fmt.Sprintf("%.1f"+format.NBSP+"MiB/s", v)
	})
}

// With is the address of the page with another time.
func (d trendsData) With(days int) string {
	address := "/trends?days=" + strconv.Itoa(days)
	if d.Image != "" {
		address += "&image=" + url.QueryEscape(d.Image)
	}
	return address
}

// rootRate is how fast a machine fetched its root, in MiB/s.
func rootRate(b api.Boot) float64 {
	took, _ := durations(b)
	for _, e := range b.Events {
		if e.Stage == ingot.StageRoot && e.Error == "" && e.Bytes > 0 && took[ingot.StageRoot] > 0 {
			return float64(e.Bytes) / (1 << 20) / took[ingot.StageRoot].Seconds()
		}
	}
	return 0
}
