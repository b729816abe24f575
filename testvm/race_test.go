//go:build e2e

package testvm

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkFirstStage is a UEFI machine that loads the image's UKI by HTTP, and
// one that goes by PXE through iPXE, in turns: from power-on to healthy. The
// rest of the hardware is the same, and so is the image.
func BenchmarkFirstStage(b *testing.B) {
	const rounds = 3
	s := newStage(b)
	s.serve("--approve-all", "--image", "lab:v1")
	took := map[string][]time.Duration{}
	boots := 0
	var http, pxe *VM
	for b.Loop() {
		for range rounds {
			boots++
			for _, way := range []struct {
				name string
				vm   **VM
				http bool
			}{{"http", &http, true}, {"pxe", &pxe, false}} {
				began := time.Now()
				if *way.vm == nil {
					*way.vm = s.start(len(s.lan.vms)+1, Config{Firmware: UEFI, HTTPBoot: way.http})
				} else if err := (*way.vm).On(s.ctx); err != nil {
					b.Fatal(err)
				}
				boot := s.healthy(*way.vm, boots, "lab:v1")
				took[way.name] = append(took[way.name], boot.Ended.Sub(began))
				b.Logf("%s: %.1f s after power-on, of which %.1f s before the first packet", way.name, boot.Ended.Sub(began).Seconds(), boot.Started.Sub(began).Seconds())
				(*way.vm).Kill()
			}
		}
	}
	median := func(name string) float64 {
		slices.Sort(took[name])
		return took[name][len(took[name])/2].Seconds()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median("http"), "s/http")
	b.ReportMetric(median("pxe"), "s/pxe")
	b.ReportMetric(median("http")/median("pxe"), "http/pxe")
}
