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
		Use: "backup FILE", Short: "copy the running server's state: machines, boots, leases, ledger",
		Long: `Write the state of the running server, as it is at this moment, to a file, and check
that the file is whole. The server goes on meanwhile, however long that takes: it reads
from a copy beside the state, which takes as much room there. Images and keys are not in it:
images can be built or pulled again; back up keys/*.key of the store yourself. The file
holds the server's secret that machine-ids are made of: keep it to yourself.`,
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
				fmt.Fprintf(w, "%s holds the state, %s, and is whole\n", path, show.Size(n))
			})
		},
	}
}

func (a *app) restoreCommand() *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "put a backup in the place of the running server's state",
		Long: `Give a backup to the running server. It reads the file from end to end, and takes it
over only when it is whole; the state from before is kept beside it. Machines that boot
meanwhile may have to start over. Addresses that were lent since the backup stay lent.
With the backup of another server this one becomes that server, at once: keys of boots,
machine-ids and DHCPv6 identity are made of the secret in it.`,
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
				fmt.Fprintf(w, "restored, %d machines; what was there before is in %s\n", done.Machines, done.Before)
			})
		},
	}
}
