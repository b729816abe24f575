package web

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/chart"
	"ingot/bootserver/web/format"
	"ingot/internal/natural"
)

// imagesData is what the page Images shows.
type imagesData struct {
	*query
	Images   []imageRow
	Fleet    int // machines that may boot
	From, To string
	Names    []string
	Changes  []packageChange
	Grown    string // what the changes add up to, in a sentence
	Same     int    // packages that are equal
	Problem  string
	Chosen   imageRow
	Contents api.Contents // of the chosen image
	Total    int64        // bytes of its contents
	Parts    []portion    // the same, in a table
	Wide     chart.Treemap
	Narrow   chart.Treemap // of a phone
	Pieces   []portion     // files that a boot fetches
}

// imageRow is an image in the table.
type imageRow struct {
	api.Image
	Runs     int // machines that run it
	Assigned int // machines that are to
	Mark     state
	Machines []status // that run it, the first ones by name
}

// packageChange is how a package differs between two images.
type packageChange struct {
	Kind, Sign, Name, From, To string
	Grown                      int64 // bytes
}

// portion is a part of something.
type portion struct {
	Name, Text, Width, Percent string
	Rest                       bool // the sum of others
}

func (s *Server) images(q *query) (page, error) {
	list, err := s.backend.Images(q.ctx)
	if err != nil {
		return page{}, err
	}
	d := imagesData{query: q, From: q.Get("from"), To: q.Get("to")}
	runs, assigned := map[ingot.Digest][]status{}, map[ingot.Digest]int{}
	for _, m := range s.statuses(q) {
		if m.Machine.State != api.Approved {
			continue
		}
		d.Fleet++
		assigned[m.Assignment.Image]++
		if m.Up() {
			runs[m.Boot.Image.Image] = append(runs[m.Boot.Image.Image], m)
		}
	}
	slices.SortStableFunc(list, func(a, b api.Image) int { return b.Stored.Compare(a.Stored) })
	for _, im := range list {
		on := runs[im.Digest]
		slices.SortFunc(on, func(a, b status) int { return natural.Compare(a.Hostname(), b.Hostname()) })
		d.Images = append(d.Images, imageRow{im, len(on), assigned[im.Digest], markOf(im), on[:min(len(on), mostNamed)]})
		d.Names = append(d.Names, im.Name)
	}
	s.chooseImages(q, &d)
	p := page{title: "Images", nav: "images", body: "images", data: d, command: format.Command("image", "ls")}
	if d.From != "" && d.To != "" {
		p.command = format.Command("image", "diff", d.From, d.To)
	}
	p.parts = []part{{"images", "images-table", d}}
	if len(list) > 0 {
		p.parts = append(p.parts, part{"about", "images-about", d})
	}
	return p, nil
}

// mostNamed bounds the machines that are named as running an image.
const mostNamed = 24

// markOf is the mark of an image: whether it can be served.
func markOf(im api.Image) state {
	switch im.State {
	case "damaged", "untrusted":
		return failed
	}
	return healthy
}

// chooseImages fills in what the page says of one image, and of two: those that were asked for, else the
// newest one and the one of the same profile before it.
func (s *Server) chooseImages(q *query, d *imagesData) {
	list := d.Images
	if len(list) == 0 {
		return
	}
	at := max(0, slices.IndexFunc(list, func(im imageRow) bool { return im.Name == d.To }))
	to, before := list[at], slices.IndexFunc(list, func(im imageRow) bool { return im.Name == d.From })
	profile, _, _ := strings.Cut(to.Name, ":")
	for i := at + 1; i < len(list) && before < 0; i++ {
		if strings.HasPrefix(list[i].Name, profile+":") {
			before = i
		}
	}
	d.Chosen, d.To, d.From = to, to.Name, ""
	d.Pieces = piecesOf(to.Image)
	var err error
	if d.Contents, err = s.contentsOf(q.ctx, to.Digest); err != nil {
		d.Problem = err.Error()
		return
	}
	d.draw()
	if before < 0 {
		return
	}
	d.From = list[before].Name
	older, err := s.contentsOf(q.ctx, list[before].Digest)
	if err != nil {
		d.Problem = err.Error()
		return
	}
	d.Changes, d.Same = compare(older, d.Contents)
	if older.Measured && d.Contents.Measured {
		d.Grown = grown(older, d.Contents, d.Changes)
	}
}

// contentsCache keeps the contents of the images that were looked at last: an SBOM has some megabytes.
type contentsCache struct {
	mu   sync.Mutex
	list map[ingot.Digest]api.Contents
}

const mostCached = 32 // images

