package dhcp6

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
)

// noting serves a configuration and keeps the text of what is recorded of packets.
func noting(t *testing.T, c Config, b lease.Store, now *time.Time) (says func(m *dhcpv6.Message, card byte,
	unsent error) string, s *Server) {
	t.Helper()
	var list []string
	s, err := New(c, testCards, [16]byte(serverDUID[2:]), network.Parts{Store: b, Booter: scripted{},
		Now: func() time.Time { return *now }, Record: func(n client.Packet) {
			text, bad := n.Words()
			list = append(list, n.MAC[len("52:54:00:12:00:"):]+map[bool]string{true: " ! ", false: " "}[bad]+text)
		}})
	if err != nil {
		t.Fatal(err)
	}
	return func(m *dhcpv6.Message, card byte, unsent error) string {
		list = nil
		p := multicast(m, cardMAC(card))
		r, err := s.Handle(p)
		if err != nil {
			s.unanswered(p, err)
		} else if r != nil {
			s.RecordSent(r.record, unsent)
		}
		return strings.Join(list, "\n")
	}, s
}

// TestNotes: each message that matters is recorded with its reason; of another
// server what the client says to it.
func TestNotes(t *testing.T) {
	now := time.Unix(1000, 0)
	says, s := noting(t, testConfig(), &leasetest.Store{}, &now)
	them := raw(dhcpv6.OptionServerID, []byte{0, 1, 2, 3})
	for _, c := range []struct{ what, got, want string }{
		{"a question", says(asks(dhcpv6.MessageTypeSolicit, 1, na()), 1, nil), "01 ADVERTISE of fd00:99::100"},
		{"one whose answer does not leave", says(asks(dhcpv6.MessageTypeSolicit, 1, na()), 1, errors.New("network is down")),
			"01 ! ADVERTISE of fd00:99::100 could not be sent: network is down"},
		{"our choice", says(asks(dhcpv6.MessageTypeRequest, 1, us(), na("fd00:99::100")), 1, nil),
			"01 REPLY of fd00:99::100"},
		{"another link's", says(asks(dhcpv6.MessageTypeRequest, 2, us(), na("fd00:98::100")), 2, nil),
			"02 ! REPLY for fd00:98::100: NotOnLink, fd00:98::100 is not on this link"},
		{"another server's choice", says(asks(dhcpv6.MessageTypeRequest, 1, them, na("fd00:99::7")), 1, nil),
			"01 ! REQUEST for fd00:99::7 to another server, DUID 00010203"},
		{"information", says(asks(dhcpv6.MessageTypeInformationRequest, 1), 1, nil), ""},
		{"a release", says(asks(dhcpv6.MessageTypeRelease, 1, us(), na("fd00:99::100")), 1, nil),
			"01 RELEASE of fd00:99::100"},
		{"a decline", says(asks(dhcpv6.MessageTypeDecline, 1, us(), na("fd00:99::100")), 1, nil),
			"01 ! DECLINE for fd00:99::100: it is in use"},
	} {
		if c.got != c.want {
			t.Errorf("%s is recorded as %q; want %q", c.what, c.got, c.want)
		}
	}
	if o := s.Others([]string{cardMAC(1).String(), cardMAC(2).String()}); len(o) != 1 || o[0].DUID != "00010203" ||
		o[0].Given.String() != "fd00:99::7" || o[0].Kind != "REQUEST" {
		t.Errorf("the cards chose %+v; want the other server, once", o)
	}
	full := testConfig()
	full.Networks[0].Subnets[0].Pools = nil
	says, _ = noting(t, full, &leasetest.Store{}, &now)
	if got := says(asks(dhcpv6.MessageTypeSolicit, 1, na()), 1, nil); !strings.HasPrefix(got,
		"01 ! ADVERTISE: NoAddrsAvail, ") {
		t.Errorf("that the pool is full is recorded as %q", got)
	}
	says, _ = noting(t, testConfig(), &leasetest.Store{Full: true}, &now)
	if got := says(asks(dhcpv6.MessageTypeRequest, 1, us(), na("fd00:99::100")), 1,
		nil); got != "01 ! no answer to its REQUEST: disk full" {
		t.Errorf("that the lease cannot be stored is recorded as %q", got)
	}
}

// TestNotesBeside: beside the network's own server that one is as it should be.
func TestNotesBeside(t *testing.T) {
	now := time.Unix(1000, 0)
	says, s := noting(t, Config{Interfaces: []Interface{{Name: "eth0", Mode: Boot}}}, &leasetest.Store{}, &now)
	firmware := append(arch(iana.EFI_X86_64, "PXEClient:Arch:00007:UNDI:003016"), na())
	if got, want := says(asks(dhcpv6.MessageTypeSolicit, 1, firmware...), 1, nil),
		"01 ADVERTISE of what to boot, without an address"; got != want {
		t.Errorf("our offer is recorded as %q; want %q", got, want)
	}
	if got := says(asks(dhcpv6.MessageTypeRequest, 1, raw(dhcpv6.OptionServerID, []byte{0, 1, 2, 3}), na("fd00:99::7")),
		1, nil); got != "" {
		t.Errorf("that a client takes the network's own server is recorded as %q", got)
	}
	if o := s.Others([]string{cardMAC(1).String()}); len(o) != 1 || !o[0].Expected {
		t.Errorf("the client chose %+v; want a server that is expected", o)
	}
}
