package fleet

import (
	"net/netip"
	"slices"
	"time"

	"ingot"
)

// BootPolicy says how machines boot. Zero values are the defaults.
type BootPolicy struct {
	Ticket     time.Duration // how long a ticket is valid; 0: 2 minutes
	Deadline   time.Duration // from the script to the report, of images that name none; 0: 10 minutes
	Attempts   int           // failed boots in a row after which an image is given up on a machine
	After      After         // what a machine does then
	Rules      []Rule        // which new machines are approved; the first rule that matches decides
	ApproveAll bool          // approve every new machine
	Image      string        // with ApproveAll: the image that new machines are assigned
}

// Healing is how machines recover from images that fail.
func (p BootPolicy) Healing() Policy { return Policy{Attempts: p.Attempts, After: p.After} }

// FirstImages are the names of the images that new machines are given.
func (p BootPolicy) FirstImages() []string {
	list := []string{p.Image}
	for _, r := range p.Rules {
		list = append(list, r.Image)
	}
	return slices.DeleteFunc(list, func(name string) bool { return name == "" })
}

// Sender is the program that asks what to boot.
type Sender uint8

// The senders of requests.
const (
	SenderFirmware Sender = iota // gets a first stage
	SenderLoader                 // an iPXE that can run our script
	SenderInit                   // ingot-init that was started by a UKI and looks for its server
)

// Request is a packet in which a client asks what to boot.
type Request struct {
	Sighting
	Sender  Sender
	Address netip.Addr // of the client; zero until it has one
	Loaders []string   // first stages to try that the server has, the preferred one first; maybe FirstUKI
	IPXE    bool       // some build of iPXE
	HTTP    bool       // firmware that fetches by HTTP itself
	Proxy   bool       // another server gives the client its address
	Begins  bool       // it starts over (DHCPDISCOVER)
}

// Facts are what Decide rests on: a request, what is recorded, and what was
// prepared for records that may be new.
type Facts struct {
	Request  Request
	Machine  *Machine        // that the request is of; nil: it is a stranger
	Question *Question       // to an operator about a stranger; nil: none
	Other    *Machine        // that the question of the machine, or of the stranger, is about; nil: not known
	Latest   *Boot           // of the machine; nil: none
	NewID    ingot.MachineID // for a stranger
	Key      string          // machine-id(5) for a machine that has none
	NewBoot  ingot.BootID    // for a boot that begins
	Policy   BootPolicy
	Images   Images
}

// Offer is what a client boots. The zero Offer is nothing.
type Offer struct {
	Kind   OfferKind
	Boot   ingot.BootID // whose URLs the client gets
	Loader string       // of OfferLoader: the file
	Image  ingot.Digest // of OfferUKI: the image
}

// OfferKind is a kind of things to boot.
type OfferKind uint8

// The kinds of offers.
const (
	OfferNothing OfferKind = iota
	OfferLoader            // a first stage, by TFTP or HTTP
	OfferUKI               // the image's own UKI
	OfferScript            // the script of the boot
	OfferInit              // the URL of the boot, for ingot-init
)

// Decide says what a client boots, and what is recorded of that. It returns a
// *StaleFacts when it needs an image that was not looked up.
func Decide(f Facts, now time.Time) (*Decision, Offer, error) {
	d := f.begin(now)
	d.observe(f.Request, f.Key)
	d.withdrawQuestion(f)
	d.applyRules(f)
	var offer Offer
	if f.Request.Sender == SenderInit {
		offer = d.offerInit()
	} else {
		offer = d.offer(f)
	}
	if d.created {
		d.announce(false)
	}
	return d, offer, d.Err()
}

// begin is the decision about the machine of a request, which is made new for a
// stranger.
func (f Facts) begin(now time.Time) *Decision {
	var m Machine
	var b Boot
	if f.Machine != nil {
		m = *f.Machine
	} else {
		m = Machine{ID: f.NewID, State: Pending, Ask: f.Question, FirstSeen: now, MachineKey: f.Key}
	}
	if f.Latest != nil {
		b = *f.Latest
	}
	d := NewDecision(m, b, f.Policy, f.Images, Actor{}, now)
	if f.Machine == nil {
		d.created = true
		if f.Question == nil {
			d.autoApprove(f.Policy)
		} else {
			d.add(Change{Code: CodeQuestionAsked, To: Values{"with": string(f.Question.With)}, Detail: f.Question.What})
		}
	}
	return d
}

