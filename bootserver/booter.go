package bootserver

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/bootserver/config"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/ipxe"
	"ingot/bootserver/state"
	"ingot/image"
	"ingot/internal/yamlfile"
)

// booter answers the listeners: it reads what is recorded, lets package fleet
// decide, and records what happened.
type booter struct {
	state   *state.State
	images  *image.Store
	shelf   *shelf
	keys    image.Keys
	base    string            // of URLs where the address that was asked is not known
	port    uint16            // of HTTP
	loaders map[string][]byte // first stages, by file name
	policy  *atomic.Pointer[config.Boots]
	secret  []byte
	now     func() time.Time
	log     *slog.Logger
}

// settle takes over how machines boot from now on.
func (b *booter) settle(c config.Boots) {
	if c.Ticket == 0 {
		c.Ticket = yamlfile.Duration(2 * time.Minute)
	}
	if c.Deadline == 0 {
		c.Deadline = yamlfile.Duration(10 * time.Minute)
	}
	if b.policy == nil {
		b.policy = &atomic.Pointer[config.Boots]{}
	}
	b.policy.Store(&c)
}

// checkFirst says now what would be said at the first new machine.
func (b *booter) checkFirst(ctx context.Context, c config.Boots) error {
	if c.Image == "" {
		return nil
	}
	_, err := b.assignment(ctx, c.Image, "")
	return err
}

// key is the credential of a boot. It is made of the server's secret whenever it
// is wanted, so it is recorded nowhere.
func (b *booter) key(id ingot.BootID) ingot.BootKey {
	return ingot.NewBootKey(id, [16]byte(b.derive("boot", string(id))[:16]))
}

// Knows implements httpboot.Booter.
func (b *booter) Knows(k ingot.BootKey) bool {
	return subtle.ConstantTimeCompare([]byte(k), []byte(b.key(k.ID()))) == 1
}

// urlOfBoot is the URL of a part of a boot.
func (b *booter) urlOfBoot(base string, id ingot.BootID, part string) string {
	return base + ingot.BootPath(b.key(id), part)
}

// errCrowded: too many strangers wait already.
var errCrowded = fmt.Errorf("%d machines are pending already; approve or remove some before new ones are recorded", state.MaxPending)

func boots(tx *state.Tx, id ingot.BootID) *fleet.Boot {
	if b, ok := tx.Boot(id); ok {
		return &b
	}
	return nil
}

func newBoot(m fleet.Machine, latest *fleet.Boot, f ingot.Firmware, now time.Time) fleet.Boot {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	b := fleet.Boot{ID: ingot.NewBootID(random), Machine: m.ID, Number: 1, Firmware: f, Started: now}
	if latest != nil {
		b.Number, b.Before = latest.Number+1, latest.ID
	}
	return b
}

// machine finds the machine of a sighting or records a new one.
func (b *booter) machine(tx *state.Tx, s fleet.Sighting, now time.Time) (m fleet.Machine, known bool, err error) {
	found, ask, ok := tx.Find(s)
	if ok {
		return found, true, nil
	}
	if tx.Pending() >= state.MaxPending {
		return m, false, errCrowded
	}
	id, err := ingot.MachineIDFromMAC(s.MAC)
	if err != nil {
		return m, false, err
	}
	if _, taken := tx.Machine(id); taken { // its card was first seen in another machine
		id += ingot.MachineID("-" + hex.EncodeToString(b.derive("id", s.UUID+s.MAC)[:2]))
	}
	m = fleet.Machine{ID: id, State: fleet.Pending, Ask: ask, FirstSeen: now, MachineKey: b.machineKey(id)}
	if ask != nil {
		b.log.Warn("a machine that may be known: an operator is asked", "machine", id, "mac", s.MAC, "uuid", s.UUID, "what", ask.What)
		return m, false, nil
	}
	if policy := b.policy.Load(); policy.ApproveAll {
		m.State = fleet.Approved
		if policy.Image != "" {
			if as, err := b.assignment(context.Background(), policy.Image, "first image, by the server's --image"); err == nil {
				m.Assignment = as
			} else {
				b.log.Error("assigning the first image", "machine", id, "err", err)
			}
		}
	}
	b.log.Info("a new machine", "machine", id, "mac", s.MAC, "uuid", s.UUID, "state", string(m.State))
	return m, false, nil
}

