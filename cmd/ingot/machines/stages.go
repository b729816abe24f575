package machines

import (
	"fmt"
	"io"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/cmd/ingot/show"
)

// StageTable has a row per boot and a column per stage.
func StageTable(w io.Writer, boots []api.Boot, names map[ingot.MachineID]string) {
	t := show.Table(w)
	head := []string{"MACHINE", "IMAGE"}
	for _, s := range ingot.Stages {
		head = append(head, strings.ToUpper(string(s)))
	}
	show.Row(t, append(head, "TOTAL", "SERVED", "OUTCOME")...)
	for _, b := range boots {
		cells := []string{bootMachine(b, names), show.Dash(b.Image.Name)}
		at, last := map[ingot.Stage]time.Time{}, b.Started
		for _, e := range b.Events {
			at[e.Stage] = e.At
		}
		for _, s := range ingot.Stages {
			when, ok := at[s]
			if !ok {
				cells = append(cells, "-")
				continue
			}
			cells = append(cells, fmt.Sprintf("%.1f", when.Sub(last).Seconds()))
			last = when
		}
		var served int64
		for _, n := range b.Served {
			served += n
		}
		show.Row(t, append(cells, took(b), show.Size(served), outcome(b))...)
	}
	t.Flush()
}
