package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/testvm/storm"
)

// labStorm powers simulated machines on in the lab; they boot from its server.
func (a *Commands) labStorm() *cobra.Command {
	var c storm.Config
	cmd := &cobra.Command{
		Use: "storm", Short: "power on many simulated machines, to load the lab's server", Args: command.ExactArgs(),
		Long: `Power on simulated machines. On the lab's network, each does what firmware, loader, ingot-init
and agent do: DHCP, the loader by TFTP, script, kernel, initramfs, ticket, root and report.
They do not run the image. Each needs an address of the lab, which has about a hundred.`,
		Example: `  ingot lab up
  ingot lab storm --machines 50`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runStorm(cmd.Context(), c) },
	}
	f := cmd.Flags()
	f.IntVar(&c.Machines, "machines", 50, "number of machines")
	f.IntVar(&c.First, "first", 1, "number of the first machine, to simulate other machines than before")
	f.DurationVar(&c.Spread, "spread", time.Second, "power them on within this time")
	f.DurationVar(&c.Timeout, "timeout", 5*time.Minute, "maximum time to wait for all of them")
	return cmd
}

func (a *Commands) runStorm(ctx context.Context, c storm.Config) error {
	if c.Machines < 1 || c.Machines > 10000 || c.First < 0 {
		return show.Usagef("bad number of machines --machines %d: want 1 to 10000", c.Machines)
	}
	l, err := a.openLab()
	if err != nil {
		return err
	}
	own := l.Prefix.Masked().Addr()
	host, err := l.NewHost(ctx, "crowd0", netip.PrefixFrom(own.Next().Next(), l.Prefix.Bits())) // the server has the first
	if err != nil {
		return err
	}
	defer host.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c.Card = host.Card
	conf, err := json.Marshal(c)
	if err != nil {
		return err
	}
	cmd := host.Command(ctx, self, "lab", "storm-machines", string(conf))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, a.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running the machines: %w", err)
	}
	var r storm.Result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return fmt.Errorf("reading the result of the storm: %w", err)
	}
	err = a.Show(r, func(w io.Writer) {
		fmt.Fprintf(w, "%d of %d machines healthy after %s; median %s, slowest %s\n", r.Healthy, c.Machines,
			r.Elapsed.Round(time.Millisecond), r.Median.Round(time.Millisecond), r.Last.Round(time.Millisecond))
		for why, n := range r.Failed {
			fmt.Fprintf(w, "%d failed: %s\n", n, why)
		}
	})
	if err == nil && r.Healthy < c.Machines {
		err = show.WithHint(errors.New("some machines did not become healthy"),
			"ingot boots --timeline, or the lab's server.log")
	}
	return err
}

// stormMachines is the crowd itself; "lab storm" runs it on a host of its own.
func (a *Commands) stormMachines() *cobra.Command {
	var acknowledged bool
	cmd := &cobra.Command{
		Use: "storm-machines CONFIG", Hidden: true, Short: "simulate the machines of lab storm in this network namespace",
		Args:    command.ExactArgs("CONFIG"),
		Example: "  ingot lab storm",
		RunE: func(cmd *cobra.Command, args []string) error {
			var c storm.Config
			if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
				return show.Usagef("reading the configuration of the storm: %w", err)
			}
			out := json.NewEncoder(a.Stdout)
			var each func(storm.Acknowledged)
			if acknowledged {
				// It fails when the reader is gone, which ends the storm as well.
				each = func(k storm.Acknowledged) { _ = out.Encode(k) }
			}
			r, err := storm.Run(cmd.Context(), c, each)
			if err != nil {
				return err
			}
			return out.Encode(r)
		},
	}
	cmd.Flags().BoolVar(&acknowledged, "acknowledged", false, "also print what the server acknowledges, one line each")
	return cmd
}