// machineKey is the machine-id(5) of a machine's systems.
func (b *booter) machineKey(id ingot.MachineID) string {
	return hex.EncodeToString(b.derive("machine-id", string(id))[:16])
}

// rule lets the first rule that is about a machine speak.
func (b *booter) rule(m fleet.Machine) fleet.Machine {
	r, ok := fleet.FirstRule(b.policy.Load().Rules, m)
	if !ok {
		return m
	}
	var as fleet.Assignment
	if r.Image != "" {
		var err error
		if as, err = b.assignment(context.Background(), r.Image, "by a rule"); err != nil {
			b.log.Error("assigning a rule's image", "machine", m.ID, "err", err)
		}
	}
	after := r.Apply(m, as)
	if after.State != m.State {
		b.log.Info("approved by a rule", "machine", m.ID, "image", after.Assignment.Name)
	}
	return after
}

// derive makes stable bytes that nobody can guess without the server's secret.
func (b *booter) derive(purpose, of string) []byte {
	sum := sha256.Sum256(slices.Concat(b.secret, []byte("\x00"+purpose+"\x00"+of)))
	return sum[:]
}

// loaderServed is told by TFTP.
func (b *booter) loaderServed(client netip.Addr, file string, n int64) {
	if file == "autoexec.ipxe" {
		return
	}
	if m, ok := b.state.AtAddress(client); ok {
		b.record(m.Boot, ingot.Event{Stage: ingot.StageLoader, Detail: file, Bytes: n})
	}
}

// record adds an event to a boot; what goes wrong is logged.
func (b *booter) record(id ingot.BootID, e ingot.Event) {
	if err := b.Event(id, e); err != nil {
		b.log.Warn("recording a boot", "boot", id.Short(), "stage", string(e.Stage), "err", err)
	}
}

// known returns a boot and its machine.
func known(tx *state.Tx, id ingot.BootID) (fleet.Boot, fleet.Machine, error) {
	boot, ok := tx.Boot(id)
	if !ok {
		return boot, fleet.Machine{}, fmt.Errorf("%w boot %s; this machine should start over", httpboot.ErrUnknown, id.Short())
	}
	m, ok := tx.Machine(boot.Machine)
	if !ok {
		return boot, m, fmt.Errorf("%w machine %s", httpboot.ErrUnknown, boot.Machine)
	}
	return boot, m, nil
}

// latest returns a boot and its machine, unless the machine began another one
// since: then the key of the old one is good for nothing more.
func latest(tx *state.Tx, id ingot.BootID) (fleet.Boot, fleet.Machine, error) {
	boot, m, err := known(tx, id)
	if err == nil && m.Boot != id {
		err = fmt.Errorf("%w: boot %s is over, the machine began another one", httpboot.ErrRefused, id.Short())
	}
	return boot, m, err
}

// Script implements httpboot.Booter: it decides what the machine boots now.
func (b *booter) Script(id ingot.BootID, base string) (text string, err error) {
	now := b.now()
	err = b.state.Update(func(tx *state.Tx) error {
		boot, m, err := known(tx, id)
		if err != nil {
			return err
		}
		if boot.ID != m.Boot || !boot.Open() {
			// A loader that outlived its boot: let it begin again.
			text = "#!ipxe\necho ingot: this boot is over, starting again\nsleep 2\nreboot\n"
			return nil
		}
		ref, err := fleet.Next(m)
		if err != nil {
			text = b.waitScript(base, m, boot, err)
			return nil
		}
		im, err := b.image(ref.Image)
		if err != nil {
			text = b.waitScript(base, m, boot, err)
			return nil
		}
		if boot.Image.Image == "" {
			boot.Image, boot.Root = ref, im.Manifest.Root.Digest
			boot.Deadline = now.Add(b.deadlineOf(im))
		}
		boot = fleet.Record(boot, ingot.Event{Stage: ingot.StageScript, Detail: ref.Name}, now)
		tx.PutBoot(boot)
		text = b.bootScript(base, m, boot, im)
		return nil
	})
	return text, err
}

