package web

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

// trendBoots bounds the boots that the page looks at.
const trendBoots = 5000

// trendsData is what the page Trends shows.
type trendsData struct {
	*query
	Days    int
	Boots   int
	Enough  bool
	Stages  []stageTrend
	Images  []imageTrend
	Daily   []dayTrend
	Times   chart // of healthy boots, by day
	Rates   chart // of downloads of roots
	Highest string
	Served  string
}

// stageTrend is how long a stage takes.
type stageTrend struct {
	Name, P50, P95 string
	W50, W95       string
}

// imageTrend is how boots of an image go.
type imageTrend struct {
	Name                  string
	Boots, Bad            int
	Rate, P50, P95, Share string
}

// dayTrend is what happened on a day.
type dayTrend struct {
	Day, Title          string
	Good, Bad           int
	X, W, YG, HG, YB, H string // of the picture, in per cent
	Served              int64
}

// chart is a line of medians and one of 95th percentiles over days.
type chart struct {
	P50, P95  []dot
	Most, Mid string
	Any       bool
}

// dot is a point of a chart, and the line to it from the one before.
type dot struct{ X, Y, X0, Y0, Title string }

func (s *Server) trends(q *query) (page, error) {
	d := trendsData{query: q, Days: 14}
	switch q.Get("days") {
	case "1":
		d.Days = 1
	case "30":
		d.Days = 30
	case "90":
		d.Days = 90
	}
	all, _, err := s.backend.Boots(api.BootsRequest{Limit: trendBoots})
	if err != nil {
		return page{}, err
	}
	since := q.now.Local().AddDate(0, 0, 1-d.Days)
	since = time.Date(since.Year(), since.Month(), since.Day(), 0, 0, 0, 0, since.Location())
	boots := slices.DeleteFunc(all, func(b api.Boot) bool { return b.Started.Before(since) || b.Once != nil })
	d.Boots = len(boots)
	d.stages(boots)
	d.images(boots)
	d.days(boots, since)
	p := page{title: "Trends", nav: "trends", body: "trends", data: d,
		command: format.Command("boots", "-n", "0", "-o", "json")}
	p.parts = []part{{"trends", "trends-all", d}}
	return p, nil
}

// stages are the times of each stage of healthy boots.
func (d *trendsData) stages(boots []api.Boot) {
	all := map[ingot.Stage][]time.Duration{}
	for _, b := range boots {
		if b.Outcome != ingot.OutcomeHealthy {
			continue
		}
		took, _ := durations(b)
		for s, t := range took {
			all[s] = append(all[s], t)
		}
	}
	var longest time.Duration
	for _, list := range all {
		longest = max(longest, quantile(list, .95))
	}
	for _, s := range ingot.Stages {
		if list := all[s]; len(list) > 0 {
			half, most := quantile(list, .5), quantile(list, .95)
			d.Stages = append(d.Stages, stageTrend{format.Title(stageName(s)), format.Seconds(half), format.Seconds(most),
				format.Percent(float64(half), float64(longest)), format.Percent(float64(most), float64(longest))})
		}
	}
}

