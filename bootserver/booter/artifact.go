package booter

import (
	"fmt"
	"net/netip"
	"os"

	"ingot"
	"ingot/bootserver/catalog"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/ipxe"
	"ingot/bootserver/state"
)

// Artifact implements httpboot.Booter. A boot gets the files of its own image
// and no other, as long as it is the latest one of a machine that may boot.
func (b *Booter) Artifact(id ingot.BootID, digest ingot.Digest, part string) (httpboot.Artifact, error) {
	boot, ok := b.state.Boot(id)
	if !ok {
		return httpboot.Artifact{}, fmt.Errorf("%w boot %s", httpboot.ErrUnknown, id.Short())
	}
	m, _ := b.state.Machine(boot.Machine)
	stays := m.Boot != id && m.Current(id) // another boot has only a claim, see fleet.Claim
	if !boot.Open() && !stays {
		return httpboot.Artifact{}, fmt.Errorf("%w: boot %s is over", httpboot.ErrRefused, id.Short())
	}
	if part == "autoexec.ipxe" { // a loader that came by HTTP looks for it beside itself
		text := []byte(ipxe.Autoexec())
		return httpboot.Artifact{Bytes: text, Digest: ingot.DigestOf(text)}, nil
	}
	if l, ok := b.loaders[part]; ok && ingot.DigestOf(l) == digest {
		return httpboot.Artifact{Bytes: l, Digest: digest}, nil
	}
	if boot.Image.Image != digest {
		return httpboot.Artifact{}, fmt.Errorf("%w: image %s is not what boot %s may run", httpboot.ErrRefused,
			digest.Short(), id.Short())
	}
	switch {
	case m.State != fleet.Approved:
		return httpboot.Artifact{}, fmt.Errorf("%w: %w", httpboot.ErrRefused, fleet.ErrNotApproved)
	case !m.Current(id):
		return httpboot.Artifact{}, replaced(id)
	}
	im, err := b.catalog.Image(digest)
	if err != nil {
		b.logUnusable(string(digest), err)
		return httpboot.Artifact{}, fmt.Errorf("%w: %w", httpboot.ErrUnknown, err)
	}
	file := func(a ingot.Artifact) (httpboot.Artifact, error) {
		return httpboot.Artifact{Open: func() (*os.File, error) { return b.catalog.Open(a) }, Digest: a.Digest}, nil
	}
	switch part {
	case "kernel":
		return file(im.Manifest.Kernel)
	case "initramfs":
		return file(im.Manifest.Initramfs)
	case "root":
		return file(im.Manifest.Root)
	case catalog.UKI:
		if a, has := b.catalog.UKI(im); has {
			return file(a)
		}
	case "config":
		return file(b.catalog.Config(im))
	case "manifest":
		return httpboot.Artifact{Bytes: im.OCI, Digest: im.Digest}, nil
	case "signature":
		return httpboot.Artifact{Bytes: []byte(im.Signature), Digest: ingot.DigestOf([]byte(im.Signature))}, nil
	}
	return httpboot.Artifact{}, fmt.Errorf("%w part %q of an image", httpboot.ErrUnknown, part)
}

// Served implements httpboot.Booter: bytes are added up per artifact, and a
// whole kernel or initramfs is a stage.
func (b *Booter) Served(id ingot.BootID, part string, n int64, whole bool) {
	_, loader := b.loaders[part]
	if !(loader && whole) && (n == 0 || part != "kernel" && part != "initramfs" && part != "root" &&
		part != catalog.UKI) {
		return
	}
	images, policy, now := b.newImages(), *b.policy.Load(), b.now()
	_, err := b.decide(images, func(tx state.Tx) (*fleet.Decision, error) {
		boot, m, err := lookupBoot(tx, id)
		if err != nil {
			return nil, nil //nolint:nilerr // it was removed while the file was sent
		}
		d := fleet.NewDecision(m, boot, policy, images.facts, fleet.Actor{}, now)
		if loader {
			d.Record(ingot.Event{Stage: ingot.StageLoader, Detail: part, Bytes: n})
			return d, nil
		}
		d.Serve(part, n)
		if whole && part != "root" { // of the root, the machine itself reports
			stage := ingot.Stage(part)
			if part == catalog.UKI {
				stage = ingot.StageLoader
			}
			d.Record(ingot.Event{Stage: stage, Detail: whichLoader(part), Bytes: n})
		}
		return d, nil
	})
	if err != nil {
		b.log.Warn("recording bytes", "boot", id.Short(), "err", err)
	}
}

// LoaderServed records that TFTP sent a file to a client.
func (b *Booter) LoaderServed(client netip.Addr, file string, n int64) {
	if file == "autoexec.ipxe" {
		return
	}
	if m, ok := b.state.AtAddress(client); ok {
		b.Record(m.Boot, ingot.Event{Stage: ingot.StageLoader, Detail: file, Bytes: n})
	}
}

// whichLoader is the detail of a stage for people.
func whichLoader(part string) string {
	if part == catalog.UKI {
		return "UKI"
	}
	return ""
}
