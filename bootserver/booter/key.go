package booter

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"ingot"
)

// BootKey is the credential of a boot. It is made of the state's secret whenever it
// is wanted, so it is recorded nowhere.
func (b *Booter) BootKey(id ingot.BootID) ingot.BootKey {
	return ingot.NewBootKey(id, [16]byte(b.Derive("boot", string(id))[:16]))
}

// Knows implements httpboot.Booter.
func (b *Booter) Knows(k ingot.BootKey) bool {
	return subtle.ConstantTimeCompare([]byte(k), []byte(b.BootKey(k.ID()))) == 1
}

// BootURL is the URL of a part of a boot.
func (b *Booter) BootURL(base string, id ingot.BootID, part string) string {
	return base + ingot.BootPath(b.BootKey(id), part)
}

// MachineKey is the machine-id(5) of a machine's systems.
func (b *Booter) MachineKey(id ingot.MachineID) string { return b.machineKeys()(id) }

// machineKeys returns MachineKey for use inside of transactions: it has the secret already.
func (b *Booter) machineKeys() func(ingot.MachineID) string {
	secret := b.state.Identity()
	return func(id ingot.MachineID) string {
		return hex.EncodeToString(derive(secret, "machine-id", string(id))[:16])
	}
}

// fleetID names the installation in the volumes of its machines. It is no secret, and the same on
// every server of the installation and after a restore.
func (b *Booter) fleetID() string { return hex.EncodeToString(b.Derive("fleet", "")[:16]) }

// Derive makes stable bytes that cannot be guessed without the state's secret.
func (b *Booter) Derive(purpose, of string) []byte { return derive(b.state.Identity(), purpose, of) }

func derive(secret []byte, purpose, of string) []byte {
	sum := sha256.Sum256(slices.Concat(secret, []byte("\x00"+purpose+"\x00"+of)))
	return sum[:]
}

// ServerURL is the beginning of URLs at one of our addresses; it is empty without
// one, as where an interface is only observed.
func (b *Booter) ServerURL(server netip.Addr) string {
	if !server.IsValid() {
		return ""
	}
	at := netip.AddrPortFrom(server, b.port).String() // IPv6 in brackets
	return "http://" + strings.TrimSuffix(at, ":80")
}
