package web

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

// imagesData is what the page Images shows.
type imagesData struct {
	*query
	Images   []imageRow
	Fleet    int // machines that may boot
	From, To string
	Names    []string
	Changes  []packageChange
	Same     int // packages that are equal
	Problem  string
	Chosen   api.Image
	Packages []api.Package
	Pieces   []piecePart // of the chosen image
}

// imageRow is an image in the table.
type imageRow struct {
	api.Image
	Runs     int // machines that run it
	Assigned int // machines that are to
	Mark     state
}

// packageChange is how a package differs between two images.
type packageChange struct{ Kind, Sign, Name, From, To string }

// piecePart is a file of an image, by its share of the whole.
type piecePart struct{ Name, Size, Share, Percent string }

func (s *Server) images(q *query) (page, error) {
	list, err := s.backend.Images(q.ctx)
	if err != nil {
		return page{}, err
	}
	d := imagesData{query: q, From: q.Get("from"), To: q.Get("to")}
	runs, assigned := map[ingot.Digest]int{}, map[ingot.Digest]int{}
	for _, m := range s.statuses(q) {
		if m.Machine.State != api.Approved {
			continue
		}
		d.Fleet++
		assigned[m.Assignment.Image]++
		if m.Up() {
			runs[m.Boot.Image.Image]++
		}
	}
	slices.SortStableFunc(list, func(a, b api.Image) int { return b.Stored.Compare(a.Stored) })
	for _, im := range list {
		d.Images = append(d.Images, imageRow{im, runs[im.Digest], assigned[im.Digest], markOf(im)})
		d.Names = append(d.Names, im.Name)
	}
	s.chooseImages(q, &d, list)
	p := page{title: "Images", nav: "images", body: "images", data: d, command: format.Command("image", "ls")}
	if d.From != "" && d.To != "" {
		p.command = format.Command("image", "diff", d.From, d.To)
	}
	p.parts = []part{{"images", "images-table", d}}
	return p, nil
}

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
func (s *Server) chooseImages(q *query, d *imagesData, list []api.Image) {
	if len(list) == 0 {
		return
	}
	find := func(name string) (api.Image, bool) {
		i := slices.IndexFunc(list, func(im api.Image) bool { return im.Name == name })
		if i < 0 {
			return api.Image{}, false
		}
		return list[i], true
	}
	to, ok := find(d.To)
	if !ok {
		to = list[0]
	}
	from, ok := find(d.From)
	if !ok {
		at := slices.IndexFunc(list, func(im api.Image) bool { return im.Digest == to.Digest })
		profile, _, _ := strings.Cut(to.Name, ":")
		for _, im := range list[at+1:] {
			if strings.HasPrefix(im.Name, profile+":") {
				from, ok = im, true
				break
			}
		}
	}
	d.Chosen, d.To = to, to.Name
	d.Pieces = piecesOf(to)
	var err error
	if d.Packages, err = s.packagesOf(q.ctx, to.Digest); err != nil {
		d.Problem = err.Error()
		return
	}
	if !ok {
		d.From = ""
		return
	}
	d.From = from.Name
	before, err := s.packagesOf(q.ctx, from.Digest)
	if err != nil {
		d.Problem = err.Error()
		return
	}
	d.Changes, d.Same = compare(before, d.Packages)
}

// packageCache keeps the packages of the images that were looked at last: an SBOM has some megabytes.
type packageCache struct {
	mu   sync.Mutex
	list map[ingot.Digest][]api.Package
}

const mostCached = 32 // images

// packagesOf are the packages of an image. An image never changes.
func (s *Server) packagesOf(ctx context.Context, d ingot.Digest) ([]api.Package, error) {
	c := &s.packages
	c.mu.Lock()
	list, known := c.list[d]
	c.mu.Unlock()
	if known {
		return list, nil
	}
	list, err := s.backend.ImagePackages(ctx, string(d))
	if err != nil || len(list) == 0 {
		return list, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil || len(c.list) >= mostCached {
		c.list = map[ingot.Digest][]api.Package{}
	}
	c.list[d] = list
	return list, nil
}

// piecesOf are the files that a boot takes, by size.
func piecesOf(im api.Image) (list []piecePart) {
	for _, name := range []string{"root", "initramfs", "kernel"} {
		n := im.Needed[name]
		total := im.Needed["root"] + im.Needed["initramfs"] + im.Needed["kernel"]
		if n > 0 {
			share := format.Percent(float64(n), float64(total))
			list = append(list, piecePart{name, format.Mebibytes(n), share, strings.SplitN(share, ".", 2)[0]})
		}
	}
	return list
}

// compare lists the packages that differ: removed ones first, then added, then changed ones.
func compare(from, to []api.Package) (changes []packageChange, same int) {
	before := map[string]string{}
	for _, p := range from {
		before[p.Name] = p.Version
	}
	after := map[string]string{}
	var added, changed []packageChange
	for _, p := range to {
		after[p.Name] = p.Version
		switch was, had := before[p.Name]; {
		case !had:
			added = append(added, packageChange{"added", "+", p.Name, "", p.Version})
		case was != p.Version:
			changed = append(changed, packageChange{"changed", "~", p.Name, was, p.Version})
		default:
			same++
		}
	}
	for _, p := range from {
		if _, has := after[p.Name]; !has {
			changes = append(changes, packageChange{"removed", "−", p.Name, p.Version, ""})
		}
	}
	return slices.Concat(changes, added, changed), same
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
