package initrd

import (
	"errors"
	"strings"
	"testing"

	"ingot"
)

// TestVerifyArguments: the kernel may have the arguments of its image and of its ticket, in this order,
// what ingot's script adds, and what loaders add to every command line. Nothing else.
func TestVerifyArguments(t *testing.T) {
	const own = " ingot.server=http://10.99.0.1 ingot.boot=k ingot.mac=52:54:00:12:00:01"
	image := &ingot.ImageManifest{Arguments: []string{"console=tty0", "console=ttyS0"},
		Verity: &ingot.Verity{RootHash: "aa"}}
	strict := &ingot.ImageManifest{Arguments: []string{"quiet", "panic=5"}}
	quoted := &ingot.ImageManifest{Arguments: []string{`a="b c"`}}
	once := ingot.Ticket{Arguments: []string{"systemd.unit=rescue.target", "debug"}}
	ordinary := "console=tty0 console=ttyS0" + own + " panic=30\n"
	special := "console=tty0 console=ttyS0 systemd.unit=rescue.target debug" + own + " panic=30"
	for _, c := range []struct {
		name    string
		cmdline string
		image   *ingot.ImageManifest
		ticket  ingot.Ticket
		want    string // of the error; empty: it is allowed
	}{
		{name: "an ordinary boot", cmdline: ordinary},
		{name: "by iPXE of UEFI", cmdline: "kernel " + strings.TrimSpace(ordinary) + " initrd=initrd.magic"},
		{name: "an image with its own panic", cmdline: "quiet panic=5" + own, image: strict},
		{name: "a UKI", cmdline: "console=tty0 console=ttyS0 ingot.roothash=aa"},
		{name: "one boot with more", cmdline: special, ticket: once},
		{name: "quotes", cmdline: `a="b c"` + own, image: quoted},
		{name: "other quotes", cmdline: `a="b" c` + own, image: quoted, want: `it has a="b" c`},
		{name: "added by somebody", cmdline: ordinary + "init=/bin/sh", want: "it has panic=30 init=/bin/sh"},
		{name: "added before", cmdline: "rd.break " + ordinary, want: "it has rd.break"},
		{name: "of an earlier ticket", cmdline: special, want: "it has systemd.unit=rescue.target debug"},
		{name: "changed", cmdline: strings.Replace(special, "rescue", "emergency", 1), ticket: once,
			want: "it has systemd.unit=emergency.target and it lacks systemd.unit=rescue.target"},
		{name: "removed", cmdline: ordinary, ticket: once, want: "it lacks systemd.unit=rescue.target debug"},
		{name: "in another order", cmdline: "console=ttyS0 console=tty0" + own, want: "another order"},
		{name: "twice", cmdline: "console=tty0 console=ttyS0 console=tty0" + own, want: "it has console=tty0"},
		{name: "two servers", cmdline: ordinary + " ingot.server=http://10.99.0.66", want: "it has ingot.server twice"},
		{name: "more detail that nobody allowed", cmdline: ordinary + " ingot.debug", want: "ingot.debug"},
		{name: "the panic of somebody", cmdline: "quiet panic=5" + own + " panic=0", image: strict, want: "it has panic=0"},
		{name: "a UKI with another root", cmdline: "console=tty0 console=ttyS0 ingot.roothash=bb", want: "another root hash"},
		{name: "a root hash that the image has not", cmdline: "quiet panic=5 ingot.roothash=aa", image: strict,
			want: "another root hash"},
	} {
		if c.image == nil {
			c.image = image
		}
		err := verifyArguments(c.cmdline, c.image, c.ticket)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v; want it allowed", c.name, err)
		case c.want != "" && (!errors.Is(err, ErrArguments) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want ErrArguments with %q", c.name, err, c.want)
		}
	}
	if code := codeOf(ErrArguments); code != ingot.FailureArguments || !lasting(ErrArguments) {
		t.Errorf("the code is %q, lasting: %t; want %q, which is not tried again", code, lasting(ErrArguments),
			ingot.FailureArguments)
	}
}
