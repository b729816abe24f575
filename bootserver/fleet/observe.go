package fleet

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"ingot"
)

// BootPolicy configures how machines boot. Zero values are the defaults.
type BootPolicy struct {
	Ticket     time.Duration // how long a ticket is valid; 0: 2 minutes
	Deadline   time.Duration // from the script to the report, unless the image sets one; 0: 10 minutes
	Attempts   int           // failed boots in a row before a machine falls back
	After      After         // what the machine does after that
	Rules      []Rule        // rules for new machines; the first one that matches applies
	ApproveAll bool          // approve every new machine
	Image      string        // with ApproveAll: the image to assign to new machines
	// serve only images that authenticate their reports
	Authenticated bool
}

// Healing returns the policy for images that fail.
func (p BootPolicy) Healing() Policy { return Policy{Attempts: p.Attempts, After: p.After} }

// First is an image that new machines get.
type First struct {
	By    string `json:"by"` // what gives it: "the rule for mac 52:54:00:*"
	Image string `json:"image"`
}

// Firsts returns the images that may be assigned to new machines.
func (p BootPolicy) Firsts() []First {
	list := []First{{"boots.image", p.Image}}
	for _, r := range p.Rules {
		list = append(list, First{r.String(), r.Image})
	}
	return slices.DeleteFunc(list, func(f First) bool { return f.Image == "" })
}

// FirstImages returns the names of the images that may be assigned to new machines.
func (p BootPolicy) FirstImages() (names []string) {
	for _, f := range p.Firsts() {
		names = append(names, f.Image)
	}
	return names
}

// Sender is the program that sends a boot request.
type Sender uint8

// The senders of requests.
const (
	SenderFirmware Sender = iota // is offered a first stage
	SenderLoader                 // iPXE that can run our script
	SenderInit                   // ingot-init started by a UKI, looking for its server
)

// Request is a packet in which a client requests boot information.
type Request struct {
	Sighting
	Sender  Sender
	Address netip.Addr // of the client; zero until it has one
	Foreign bool       // another server assigned the address
	Origin  Origin
	Loaders []string // available first stages in order of preference; may include FirstUKI
	IPXE    bool     // any build of iPXE
	HTTP    bool     // firmware with HTTP boot
	Proxy   bool     // another server assigns the client's address
	Begins  bool     // the client starts over (DHCPDISCOVER)
}

// Facts are the input of Decide: the request, the existing records, and the IDs and keys
// for records that may be created.
type Facts struct {
	Request  Request
	Machine  *Machine        // that sent the request; nil: unknown
	Question *Question       // for the operator, about an unknown machine; nil: none
	Other    *Machine        // the known machine that the question refers to; nil: no longer known
	Latest   *Boot           // of the machine; nil: none
	NewID    ingot.MachineID // for an unknown machine
	Key      string          // machine-id(5) for a machine that has none
	NewBoot  ingot.BootID    // for a new boot
	Policy   BootPolicy
	Images   Images
	Others   func(Machine, ingot.Facts) []Machine // for Resolve
}

// Offer is what a client is offered to boot. The zero Offer offers nothing.
type Offer struct {
	Kind   OfferKind
	Boot   ingot.BootID // for the URLs in the answer
	Loader string       // of OfferLoader: the file
	Image  ingot.Digest // of OfferUKI: the image
}

// OfferKind is the type of an Offer.
type OfferKind uint8

// The kinds of offers.
const (
	OfferNothing OfferKind = iota
	OfferLoader            // a first stage, by TFTP or HTTP
	OfferUKI               // the image's own UKI
	OfferScript            // the script of the boot
	OfferInit              // the URL of the boot, for ingot-init
)

// Decide decides what a client is offered to boot, and which records change. It returns a
// *StaleFacts if it needs an image that was not looked up.
func Decide(f Facts, now time.Time) (*Decision, Offer, error) {
	d := f.begin(now)
	d.Resolve(f.Others)
	if !d.guarded(f.Latest) {
		d.observe(f.Request, f.Key)
		d.withdrawQuestion(f)
		d.applyRules(f)
		d.firstImage(f)
	}
	var offer Offer
	if f.Request.Sender == SenderInit {
		offer = d.offerInit()
	} else {
		offer = d.offer(f)
	}
	if d.created {
		d.announce(false)
	}
	if offer != (Offer{}) {
		d.recordOrigin(f.Request)
		if d.Machine.Claim != nil {
			d.newcomerSeen(f.Request)
		}
	}
	return d, offer, d.Err()
}

// begin begins the decision about the machine of a request. For an unknown machine, it
// creates a record.
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

// announce puts the Change of a new machine first. It replaces the Changes of state and
// cards, which it includes.
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
	d.Changes = slices.Insert(rest, 0, c)
}

