package machines

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
)

// TestMachineDetails: a person sees the parts of a machine, harmlessly.
func TestMachineDetails(t *testing.T) {
	m := api.Machine{ID: "m-a", Facts: ingot.Facts{Vendor: "Example", Product: "Server", BIOS: "AMI 1.4",
		BIOSDate: "05/06/2021", CPU: "CPU", Cores: 8,
		RAM: 251 << 30, RAMInstalled: 256 << 30,
		NICs: []ingot.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01", Driver: "ice", Firmware: "4.20 0x8001\x1b[31m",
			Speed: 25000, Boot: true}, {Name: "eth1", MAC: "52:54:00:00:00:02"}},
		Disks: []ingot.Disk{{Name: "sda", Serial: "S1", Size: 1 << 40, Holds: "blank"}}}}
	var out bytes.Buffer
	machineDetails(&out, m, time.Now())
	text := out.String()
	for _, want := range []string{"AMI 1.4 05/06/2021", "256.0 GiB, usable 251.0 GiB",
		"eth0  52:54:00:00:00:01  ice  firmware 4.20 0x8001", "25000 Mbit/s  boots",
		"eth1  52:54:00:00:00:02  -  firmware -\n", "sda  serial S1  1.0 TiB  holds blank"} {
		if !strings.Contains(text, want) {
			t.Errorf("machine show prints\n%s\nwithout %q", text, want)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("what a card calls its firmware reached the terminal: %q", text)
	}
	out.Reset()
	m.Facts.RAMInstalled = 0
	if machineDetails(&out, m, time.Now()); strings.Contains(out.String(), "usable") || !strings.Contains(out.String(),
		"251.0 GiB") {
		t.Errorf("a machine that reports no modules is shown as\n%s", out.String())
	}
}
