package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *app) networkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "network", Short: "show DHCP clients, leases, other DHCP servers and problems",
		Long: `Show what the running server received on its networks: DHCP clients, other DHCP servers and
their offers, leases, and problems such as a second server, a stray option 60, addresses that
are in use without a lease, or relays that the configuration does not list. docs/NETWORKS.md
explains how to run beside other servers.`,
		Example: `  ingot network
  ingot network -o json | jq -r '.warnings[].text'`, Args: command.ExactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.Client().Network(cmd.Context())
			if err != nil {
				return err
			}
			return a.Show(n, func(w io.Writer) { networkTables(w, n, time.Now()) })
		},
	}
}

func networkTables(w io.Writer, n api.Network, now time.Time) {
	unserved := 0
	for _, x := range n.Interfaces {
		if !x.Served {
			unserved++
			fmt.Fprintf(w, "! %s: not served: %s\n", show.Plain(x.Name), show.Plain(x.Why))
		}
	}
	for _, x := range n.Warnings {
		fmt.Fprintf(w, "! %s: %s (%s, %d times)\n", show.Plain(x.Interface), show.Plain(x.Text), show.Ago(x.Last, now),
			x.Times)
	}
	for _, x := range n.Refused {
		fmt.Fprintf(w, "! %s: %s (%s, %d times)\n", show.Dash(show.Plain(x.Interface)), show.Plain(x.Text),
			show.Ago(x.Last, now),
			x.Packets)
	}
	if unserved+len(n.Warnings)+len(n.Refused) > 0 {
		fmt.Fprintln(w)
	}
	t := show.Table(w)
	if len(n.Servers) == 0 {
		fmt.Fprintln(w, "no other DHCP server was seen")
	} else {
		show.Row(t, "OTHER SERVER", "MAC", "INTERFACE", "OFFERS", "BOOT FILE", "OPTION 60", "LAST SEEN")
		for _, s := range n.Servers {
			lends, name := "addresses", s.Address.String()
			if s.Proxy {
				lends = "-"
			}
			if s.DUID != "" {
				name = "DUID " + s.DUID
			}
			show.Row(t, name, show.Dash(s.MAC), s.Interface, lends, show.Dash(s.File), show.Dash(s.Class), show.Ago(s.Last, now))
		}
		t.Flush()
	}
	fmt.Fprintln(w)
	if len(n.Clients) == 0 {
		fmt.Fprintln(w, "no DHCP clients yet")
		return
	}
	leases := map[string][]string{}
	for _, l := range n.Leases {
		if !l.Declined && now.Before(l.Expires) {
			leases[l.Client()] = append(leases[l.Client()], l.Address.String())
		}
	}
	show.Row(t, "CLIENT", "INTERFACE", "FIRMWARE", "CLASS", "NAME", "LEASE", "OTHER OFFERS", "OUR OFFER", "LAST SEEN")
	for _, c := range n.Clients {
		lent, said := strings.Join(leases[c.MAC], " "), ""
		if len(c.Answers) > 0 {
			said = c.Answers[len(c.Answers)-1]
		}
		show.Row(t, c.MAC, c.Interface, show.Dash(string(c.Firmware)), show.Dash(c.Class), show.Dash(c.Hostname),
			show.Dash(lent), show.Dash(said), show.Dash(c.WouldAnswer), show.Ago(c.Last, now))
	}
	t.Flush()
}