// autoApprove approves a new machine if the policy approves all.
func (d *Decision) autoApprove(p BootPolicy) {
	if !p.ApproveAll {
		return
	}
	d.setState(Approved)
	d.assignFirst(p.Image, byImageFlag)
}

// Why a first image was assigned.
const (
	byImageFlag = "first image, by the server's --image"
	byRule      = "by a rule"
)

// FirstImage returns the name of the image that the policy gives an approved machine without one, and why.
// name is empty if it gives none.
func (p BootPolicy) FirstImage(m Machine) (name, why string) {
	if m.State != Approved || m.Assignment.Image != "" {
		return "", ""
	}
	if p.ApproveAll && p.Image != "" {
		return p.Image, byImageFlag
	}
	for _, r := range p.Rules {
		if r.Image != "" && r.Matches(m) {
			return r.Image, byRule
		}
	}
	return "", ""
}

// firstImage assigns the policy's image to an approved machine that has none, because the image could not
// be served when the machine was approved.
func (d *Decision) firstImage(f Facts) {
	m := d.Machine
	if f.Request.Port.Relay.IsValid() {
		m.Port = f.Request.Port // as in applyRules
	}
	d.assignFirst(f.Policy.FirstImage(m))
}

// assignFirst assigns an image to a machine without one, if the image can be served.
func (d *Decision) assignFirst(name, why string) {
	if name == "" || d.Machine.Assignment.Image != "" {
		return
	}
	if im := d.image(name); im.Err == nil {
		d.assign(Assignment{ImageRef: im.ImageRef, Why: why, Since: d.now})
	}
}

// observe records the sighting and addresses of a request.
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
	if d.Machine.MachineKey == "" { // imported before it was seen
		d.Machine.MachineKey = key
	}
}

// withdrawQuestion removes the question about the machine if it is resolved. The machine is
// then treated as any other new machine.
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

