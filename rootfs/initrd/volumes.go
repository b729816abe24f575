package initrd

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/rootfs"
	"ingot/rootfs/volumes"
)

// mountVolumes mounts the volumes of the image into the root and reports what became of each.
func (b *boot) mountVolumes(ctx context.Context, t ingot.Ticket, now time.Time) ([]volumes.Result, error) {
	checks := b.followChecks(ctx)
	defer checks.end()
	m := volumes.Mounter{Root: sysroot, Image: lowerRoot, At: volumes.Host, Log: b.console.say, Progress: checks.advance}
	on := volumes.Machine{Fleet: t.Fleet, ID: t.Machine, Had: t.Had, Grants: slices.Concat(t.Grants, t.Adoptions),
		Now: now}
	b.awaitDisks(ctx, on)
	results, failed := m.Mount(ctx, b.image.Volumes, on)
	event := volumesEvent(results)
	b.volumes = event
	if event.Detail != "" {
		b.console.say("volumes: %s", event.Detail)
	}
	hint := "" // for the first volume that is needed and not there
	for _, r := range results {
		if r.Mounted() || r.State == ingot.VolumeAbsent && r.Optional {
			continue
		}
		how := b.remedy(t, r)
		b.console.frame(fmt.Sprintf("Volume %s %s: %s", r.Volume, r.State, r.Detail), how)
		if !r.Optional {
			hint = cmp.Or(hint, how)
		}
	}
	switch {
	case failed != nil && b.args.Local != "":
		return nil, failed
	case failed != nil:
		return nil, fmt.Errorf("%w. %s", failed, hint)
	}
	if err := m.Scratch(b.image.Scratch, filepath.Join(overlayDir, "scratch"), results); err != nil {
		return nil, rootfs.WithCode(ingot.FailureRootMount, err)
	}
	b.report(ctx, event)
	return results, nil
}

// volumesEvent is the event of the stage: what became of each volume, also in words.
func volumesEvent(results []volumes.Result) ingot.Event {
	event := ingot.Event{Stage: ingot.StageVolumes}
	var words []string
	for _, r := range results {
		event.Results = append(event.Results, r.VolumeResult)
		switch r.State {
		case ingot.VolumeInitialised, ingot.VolumeAdopted:
			event.Volumes = append(event.Volumes, r.Volume)
			words = append(words, fmt.Sprintf("%s %s on %s", r.Volume, r.State, r.Device))
		case ingot.VolumeMounted:
			words = append(words, fmt.Sprintf("%s on %s", r.Volume, r.Device))
		default:
			words = append(words, fmt.Sprintf("%s %s: %s", r.Volume, r.State, r.Detail))
		}
	}
	event.Detail = strings.Join(words, "; ")
	return event
}

// remedy says what an operator can do about a volume that is not mounted.
func (b *boot) remedy(t ingot.Ticket, r volumes.Result) string {
	if b.args.Local != "" {
		return fmt.Sprintf("No server is asked, so no disk is initialised. On another system: mkfs.%s -L %s DISK",
			cmp.Or(r.Spec.Filesystem, "ext4"), r.Spec.FSLabel())
	}
	disk := cmp.Or(r.Disk, "SERIAL")
	switch r.Problem {
	case ingot.VolumeForeign, ingot.VolumeUnowned:
		return fmt.Sprintf("To take it over: ingot grant %s %s --disk %s --adopt", t.Machine, r.Volume, disk)
	case ingot.VolumeNoDisk, ingot.VolumeDiskGone, ingot.VolumeWrongGrant, ingot.VolumeExpired:
		return fmt.Sprintf("To initialise a blank disk: ingot grant %s %s --disk %s", t.Machine, r.Volume, disk)
	case ingot.VolumeNotBlank:
		return fmt.Sprintf("If the data of the disk may go, on this machine: blkdiscard --force --zeroout %s", r.Device)
	}
	return "On the server: ingot why " + string(t.Machine)
}

// Disks may appear long after the network card: controllers scan their buses in the background.

// optionalPatience is how long after the first drivers were loaded a volume is waited for that
// the boot can do without. What it needs, or a grant names, is waited for for diskPatience.
const optionalPatience = 15 * time.Second

// diskWait waits for the disks of volumes.
type diskWait struct {
	at       volumes.Paths
	look     func()                        // loads drivers of new devices
	say      func(format string, a ...any) // to the console
	optional time.Time                     // until when disks of optional volumes are waited for
	needed   time.Time                     // until when the others are
	pause    time.Duration                 // between two looks
}

// awaitDisks waits until the disk of every declared volume is there, or is no longer waited for.
func (b *boot) awaitDisks(ctx context.Context, on volumes.Machine) {
	now := time.Now()
	w := diskWait{at: volumes.Host, look: b.loadDrivers, say: b.console.say, optional: now, needed: now.Add(diskPatience),
		pause: 200 * time.Millisecond}
	if b.life != nil {
		w.optional = b.life.born.Add(optionalPatience)
	}
	w.run(ctx, b.image.Volumes, on)
}

// run looks again whenever a disk or partition appeared.
func (w diskWait) run(ctx context.Context, list []ingot.Volume, on volumes.Machine) {
	announced := false
	for seen := "\x00"; ; {
		if now := volumes.Names(w.at); now != seen {
			seen = now
			list = w.missing(list, on)
		}
		var waiting []string
		for _, v := range list {
			until := w.needed
			if v.Optional && !on.Granted(v.Name) {
				until = w.optional
			}
			if time.Now().Before(until) {
				waiting = append(waiting, v.Name)
			}
		}
		if len(waiting) == 0 {
			return
		}
		if !announced {
			w.say("waiting for the disks of volumes: %s", strings.Join(waiting, ", "))
			announced = true
		}
		w.look()
		select {
		case <-ctx.Done():
			return
		case <-time.After(w.pause):
		}
	}
}

// missing returns the volumes of which no disk is there.
func (w diskWait) missing(list []ingot.Volume, on volumes.Machine) (missing []ingot.Volume) {
	devices := volumes.List(w.at)
	for _, v := range list {
		if volumes.Decide(v, devices, on).Missing {
			missing = append(missing, v)
		}
	}
	return missing
}