// announce puts the Change of a new machine before the others: it says of what
// state and with which cards the machine is.
func (d *Decision) announce(imported bool) {
	c := Change{At: d.now, Code: CodeMachineNew, Machine: d.Machine.ID, To: Values{"state": string(d.Machine.State)}}
	if len(d.Machine.MACs) > 0 {
		c.To["macs"] = d.Machine.MACs
	}
	if imported {
		c.To["imported"] = true
	}
	c.Actor = d.by
	rest := slices.DeleteFunc(d.Changes, func(c Change) bool {
		return c.Code == CodeMachineState || c.Code == CodeMachineCard || c.Code == CodeMachineSeen
	})
	d.Changes = append([]Change{c}, rest...)
}

// welcome approves a machine that is new, where all are.
func (d *Decision) autoApprove(p BootPolicy) {
	if !p.ApproveAll {
		return
	}
	d.setState(Approved)
	if p.Image == "" || d.Machine.Assignment.Image != "" {
		return
	}
	if im := d.image(p.Image); im.Err == nil {
		d.assign(Assignment{ImageRef: im.ImageRef, Why: "first image, by the server's --image", Since: d.now})
	}
}

// observe takes over what a packet shows of the machine.
func (d *Decision) observe(r Request, key string) {
	before := d.Machine
	d.Machine = AddSighting(d.Machine, r.Sighting, d.now)
	if before.LastSeen.IsZero() {
		d.add(Change{Code: CodeMachineSeen})
	}
	if len(d.Machine.MACs) > len(before.MACs) {
		d.add(Change{Code: CodeMachineCard, To: Values{"mac": r.MAC}})
	}
	if r.Address.IsValid() {
		d.Machine.Address = r.Address
	}
	if !d.Machine.Port.Relay.IsValid() {
		d.Machine.Port = r.Port
	}
	if d.Machine.MachineKey == "" { // it was imported before it was seen
		d.Machine.MachineKey = key
	}
}

// withdrawQuestion takes back the question of the machine when it is resolved:
// then the machine is as any other that is new.
func (d *Decision) withdrawQuestion(f Facts) {
	var with Machine
	if f.Other != nil {
		with = *f.Other
	}
	if QuestionResolved(d.Machine, with, f.Other != nil) {
		d.add(Change{Code: CodeQuestionGone, From: Values{"with": string(d.Machine.Ask.With)},
			To: Values{"state": string(d.Machine.State)}})
		d.Machine.Ask = nil
		d.autoApprove(f.Policy)
	}
}

// applyRules applies the first rule that is about the machine.
func (d *Decision) applyRules(f Facts) {
	at := d.Machine
	if f.Request.Port.Relay.IsValid() {
		at.Port = f.Request.Port // where it is now; its record keeps where it booted
	}
	r, ok := FirstRule(f.Policy.Rules, at)
	if !ok {
		return
	}
	var as Assignment
	if r.Image != "" && d.Machine.Assignment.Image == "" { // what is assigned stays
		if im := d.image(r.Image); im.Err == nil {
			as = Assignment{ImageRef: im.ImageRef, Why: "by a rule", Since: d.now}
		}
	}
	before := d.Machine
	after := r.Apply(before, as)
	d.setState(after.State)
	labelChanges(before.Labels, after.Labels, d.add)
	d.Machine.Labels = after.Labels
	if before.Assignment != after.Assignment {
		d.assign(after.Assignment)
		d.Machine.Orders, d.Machine.Trial, d.Machine.Setback = after.Orders, after.Trial, after.Setback
	}
	if c, is := r.Change(before, after, d.now); is {
		d.add(c)
	}
}

func (d *Decision) setState(s State) {
	d.set(CodeMachineState, "state", (*string)(&d.Machine.State), string(s))
}

func (d *Decision) assign(as Assignment) {
	d.add(Change{Code: CodeImageAssigned, Image: as.ImageRef, Detail: as.Why,
		From: imageValues(d.Machine.Assignment.ImageRef)})
	d.Machine.Assignment = as
}

