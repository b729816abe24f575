// Package state is the interface of what a boot server remembers: machines, boots,
// leases, credentials and the ledger of what happened. It has no engine; a backend such
// as state/bolt implements Store.
//
// Decisions are what several servers must agree on: machines, their latest boots, leases,
// credentials. They change in transactions only. Observations are what one server saw:
// the ledger, consoles, hardware facts, boots that are over. A backend may keep the two
// in different places.
//
// Left out on purpose: what a decision is. Package fleet decides, callers write down what
// it decided.
package state

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/desired"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/fleet/webhook"
)

// Errors of a store.
var (
	// ErrLocked is returned by Open when another server uses the state.
	ErrLocked = errors.New("another server uses this store")
	// ErrClosed is returned for changes after Close.
	ErrClosed = errors.New("storing state: it is closed")
	// ErrDamaged is returned for a state or backup that cannot be read from end to end.
	ErrDamaged = errors.New("the file is damaged, or is not a state of ingot")
	// ErrLost is returned for a store that a server has used and whose state is missing or empty.
	ErrLost = errors.New("the state file is lost")
	// ErrJournal is returned for a state whose last changes are in a journal that is missing,
	// damaged or of another state.
	ErrJournal = errors.New("the journal of the state cannot be used")
	// ErrRestoring is returned while another backup is being restored.
	ErrRestoring = errors.New("another backup is just being restored")
	// ErrBackups is returned while MaxBackups backups are being read.
	ErrBackups = fmt.Errorf("%d backups are being read already", MaxBackups)
	// ErrTooLarge is returned for a transaction above MaxRecords or MaxBytes.
	ErrTooLarge = errors.New("the transaction is too large")
	// ErrBeingRemoved is returned for a transaction that gives a machine an image of which
	// a removal is pending.
	ErrBeingRemoved = errors.New("the image is being removed")
	// ErrRemoved is returned for a transaction that gives a machine an image which was looked
	// up before a removal ended. The caller looks it up again.
	ErrRemoved = errors.New("an image was removed meanwhile")
	// ErrChanged is returned by ReplaceMachines if a machine is not as it was read.
	ErrChanged = errors.New("a machine has changed meanwhile")
	// ErrSchema is returned by Open and Restore for a state that a newer program wrote.
	ErrSchema = errors.New("the state was written by a newer version of ingot")
	// ErrPlace is returned by ParsePlace for a text that Place.String did not write.
	ErrPlace = errors.New("invalid position in the list of boots")
)

// Bounds of what strangers can make grow.
const (
	BootsPerMachine = 100
	MaxPending      = 4096
	MaxPerCard      = 32 // machines that were seen with one card
)

// Bounds of the ledger.
const (
	MaxLedger = 1_000_000
	LedgerAge = 90 * 24 * time.Hour
	// MaxAudit is the number of changes that the audit log keeps; the oldest are removed.
	// One takes about half a KiB.
	MaxAudit = 100_000
)

// Bounds of what is kept of consoles.
const (
	MaxConsole         = 64 << 10 // bytes of one boot
	ConsoleHead        = 24 << 10 // of them, bytes of its beginning
	ConsolesPerMachine = 4        // boots of one machine
)

// Bounds of one transaction. Each backend enforces them, so that a transaction that works
// on one works on all: etcd, for one, allows 128 comparisons, 128 writes and 1.5 MiB.
const (
	MaxRecords = 100     // read, and as many written; entries of indexes and Changes are none
	MaxBytes   = 1 << 20 // of what it writes
)

// MaxBackups is the number of backups that can be read at the same time.
const MaxBackups = 2

// Folder is the name of the state's folder below the root of the image store.
const Folder = "state"

// Store is a backend.
type Store interface {
	Decisions
	Observations
	Keeper
}

