package initrd

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"ingot"
	"ingot/rootfs"
	"ingot/rootfs/volumes"
)

// TestFailureCodes: what goes wrong is reported with its code, however it was
// wrapped on its way.
func TestFailureCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want ingot.FailureCode
	}{
		{ErrTicketKey, ingot.FailureTicketKey},
		{fmt.Errorf("%w (boot 01000000)", ErrTicketReplayed), ingot.FailureTicketReplayed},
		{ErrTicketExpired, ingot.FailureTicketExpired},
		{ErrImageKey, ingot.FailureImageKey},
		{fmt.Errorf("%w: the config", ErrImageDigest), ingot.FailureImageDigest},
		{fmt.Errorf("%w: chunk 1 of 2", ErrChunk), ingot.FailureRootChunk},
		{fmt.Errorf("%w: data. To initialise a blank disk", volumes.ErrRefused), ingot.FailureVolume},
		{enoughRAM(&ingot.ImageManifest{MinRAM: 4 << 30}, 2<<30), ingot.FailureMemory},
		{fmt.Errorf("asking for a ticket: %w", refusal{403, "no"}), ingot.FailureServerRefused},
		{fmt.Errorf("asking for a ticket: %w", busy{refusal{503, "busy"}, 0}), ingot.FailureServerAway},
		{fmt.Errorf("reading the root: %w", io.ErrUnexpectedEOF), ingot.FailureServerAway},
		{rootfs.WithCode(ingot.FailureSwitch, fmt.Errorf("starting /sbin/init: %w", ErrChunk)), ingot.FailureRootChunk},
		{rootfs.WithCode(ingot.FailureSwitch, errors.New("starting /sbin/init")), ingot.FailureSwitch},
		{errors.New("anything else"), ""},
	} {
		if got := codeOf(c.err); got != c.want {
			t.Errorf("codeOf(%q) = %q; want %q", c.err, got, c.want)
		}
	}
	if rootfs.WithCode(ingot.FailureSwitch, nil) != nil {
		t.Error("no error got a code")
	}
}
