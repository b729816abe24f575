package machines

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/internal/yamlfile"
)

func (a *Commands) captureCommand() *cobra.Command {
	var file, most string
	var d time.Duration
	c := &cobra.Command{
		Use: "capture MACHINE...", Short: "record the network traffic of machines that boot, as pcap",
		Long: `Record the traffic between a booting machine and the server's interfaces: frames with its
MAC or IP addresses, and DHCP messages about it, over IPv4 and IPv6, also through relays. For
a machine behind a router, other traffic is recorded once the server knows its address. The
server records, so this can run on another host (scope admin). TCP frames are cut after 512
bytes. The file contains the key of the boot: keep it secret while that boot lasts. Several
machines share one file, with at most 64 network cards in total.

The recording ends by itself or when interrupted; the file is complete in both cases.

` + naming,
		Example: `  ingot capture node01 -w node01.pcap     # and switch the machine on
  ingot capture node01 | tcpdump -nr -
  ingot capture 'node[01-04]' -w rack.pcap`,
		Args: command.LeastArgs("MACHINE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			bytes, err := yamlfile.ParseBytes(most)
			if err != nil {
				return show.UsageError{Err: err}
			}
			names, err := a.hosts(cmd.Context(), args)
			if err != nil {
				return err
			}
			out := a.Stdout
			if file != "-" {
				f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
				if err != nil {
					return fmt.Errorf("writing the capture: %w", err)
				}
				defer f.Close()
				out = f
			} else if t, ok := out.(*os.File); ok && term.IsTerminal(int(t.Fd())) {
				return show.Usagef("-w FILE is needed: a capture is binary, and standard output is a terminal")
			}
			n := &counted{w: out}
			fmt.Fprintf(a.Stderr, "recording %s for %s, or until interrupted\n", show.Plain(strings.Join(names, " ")), d)
			if err := a.Client().Capture(cmd.Context(), names, d, int64(bytes), n); err != nil {
				return err
			}
			if file == "-" {
				return nil
			}
			return a.Show(map[string]any{"file": file, "bytes": n.n}, func(w io.Writer) {
				fmt.Fprintf(w, "%s holds %s\n", file,
					show.Size(n.n))
			})
		},
	}
	c.Flags().StringVarP(&file, "write", "w", "-", "file to write; - is standard output")
	c.Flags().DurationVar(&d, "for", 10*time.Minute, "how long to record (at most 1h)")
	c.Flags().StringVar(&most, "size", "256MiB", "end when the file has this size (at most 1GiB)")
	return c
}

// counted counts what is written.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
