package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ingot/bootserver/state/bolt"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
)

func (a *app) backupCommand() *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "copy the state of the running server: machines, boots, leases, ledger",
		Long: `Write a snapshot of the running server's state to a file, and check the file. The server
continues: it reads from a copy beside the state, which needs the same space there. Images and
keys are not included: images can be built or pulled again, but back up keys/*.key of the
store separately. The file contains the server's secret, from which machine-ids are derived:
keep it secret.`,
		Example: "  ingot backup /srv/backup/ingot-$(date +%F).db", Args: command.ExactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := args[0]
			tmp, err := os.CreateTemp(filepath.Dir(path), ".ingot-backup-*")
			if err != nil {
				return fmt.Errorf("writing the backup: %w", err)
			}
			defer os.Remove(tmp.Name())
			n, err := a.Client().Backup(cmd.Context(), tmp)
			if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
				return err
			}
			if err := bolt.CheckFile(tmp.Name()); err != nil {
				return fmt.Errorf("checking the backup: %w", err)
			}
			if err := os.Rename(tmp.Name(), path); err != nil {
				return fmt.Errorf("writing the backup: %w", err)
			}
			return a.Show(map[string]any{"file": path, "bytes": n}, func(w io.Writer) {
				fmt.Fprintf(w, "%s contains the state (%s) and was checked\n", path, show.Size(n))
			})
		},
	}
}

func (a *app) restoreCommand() *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "replace the state of the running server by a backup",
		Long: `Send a backup to the running server. The server checks the whole file before it replaces its
state, and keeps the previous state beside it. Machines that boot at that moment may have to
start again. Leases that were given since the backup stay valid.
With the backup of another server, this server takes over that server's identity: boot keys,
machine-ids and the DHCPv6 DUID are derived from the secret in it.`,
		Example: "  ingot restore /srv/backup/ingot-2026-11-23.db", Args: command.ExactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("reading the backup: %w", err)
			}
			defer f.Close()
			done, err := a.Client().Restore(cmd.Context(), f)
			if err != nil {
				return err
			}
			return a.Show(done, func(w io.Writer) {
				fmt.Fprintf(w, "restored %d machines; the previous state is in %s\n", done.Machines, done.Before)
			})
		},
	}
}
