//go:build e2e

package testvm

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkFirstStage is a UEFI machine that loads the image's UKI by HTTP, and
// one that goes by PXE through iPXE: from power-on to healthy, in turns, once
// each in an iteration. The rest of the hardware is the same, and so is the
// image.
func BenchmarkFirstStage(b *testing.B) {
	s := newStageFor(b, time.Hour)
	s.serve("--approve-all", "--image", "lab:v1")
	ways := []*struct {
		name string
		http bool
		vm   *VM
		took []float64 // seconds
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
			b.Logf("%s: healthy %.1f s after power-on, %.1f s after the first packet", w.name, boot.Ended.Sub(began).Seconds(), boot.Ended.Sub(boot.Started).Seconds())
			w.vm.Kill()
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, w := range ways {
		slices.Sort(w.took)
		b.ReportMetric(w.took[len(w.took)/2], "s/"+w.name)
	}
	b.ReportMetric(ways[0].took[len(ways[0].took)/2]/ways[1].took[len(ways[1].took)/2], "http/pxe")
}
