//go:build e2e

package testvm

import (
	"slices"
	"testing"
	"time"

	"ingot"
)

// BenchmarkFirstStage is a UEFI machine that loads the image's UKI by HTTP, and
// one that goes by PXE through iPXE: from power-on to healthy, and to the first
// word of ingot-init, in turns, once each in an iteration. The rest of the
// hardware is the same, and so is the image.
func BenchmarkFirstStage(b *testing.B) {
	s := newStageFor(b, time.Hour)
	s.serve("--approve-all", "--image", "lab:v1")
	ways := []*struct {
		name string
		http bool
		vm   *VM
		took []float64 // seconds, to healthy
		init []float64 // seconds, to ingot-init
	}{{name: "http", http: true}, {name: "pxe"}}
	for b.Loop() {
		for i, w := range ways {
			began := time.Now()
			if w.vm == nil {
				w.vm = s.start(i+1, Config{Firmware: UEFI, HTTPBoot: w.http})
			} else if err := w.vm.On(s.ctx); err != nil {
				b.Fatal(err)
			}
			boot := s.healthy(w.vm, len(w.took)+1, "lab:v1")
			w.took = append(w.took, boot.Ended.Sub(began).Seconds())
			for _, e := range boot.Events {
				if e.Stage == ingot.StageInit {
					w.init = append(w.init, e.At.Sub(began).Seconds())
					break
				}
			}
			b.Logf("%s: ingot-init %.1f s, healthy %.1f s after power-on", w.name, w.init[len(w.init)-1], w.took[len(w.took)-1])
			w.vm.Kill()
		}
	}
	b.ReportMetric(0, "ns/op")
	median := func(list []float64) float64 {
		slices.Sort(list)
		return list[len(list)/2]
	}
	for _, w := range ways {
		b.ReportMetric(median(w.took), "s/"+w.name)
		b.ReportMetric(median(w.init), "s/init-"+w.name)
	}
	b.ReportMetric(median(ways[0].took)/median(ways[1].took), "http/pxe")
	b.ReportMetric(median(ways[0].init)/median(ways[1].init), "init-http/pxe")
}