func (b *booter) deadlineOf(im image.Image) time.Duration {
	if im.Manifest.Deadline > 0 {
		return im.Manifest.Deadline
	}
	return time.Duration(b.policy.Load().Deadline)
}

// image returns a complete image of the store that our release key signed.
func (b *booter) image(d ingot.Digest) (image.Image, error) {
	im, err := b.shelf.get(b.images, d)
	if err != nil {
		return im, fmt.Errorf("image %s: %w", d.Short(), err)
	}
	if im.Signature == "" {
		return im, fmt.Errorf("image %s: %w: it is not signed", d.Short(), image.ErrSignature)
	}
	return im, nil
}

func (b *booter) bootScript(base string, m fleet.Machine, boot fleet.Boot, im image.Image) string {
	url := func(part string) string { return b.urlOfBoot(base, boot.ID, im.Digest.Hex()+"/"+part) }
	args := slices.Concat(im.Manifest.Arguments, []string{ingot.ArgServer + "=" + base,
		ingot.ArgBoot + "=" + string(b.key(boot.ID)), ingot.ArgMAC + "=${netX/mac}"})
	if !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "panic=") }) {
		args = append(args, "panic=30") // a kernel that cannot go on must not wait for a person
	}
	return ipxe.Boot{Image: im.Name.String() + " for " + m.Hostname(), Kernel: url("kernel"), Initramfs: url("initramfs"),
		Arguments: args, Again: b.urlOfBoot(base, boot.ID, "script")}.Text()
}

func (b *booter) waitScript(base string, m fleet.Machine, boot fleet.Boot, why error) string {
	lines := []string{"", "  ingot", fmt.Sprintf("  machine %s  %s", m.ID, strings.Join(m.MACs, " ")), ""}
	switch {
	case m.State == fleet.Retired:
		lines = append(lines, "  This machine is retired. To bring it back, on the server:", fmt.Sprintf("    ingot machine approve %s", m.ID))
	case m.Ask != nil:
		lines = append(lines, "  This machine may be known: "+m.Ask.What+".", "  If it is the same machine, on the server:",
			fmt.Sprintf("    ingot machine merge %s %s", m.ID, m.Ask.With), "  If it is another one:", fmt.Sprintf("    ingot machine approve %s --name NAME --image PROFILE:VERSION", m.ID))
	case errors.Is(why, fleet.ErrNotApproved):
		lines = append(lines, "  This machine is waiting for approval. On the server:",
			fmt.Sprintf("    ingot machine approve %s --name NAME --image PROFILE:VERSION", m.ID))
	case errors.Is(why, fleet.ErrNoImage):
		lines = append(lines, "  This machine is approved and waits for an image. On the server:",
			fmt.Sprintf("    ingot assign %s PROFILE:VERSION", m.ID))
	case errors.Is(why, fleet.ErrHeld):
		lines = append(lines, "  This machine is held: "+m.Setback.Why+".", "  On the server, for why, and to try again or something else:",
			fmt.Sprintf("    ingot why %s", m.Hostname()), fmt.Sprintf("    ingot resume %s", m.Hostname()), fmt.Sprintf("    ingot assign %s PROFILE:VERSION", m.Hostname()))
	default:
		lines = append(lines, "  The image of this machine cannot be served: "+why.Error())
	}
	return ipxe.Wait{Lines: append(lines, ""), Again: b.urlOfBoot(base, boot.ID, "script")}.Text()
}

// Artifact implements httpboot.Booter. A boot gets the files of its own image
// and no other.
func (b *booter) Artifact(id ingot.BootID, digest ingot.Digest, part string) (httpboot.Artifact, error) {
	boot, ok := b.state.Boot(id)
	if !ok {
		return httpboot.Artifact{}, fmt.Errorf("%w boot %s", httpboot.ErrUnknown, id.Short())
	}
	if !boot.Open() {
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
		return httpboot.Artifact{}, fmt.Errorf("%w: image %s is not what boot %s may run", httpboot.ErrRefused, digest.Short(), id.Short())
	}
	im, err := b.image(digest)
	if err != nil {
		return httpboot.Artifact{}, fmt.Errorf("%w: %w", httpboot.ErrUnknown, err)
	}
	file := func(a ingot.Artifact) (httpboot.Artifact, error) {
		return httpboot.Artifact{Path: b.images.Blob(a.Digest), Digest: a.Digest}, nil
	}
	switch part {
	case "kernel":
		return file(im.Manifest.Kernel)
	case "initramfs":
		return file(im.Manifest.Initramfs)
	case "root":
		return file(im.Manifest.Root)
	case partUKI:
		if a, has := b.uki(im); has {
			return file(a)
		}
	case "config":
		return httpboot.Artifact{Path: b.images.Blob(im.Config), Digest: im.Config}, nil
	case "manifest":
		return httpboot.Artifact{Bytes: im.OCI, Digest: im.Digest}, nil
	case "signature":
		return httpboot.Artifact{Bytes: []byte(im.Signature), Digest: ingot.DigestOf([]byte(im.Signature))}, nil
	}
	return httpboot.Artifact{}, fmt.Errorf("%w part %q of an image", httpboot.ErrUnknown, part)
}