// contentsOf is what an image consists of. That never changes, but for signatures, which are few; once
// sizes are known it is kept.
func (s *Server) contentsOf(ctx context.Context, d ingot.Digest) (api.Contents, error) {
	c := &s.contents
	c.mu.Lock()
	known, is := c.list[d]
	c.mu.Unlock()
	if is {
		return known, nil
	}
	found, err := s.backend.ImageContents(ctx, string(d))
	if err != nil || !found.Measured {
		return found, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil || len(c.list) >= mostCached {
		c.list = map[ingot.Digest]api.Contents{}
	}
	c.list[d] = found
	return found, nil
}

// Sizes of the treemap in pixels, as wide as it is drawn on a desk and on a phone.
const (
	mostTiles                = 14
	wideTreemap, highTreemap = 470, 240
	narrowTreemap            = 270
)

// draw fills in the pictures of what the chosen image consists of.
func (d *imagesData) draw() {
	list := slices.Clone(d.Contents.Packages)
	slices.SortStableFunc(list, func(a, b api.Package) int { return cmp.Compare(b.Size, a.Size) })
	d.Total = d.Contents.Other
	for _, p := range list {
		d.Total += p.Size
	}
	d.Contents.Packages = list
	if d.Total == 0 {
		return
	}
	var items []chart.Item
	rest, others := int64(0), 0
	for _, p := range list {
		if len(items) < mostTiles && p.Size*100 >= d.Total {
			items = append(items, chart.Item{Name: p.Name, Size: p.Size})
		} else if p.Size > 0 {
			rest, others = rest+p.Size, others+1
		}
	}
	items = append(items, chart.Item{Name: format.Plural(others, "other"), Size: rest, Rest: true},
		chart.Item{Name: "no package", Size: d.Contents.Other, Rest: true})
	largest := slices.MaxFunc(items, func(a, b chart.Item) int { return cmp.Compare(a.Size, b.Size) }).Size
	for i := range items {
		one := &items[i]
		one.Text = format.Size(one.Size)
		if one.Size > 0 {
			d.Parts = append(d.Parts, portion{one.Name, format.Mebibytes(one.Size),
				format.Percent(float64(one.Size), float64(largest)),
				whole(float64(one.Size), float64(d.Total)), one.Rest})
		}
	}
	d.Wide = chart.NewTreemap(items, wideTreemap, highTreemap)
	d.Narrow = chart.NewTreemap(items, narrowTreemap, highTreemap)
}

// whole is a share in whole per cent.
func whole(part, of float64) string { return fmt.Sprintf("%.0f", 100*part/max(of, 1)) }

// piecesOf are the files that a boot fetches, by size.
func piecesOf(im api.Image) (list []portion) {
	total := float64(im.Needed["root"] + im.Needed["initramfs"] + im.Needed["kernel"])
	for _, name := range []string{"root", "initramfs", "kernel"} {
		if n := float64(im.Needed[name]); n > 0 {
			list = append(list, portion{Name: name, Text: format.Mebibytes(im.Needed[name]), Width: format.Percent(n, total),
				Percent: whole(n, total)})
		}
	}
	return list
}

// compare lists the packages that differ in their versions or sizes: removed ones first, then added, then
// changed ones, and of each kind those whose size changed most.
func compare(from, to api.Contents) (changes []packageChange, same int) {
	before, after := map[string]api.Package{}, map[string]bool{}
	for _, p := range from.Packages {
		before[p.Name] = p
	}
	sized := from.Measured && to.Measured
	var added, changed []packageChange
	for _, p := range to.Packages {
		after[p.Name] = true
		was, had := before[p.Name]
		c := packageChange{Name: p.Name, From: was.Version, To: p.Version}
		if sized {
			c.Grown = p.Size - was.Size
		}
		switch {
		case !had:
			c.Kind, c.Sign = "added", "+"
			added = append(added, c)
		case was.Version != p.Version || c.Grown != 0:
			c.Kind, c.Sign = "changed", "~"
			changed = append(changed, c)
		default:
			same++
		}
	}
	for _, p := range from.Packages {
		if !after[p.Name] {
			c := packageChange{Kind: "removed", Sign: "−", Name: p.Name, From: p.Version}
			if sized {
				c.Grown = -p.Size
			}
			changes = append(changes, c)
		}
	}
	abs := func(n int64) int64 { return max(n, -n) }
	for _, list := range [][]packageChange{changes, added, changed} {
		slices.SortStableFunc(list, func(a, b packageChange) int { return cmp.Compare(abs(b.Grown), abs(a.Grown)) })
	}
	return slices.Concat(changes, added, changed), same
}

// grown says how much larger the contents of an image are than those of another, and what of it is due to
// one package.
func grown(from, to api.Contents, changes []packageChange) string {
	total := to.Other - from.Other
	var most packageChange
	for _, c := range changes {
		total += c.Grown
		if c.Grown > most.Grown {
			most = c
		}
	}
	text := "Unpacked size: " + signed(total) + "."
	if most.Grown > 0 {
		text += " " + most.Name + " grew most, by " + format.Size(most.Grown) + "."
	}
	return text
}

// signed is a difference of sizes.
func signed(n int64) string {
	switch {
	case n > 0:
		return "+" + format.Size(n)
	case n < 0:
		return "−" + format.Size(-n)
	}
	return "no change"
}

// More is how many machines run the chosen image beside those that are named.
func (d imagesData) More() int { return d.Chosen.Runs - len(d.Chosen.Machines) }

// SignedBy says who signed a part of the image; empty: nobody.
func (d imagesData) SignedBy(of string) (list []api.Signature) {
	for _, s := range d.Contents.Signatures {
		if s.Of == of {
			list = append(list, s)
		}
	}
	return list
}

// sbom answers the software bill of materials of an image, to be saved.
func (s *Server) sbom(w http.ResponseWriter, r *http.Request) {
	text, err := s.backend.SBOM(r.Context(), r.PathValue("ref"))
	if err != nil {
		s.problem(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/vnd.cyclonedx+json")
	h.Set("Content-Disposition", `attachment; filename="sbom.cdx.json"`)
	_, _ = io.WriteString(w, string(text)) // a client that hung up wants no answer
}
