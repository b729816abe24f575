package initrd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The network files of systemd-networkd (systemd.network(5)): what the image says of every
// Ethernet card, and what ingot-init adds for the card that the machine booted from. The first
// file in the order of names that matches a card is used, so an image's own file for the card
// goes before ours.
const (
	ethernetFile = "etc/systemd/network/80-ingot-ethernet.network" // in the root
	bootCardFile = "run/systemd/network/79-ingot-boot.network"
)

// bootCardSettings follow the image's settings for all cards. The image and the server are
// behind this card: it keeps address and routes when no DHCP server renews them, and its default
// route and name servers go before those of other cards.
var bootCardSettings = strings.ReplaceAll(`
# By ingot-init: the card that this machine booted from.
[Network]
KeepConfiguration=dhcp
Domains=~.

[DHCPv4]
RouteMetric=METRIC

[IPv6AcceptRA]
RouteMetric=METRIC
`, "METRIC", strconv.Itoa(bootCardRoute))

// writeBootCard writes the network file of the boot card below run, if the root has the one for
// every card.
func writeBootCard(root, run, mac string) error {
	b, err := os.ReadFile(filepath.Join(root, ethernetFile))
	if os.IsNotExist(err) {
		return nil // the image configures its network by itself
	}
	if err != nil {
		return fmt.Errorf("configuring the boot card: %w", err)
	}
	text, ok := bootCardText(string(b), mac)
	if !ok {
		return nil
	}
	name := filepath.Join(run, bootCardFile)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("configuring the boot card: %w", err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		return fmt.Errorf("configuring the boot card: %w", err)
	}
	return nil
}

// bootCardText makes the network file of one card of the file for all cards. ok is false if
// that one names cards by address.
func bootCardText(all, mac string) (text string, ok bool) {
	before, after, found := strings.Cut(all, "[Match]\n")
	if !found || mac == "" || strings.Contains(all, "MACAddress=") {
		return "", false
	}
	return before + "[Match]\nMACAddress=" + mac + "\n" + after + bootCardSettings, true
}