// Served implements httpboot.Booter: bytes are added up per artifact, and a
// whole kernel or initramfs is a stage.
func (b *booter) Served(id ingot.BootID, part string, n int64, whole bool) {
	now := b.now()
	err := b.state.Update(func(tx *state.Tx) error {
		boot, ok := tx.Boot(id)
		if _, loader := b.loaders[part]; loader && ok && whole {
			tx.PutBoot(fleet.Record(boot, ingot.Event{Stage: ingot.StageLoader, Detail: part, Bytes: n}, now))
			return nil
		}
		if !ok || n == 0 || (part != "kernel" && part != "initramfs" && part != "root" && part != partUKI) {
			return nil
		}
		served := map[string]int64{part: n}
		for k, v := range boot.Served {
			served[k] += v
		}
		boot.Served = served
		if whole && part != "root" { // of the root, the machine itself tells
			stage := ingot.Stage(part)
			if part == partUKI {
				stage = ingot.StageLoader
			}
			boot = fleet.Record(boot, ingot.Event{Stage: stage, Detail: whichLoader(part), Bytes: n}, now)
		}
		tx.PutBoot(boot)
		return nil
	})
	if err != nil {
		b.log.Warn("recording bytes", "boot", id.Short(), "err", err)
	}
}

// Ticket implements httpboot.Booter.
func (b *booter) Ticket(id ingot.BootID, q ingot.TicketRequest) (signed ingot.SignedTicket, err error) {
	now := b.now()
	var asked *fleet.Question
	defer func() {
		if err == nil && asked != nil {
			err = fmt.Errorf("%w: an operator must look at this machine: %s", httpboot.ErrRefused, asked.What)
		}
	}()
	err = b.state.Update(func(tx *state.Tx) error {
		boot, m, err := known(tx, id)
		if err != nil {
			return err
		}
		switch {
		case m.State != fleet.Approved:
			return fmt.Errorf("%w: %w", httpboot.ErrRefused, fleet.ErrNotApproved)
		case !boot.Open() || m.Boot != id || boot.Image.Image == "":
			return fmt.Errorf("%w: boot %s is over; this machine should start over", httpboot.ErrRefused, id.Short())
		}
		im, err := b.image(boot.Image.Image)
		if err != nil {
			return fmt.Errorf("%w: %w", httpboot.ErrRefused, err)
		}
		m, boot.Changes = fleet.Learn(m, boundFacts(q.Facts), now)
		late := boot.Deadline.Sub(now) < leastTime
		if late { // its loader was slow; what the machine is told is what we wait for
			boot.Deadline = now.Add(leastTime)
		}
		if len(boot.Changes) > 0 {
			b.log.Warn("hardware changed", "machine", m.ID, "boot", id.Short(), "changes", boot.Changes)
		}
		if late || len(boot.Changes) > 0 {
			tx.PutBoot(boot)
		}
		if m.Ask != nil {
			tx.PutMachine(m)
			asked = m.Ask // the record stays, the ticket does not
			return nil
		}
		m, lent := fleet.Lend(m, id, now)
		text, err := json.Marshal(ingot.Ticket{Boot: id, Machine: m.ID, Hostname: m.Hostname(), MachineKey: m.MachineKey, Nonce: q.Nonce,
			Issued: now, Expires: now.Add(time.Duration(b.policy.Load().Ticket)), Image: im.Digest, Name: im.Name.String(), Grants: lent,
			Deadline: boot.Deadline.Sub(now), Restart: fleet.Restarts(m, boot, b.policyNow(), b.have, now)})
		if err != nil {
			return err
		}
		tx.PutMachine(m)
		signed = ingot.SignedTicket{Ticket: text, Signature: b.keys.Server.Secret.Sign(text, "ticket "+string(id))}
		return nil
	})
	return signed, err
}