// applyRules applies the first rule that matches the machine.
func (d *Decision) applyRules(f Facts) {
	at := d.Machine
	if f.Request.Port.Relay.IsValid() {
		at.Port = f.Request.Port // the current port; the record has the one of the last boot
	}
	r, ok := FirstRule(f.Policy.Rules, at)
	if !ok {
		return
	}
	var as Assignment
	if r.Image != "" && d.Machine.Assignment.Image == "" { // an existing assignment stays
		if im := d.image(r.Image); im.Err == nil {
			as = Assignment{ImageRef: im.ImageRef, Why: byRule, Since: d.now}
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

// offerInit answers ingot-init, which a UKI started without the URL of its boot. If the
// machine was not booted by this server, it gets no answer and keeps looking.
func (d *Decision) offerInit() Offer {
	if d.boot.ID == "" || !d.boot.Open() || d.boot.Image.Image == "" {
		d.Machine, d.created, d.Changes = d.machine, false, nil
		return Offer{}
	}
	return Offer{Kind: OfferInit, Boot: d.boot.ID}
}

// offer answers firmware and loaders. It creates a boot when the machine starts one.
func (d *Decision) offer(f Facts) Offer {
	r, latest := f.Request, f.Latest
	// An iPXE that sends a request right after our loader was served is our loader,
	// whatever its build options.
	loader := r.Sender == SenderLoader || (r.IPXE && latest != nil && latest.Open() && latest.Stage() == ingot.StageLoader)
	reason, stalled := Stalled(latest, r.Firmware, d.now)
	stalled = stalled && !loader && r.Begins && !latest.runs(d.now)
	refused := stalled && d.refusesLoader(r, *latest)
	list := d.firstStages(r)
	switch {
	case refused:
		d.EndOlder(*latest, Ending{ingot.OutcomeSilent, CauseStalled, reason})
	case stalled:
		d.stall(*latest, reason, list)
	}
	if stalled || Begins(latest, loader) {
		if latest != nil && !stalled {
			d.supersede(*latest)
		}
		d.beginBoot(f)
	}
	offer := d.choose(r, list, loader)
	if d.Boot.Stage().Rank() <= ingot.StageDHCP.Rank() {
		d.Record(ingot.Event{Stage: ingot.StageDHCP, Detail: addressText(r.Address)})
	}
	return offer
}

// stall ends a boot whose first stage stalled, and moves the machine to the next first
// stage of the list.
func (d *Decision) stall(b Boot, reason string, list []string) {
	if next, is := nextStage(b, list); is {
		m := d.loading()
		d.add(Change{Code: CodeLoaderChanged, From: Values{"loader": m.Loaders[b.Firmware]},
			To: Values{"loader": next, "firmware": string(b.Firmware)}})
		if m = withLoader(m, b.Firmware, next); d.Machine.Claim != nil {
			d.newcomer(func(n *Newcomer) { n.Loaders = m.Loaders })
		} else {
			d.Machine = m
		}
	}
	d.EndOlder(b, Ending{ingot.OutcomeSilent, CauseStalled, reason})
}

func (d *Decision) beginBoot(f Facts) {
	d.Boot = Boot{ID: f.NewBoot, Machine: d.Machine.ID, Number: 1, Firmware: f.Request.Firmware, Started: d.now}
	if f.Latest != nil {
		d.Boot.Number, d.Boot.Before = max(f.Latest.Number, f.Latest.Newest)+1, f.Latest.ID
	}
	d.Machine.Boot = d.Boot.ID
	if d.Machine.Claim != nil { // what an earlier boot with a claim said is forgotten with it
		d.newcomer(func(n *Newcomer) { *n = Newcomer{Loaders: n.Loaders} })
		return
	}
	d.atPort(f.Request.Port)
}

// atPort records the switch port of a boot.
func (d *Decision) atPort(port SwitchPort) {
	before := d.Machine
	if port.Relay.IsValid() {
		d.Machine.Port = port
	}
	if portChanged(before, d.Machine) {
		d.add(Change{Code: CodeMachinePort, From: Values{"port": before.Port.String()},
			To: Values{"port": d.Machine.Port.String()}})
	}
}

// refusesLoader reports whether a machine that is otherwise given UKIs did not start the loader that one
// boot with other kernel arguments needs. Then it boots as before: it would meet the same again.
func (d *Decision) refusesLoader(r Request, b Boot) bool {
	o := d.Machine.Once
	if o == nil || len(o.Arguments) == 0 || b.Started.Before(o.Since) || b.First == FirstUKI || !r.HTTP ||
		!slices.Contains(r.Loaders, FirstUKI) {
		return false
	}
	d.dropOnce("the firmware did not start " + b.First + ", which kernel arguments need; Secure Boot may be on")
	return true
}

// firstStages returns the first stages for the machine in order of preference. They include
// the UKI only if the image has one and the firmware supports HTTP boot. The arguments of a UKI
// cannot be changed, so that one boot with others needs a loader.
func (d *Decision) firstStages(r Request) []string {
	return slices.DeleteFunc(slices.Clone(r.Loaders), func(l string) bool {
		if l != FirstUKI {
			return false
		}
		ref, err := Next(d.Machine)
		if !r.HTTP || err != nil || d.Machine.Once != nil && len(d.Machine.Once.Arguments) > 0 {
			return true
		}
		im := d.image(string(ref.Image))
		return im.Err != nil || !im.UKI
	})
}

// choose returns the offer for the client, and records it in the boot.
func (d *Decision) choose(r Request, list []string, loader bool) Offer {
	d.Boot.Proxy = r.Proxy
	if loader {
		d.Boot.Back = true
		return Offer{Kind: OfferScript, Boot: d.Boot.ID}
	}
	d.Boot.First = FirstStage(d.loading(), r.Firmware, list)
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

// PatienceFirst is how long a machine may take to begin loading after it accepted an
// offer. Working firmware begins at once.
const PatienceFirst = 10 * time.Second

// FirstStage returns the first stage to offer to a machine: the one that it was moved to
// after others stalled, else the first of the list; empty if the list is empty.
func FirstStage(m Machine, f ingot.Firmware, list []string) string {
	if len(list) == 0 {
		return ""
	}
	if l := m.Loaders[f]; slices.Contains(list, l) {
		return l
	}
	return list[0]
}

// Stalled reports whether the first stage of the latest boot stalled, when firmware f
// starts over with DHCP, and returns the reason: the machine accepted the offer and did
// not load it, or loaded it and sent nothing more.
func Stalled(latest *Boot, f ingot.Firmware, now time.Time) (string, bool) {
	if latest == nil || !latest.Open() || latest.First == "" || latest.Back || latest.Firmware != f {
		return "", false
	}
	switch latest.Stage() {
	case ingot.StageDHCP:
		if latest.Accepted.IsZero() || now.Sub(latest.Accepted) < PatienceFirst {
			return "", false
		}
		return fmt.Sprintf("the first stage stalled: the machine was offered %s and did not load it within %s", latest.First,
			now.Sub(latest.Accepted).Round(time.Second)), true
	case ingot.StageLoader:
		return fmt.Sprintf("the first stage stalled: the machine loaded %s and was not heard from again", latest.First), true
	}
	return "", false
}

// nextStage returns the first stage of a list that follows the one of a boot.
func nextStage(b Boot, list []string) (next string, is bool) {
	i := slices.Index(list, b.First)
	if i < 0 || len(list) < 2 {
		return "", false
	}
	return list[(i+1)%len(list)], true
}

// withLoader returns the machine with another first stage for a firmware.
func withLoader(m Machine, f ingot.Firmware, loader string) Machine {
	m.Loaders = maps.Clone(m.Loaders)
	if m.Loaders == nil {
		m.Loaders = map[ingot.Firmware]string{}
	}
	m.Loaders[f] = loader
	return m
}
