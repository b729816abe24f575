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
		Use: "capture MACHINE...", Short: "record the traffic of machines' boots, as a pcap file",
		Long: `Record what the server's interfaces hear of a machine and say to it, while it boots: by its
MAC addresses and its address, and DHCP that names it, of IPv4 and IPv6, through relays
too. Behind a router, more than DHCP is heard once the server knows its address. The server
records; this may run elsewhere (scope admin). Of TCP the first 512 bytes of each frame
are kept. The key of the boot is in it: as long as that boot lasts, keep it to yourself.
Several machines come into one file, as long as they have no more than 64 cards.

It ends by itself, or when it is interrupted; the file is whole either way.

` + naming,
		Example: "  ingot capture node01 -w node01.pcap     # and switch the machine on\n  ingot capture node01 | tcpdump -nr -\n  ingot capture 'node[01-04]' -w rack.pcap",
		Args:    command.LeastArgs("MACHINE"),
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
				return show.Usagef("-w FILE is needed: a capture is nothing for a terminal")
			}
			n := &counted{w: out}
			fmt.Fprintf(a.Stderr, "recording %s for %s, or until interrupted\n", show.Plain(strings.Join(names, " ")), d)
			if err := a.Client().Capture(cmd.Context(), names, d, int64(bytes), n); err != nil {
				return err
			}
			if file == "-" {
				return nil
			}
			return a.Show(map[string]any{"file": file, "bytes": n.n}, func(w io.Writer) { fmt.Fprintf(w, "%s holds %s\n", file, show.Size(n.n)) })
		},
	}
	c.Flags().StringVarP(&file, "write", "w", "-", "file to write; - is standard output")
	c.Flags().DurationVar(&d, "for", 10*time.Minute, "how long (at most 1h)")
	c.Flags().StringVar(&most, "size", "256MiB", "end when the file is as large as this (at most 1GiB)")
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