// Decisions are machines, their latest boots, leases and credentials.
type Decisions interface {
	// Update runs f and stores what it put: all or nothing. It returns when that is
	// durable. Transactions run one after another; f must not call methods of the store.
	//
	// An f that puts nothing may have read what is not durable yet: Update waits for that
	// too, so that no answer depends on something that a crash takes back.
	Update(f func(tx Tx) error) error
	// Begin is the first half of Update: f has run when it returns, and changes become
	// durable in the order in which they began. wait is the other half.
	Begin(f func(tx Tx) error) (wait func() error)

	// View runs f on the state as it is, without a transaction. f must not call methods of
	// the store.
	View(f func(r Reader))

	// Machine returns one machine.
	Machine(id ingot.MachineID) (fleet.Machine, bool)
	// Machines returns all machines, the longest known first.
	Machines() []fleet.Machine
	// Find returns the machine that a sighting is of, see fleet.Identify.
	Find(sight fleet.Sighting) (fleet.Machine, bool)
	// AtAddress returns the machine that was last seen with an address.
	AtAddress(ip netip.Addr) (fleet.Machine, bool)
	// Latest returns the latest boot of each machine, sorted by start.
	Latest() []fleet.Boot
	// Leases returns all leases.
	Leases() ([]fleet.Lease, error)
	// Credential returns the record of a token or client certificate.
	Credential(id string) (access.Credential, bool)
	// Credentials returns all tokens and client certificates, the oldest first.
	Credentials() []access.Credential
	// Session returns the session of a browser. A restore ends them all.
	Session(id string) (access.Session, bool)
	// Sessions returns all sessions of browsers, the oldest first.
	Sessions() []access.Session
	// Identity is a secret that was made with the state; the keys of machines are derived
	// from it. A restore brings that of the backup.
	Identity() []byte
	// OpenBoots returns those of the boots that have not ended for which wanted, which only
	// computes, returns true, sorted by start.
	OpenBoots(wanted func(fleet.Boot) bool) []fleet.Boot
	// Granted returns the machines with a grant that no boot has used.
	Granted() []fleet.Machine
	// Removals returns the pending removals of images, the oldest first.
	Removals() []Removal
	// Removed is the number of removals of images that ended, for Tx.LookedUp. Its value is of
	// use as long as the store is open.
	Removed() uint64
	// ReplaceMachines stores machines and Changes, of which there may be any number: all
	// or nothing. A machine that is not as the list says it was before is ErrChanged, and
	// nothing is stored; for images it fails as StoreMachine does. It returns when all is
	// durable.
	ReplaceMachines(c LargeChange) error
	// Rollouts returns all rollouts, the oldest first.
	Rollouts() []rollout.Rollout
	// Rollout returns one rollout.
	Rollout(id string) (rollout.Rollout, bool)
	// Members returns the machines of a rollout, in the order in which they are moved.
	Members(rollout string) []rollout.Member
	// Webhooks returns all webhooks, the oldest first.
	Webhooks() []webhook.Webhook
	// Webhook returns one webhook.
	Webhook(id string) (webhook.Webhook, bool)
	// WebhookProgress returns how far the ledger was sent to a webhook.
	WebhookProgress(id string) (webhook.Progress, bool)
	// DeadLetters returns the dead letters of a webhook, by sequence number.
	DeadLetters(id string) []webhook.Letter
	// Desired returns the desired state that was applied last; its zero value if none was.
	Desired() desired.Record
	// Counts returns how much there is.
	Counts() Counts
}

// Observations are the ledger, consoles, hardware facts and the boots of the past.
type Observations interface {
	// Boot returns one boot, also of the past.
	Boot(id ingot.BootID) (fleet.Boot, bool)
	// Boots returns the newest boots of one machine, or of all for an empty id, oldest
	// first; limit 0 means all of them.
	Boots(machine ingot.MachineID, limit int) ([]fleet.Boot, error)
	// BootsBefore returns the newest boots that began before a place, as Boots does.
	BootsBefore(machine ingot.MachineID, before Place, limit int) ([]fleet.Boot, error)

	// Changes returns Changes in their order, and the last sequence number there is.
	Changes(q Query) (list []fleet.Change, last uint64, err error)
	// Append adds Changes to the ledger that belong to no decision.
	Append(list ...fleet.Change) error
	// LedgerName returns the name of this ledger, which changes with a restore, and the
	// last sequence number that a backup brought.
	LedgerName() (name string, restored uint64)
	// Await returns when the ledger has entries after a sequence number, or has another
	// name than before, or ctx ends.
	Await(ctx context.Context, after uint64)
	// Trim removes the oldest entries of the ledger: those above the bound of their
	// number, and those older than age. Each call does a part of the work.
	Trim(now time.Time, most int, age time.Duration) error

	// Console returns what is kept of the console of a boot.
	Console(id ingot.BootID) (string, error)
	// Facts returns the hardware that a machine reported at a boot, if it did.
	Facts(b fleet.Boot) (f ingot.Facts, reported bool, err error)
}