// offerInit is for ingot-init, which a UKI started without arguments of its boot.
// One that was not started by this server gets no answer, and looks on.
func (d *Decision) offerInit() Offer {
	if d.boot.ID == "" || !d.boot.Open() || d.boot.Image.Image == "" {
		d.Machine, d.created, d.Changes = d.machine, false, nil
		return Offer{}
	}
	return Offer{Kind: OfferInit, Boot: d.boot.ID}
}

// offer is for firmware and loaders. It begins a boot when the machine does.
func (d *Decision) offer(f Facts) Offer {
	r, latest := f.Request, f.Latest
	// An iPXE that asks right after it was given our loader is our loader,
	// whatever it was built with.
	loader := r.Sender == SenderLoader || (r.IPXE && latest != nil && latest.Open() && latest.Stage() == ingot.StageLoader)
	list := d.firstStages(r)
	reason, stalled := Stalled(latest, r.Firmware, d.now)
	if stalled = stalled && !loader && r.Begins; stalled {
		d.stall(*latest, reason, list)
	}
	if stalled || Begins(latest, loader) {
		if latest != nil && !stalled {
			d.EndOlder(*latest, Superseded(*latest))
		}
		d.beginBoot(f)
	}
	offer := d.choose(r, list, loader)
	if d.Boot.Stage().Rank() <= ingot.StageDHCP.Rank() {
		d.Record(ingot.Event{Stage: ingot.StageDHCP, Detail: addressText(r.Address)})
	}
	return offer
}

// stall ends a boot whose first stage stalled, and moves the machine to the next
// one of its list.
func (d *Decision) stall(b Boot, reason string, list []string) {
	if next, is := nextStage(b, list); is {
		d.add(Change{Code: CodeLoaderChanged, From: Values{"loader": d.Machine.Loaders[b.Firmware]},
			To: Values{"loader": next, "firmware": string(b.Firmware)}})
		d.Machine = withLoader(d.Machine, b.Firmware, next)
	}
	d.EndOlder(b, Ending{ingot.OutcomeSilent, CauseStalled, reason})
}

func (d *Decision) beginBoot(f Facts) {
	d.Boot = Boot{ID: f.NewBoot, Machine: d.Machine.ID, Number: 1, Firmware: f.Request.Firmware, Started: d.now}
	if f.Latest != nil {
		d.Boot.Number, d.Boot.Before = f.Latest.Number+1, f.Latest.ID
	}
	d.Machine.Boot = d.Boot.ID
	if port := f.Request.Port; port.Relay.IsValid() {
		d.Machine.Port = port
	}
	if portChanged(d.machine, d.Machine) {
		d.add(Change{Code: CodeMachinePort, From: Values{"port": d.machine.Port.String()},
			To: Values{"port": d.Machine.Port.String()}})
	}
}

// firstStages is what the machine may be offered first, the preferred one first:
// the UKI is one when the image that it is to run has one, for firmware that
// speaks HTTP.
func (d *Decision) firstStages(r Request) []string {
	return slices.DeleteFunc(slices.Clone(r.Loaders), func(l string) bool {
		if l != FirstUKI {
			return false
		}
		ref, err := Next(d.Machine)
		if !r.HTTP || err != nil {
			return true
		}
		im := d.image(string(ref.Image))
		return im.Err != nil || !im.UKI
	})
}

// choose is what the client boots now, noted in the boot.
func (d *Decision) choose(r Request, list []string, loader bool) Offer {
	d.Boot.Proxy = r.Proxy
	if loader {
		d.Boot.Back = true
		return Offer{Kind: OfferScript, Boot: d.Boot.ID}
	}
	d.Boot.First = FirstStage(d.Machine, r.Firmware, list)
	if !r.Begins {
		d.Boot.Accepted = d.now
	}
	switch d.Boot.First {
	case "":
		return Offer{}
	case FirstUKI:
		ref, err := Next(d.Machine)
		if err != nil {
			return Offer{}
		}
		im := d.image(string(ref.Image))
		if im.Err != nil {
			return Offer{}
		}
		if d.Boot.Image != ref || d.Boot.Order != d.Machine.Orders || !r.Begins { // the machine accepts it
			d.run(ref, im)
		}
		return Offer{Kind: OfferUKI, Boot: d.Boot.ID, Image: ref.Image}
	}
	return Offer{Kind: OfferLoader, Boot: d.Boot.ID, Loader: d.Boot.First}
}
