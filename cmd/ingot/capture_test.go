package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/testvm/storm"
)

// TestCapture: of two machines that boot, the one that is captured is in the
// file, from its DHCP to its HTTP, as tcpdump reads it; the other is not.
func TestCapture(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	f.serve()
	crowd := storm.Config{Machines: 2, First: 1, Timeout: time.Minute}
	f.startStorm(crowd)()
	ms, err := f.api().Machines(f.ctx)
	if err != nil || len(ms) != 2 {
		t.Fatalf("%d machines, %v", len(ms), err)
	}
	pcap := filepath.Join(f.dir, "boot.pcap")
	cmd := asIngot(f.lan.Command(f.ctx, os.Args[0], "--store", f.store, "capture", string(ms[0].ID), "-w", pcap))
	log := &lines{}
	cmd.Stderr = log
	if err := f.lan.Start(cmd); err != nil {
		t.Fatal(err)
	}
	f.until("the capture to begin", func() bool { info, err := os.Stat(pcap); return err == nil && info.Size() >= 24 })
	f.startStorm(crowd)()
	text := ""
	f.until("its frames to arrive", func() bool {
		out, _ := exec.Command("tcpdump", "-enr", pcap).Output() // it grows: the last frame may be half
		text = string(out)
		return strings.Contains(text, "/report")
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // interrupted, as it was asked to be
	out, err := exec.Command("tcpdump", "-enr", pcap).CombinedOutput()
	if err != nil {
		t.Errorf("tcpdump of the whole file: %v\n%s\n%s", err, out[max(0, len(out)-500):], log)
	}
	for _, want := range []string{"BOOTP/DHCP, Request from " + ms[0].MACs[0], "BOOTP/DHCP, Reply", "RRQ \"", "GET /b/",
		"POST /b/"} {
		if !strings.Contains(text, want) {
			t.Errorf("the capture has no %q:\n%s", want, text[:min(len(text), 3000)])
		}
	}
	if strings.Contains(text, ms[1].MACs[0]) {
		t.Errorf("the capture of %s holds frames of %s", ms[0].MACs[0], ms[1].MACs[0])
	}
	last, err := f.api().Audit(f.ctx, 0, true, 1)
	if err != nil || len(last) != 1 || last[0].Action != "machine.capture" || last[0].On != string(ms[0].ID) {
		t.Errorf("the last change is %s, %v; want the capture", fmt.Sprint(last), err)
	}
}