// Keeper looks after a store as a whole.
type Keeper interface {
	// Backup writes the state as it is at this moment; changes go on meanwhile.
	Backup(w io.Writer) error
	// Restore replaces the state by a backup after it was read from end to end. It
	// returns where the state from before is kept.
	Restore(r io.Reader, now time.Time) (kept string, err error)
	// Verify reads every record and returns what is wrong with it.
	Verify() error
	// Forget drops from memory what is stored as well and rarely read.
	Forget()
	// Close waits for what is being stored and lets another server open the state.
	Close() error
}

// Reader reads what decisions about machines need, by key or index.
type Reader interface {
	// Machine returns one machine.
	Machine(id ingot.MachineID) (fleet.Machine, bool)
	// MachinesNamed returns the machines that an operator gave a name: one at most, unless a restored
	// backup says otherwise.
	MachinesNamed(name string) []fleet.Machine
	// Find returns the machine that a sighting is of, or a question for an operator, see
	// fleet.Identify.
	Find(sight fleet.Sighting) (fleet.Machine, *fleet.Question, bool)
	// Others returns the machines that fleet.Learn needs when m reports f.
	Others(m fleet.Machine, f ingot.Facts) []fleet.Machine
	// WithCard is the number of machines that were seen with a MAC address.
	WithCard(mac string) int
	// Pending is the number of machines that wait for an operator.
	Pending() int
	// Boot returns one boot.
	Boot(id ingot.BootID) (fleet.Boot, bool)
}