// images are the boots by image, those that fail most often first.
func (d *trendsData) images(boots []api.Boot) {
	type sums struct {
		good  []time.Duration
		bad   int
		total int
	}
	all := map[string]*sums{}
	for _, b := range boots {
		if b.Image.Name == "" || b.Open() || b.Outcome == ingot.OutcomeWaiting {
			continue
		}
		s := all[b.Image.Name]
		if s == nil {
			s = &sums{}
			all[b.Image.Name] = s
		}
		s.total++
		if b.Outcome == ingot.OutcomeHealthy {
			s.good = append(s.good, b.Ended.Sub(b.Started))
		} else {
			s.bad++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		t := imageTrend{Name: name, Boots: s.total, Bad: s.bad, Share: format.Percent(float64(s.bad), float64(s.total)),
			Rate: fmt.Sprintf("%.1f", 100*float64(s.bad)/float64(s.total)), P50: format.Figure(quantile(s.good, .5)),
			P95: format.Figure(quantile(s.good, .95))}
		d.Images = append(d.Images, t)
	}
	slices.SortStableFunc(d.Images, func(a, b imageTrend) int {
		return cmp.Compare(float64(b.Bad)/float64(b.Boots), float64(a.Bad)/float64(a.Boots))
	})
}

// days are the boots by day: how many went well, how long they took, what was sent.
func (d *trendsData) days(boots []api.Boot, since time.Time) {
	days := make([]dayTrend, d.Days)
	took, rates := make([][]time.Duration, d.Days), make([][]float64, d.Days)
	most, served := 1, int64(0)
	for _, b := range boots {
		i := int(b.Started.Local().Sub(since).Hours() / 24)
		if i < 0 || i >= d.Days || b.Open() {
			continue
		}
		for _, n := range b.Served {
			days[i].Served += n
			served += n
		}
		if b.Outcome == ingot.OutcomeHealthy {
			days[i].Good++
			took[i] = append(took[i], b.Ended.Sub(b.Started))
		} else if b.Outcome != ingot.OutcomeWaiting {
			days[i].Bad++
		}
		if rate := rootRate(b); rate > 0 {
			rates[i] = append(rates[i], rate)
		}
		most = max(most, days[i].Good+days[i].Bad)
	}
	for i := range days {
		t, of := &days[i], float64(most)
		t.Day = since.AddDate(0, 0, i).Format("2" + format.NBSP + "Jan")
		t.Title = fmt.Sprintf("%s: %d healthy, %d not, %s sent", t.Day, t.Good, t.Bad, format.Size(t.Served))
		t.X, t.W = format.Percent(float64(i)+.12, float64(d.Days)), format.Percent(.76, float64(d.Days))
		t.HG, t.YG = format.Percent(float64(t.Good), of), format.Percent(of-float64(t.Good), of)
		t.H, t.YB = format.Percent(float64(t.Bad), of), format.Percent(of-float64(t.Good)-float64(t.Bad), of)
	}
	d.Daily, d.Highest, d.Served = days, fmt.Sprint(most), format.Size(served)
	d.Times = chartOf(len(days), func(i int, q float64) (float64, bool) {
		return quantile(took[i], q).Seconds(), len(took[i]) > 0
	}, func(v float64) string { return fmt.Sprintf("%.0f"+format.NBSP+"s", v) }, days)
	d.Rates = chartOf(len(days), func(i int, q float64) (float64, bool) {
		list := rates[i]
		slices.Sort(list)
		if len(list) == 0 {
			return 0, false
		}
		return list[min(int(q*float64(len(list))), len(list)-1)], true
	}, func(v float64) string { return fmt.Sprintf("%.0f"+format.NBSP+"MiB/s", v) }, days)
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

// chartOf draws values of days: medians and 95th percentiles.
func chartOf(n int, value func(day int, q float64) (float64, bool), text func(float64) string,
	days []dayTrend) (c chart) {
	most := 0.0
	for i := range n {
		if v, ok := value(i, .95); ok {
			most, c.Any = max(most, v), true
		}
	}
	most = max(most*1.1, 1e-9)
	c.Most, c.Mid = text(most), text(most/2)
	line := func(q float64) (dots []dot) {
		for i := range n {
			v, ok := value(i, q)
			if !ok {
				continue
			}
			p := dot{X: format.Percent(float64(i)+.5, float64(n)), Y: format.Percent(most-v, most),
				Title: strings.Join([]string{days[i].Day, text(v)}, ": ")}
			p.X0, p.Y0 = p.X, p.Y
			if len(dots) > 0 {
				p.X0, p.Y0 = dots[len(dots)-1].X, dots[len(dots)-1].Y
			}
			dots = append(dots, p)
		}
		return dots
	}
	c.P50, c.P95 = line(.5), line(.95)
	return c
}
