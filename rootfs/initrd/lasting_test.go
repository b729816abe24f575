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

// TestLasting: what another try of the same boot cannot change is not tried again.
func TestLasting(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{enoughRAM(&ingot.ImageManifest{MinRAM: 4 << 30}, 1<<30), true},
		{fmt.Errorf("%w: data: disk vda is not blank", volumes.ErrRefused), true},
		{fmt.Errorf("%w: …", ErrTicketKey), true},
		{fmt.Errorf("%w: …", ErrImageKey), true},
		{fmt.Errorf("%w: …", ErrTicketExpired), false},
		{fmt.Errorf("%w: chunk 3", ErrChunk), false},
		{rootfs.WithCode(ingot.FailureRootMount, errors.New("no loop device")), false},
		{io.ErrUnexpectedEOF, false},
	} {
		if got := lasting(c.err); got != c.want {
			t.Errorf("lasting(%v) = %t; want %t", c.err, got, c.want)
		}
	}
}

// TestFailureOfVolumes: the event of a failed stage says what became of every volume, and what was
// written.
func TestFailureOfVolumes(t *testing.T) {
	b := &boot{stage: ingot.StageVolumes}
	b.volumes = volumesEvent([]volumes.Result{
		{VolumeResult: ingot.VolumeResult{Volume: "data", State: ingot.VolumeInitialised, Device: "/dev/vda"}},
		{VolumeResult: ingot.VolumeResult{Volume: "logs", State: ingot.VolumeRefused, Problem: ingot.VolumeForeign,
			Detail: "vdb holds volume \"logs\" of machine m-2"}},
	})
	e := b.failure(fmt.Errorf("%w: logs: …", volumes.ErrRefused))
	if e.Code != ingot.FailureVolume || len(e.Results) != 2 || len(e.Volumes) != 1 || e.Volumes[0] != "data" {
		t.Errorf("failure = %+v; want both results, and that data was initialised", e)
	}
	const want = `data initialised on /dev/vda; logs refused: vdb holds volume "logs" of machine m-2`
	if b.volumes.Detail != want {
		t.Errorf("in words: %q; want %q", b.volumes.Detail, want)
	}
	b.stage = ingot.StageSwitch
	if e := b.failure(io.EOF); e.Results != nil {
		t.Errorf("the failure of another stage has results of volumes: %+v", e)
	}
}
