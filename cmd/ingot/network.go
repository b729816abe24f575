package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver/api"
)

func (a *app) networkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "network", Short: "who asks, what other servers answer, what is lent, what is wrong",
		Long: `Show what the running server heard on its networks: clients that ask for addresses,
other DHCP servers and what they offer, addresses that are lent, and what is wrong:
a second server, a stray option 60, addresses in use that nobody was given.
docs/NETWORKS.md tells how to stand beside other servers.`,
		Example: "  ingot network\n  ingot network -o json | jq -r '.warnings[].text'", Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := a.client().Network(cmd.Context())
			if err != nil {
				return err
			}
			return a.show(n, func(w io.Writer) { networkTables(w, n, time.Now()) })
		},
	}
}

func networkTables(w io.Writer, n api.Network, now time.Time) {
	for _, x := range n.Warnings {
		fmt.Fprintf(w, "! %s: %s (%s, %d times)\n", plain(x.Interface), plain(x.Text), ago(x.Last, now), x.Times)
	}
	if len(n.Warnings) > 0 {
		fmt.Fprintln(w)
	}
	t := tabs(w)
	if len(n.Servers) == 0 {
		fmt.Fprintln(w, "no other DHCP server was heard")
	} else {
		row(t, "OTHER SERVER", "MAC", "INTERFACE", "LENDS", "BOOTS", "OPTION 60", "LAST")
		for _, s := range n.Servers {
			lends, name := "addresses", s.Address.String()
			if s.Proxy {
				lends = "-"
			}
			if s.DUID != "" {
				name = "DUID " + s.DUID
			}
			row(t, name, dash(s.MAC), s.Interface, lends, dash(s.File), dash(s.Class), ago(s.Last, now))
		}
		t.Flush()
	}
	fmt.Fprintln(w)
	if len(n.Askers) == 0 {
		fmt.Fprintln(w, "nobody has asked yet")
		return
	}
	leases := map[string][]string{}
	for _, l := range n.Leases {
		if !l.Declined && now.Before(l.Expires) {
			leases[l.Client()] = append(leases[l.Client()], l.Address.String())
		}
	}
	row(t, "CLIENT", "INTERFACE", "FIRMWARE", "CLASS", "NAME", "LENT", "OTHERS SAID", "WE WOULD", "LAST")
	for _, c := range n.Askers {
		lent, said := strings.Join(leases[c.MAC], " "), ""
		if len(c.Answers) > 0 {
			said = c.Answers[len(c.Answers)-1]
		}
		row(t, c.MAC, c.Interface, dash(string(c.Firmware)), dash(c.Class), dash(c.Hostname), dash(lent), dash(said), dash(c.Would), ago(c.Last, now))
	}
	t.Flush()
}
