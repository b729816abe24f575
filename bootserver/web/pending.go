package web

import (
	"slices"
	"strings"

	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

// pendingData is what the page Pending shows.
type pendingData struct {
	*query
	Machines  []status
	Questions []questionData
	Images    []string
	Network   api.Network
}

// questionData is a question about a machine, with what is known beside what is new.
type questionData struct {
	*query
	*api.Machine
	With    *api.Machine
	Known   bool // the other machine is still known
	Rows    []fact
	Answers []answer
}

// fact is something that two machines have in common, or not.
type fact struct {
	Name, Known, New string
	Differs          bool
}

func (s *Server) pending(q *query) (page, error) {
	images, err := s.imageNames(q)
	if err != nil {
		return page{}, err
	}
	d := pendingData{query: q, Images: images, Network: s.backend.Network()}
	known := map[string]api.Machine{}
	for _, m := range s.machines(q) {
		known[string(m.ID)] = m
	}
	for _, m := range s.machines(q) {
		switch {
		case m.Ask != nil:
			with, is := known[string(m.Ask.With)]
			d.Questions = append(d.Questions, questionData{q, &m, &with, is, compared(with, m), answersTo(m)})
		case m.State == api.Pending:
			d.Machines = append(d.Machines, statusOf(&m, nil, q.now))
		}
	}
	slices.SortStableFunc(d.Machines, func(a, b status) int { return a.FirstSeen.Compare(b.FirstSeen) })
	p := page{title: "Pending", nav: "pending", body: "pending", data: d,
		command: format.Command("machine", "ls")}
	if len(d.Machines) > 0 {
		p.command = format.Command("machine", "approve", string(d.Machines[0].ID))
		if len(images) > 0 {
			p.command = format.Command("machine", "approve", string(d.Machines[0].ID), "--image", images[0])
		}
	}
	p.parts = []part{{"counts", "pending-counts", d}}
	for _, m := range d.Machines {
		p.parts = append(p.parts, part{"p-" + string(m.ID), "pending-row", pendingRow{d.query, m}})
	}
	for _, x := range d.Questions {
		p.parts = append(p.parts, part{"q-" + string(x.Machine.ID), "question", x})
	}
	return p, nil
}

// pendingRow is a machine that waits.
type pendingRow struct {
	*query
	status
}

// Rows are the machines that wait, for their template.
func (d pendingData) Rows() (list []pendingRow) {
	for _, m := range d.Machines {
		list = append(list, pendingRow{d.query, m})
	}
	return list
}

// Blank counts the disks that hold nothing.
func (r pendingRow) Blank() (n int) {
	for _, k := range r.Facts.Disks {
		if k.Holds == "blank" {
			n++
		}
	}
	return n
}

// compared are the facts by which two machines could be the same.
func compared(known, asked api.Machine) []fact {
	rows := []fact{
		{Name: "Card", Known: strings.Join(known.MACs, " "), New: strings.Join(asked.MACs, " ")},
		{Name: "UUID", Known: known.UUID, New: asked.UUID},
		{Name: "Serial", Known: known.Serial, New: asked.Serial},
		{Name: "Product", Known: product(known), New: product(asked)},
		{Name: "Port", Known: known.Port.String(), New: asked.Port.String()},
	}
	rows = slices.DeleteFunc(rows, func(f fact) bool { return f.Known == "" && f.New == "" })
	for i := range rows {
		rows[i].Differs = rows[i].Known != rows[i].New
	}
	return rows
}

// product is what a machine is, as its vendor says.
func product(m api.Machine) string { return strings.TrimSpace(m.Facts.Vendor + " " + m.Facts.Product) }

// Product is what the machine is, as its vendor says.
func (s status) Product() string { return product(*s.Machine) }
