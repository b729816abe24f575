package booter

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/state"
)

// Ticket implements httpboot.Booter.
func (b *Booter) Ticket(id ingot.BootID, q ingot.TicketRequest) (signed ingot.SignedTicket, err error) {
	now, policy, facts := b.now(), *b.policy.Load(), boundFacts(q.Facts)
	installation := b.fleetID()
	boot, _ := b.state.Boot(id)
	images := b.newImages(boot.Image.Image)
	_, server, unable := b.secret(id, q.Half)
	var ticket ingot.Ticket
	var ask *fleet.Question
	var conflict bool
	var passport fleet.Passport
	_, err = b.decide(images, func(tx state.Tx) (d *fleet.Decision, err error) {
		if d, err = b.admit(tx, id, policy, images, now); err != nil {
			return nil, err
		}
		var half ingot.Half // of images that can authenticate messages, whatever the request says
		if d.Boot.Auth.Able {
			if half = q.Half; unable != nil {
				return nil, fmt.Errorf("%w: %s authenticates its reports: %w", httpboot.ErrRefused, d.Boot.Image.Name, unable)
			}
		}
		if conflict = d.Agree(half); conflict {
			return d, nil // the record stays, the ticket is refused
		}
		if until, wait := d.GrantsAfter(); wait {
			return nil, &httpboot.Later{After: until.Sub(now), Why: "an earlier boot of this machine may still run; " +
				"its grants can be used when that boot has sent no report for " + fleet.Silence.String()}
		}
		if d.Boot.Facts == "" { // it reports its hardware once in a boot
			if ask := d.Learn(facts, tx.Others(d.Machine, facts)); ask != nil {
				return nil, &httpboot.Later{After: d.Machine.Claim.Until.Sub(now), Why: "an earlier boot of this machine may " +
					"still run, and what this one reports does not fit: " + ask.What}
			}
			if d.Boot, err = tx.KeepFacts(d.Boot, facts); err != nil {
				return nil, err
			}
		}
		var lent []ingot.Grant
		if lent, ask = d.Ticket(); ask != nil {
			return d, nil // the record stays, the ticket is refused
		}
		passport = d.Passport()
		blank, adoptions := splitGrants(lent)
		ticket = ingot.Ticket{Boot: id, Machine: d.Machine.ID, Hostname: d.Machine.Hostname(),
			MachineKey: d.Machine.MachineKey,
			Nonce:      q.Nonce, Issued: now, Expires: now.Add(policy.Ticket), Image: d.Boot.Image.Image, Grants: blank,
			Deadline: d.Boot.Deadline.Sub(now), Restart: d.Restarts(), Fleet: installation, Had: d.Had(),
			Adoptions: adoptions, MachineHalf: half, Arguments: d.Boot.Arguments(),
			Shell: d.Boot.Once != nil && d.Boot.Once.Shell}
		if half != nil {
			ticket.ServerHalf = server
		}
		return d, nil
	})
	if err != nil {
		return signed, err
	}
	if conflict {
		return signed, unproven(id, fleet.ErrConflict)
	}
	if ask != nil {
		return signed, fmt.Errorf("%w: an operator must look at this machine: %s", httpboot.ErrRefused, ask.What)
	}
	if ticket.MachineHalf != nil {
		if ticket.Token, err = b.seal(token{Boot: id, Half: ticket.MachineHalf, Passport: &passport}); err != nil {
			return signed, err
		}
	}
	im := images.found[ticket.Image]
	ticket.Name = im.Name.String()
	text, err := json.Marshal(ticket)
	if err != nil {
		return signed, err
	}
	return b.keys.Sign(text, "ticket "+string(id), im, b.catalog.ServerKey(im.Digest))
}

// splitGrants separates the grants for blank disks from those to take volumes over.
func splitGrants(grants []ingot.Grant) (blank, adoptions []ingot.Grant) {
	for _, g := range grants {
		if g.Adopt {
			adoptions = append(adoptions, g)
		} else {
			blank = append(blank, g)
		}
	}
	return blank, adoptions
}

// admit begins the decision about a ticket, or says why there is none.
func (b *Booter) admit(tx state.Tx, id ingot.BootID, policy fleet.BootPolicy, images *images,
	now time.Time) (*fleet.Decision, error) {
	boot, m, err := lookupBoot(tx, id)
	switch {
	case err != nil:
		return nil, err
	case m.State != fleet.Approved:
		return nil, fmt.Errorf("%w: %w", httpboot.ErrRefused, fleet.ErrNotApproved)
	case !boot.Open() || m.Boot != id || boot.Image.Image == "":
		return nil, fmt.Errorf("%w: boot %s is over; this machine should start over", httpboot.ErrRefused, id.Short())
	}
	d := fleet.NewDecision(m, boot, policy, images.facts, fleet.Actor{}, now)
	d.Resolve(tx.Others)
	im := d.Image(boot.Image.Image)
	if err := d.Err(); err != nil {
		return nil, err
	}
	if im.Err != nil {
		return nil, fmt.Errorf("%w: %w", httpboot.ErrRefused, im.Err)
	}
	return d, nil
}

// boundFacts bounds what a machine can make the record of it grow by.
func boundFacts(f ingot.Facts) ingot.Facts {
	f.NICs, f.Disks = slices.Clone(f.NICs[:min(len(f.NICs), 64)]), slices.Clone(f.Disks[:min(len(f.Disks), 256)])
	texts := []*string{&f.UUID, &f.Serial, &f.Vendor, &f.Product, &f.BIOS, &f.BIOSDate, (*string)(&f.Firmware),
		(*string)(&f.Arch), &f.CPU, &f.Kernel}
	for i := range f.NICs {
		n := &f.NICs[i]
		texts = append(texts, &n.Name, &n.MAC, &n.Driver, &n.Firmware)
	}
	for i := range f.Disks {
		d := &f.Disks[i]
		texts = append(texts, &d.Name, &d.Serial, &d.WWN, &d.Path, &d.Model, &d.Holds)
		if d.Owner != nil {
			o := *d.Owner
			d.Owner = &o
			texts = append(texts, &o.Fleet, (*string)(&o.Machine), &o.Volume)
		}
	}
	clipName(texts...)
	return fleet.BoundFacts(f)
}
