package fleet

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"ingot"
)

// TestPacketsOfAnotherBoot: while a boot of a machine sends authenticated messages, a packet in the
// machine's name changes nothing of the machine but which boot is its latest one. What it says is kept
// until the claim ends.
func TestPacketsOfAnotherBoot(t *testing.T) {
	const mac, card = "52:54:00:12:00:01", "52:54:00:12:00:02"
	port := SwitchPort{Relay: netip.MustParseAddr("10.0.0.1"), Circuit: "Eth2"}
	image := ImageRef{Image: ingot.DigestOf([]byte("v1")), Name: "lab:v1"}
	m := Machine{ID: "m-1", State: Approved, MACs: []string{mac}, MachineKey: "key", Firmware: ingot.FirmwareBIOS,
		Address: netip.MustParseAddr("10.0.0.5"), Port: SwitchPort{Relay: port.Relay, Circuit: "Eth1"}, FirstSeen: t0,
		LastSeen: t0, Assignment: Assignment{ImageRef: image}, Boot: "running",
		Facts: ingot.Facts{RAM: 1, NICs: []ingot.NIC{{MAC: card}}}}
	running := Boot{ID: "running", Machine: m.ID, Number: 1, Image: image, Outcome: ingot.OutcomeHealthy, Started: t0,
		Ticket: t0, Auth: Authentication{Able: true, Half: ingot.Half{1}, Heard: t0}}
	f := Facts{Machine: &m, Latest: &running, NewBoot: "newcomer", Request: Request{Begins: true,
		Address: netip.MustParseAddr("10.0.0.66"), Loaders: []string{"ipxe.efi", "snponly.efi"}, Sighting: Sighting{MAC: card,
			UUID: boardB, Firmware: ingot.FirmwareUEFIx64, Port: port}},
		Others: func(Machine, ingot.Facts) []Machine { return nil }}
	d, offer, err := Decide(f, t0.Add(20*time.Second))
	if err != nil || offer.Kind != OfferLoader || d.Machine.Claim == nil {
		t.Fatalf("a packet in the machine's name: %+v %+v, %v; want a loader and a claim", offer, d.Machine.Claim, err)
	}
	same := func(what string, got Machine) {
		t.Helper()
		if got.Boot, got.Claim = m.Boot, nil; !reflect.DeepEqual(got, m) {
			t.Errorf("%s, the machine is\n%+v\nand was\n%+v", what, got, m)
		}
	}
	same("after the packet", d.Machine)
	newcomer := d.Boot
	newcomer.Accepted = t0.Add(20 * time.Second)
	again, f2 := d.Machine, f // its first stage stalls
	f2.Machine, f2.Latest, f2.NewBoot = &again, &newcomer, "second"
	d, offer, err = Decide(f2, t0.Add(40*time.Second))
	if err != nil || offer.Loader != "snponly.efi" {
		t.Fatalf("after its first stage stalled: %+v, %v; want the next one", offer, err)
	}
	same("after its first stage stalled", d.Machine)

	stays := NewDecision(d.Machine, running, BootPolicy{}, nil, Actor{}, t0.Add(50*time.Second))
	stays.Stays(d.Boot)
	stays.Machine.Authenticated = m.Authenticated // it is, since it proved its message
	same("after the running boot's message", stays.Machine)

	over := NewDecision(d.Machine, d.Boot, BootPolicy{}, nil, Actor{}, t0.Add(2*time.Minute))
	over.Resolve(f.Others)
	got := over.Machine
	if got.Claim != nil || got.UUID != boardB || got.Firmware != ingot.FirmwareUEFIx64 ||
		got.Address != f.Request.Address || got.Port != port ||
		got.Loaders[ingot.FirmwareUEFIx64] != "snponly.efi" || len(got.MACs) != 2 ||
		!got.LastSeen.Equal(t0.Add(2*time.Minute)) {
		t.Errorf("after the claim, the machine is %+v; want what the newcomer says", got)
	}
}
