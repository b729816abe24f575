// Package webhook says what a webhook is: a receiver outside of ingot that gets entries of the ledger
// as signed HTTP requests, in the style of Standard Webhooks (https://www.standardwebhooks.com). It
// decides which events a webhook gets, which addresses it may have, when an event is sent again and
// when it is given up.
//
// Left out on purpose: sending. Package notify does that; here are values and plain functions.
package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"ingot"
)

// Bounds of webhooks.
const (
	// Overlap is how long requests are signed by the former secret as well, if nothing else is said; and at most.
	Overlap, MaxOverlap = 24 * time.Hour, 30 * 24 * time.Hour

	Max        = 32 // webhooks of a server
	MaxFormer  = 3  // former secrets of one webhook
	MaxLetters = 80 // dead letters of one webhook: they are removed with it in one transaction
	MaxEvents  = 64 // topics and codes of one webhook
	MaxAllowed = 8  // prefixes of one webhook
	MaxURL     = 2000
	MaxCA      = 32 << 10 // bytes
)

// Webhook is a receiver of events.
type Webhook struct {
	ID   string // 16 hex digits, drawn at random
	Name string
	URL  string
	// Events are the topics and codes of the events that it gets, see Wants.
	Events []string
	// Selector limits events about machines to those with such labels.
	Selector string
	// CA are the certificates in PEM of which one must have issued the receiver's; empty: the system's.
	CA string
	// Allow are loopback and link-local addresses that the receiver may have, see Reachable.
	Allow []netip.Prefix
	// Secret is the key of signatures, sealed by a key that is not in the state. Requests are signed by each of the
	// Former ones as well until its time.
	Secret  []byte
	Former  []FormerSecret // the latest one last
	Created time.Time
	By      string
	Paused  *Pause
	// Retry is raised when an operator wants events to be tried at once, and Skip when it is to go on with
	// what happens from then on. Edited is raised when anything above is changed.
	Retry, Skip, Edited int
}

// FormerSecret is one that the receiver may still have.
type FormerSecret struct {
	Secret []byte // sealed
	Until  time.Time
}

// FormerAt returns the former secrets that requests are signed by at a time.
func (w Webhook) FormerAt(now time.Time) []FormerSecret {
	return slices.DeleteFunc(slices.Clone(w.Former), func(f FormerSecret) bool { return !now.Before(f.Until) })
}

// Pause says that nothing is sent.
type Pause struct {
	At  time.Time
	By  string // empty: the server, because the receiver wants nothing more
	Why string
}

// Progress is how far the ledger was sent to a webhook.
type Progress struct {
	Webhook string
	Ledger  string // its name, see state.Observations
	Seq     uint64 // entries up to this one are sent, dead letters, or not wanted
	Gap     *Gap   // is sent before the next entry
	// Attempts are those of the event that is next, and Refusals the answers that said that it is at fault.
	Attempts, Refusals int
	// Began is since when the receiver, which is there, fails at the event; zero: it does not.
	Began time.Time
	// Stuck says that an event was given up because the receiver failed at it, and none was accepted since.
	Stuck    bool
	Failures int       // attempts in a row that failed, whatever their event
	Next     time.Time // no attempt before it
	Last     *Failure  // the latest attempt that failed; nil after one that succeeded
	Reported bool      // the ledger says that it fails
	Sent     uint64    // events that were delivered
	SentAt   time.Time // the latest one
	Dropped  uint64    // dead letters that were removed undelivered
	Retry    int       // of the Webhook, when it was last looked at
	Skip     int       // likewise
}

// Failure is an attempt that failed.
type Failure struct {
	At     time.Time
	Status int // of the answer; 0: there was none
	Why    string
}

// Gap are entries of the ledger that cannot be sent.
type Gap struct {
	From, To uint64    // sequence numbers
	Entries  uint64    // how many are missing of them, wanted or not; 0: not known
	Reason   string    // one of the constants
	At       time.Time // when that was found
}

// The reasons of gaps.
const (
	GapRetention = "retention" // the ledger dropped its oldest entries before they could be sent
	GapRestored  = "restored"  // the ledger is that of a backup
	GapSkipped   = "skipped"   // an operator wanted it to begin with what happens from now on
)

// Join returns a gap that covers two.
func (g *Gap) Join(o Gap) *Gap {
	if g == nil {
		return &o
	}
	joined := Gap{From: min(g.From, o.From), To: max(g.To, o.To), Entries: g.Entries + o.Entries, Reason: o.Reason,
		At: o.At}
	if g.Entries == 0 || o.Entries == 0 {
		joined.Entries = 0
	}
	return &joined
}

// Letter is a dead letter: an event that was given up. It refers to the entry of the ledger.
type Letter struct {
	Webhook  string
	Seq      uint64
	Event    string // see EventID
	Gap      *Gap   // the gap that it is about, if it is not an entry of the ledger
	Code     string
	Machine  ingot.MachineID
	At       time.Time // when the event happened
	Died     time.Time
	Attempts int
	Failure  Failure // the latest attempt
	Again    bool    // an operator wants it to be sent again
}