// Tx is one transaction. What is put is seen by later reads of the same transaction, and
// by others when the function of Update has returned.
type Tx interface {
	Reader

	// Credential returns the record of a token or client certificate.
	Credential(id string) (access.Credential, bool)
	// CredentialsNamed returns those with a name, which are several when some are over.
	CredentialsNamed(name string) []access.Credential
	// CredentialCount is the number of tokens and client certificates.
	CredentialCount() int
	// Session returns the session of a browser.
	Session(id string) (access.Session, bool)
	// SessionsOf returns the sessions that were begun with a credential, the oldest first.
	SessionsOf(credential string) []access.Session
	// SessionCount is the number of sessions.
	SessionCount() int
	// ImageUse reports whether a machine needs an image, see fleet.Uses, and names one and
	// the reason.
	ImageUse(image ingot.Digest) (why string, used bool)
	// Removal returns the pending removal of an image.
	Removal(image ingot.Digest) (Removal, bool)

	// Rollout returns one rollout.
	Rollout(id string) (rollout.Rollout, bool)
	// RolloutOf returns the rollout that has not ended and that a machine belongs to; empty if there is
	// none.
	RolloutOf(machine ingot.MachineID) string
	// LastRollout is the number of the latest rollout there was.
	LastRollout() int

	// Webhooks returns all webhooks, the oldest first.
	Webhooks() []webhook.Webhook
	// Webhook returns one webhook.
	Webhook(id string) (webhook.Webhook, bool)
	// DeadLetters returns the dead letters of a webhook, by sequence number.
	DeadLetters(id string) []webhook.Letter
	// Desired returns the desired state that was applied last.
	Desired() desired.Record

	// LookedUp declares that the images which the transaction assigns to machines were looked
	// up after Removed returned n. A removal that ended since has left no record, so that
	// assigning an image is ErrRemoved then, as the result of the transaction.
	LookedUp(n uint64)
	// StoreMachine stores a machine. It is ErrBeingRemoved, as the result of the
	// transaction, if the machine is assigned an image that is being removed.
	StoreMachine(m fleet.Machine)
	// DropMachine removes a machine and its past: boots, consoles, facts. It counts as one
	// record.
	DropMachine(id ingot.MachineID) error
	// StoreBoot stores a boot. Of a machine's boots the oldest are removed.
	StoreBoot(b fleet.Boot)
	// MoveBoots gives the boots of one machine to another. They take their places among
	// those that are there by when they started, and number is that of the last one. It
	// counts as one record.
	MoveBoots(from, to ingot.MachineID) (number int, err error)
	// PutLease stores the lease of an address.
	PutLease(l fleet.Lease)
	// PutCredential stores the record of a token or certificate.
	PutCredential(c access.Credential)
	// DropCredential removes one.
	DropCredential(id string)
	// PutSession stores the session of a browser.
	PutSession(s access.Session)
	// DropSession removes one.
	DropSession(id string)
	// PutRollout stores a rollout. A new one is ErrBeingRemoved or ErrRemoved, as the result of the
	// transaction, as if a machine were assigned its image.
	PutRollout(r rollout.Rollout)
	// DropRollout removes a rollout whose members were removed before.
	DropRollout(id string)
	// PutMember stores a machine of a rollout. It counts as one record.
	PutMember(m rollout.Member)
	// DropMember removes one.
	DropMember(rollout string, machine ingot.MachineID)
	// PutWebhook stores a webhook.
	PutWebhook(w webhook.Webhook)
	// PutWebhookProgress stores how far the ledger was sent to a webhook.
	PutWebhookProgress(p webhook.Progress)
	// PutDeadLetter stores a dead letter of a webhook, of which the caller keeps webhook.MaxLetters at most.
	PutDeadLetter(l webhook.Letter)
	// DropDeadLetter removes one.
	DropDeadLetter(webhook string, seq uint64)
	// DropWebhook removes a webhook with its progress and its dead letters.
	DropWebhook(id string)
	// PutDesired stores the desired state.
	PutDesired(r desired.Record)
	// PutRemoval stores a pending removal.
	PutRemoval(r Removal)
	// DropRemoval removes one.
	DropRemoval(image ingot.Digest)
	// KeepFacts stores what was reported at a boot, and returns the boot with where that
	// is found.
	KeepFacts(b fleet.Boot, f ingot.Facts) (fleet.Boot, error)
	// AddConsole appends to the console of a boot.
	AddConsole(id ingot.BootID, text string)
	// Record appends Changes to the ledger, in the transaction that makes them: one is
	// never stored without the other. It sets their sequence numbers. A transaction that
	// fails takes none.
	Record(list ...fleet.Change)
}

// LargeChange is a change of more machines than one transaction may store.
type LargeChange struct {
	Machines []Replacement // each machine once
	Changes  []fleet.Change
	LookedUp uint64 // see Tx.LookedUp
}

// Replacement is a machine before and after a large change. Before is nil for a new one.
type Replacement struct {
	Before *fleet.Machine
	After  fleet.Machine
}

// Removal is an image that is being removed from the image store. As long as the record
// exists, no machine can be given the image.
type Removal struct {
	Image ingot.Digest
	Since time.Time
	By    fleet.Actor
}

// Query selects Changes of the ledger.
type Query struct {
	Audit    bool              // operators' actions (fleet.KindAction); else all others
	Machine  ingot.MachineID   // empty: of all
	Machines []ingot.MachineID // of any of these besides
	After    uint64            // only later ones; 0 with Newest: the end
	Newest   bool              // the newest Limit ones, else the oldest
	Limit    int               // 0 means 1000
}

// Counts are how much there is, for metrics.
type Counts struct {
	Machines  map[fleet.State]int
	Open      int                      // boots under way
	Ended     map[ingot.Outcome]uint64 // boots that ended since the state was opened
	FileBytes int64
}
