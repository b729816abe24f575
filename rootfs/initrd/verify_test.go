package initrd

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"aead.dev/minisign"

	"ingot"
)

func newKey(t *testing.T) (minisign.PublicKey, minisign.PrivateKey) {
	t.Helper()
	public, secret, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, secret
}

func TestVerifyTicket(t *testing.T) {
	public, secret := newKey(t)
	_, stranger := newKey(t)
	boot := ingot.NewBootID([16]byte{1})
	// The server's clock is years off, which must not matter.
	issued := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	good := ingot.Ticket{Boot: boot, Nonce: "our nonce", Issued: issued, Expires: issued.Add(time.Minute), Name: "lab:v1"}
	with := func(f func(*ingot.Ticket)) ingot.Ticket { c := good; f(&c); return c }
	for _, c := range []struct {
		name    string
		ticket  ingot.Ticket
		key     minisign.PrivateKey
		elapsed time.Duration
		flip    bool
		want    error
	}{
		{name: "good", ticket: good, key: secret, elapsed: time.Second},
		{name: "another key", ticket: good, key: stranger, want: ErrTicketKey},
		{name: "changed after signing", ticket: good, key: secret, flip: true, want: ErrTicketKey},
		{name: "another nonce", ticket: with(func(t *ingot.Ticket) { t.Nonce = "old nonce" }), key: secret,
			want: ErrTicketReplayed},
		{name: "another boot", ticket: with(func(t *ingot.Ticket) { t.Boot = ingot.NewBootID([16]byte{2}) }), key: secret,
			want: ErrTicketReplayed},
		{name: "expired on the way", ticket: good, key: secret, elapsed: time.Minute, want: ErrTicketExpired},
		{name: "expired when issued", ticket: with(func(t *ingot.Ticket) { t.Expires = issued.Add(-time.Hour) }), key: secret,
			want: ErrTicketExpired},
	} {
		text, err := json.Marshal(c.ticket)
		if err != nil {
			t.Fatal(err)
		}
		s := ingot.SignedTicket{Ticket: text, Signature: string(minisign.Sign(c.key, text))}
		if c.flip {
			s.Ticket[len(s.Ticket)-3] ^= 1
		}
		got, err := verifyTicket(s, public, boot, "our nonce", c.elapsed)
		if !errors.Is(err, c.want) || (c.want == nil && err != nil) {
			t.Errorf("%s: verifyTicket = %v; want %v", c.name, err, c.want)
		}
		if c.want == nil && got.Name != "lab:v1" {
			t.Errorf("%s: verifyTicket = %+v; want the ticket", c.name, got)
		}
		if c.want != nil && got.Name != "" {
			t.Errorf("%s: verifyTicket gives out a ticket that it refuses", c.name)
		}
	}
}

func TestVerifyImage(t *testing.T) {
	public, secret := newKey(t)
	_, stranger := newKey(t)
	config := []byte(`{"schema":1,"root":{"size":5},"chunks":[{"size":5}]}`)
	short := []byte(`{"schema":1,"root":{"size":9},"chunks":[{"size":5}]}`)
	oci := func(config []byte) []byte {
		return fmt.Appendf(nil, `{"config":{"digest":%q}}`, ingot.DigestOf(config))
	}
	docs := func(config []byte, key minisign.PrivateKey) imageDocuments {
		o := oci(config)
		return imageDocuments{OCI: o, Signature: minisign.Sign(key, o), Config: config}
	}
	good := docs(config, secret)
	swapped := good
	swapped.Config = short
	for _, c := range []struct {
		name string
		docs imageDocuments
		id   ingot.Digest
		want error
	}{
		{"good", good, ingot.DigestOf(good.OCI), nil},
		{"another image", good, ingot.DigestOf([]byte("other")), ErrImageDigest},
		{"another key", docs(config, stranger), ingot.DigestOf(good.OCI), ErrImageKey},
		{"another config", swapped, ingot.DigestOf(good.OCI), ErrImageDigest},
		{"chunks that are too few", docs(short, secret), ingot.DigestOf(oci(short)), ErrImageDigest},
	} {
		if _, err := verifyImage(c.docs, c.id, public); !errors.Is(err, c.want) || (c.want == nil && err != nil) {
			t.Errorf("%s: verifyImage = %v; want %v", c.name, err, c.want)
		}
	}
}

func TestParseArguments(t *testing.T) {
	a, err := ParseArguments(
		"console=ttyS0 ingot.server=http://10.0.0.1/ " +
			"ingot.boot=0123456789abcdef0123456789abcdeffedcba9876543210fedcba9876543210 ingot.mac=52-54-00-AA-BB-CC quiet\n",
	)
	if err != nil || a.Server != "http://10.0.0.1" || a.MAC != "52:54:00:aa:bb:cc" {
		t.Errorf("ParseArguments = %+v, %v", a, err)
	}
	for _, bad := range []string{"", "ingot.server=http://x ingot.boot=zz ingot.mac=52:54:00:aa:bb:cc",
		"ingot.server=http://x ingot.mac=52:54:00:aa:bb:cc"} {
		if _, err := ParseArguments(bad); err == nil {
			t.Errorf("ParseArguments(%q) succeeds; want an error", bad)
		}
	}
}

func TestHostName(t *testing.T) {
	for _, c := range []struct{ template, name, want string }{
		{"", "node01", "node01"},
		{"r-{mac}", "x", "r-525400aabbcc"},
		{"{name}.{serial}", "Web_1", "web-1.s-1"},
		{"", "", "localhost"},
	} {
		if got := hostName(c.template, c.name, "52:54:00:aa:bb:cc", "S/1"); got != c.want {
			t.Errorf("hostName(%q, %q) = %q; want %q", c.template, c.name, got, c.want)
		}
	}
}

func TestMatchingModules(t *testing.T) {
	m := &modules{aliases: []alias{
		{"virtio:d00000001v*", "virtio_net"},
		{"pci:v00008086d0000100Esv*sd*bc*sc*i*", "e1000"},
		{"acpi*:PNP0[CF]0?:*", "button"},
	}}
	for _, c := range []struct{ modalias, want string }{
		{"virtio:d00000001v00001AF4", "virtio_net"},
		{"pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00", "e1000"},
		{"acpi:PNP0C0C:x/y", "button"},
		{"usb:nothing", ""},
	} {
		got := ""
		if names := m.matching(c.modalias); len(names) > 0 {
			got = names[0]
		}
		if got != c.want {
			t.Errorf("matching(%q) = %q; want %q", c.modalias, got, c.want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, line := range wrap("a sentence that is much longer than the frame which it has to fit into, with "+
		"averyveryveryverylongwordthatcannotbebroken", 30) {
		if len(line) > 30 {
			t.Errorf("wrap leaves %q with %d bytes; want at most 30", line, len(line))
		}
	}
}
