package dhcp4

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/client"
	"ingot/bootserver/lease/leasetest"
)

// unrecorded is a fleet in which nothing may be recorded.
type unrecorded struct {
	scripted
	t *testing.T
}

func (u unrecorded) Observe(c client.Sighting) (client.Boot, error) {
	u.t.Errorf("a trial is recorded: %+v", c)
	return client.Boot{}, nil
}

func (u unrecorded) Took(c client.Sighting) error {
	u.t.Errorf("a trial is recorded: %+v", c)
	return nil
}

// TestTrial: the packet of a trial is answered like that of a new machine, in each mode,
// and nothing is recorded. Cards of known machines, and firmware that gets the key of a
// boot, are not answered.
func TestTrial(t *testing.T) {
	now := time.Unix(1000, 0)
	stranger, machine := net.HardwareAddr{2, 0, 0, 0, 0, 9}, net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, 1}
	full := func(*Config) {}
	for _, c := range []struct {
		name  string
		mac   net.HardwareAddr
		conf  func(*Config)
		mods  []dhcpv4.Modifier
		ip    bool
		file  string
		why   string
		quiet bool
	}{
		{name: "full", mac: stranger, conf: full, ip: true, file: "snponly.efi"},
		{name: "proxy", mac: stranger, conf: func(c *Config) { c.Interfaces[0].Mode = Proxy }, file: "snponly.efi"},
		{name: "observe", mac: stranger, conf: func(c *Config) { c.Interfaces[0].Mode = Observe }, quiet: true},
		{name: "known only", mac: stranger, conf: func(c *Config) { c.Interfaces[0].Known = true }},
		{name: "no pool", mac: stranger, why: "enlarge a pool",
			conf: func(c *Config) { c.Networks[0].Subnets[0].Pools = nil }},
		{name: "a known machine", mac: machine, conf: full, quiet: true},
		{name: "HTTP boot", mac: stranger, conf: full, quiet: true,
			mods: []dhcpv4.Modifier{arch(16), says60("HTTPClient:Arch:00016:UNDI:003001")}},
	} {
		conf := testConfig()
		c.conf(&conf)
		store := &leasetest.Store{}
		s := serverOf(t, conf, store, unrecorded{scripted{machine.String(): {ID: "m-1"}}, t}, &now)
		p, err := NewTrial(c.mac)
		if err != nil {
			t.Fatal(err)
		}
		for _, mod := range c.mods {
			mod(p)
		}
		a := handle(t, s, p)
		if (a == nil) != c.quiet {
			t.Errorf("%s: the answer is %v; want one: %v", c.name, a, !c.quiet)
			continue
		}
		if a != nil && (address(a.YourIPAddr).IsValid() != c.ip || a.BootFileName != c.file ||
			(a.Message() != "") != (c.why != "") || !strings.Contains(a.Message(), c.why)) {
			t.Errorf("%s: %v; want an address: %v, file %q, and why: %q", c.name, a.Summary(), c.ip, c.file, c.why)
		}
		if o := s.Observations(); len(o.Clients)+len(o.Servers)+len(o.Warnings)+len(o.Refusals)+len(s.Leases()) != 0 {
			t.Errorf("%s: it left %+v and %+v", c.name, o, s.Leases())
		}
		frame := Frame(p)
		if got, err := dhcpv4.FromBytes(frame[frameHeader+headers:]); err != nil || got.TransactionID != p.TransactionID {
			t.Errorf("%s: the frame holds %v, %v", c.name, got, err)
		}
		if ReadFrame(frame) != nil {
			t.Errorf("%s: the client's own frame is taken for an answer", c.name)
		}
	}
}

// FuzzReadFrame: nothing in a frame is believed.
func FuzzReadFrame(f *testing.F) {
	p, err := NewTrial(net.HardwareAddr{2, 0, 0, 0, 0, 9})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(Frame(p))
	p.OpCode = dhcpv4.OpcodeBootReply
	f.Add(Frame(p))
	f.Fuzz(func(_ *testing.T, b []byte) { ReadFrame(b) })
}
