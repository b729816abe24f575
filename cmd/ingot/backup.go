package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ingot/bootserver"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/internal/count"
)

func (a *app) backupCommand() *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "copy the state of the running server: machines, boots, leases, ledger",
		Long: `Write a snapshot of the running server's state to a file, and check the file. The server
continues: it reads from a copy beside the state, which needs the same space there. Images and
keys are not included: images can be built or pulled again, but back up the folder keys of the
store separately. The file contains the server's secret, from which machine-ids are derived:
keep it secret.`,
		Example: "  ingot backup /srv/backup/ingot-$(date +%F).db", Args: command.ExactArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := command.Destination(args[0])
			if err != nil {
				return fmt.Errorf("writing the backup: %w", err)
			}
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
				return show.WithHint(fmt.Errorf("checking the backup: %w", err), "ingot backup FILE, once more")
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
	var empty bool
	c := &cobra.Command{
		Use: "restore FILE", Short: "replace the state of the server by a backup",
		Long: `Send a backup to the running server. The server checks the whole file before it replaces its
state, and keeps the previous state beside it. Machines that boot at that moment may have to
start again. Leases that were given since the backup stay valid. Machines that were added since, and
boots that began since, come back with the next report of the system that runs: its reports contain
what the server knew, sealed by it. ingot machine ls lists them.
With the backup of another server, this server takes over that server's identity: boot keys,
machine-ids and the DHCPv6 DUID are derived from the secret in it.

Without a running server, the state of this host's store (--store) is replaced in the same way,
also if it is missing, damaged, or was written by a newer version of ingot. If the previous state
cannot be read, tokens that were revoked since the backup are valid again.

If there is no backup, --empty starts with an empty state while no server runs: machines become
pending and get new machine-ids, tokens and the audit log are gone. Images and keys stay.`,
		Example: "  ingot restore /srv/backup/ingot-2026-11-23.db\n  ingot restore --empty", Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if empty {
				if err := command.ExactArgs()(cmd, args); err != nil {
					return err
				}
				return a.restore(cmd.Context(), nil)
			}
			if err := command.ExactArgs("FILE")(cmd, args); err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("reading the backup: %w", err)
			}
			defer f.Close()
			return a.restore(cmd.Context(), f)
		},
	}
	c.Flags().BoolVar(&empty, "empty", false, "without FILE: start with an empty state, if there is no backup")
	return c
}

// restore restores a backup, or an empty state for nil, on this host if no server runs, else through
// the server.
func (a *app) restore(ctx context.Context, backup *os.File) error {
	var unused error // why the state of this host cannot be replaced without a server
	if a.Local() && a.mayRestoreHere() {
		unused = a.restoreHere(ctx, backup)
		if !errors.Is(unused, state.ErrLocked) && !errors.Is(unused, fs.ErrPermission) {
			return unused
		}
	}
	if backup == nil {
		if unused == nil {
			unused = show.Usagef("this is not a store of this host: name it with --store, without --server and --context")
		}
		return fmt.Errorf("making an empty state: %w", unused)
	}
	if _, err := backup.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("reading the backup: %w", err)
	}
	a.warnUnsealed(backup)
	done, err := a.Client().Restore(ctx, backup)
	if errors.Is(err, api.ErrNoServer) && unused != nil {
		return unused
	}
	if err != nil {
		return err
	}
	return a.Show(done, func(w io.Writer) {
		fmt.Fprintf(w, "restored %s; the previous state is in %s; the newest %d of these are kept\n",
			count.Of(done.Machines, "machine"), done.Before, state.KeptRestores)
		missing(w, done.Missing)
	})
}

// warnUnsealed says that a backup has no checksum.
func (a *app) warnUnsealed(backup *os.File) {
	st, err := backup.Stat()
	if err != nil {
		return
	}
	if content, err := state.CheckSeal(backup, st.Size()); err == nil && content == st.Size() {
		fmt.Fprintln(a.Stderr, "warning: this backup has no checksum, because an earlier version wrote it or it is a copy "+
			"of a state file: changed bytes may go unnoticed")
	}
}

// mayRestoreHere reports whether a state without a server is meant: not one that a user who forgot
// to become root would make in a store of their own.
func (a *app) mayRestoreHere() bool {
	_, err := os.Stat(a.StoreRoot())
	return err == nil || a.StoreNamed() || os.Geteuid() == 0
}

// restoreHere restores the state of this host's store, which no server uses.
func (a *app) restoreHere(ctx context.Context, backup *os.File) error {
	root, now := a.StoreRoot(), time.Now()
	if a.Now != nil {
		now = a.Now()
	}
	var from io.Reader
	if backup != nil {
		from = backup
	}
	done, err := bootserver.RestoreState(access.With(ctx, access.LocalUser(os.Getuid(), os.Getpid())), root, from, now)
	if err != nil {
		return restoreHint(err)
	}
	if backup != nil {
		a.warnUnsealed(backup)
	}
	if done.Converted != nil {
		fmt.Fprintf(a.Stderr, "note: %s\n", done.Converted)
	}
	if backup != nil && !done.Carried {
		fmt.Fprintln(a.Stderr, "warning: the previous state could not be read; tokens that were revoked since the backup "+
			"are valid again: check them with ingot token ls")
	}
	return a.Show(done.Restored, func(w io.Writer) {
		fmt.Fprintf(w, "restored %s in %s\n", count.Of(done.Machines, "machine"), root)
		if done.Before != "" {
			fmt.Fprintf(w, "the previous state is in %s; the newest %d of these are kept\n", done.Before,
				state.KeptRestores)
		}
		fmt.Fprintln(w, "  → start the server")
		missing(w, done.Missing)
	})
}

// missing names the machines that a backup does not have.
func missing(w io.Writer, names []string) {
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(w, "%d approved machines are not in the backup: %s\n", len(names), show.Plain(show.Some(names, 8)))
	fmt.Fprintln(w, "those that run and authenticate their reports come back by themselves within a minute")
	fmt.Fprintln(w, "  → ingot machine ls")
}

// restoreHint adds the next step to a backup that cannot be restored.
func restoreHint(err error) error {
	if errors.Is(err, state.ErrDamaged) {
		return show.WithHint(fmt.Errorf("restoring the backup: %w", err), "restore an earlier backup; nothing was changed")
	}
	return err
}