// Errors of webhooks.
var (
	// ErrURL means that events cannot be sent to a URL.
	ErrURL = errors.New("not the URL of a webhook")
	// ErrName means that a webhook cannot have a name.
	ErrName = errors.New("not a name for a webhook")
	// ErrEvents means that there are no such events.
	ErrEvents = errors.New("not events of a webhook")
	// ErrAddress means that a receiver has an address that is not reached without permission.
	ErrAddress = errors.New("the address is not allowed")
)

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// CheckName returns an error that wraps ErrName if a webhook cannot have a name.
func CheckName(name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("%w: %.80q; use up to 64 letters, digits, dots, dashes", ErrName, name)
	}
	return nil
}

// CheckURL returns an error that wraps ErrURL if events cannot be sent to a URL. Credentials in it would
// be shown and be in backups.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	fault := ""
	switch {
	case err != nil:
		fault = "it cannot be read"
	case len(text) > MaxURL:
		fault = fmt.Sprintf("it has more than %d characters", MaxURL)
	case u.Scheme != "https" && u.Scheme != "http":
		fault = "write https://HOST/PATH"
	case u.Hostname() == "":
		fault = "it names no host"
	case u.User != nil:
		fault = "it must not contain a user or password: URLs are shown, and are in backups"
	case u.Fragment != "":
		fault = "a fragment (#) is never sent"
	case u.Port() == "0":
		fault = "port 0 cannot be reached"
	}
	if fault != "" {
		return fmt.Errorf("%w: %s", ErrURL, fault)
	}
	return nil
}

// HostAddress returns the address in a URL, if its host is one.
func HostAddress(text string) (netip.Addr, bool) {
	u, err := url.Parse(text)
	if err != nil {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return ip, err == nil
}

// CheckEvents returns an error that wraps ErrEvents if a list has anything that is not known, or nothing.
func CheckEvents(list []string, known func(string) bool) error {
	if len(list) == 0 || len(list) > MaxEvents {
		return fmt.Errorf("%w: name 1 to %d topics or codes", ErrEvents, MaxEvents)
	}
	for _, e := range list {
		if !known(e) {
			return fmt.Errorf("%w: there is no topic or code %.80q", ErrEvents, e)
		}
	}
	return nil
}

// Wants reports whether a webhook gets an event with a code and topics.
func (w Webhook) Wants(code string, topics []string) bool {
	return slices.ContainsFunc(w.Events, func(e string) bool { return e == code || slices.Contains(topics, e) })
}

// metadata are the addresses of services of clouds that are not link-local: of AWS over IPv6, Alibaba, Oracle, Azure
// and Google over IPv6.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"),
	netip.MustParseAddr("192.0.0.192"), netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("fd20:ce::254")}

// thisNetwork has no receivers: Linux reaches this host by some of its addresses (RFC 1122, section 3.2.1.3).
var thisNetwork = netip.MustParsePrefix("0.0.0.0/8")

// Prefixes of IPv6 addresses that contain an IPv4 address: in their last 4 bytes those of NAT64 (RFC 6052, RFC 8215),
// the compatible ones (RFC 4291, section 2.5.5.1) and the translated ones (RFC 2765); from the third byte on that of
// 6to4 (RFC 3056).
var (
	embedding = []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
		netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0:0/96")}
	sixToFour = netip.MustParsePrefix("2002::/16")
)

// Reachable returns an error that wraps ErrAddress if a webhook must not connect to an address. Private
// networks are usual in a datacentre. Services of this host, and of its link such as metadata of clouds,
// trust whoever reaches them: they need to be allowed by their addresses.
func Reachable(ip netip.Addr, allow []netip.Prefix) error {
	ip = plain(ip)
	var kind string
	switch {
	case !ip.IsValid(), ip.IsUnspecified(), thisNetwork.Contains(ip):
		kind = "unspecified"
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		kind = "multicast"
	case ip.IsLoopback():
		kind = "a loopback address"
	case ip.IsLinkLocalUnicast():
		kind = "a link-local address"
	case slices.Contains(metadata, ip):
		kind = "that of a metadata service"
	default:
		return nil
	}
	if slices.ContainsFunc(allow, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return nil
	}
	return fmt.Errorf("%w: %s is %s; --allow %s permits it", ErrAddress, ip, kind, ip)
}

// plain returns the address that is reached: an IPv6 address can contain an IPv4 address.
func plain(ip netip.Addr) netip.Addr {
	ip = ip.WithZone("").Unmap()
	if !ip.Is6() {
		return ip
	}
	b := ip.As16()
	switch {
	case ip.IsUnspecified(), ip.IsLoopback(): // ::/96 has them
		return ip
	case sixToFour.Contains(ip):
		return netip.AddrFrom4([4]byte(b[2:6]))
	case slices.ContainsFunc(embedding, func(p netip.Prefix) bool { return p.Contains(ip) }):
		return netip.AddrFrom4([4]byte(b[12:16]))
	}
	return ip
}

// ParseAllowed parses addresses and prefixes: "127.0.0.1", "fe80::/64".
func ParseAllowed(list []string) (allow []netip.Prefix, err error) {
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if ip, single := netip.ParseAddr(strings.TrimSpace(text)); err != nil && single == nil {
			p, err = ip.Prefix(ip.BitLen())
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %.60q is neither an address nor a prefix", ErrAddress, text)
		}
		allow = append(allow, p.Masked())
	}
	if len(allow) > MaxAllowed {
		return nil, fmt.Errorf("%w: %d prefixes; at most %d can be allowed", ErrAddress, len(allow), MaxAllowed)
	}
	return allow, nil
}
