package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot"
	"ingot/bootserver"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// TestRestoreHere: without a server, a lost state is named by the commands that need it, with what
// to type; a backup is restored, a damaged one is refused, and an empty state can be chosen.
func TestRestoreHere(t *testing.T) {
	root := t.TempDir()
	t.Setenv("INGOT_STORE", root)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	ingot := func(args ...string) (code int, out, errs string) {
		var stdout, stderr bytes.Buffer
		code = run(t.Context(), args, nil, &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
	st, err := bootserver.OpenState(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: "m-1"}); return nil }); err != nil {
		t.Fatal(err)
	}
	var copied bytes.Buffer
	keys, dir := filepath.Join(root, "keys"), filepath.Join(root, state.Folder)
	backup, flipped := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "flipped")
	err = errors.Join(st.Backup(&copied), st.Close(), os.WriteFile(backup, copied.Bytes(), 0o600), os.Mkdir(keys, 0o700),
		os.WriteFile(filepath.Join(keys, "ca.key"), []byte("a server made it"), 0o600), os.RemoveAll(dir))
	if err != nil {
		t.Fatal(err)
	}
	copied.Bytes()[copied.Len()/2] ^= 4
	if err := os.WriteFile(flipped, copied.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	const advice = "restore a backup: ingot restore FILE; if there is none, start with an empty state: " +
		"ingot restore --empty"
	code, _, errs := ingot("image", "gc")
	if code != 1 || !strings.Contains(errs, "the state file is lost: it is missing") || !strings.Contains(errs, advice) {
		t.Errorf("image gc with a lost state: %d, %s", code, errs)
	}
	if code, _, errs = ingot("restore", flipped); code != 1 || !strings.Contains(errs, "does not match its checksum") ||
		!strings.Contains(errs, "restore an earlier backup") {
		t.Errorf("restore of a damaged backup: %d, %s", code, errs)
	}
	if code, _, errs = ingot("image", "gc"); code != 1 {
		t.Errorf("image gc after a failed restore: %d, %s", code, errs)
	}
	if code, out, errs := ingot("restore", backup); code != 0 || !strings.Contains(out, "restored 1 machine") ||
		!strings.Contains(errs, "tokens that were revoked") {
		t.Errorf("restore: %d, %s%s", code, out, errs)
	}
	if code, _, errs = ingot("image", "gc"); code != 0 {
		t.Errorf("image gc after the restore: %d, %s", code, errs)
	}
	for _, args := range [][]string{{"restore"}, {"restore", "--empty", backup}, {"restore", "--empty", "--server",
		"https://boot.example.org:1"}} {
		if code, _, errs = ingot(args...); code != 2 {
			t.Errorf("%q: %d, %s", args, code, errs)
		}
	}
	if code, out, errs := ingot("restore", "--empty"); code != 0 || !strings.Contains(out, "restored 0 machines") ||
		!strings.Contains(out, "the previous state is in") {
		t.Errorf("restore --empty: %d, %s%s", code, out, errs)
	}
	st, err = bootserver.OpenState(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	actions, _, err := st.Changes(state.Query{Audit: true})
	if err != nil || len(actions) != 1 || actions[0].Code != fleet.ActionServerRestore {
		t.Errorf("the audit log has %+v, %v; want the restore", actions, err)
	}
	const inUse = "another server uses this store"
	if code, _, errs := ingot("restore", "--empty"); code != 1 || !strings.Contains(errs, inUse) {
		t.Errorf("restore --empty while the state is in use: %d, %s", code, errs)
	}
	if code, _, errs := ingot("restore", backup); code != 1 || !strings.Contains(errs, inUse) {
		t.Errorf("restore while the state is in use, without a socket: %d, %s", code, errs)
	}
}

// TestLostJournal: after a crash, a start applies the journal. If it is lost, that is said with what to
// type, and what was typed works: the state goes on without what only the journal had.
func TestLostJournal(t *testing.T) {
	root := t.TempDir()
	t.Setenv("INGOT_STORE", root)
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	ingot := func(args ...string) (code int, out, errs string) {
		var stdout, stderr bytes.Buffer
		code = run(t.Context(), args, nil, &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
	live := t.TempDir()
	st, err := bootserver.OpenState(t.Context(), live)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for _, id := range []string{"m-1", "m-2"} {
		err := st.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: machineID(id)}); return nil })
		if err == nil && id == "m-1" {
			_, err = st.Leases() // has the first one applied
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(root, state.Folder)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(live, state.Folder))); err != nil { // as after a crash
		t.Fatal(err)
	}
	journal := filepath.Join(dir, "ingot.journal")
	kept, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	if code, out, errs := ingot("doctor"); !strings.Contains(out, filepath.Join(dir, "ingot.db")+" was checked") {
		t.Errorf("doctor after a crash: %d, %s%s", code, out, errs)
	}
	if err := os.Remove(journal); err != nil {
		t.Fatal(err)
	}
	const advice = "or the state file itself, without what only its journal has: ingot restore STORE/state/ingot.db"
	for _, args := range [][]string{{"doctor"}, {"image", "gc"}} {
		code, out, errs := ingot(args...)
		if all := strings.Join(strings.Fields(out+errs), " "); code == 0 || !strings.Contains(all, "it is missing") ||
			!strings.Contains(all, advice) {
			t.Errorf("%s without the journal: %d, %s%s", args[0], code, out, errs)
		}
	}
	if code, out, errs := ingot("restore", filepath.Join(dir, "ingot.db")); code != 0 ||
		!strings.Contains(out, "restored 1 machine") || !strings.Contains(errs, "tokens that were revoked") {
		t.Errorf("restore of the state file: %d, %s%s", code, out, errs)
	}
	if code, _, errs := ingot("image", "gc"); code != 0 {
		t.Errorf("image gc after the restore: %d, %s", code, errs)
	}
	if err := os.WriteFile(journal, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := ingot("image", "gc"); code == 0 || !strings.Contains(errs, "it belongs to another state file") {
		t.Errorf("image gc with the journal of the state from before: %d, %s", code, errs)
	}
}

// machineID is for functions in which ingot is the program.
func machineID(id string) ingot.MachineID { return ingot.MachineID(id) }