// leastTime is what a machine has from its ticket to its report, however late
// it asked for the ticket.
const leastTime = time.Minute

// boundFacts bounds what a machine can make the record of it grow by.
func boundFacts(f ingot.Facts) ingot.Facts {
	f.NICs, f.Disks = f.NICs[:min(len(f.NICs), 64)], f.Disks[:min(len(f.Disks), 256)]
	for _, s := range []*string{&f.UUID, &f.Serial, &f.Vendor, &f.Product, &f.BIOS, &f.CPU, &f.Kernel} {
		*s = clip(*s)
	}
	return f
}

// Event implements httpboot.Booter.
func (b *booter) Event(id ingot.BootID, e ingot.Event) error {
	now := b.now()
	e.Detail, e.Error = clip(e.Detail), clip(e.Error)
	return b.state.Update(func(tx *state.Tx) error {
		boot, m, err := latest(tx, id)
		if err != nil {
			return err
		}
		after := fleet.Record(boot, e, now)
		if len(after.Events) != len(boot.Events) {
			tx.PutBoot(after)
		}
		if !after.Open() && boot.Open() {
			tx.PutMachine(b.heal(m, after))
		}
		if e.Error != "" {
			b.log.Warn("a boot failed", "machine", m.ID, "boot", id.Short(), "stage", string(e.Stage), "err", e.Error, "retry", e.Retry)
		}
		return nil
	})
}

// clip bounds a text from a machine, and takes the credential of its boot out.
func clip(s string) string { return ingot.HideBootKeys(strings.ToValidUTF8(s[:min(len(s), 1000)], "")) }

// Waits implements httpboot.Booter: what SMBIOS says of a machine that waits is
// for rules, and for the operator who is to approve it. Of a machine that has
// told its facts itself nothing is taken.
func (b *booter) Waits(id ingot.BootID, f ingot.Facts) error {
	f = boundFacts(f)
	return b.state.Update(func(tx *state.Tx) error {
		_, m, err := known(tx, id)
		if err != nil || m.State != fleet.Pending || m.Facts.RAM != 0 || m.Boot != id {
			return err
		}
		after := m
		after.Facts.Vendor, after.Facts.Product, after.Facts.Serial = f.Vendor, f.Product, ingot.PlausibleSerial(f.Serial)
		after = b.rule(after)
		if after.Facts.Vendor != m.Facts.Vendor || after.Facts.Product != m.Facts.Product || after.Facts.Serial != m.Facts.Serial || after.State != m.State {
			tx.PutMachine(after)
		}
		return nil
	})
}

// Console implements httpboot.Booter. A boot that ended may still speak: its
// last words come late.
func (b *booter) Console(id ingot.BootID, text string) error {
	// The kernel repeats its command line, and with it the key of the boot.
	text = fleet.Printable(ingot.HideBootKeys(text))
	return b.state.Update(func(tx *state.Tx) error {
		if _, _, err := latest(tx, id); err != nil || text == "" {
			return err
		}
		tx.AddConsole(id, text)
		return nil
	})
}

// Crash implements httpboot.Booter: what is left of a crash belongs to the boot
// before the one that tells it.
func (b *booter) Crash(id ingot.BootID, text string) error {
	text = fleet.Printable(ingot.HideBootKeys(text))
	return b.state.Update(func(tx *state.Tx) error {
		boot, m, err := latest(tx, id)
		if err != nil || text == "" {
			return err
		}
		before, ok := tx.Boot(boot.Before)
		if !ok {
			return nil // it crashed when it was not ours
		}
		before.Crash = clip(fleet.CrashLine(text))
		tx.PutBoot(before)
		tx.AddConsole(before.ID, "--- what the firmware kept of the crash (pstore) ---\n"+text)
		b.log.Warn("a machine crashed before this boot", "machine", m.ID, "boot", before.ID.Short(), "crash", before.Crash)
		return nil
	})
}

