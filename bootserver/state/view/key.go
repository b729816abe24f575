package view

import (
	"net/netip"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
)

// Table is a set of records, or an index of one.
type Table string

// The tables of records. Their keys are ids, and digests of images.
const (
	Machines    Table = "machines"
	Boots       Table = "boots"
	Leases      Table = "leases" // keys are addresses, 4 or 16 bytes
	Credentials Table = "credentials"
	Removals    Table = "removals"
	Facts       Table = "facts"
	Consoles    Table = "console" // keys are made up; only written
	Ledger      Table = "ledger"  // keys are sequence numbers, 8 bytes, big-endian; only written
	Audit       Table = "audit"   // as Ledger, for actions of operators
	Rollouts    Table = "rollouts"
	Members     Table = "members" // keys: MemberKey
	Sessions    Table = "sessions"
	Webhooks    Table = "webhooks"
	Progress    Table = "webhook-progress" // keys: ids of webhooks
	Letters     Table = "dead-letters"     // keys: LetterKey
	Desired     Table = "desired"          // one key: DesiredKey
)

// The indexes, which are read and follow from the records that are written.
const (
	ByMAC          Table = "by-mac"
	ByUnidentified Table = "by-unidentified" // keys: MAC; MAC, space, UUID
	ByReportedMAC  Table = "by-reported-mac"
	ByUUID         Table = "by-uuid"
	BySerial       Table = "by-serial"
	ByName         Table = "by-name"
	ByPort         Table = "by-port"
	ByAddress      Table = "by-address"
	ByImage        Table = "by-image"
	ByToken        Table = "by-token"   // credentials by their names
	ByMachine      Table = "by-boots"   // boots by machine
	ByMember       Table = "by-member"  // rollouts that have not ended, by machine
	BySession      Table = "by-session" // sessions by their credentials
	ByWebhook      Table = "by-webhook" // dead letters by webhook
	// Numbers has the keys PendingKey, CredentialsKey, RemovedKey, RolloutsKey, SessionsKey and WebhooksKey.
	Numbers Table = "numbers"
)

// Records reports whether a table has records; an index has none.
func (t Table) Records() bool { return !strings.HasPrefix(string(t), "by-") && t != Numbers }

// The keys of Numbers.
const (
	PendingKey     = "pending"
	CredentialsKey = "credentials"
	RemovedKey     = "removed" // images
	RolloutsKey    = "rollouts"
	SessionsKey    = "sessions"
	WebhooksKey    = "webhooks"
)

// DesiredKey is the key of the desired state.
const DesiredKey = "fleet"

// Key names one record or one entry of an index.
type Key struct {
	Table Table
	Key   string
}

func portKey(p fleet.SwitchPort) string {
	return p.Relay.String() + "\x00" + p.Circuit + "\x00" + p.Remote
}

// approvedKey is that of approved machines with a serial number.
func approvedKey(serial string) string { return serial + "\x00approved" }

func addressKey(a netip.Addr) string { return string(a.AsSlice()) }

// IndexKeys calls f for the entries of indexes that a machine is in. latest is the image of
// its latest boot.
func IndexKeys(m *fleet.Machine, latest ingot.Digest, f func(Key)) {
	one := func(t Table, key string) {
		if key != "" {
			f(Key{t, key})
		}
	}
	if m.Unidentified() {
		for _, key := range unidentifiedKeys(m) {
			one(ByUnidentified, key)
		}
	} else {
		for _, mac := range m.MACs {
			one(ByMAC, mac)
		}
		for _, mac := range m.ReportedCards() {
			one(ByReportedMAC, mac)
		}
		one(ByUUID, m.UUID)
		one(BySerial, m.Serial)
		if m.State == fleet.Approved {
			one(BySerial, approvedKey(m.Serial))
		}
	}
	one(ByName, m.Name)
	if m.Port.Relay.IsValid() {
		one(ByPort, portKey(m.Port))
	}
	for _, ip := range m.Addresses() {
		if ip.IsValid() {
			one(ByAddress, addressKey(ip))
		}
	}
	fleet.Uses(m, latest, func(d ingot.Digest, _ fleet.Use) { one(ByImage, string(d)) })
	if m.State == fleet.Pending {
		f(Key{Numbers, PendingKey})
	}
}
