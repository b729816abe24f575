package operator

import (
	"fmt"
	"strings"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
)

// ownership says whether an image may take over the volumes of a machine: their files belong to
// numbers, and under an image with other numbers they would belong to other accounts. It is gathered
// before a transaction.
type ownership struct {
	to    *ingot.ImageManifest // the image that is to run; nil: none, or nothing is checked
	force bool
	ran   map[ingot.Digest]*ingot.ImageManifest // images that ran on the machine; nil: no longer in the store
}

// ownership gathers the facts for the assignment of an image to a machine.
func (o *Operator) ownership(m fleet.Machine, to ingot.Digest, force bool) ownership {
	var latest fleet.Boot
	o.state.View(func(r state.Reader) { latest = latestBoot(r, m) })
	return ownershipOf(m, latest, to, force, o.catalog.Stored)
}

// ownershipOf is ownership for a machine with its latest boot; stored returns images of the store.
func ownershipOf(m fleet.Machine, latest fleet.Boot, to ingot.Digest, force bool,
	stored func(ingot.Digest) (image.Image, error)) ownership {
	f := ownership{force: force, ran: map[ingot.Digest]*ingot.ImageManifest{}}
	if to == "" || force {
		return f
	}
	if im, err := stored(to); err == nil {
		f.to = &im.Manifest
	}
	if !f.checks() {
		return f
	}
	for _, ref := range fleet.Ran(m, latest) {
		im, err := stored(ref.Image)
		if err != nil {
			f.ran[ref.Image] = nil
			continue
		}
		f.ran[ref.Image] = &im.Manifest
		if len(im.Manifest.Volumes) > 0 {
			break // the images before it do not matter
		}
	}
	return f
}

// checks reports whether there is anything to check. Images without volumes are none of it.
func (f ownership) checks() bool { return !f.force && f.to != nil && len(f.to.Volumes) > 0 }

// latestBoot returns the latest boot of a machine; its ID is empty if there is none.
func latestBoot(r state.Reader, m fleet.Machine) fleet.Boot {
	b, _ := r.Boot(m.Boot)
	return b
}

// check returns a problem if an account of the image that used the volumes of a machine last has
// another number in the image that is to run.
func (f ownership) check(m fleet.Machine, latest fleet.Boot) error {
	if !f.checks() {
		return nil
	}
	for _, ref := range fleet.Ran(m, latest) {
		last, gathered := f.ran[ref.Image]
		switch {
		case !gathered:
			return errNotLookedUp
		case last == nil || len(last.Volumes) == 0:
			continue
		}
		return movedProblem(m, ref, f.to, ingot.MovedAccounts(last, f.to))
	}
	return nil
}

// movedProblem is the problem of accounts with other numbers; nil if there are none.
func movedProblem(m fleet.Machine, ran fleet.ImageRef, to *ingot.ImageManifest, moved []ingot.MovedAccount) error {
	if len(moved) == 0 {
		return nil
	}
	const most = 4
	var words []string
	for _, a := range moved[:min(len(moved), most)] {
		words = append(words, a.String())
	}
	if more := len(moved) - most; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return api.NewProblem(api.CodeAccountsMoved,
		fmt.Sprintf("%s: files on its volumes would belong to other accounts: accounts of %s have other numbers in %s: %s",
			m.Hostname(), ran.Name, to.Name(), strings.Join(words, ", ")),
		"machine", m.Hostname(), "from", ran.Name, "to", to.Name().String())
}