// Report implements httpboot.Booter.
func (b *booter) Report(id ingot.BootID, r ingot.Report) error {
	now := b.now()
	if len(r.Checks) > 100 {
		return fmt.Errorf("%w: a report of %d checks", httpboot.ErrRefused, len(r.Checks))
	}
	for i := range r.Checks {
		r.Checks[i].Name, r.Checks[i].Detail = clip(r.Checks[i].Name), clip(r.Checks[i].Detail)
	}
	r.Failed = r.Failed[:min(len(r.Failed), 20)]
	for i := range r.Failed {
		r.Failed[i] = clip(r.Failed[i])
	}
	return b.state.Update(func(tx *state.Tx) error {
		boot, m, err := latest(tx, id)
		if err != nil {
			return err
		}
		after, machine := fleet.Judge(boot, m, r, now)
		if after.Outcome != boot.Outcome {
			b.log.Info("a boot is decided", "machine", m.ID, "boot", id.Short(), "image", boot.Image.Name,
				"outcome", string(after.Outcome), "reason", after.Reason, "took", now.Sub(boot.Started).Round(100*time.Millisecond))
			machine = b.heal(machine, after)
		}
		tx.PutBoot(after)
		tx.PutMachine(machine)
		return nil
	})
}

// policyNow is how machines heal.
func (b *booter) policyNow() fleet.Policy {
	c := b.policy.Load()
	return fleet.Policy{Attempts: c.Attempts, After: c.After}
}

// have reports whether an image can be served.
func (b *booter) have(d ingot.Digest) bool {
	_, err := b.image(d)
	return err == nil
}

// heal draws the consequences of a boot that ended.
func (b *booter) heal(m fleet.Machine, over fleet.Boot) fleet.Machine {
	after := fleet.Settle(m, over, b.policyNow(), b.have, b.now())
	switch s := after.Setback; {
	case s == m.Setback:
	case s == nil:
		b.log.Info("an image that was given up is healthy after all", "machine", m.ID, "image", over.Image.Name)
	case s.To.Image == "":
		b.log.Error("a machine is held", "machine", m.ID, "image", s.Gave.Name, "why", s.Why)
	default:
		b.log.Warn("a machine falls back", "machine", m.ID, "image", s.To.Name, "before", s.Gave.Name, "why", s.Why)
	}
	return after
}

// expire ends the boots whose deadline has passed.
func (b *booter) expire() {
	now := b.now()
	err := b.state.Update(func(tx *state.Tx) error {
		for _, boot := range tx.OpenBoots() {
			if after, ended := fleet.Expire(boot, now); ended {
				b.log.Warn("a boot went silent", "machine", boot.Machine, "boot", boot.ID.Short(), "image", boot.Image.Name, "reason", after.Reason)
				tx.PutBoot(after)
				if m, ok := tx.Machine(boot.Machine); ok {
					tx.PutMachine(b.heal(m, after))
				}
			}
		}
		return nil
	})
	if err != nil {
		b.log.Error("ending silent boots", "err", err)
	}
}

// tidy forgets what is over the bounds.
func (b *booter) tidy() {
	b.state.Forget()
	if err := b.state.Trim(b.now(), state.MaxLedger, state.LedgerAge); err != nil {
		b.log.Error("forgetting old entries of the ledger", "err", err)
	}
}

// assignment resolves an image for a machine: it must be complete and signed
// by a release key that the store trusts.
func (b *booter) assignment(ctx context.Context, ref, why string) (fleet.Assignment, error) {
	im, err := b.images.Get(ctx, ref)
	if err != nil {
		return fleet.Assignment{}, err
	}
	trusted, err := image.TrustedKeys(filepath.Join(b.images.Root(), "keys"))
	if err != nil {
		return fleet.Assignment{}, err
	}
	if err := im.VerifySignature(image.Public(trusted)...); err != nil {
		return fleet.Assignment{}, fmt.Errorf("image %s: %w; machines would refuse it", im.Name, err)
	}
	return fleet.Assignment{ImageRef: fleet.ImageRef{Image: im.Digest, Name: im.Name.String()}, Why: why, Since: b.now()}, nil
}
