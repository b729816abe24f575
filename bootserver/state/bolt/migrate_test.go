package bolt

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
)

// testdata/schema1.db.gz was written by the program as it was before schema 2, through its
// own state: machines in all states, with questions, answers, grants and setbacks, boots of
// all outcomes, consoles, hardware facts, leases, credentials, the ledger and an audit log
// with more lines than the ledger. testdata/schema1.json.gz is what that program read back.

func unzipped(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wanted is what the program of schema 1 read from its file.
type wanted struct {
	Machines, Boots, Leases, Credentials []json.RawMessage
	Identity                             []byte
	Ledger                               []struct {
		Seq     uint64
		At      time.Time
		Kind    string
		Machine ingot.MachineID
		Boot    ingot.BootID
		Stage   ingot.Stage
		Text    string
		Bytes   int64
		Bad     bool
	}
	Audit []struct {
		Seq              uint64
		At               time.Time
		Who              fleet.Actor
		Action, On, Name string
		From, To         map[string]any
	}
	Consoles map[ingot.BootID]string
	Facts    map[ingot.BootID]ingot.Facts
}

func decoded[T any](t *testing.T, from []json.RawMessage, decode func([]byte) (T, error)) (list []T) {
	t.Helper()
	for _, text := range from {
		v, err := decode(text)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	return list
}

// compare reports what s has lost or changed of what the program of schema 1 knew.
func (w *wanted) compare(t *testing.T, s *Store) {
	t.Helper()
	addresses := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	same := func(what string, want, got any) {
		t.Helper()
		if d := cmp.Diff(want, got, addresses); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	boots, err := s.Boots("", 0)
	if err != nil {
		t.Fatal(err)
	}
	leases, err := s.Leases()
	if err != nil {
		t.Fatal(err)
	}
	same("machines", decoded(t, w.Machines, record.DecodeMachine), s.Machines())
	same("boots", decoded(t, w.Boots, record.DecodeBoot), boots)
	same("leases", decoded(t, w.Leases, record.DecodeLease), leases)
	same("credentials", decoded(t, w.Credentials, record.DecodeCredential), s.Credentials())
	same("identity", w.Identity, s.Identity())
	for _, b := range boots {
		console, err := s.Console(b.ID)
		if err != nil {
			t.Fatal(err)
		}
		same("console", w.Consoles[b.ID], console)
		f, reported, err := s.Facts(b)
		if err != nil || !reported {
			t.Errorf("facts of boot %s: %v, %v", b.ID.Short(), reported, err)
		}
		same("facts", w.Facts[b.ID], f)
	}
	w.compareLedger(t, s)
}

func (w *wanted) compareLedger(t *testing.T, s *Store) {
	t.Helper()
	changes, _, err := s.Changes(state.Query{Limit: len(w.Ledger) + 1})
	if err != nil || len(changes) < len(w.Ledger) {
		t.Fatalf("%d Changes, %v; want %d", len(changes), err, len(w.Ledger))
	}
	for i, e := range w.Ledger {
		c := changes[i]
		if c.Code != fleet.CodeText || c.Seq != e.Seq || !c.At.Equal(e.At) || string(c.Kind()) != e.Kind ||
			c.Machine != e.Machine || c.Boot != e.Boot ||
			c.Stage != e.Stage || c.String() != e.Text || c.Bytes != e.Bytes || c.Bad() != e.Bad {
			t.Errorf("entry %+v is %+v", e, c)
		}
	}
	actions, _, err := s.Changes(state.Query{Audit: true, Limit: len(w.Audit) + 1})
	if err != nil || len(actions) < len(w.Audit) {
		t.Fatalf("%d actions, %v; want %d", len(actions), err, len(w.Audit))
	}
	for i, a := range w.Audit {
		c := actions[i]
		on := string(c.Machine) + string(c.Image.Image) + c.Subject
		if string(c.Code) != a.Action || c.Seq != a.Seq || !c.At.Equal(a.At) || on != a.On || c.Name != a.Name ||
			!cmp.Equal(c.Actor, a.Who) ||
			!cmp.Equal(map[string]any(c.From), a.From) || !cmp.Equal(map[string]any(c.To), a.To) {
			t.Errorf("line of the audit log %+v is %+v", a, c)
		}
	}
}

// TestOpensSchema1: a file that the program before schema 2 wrote opens with nothing lost,
// and is kept beside as it was.
func TestOpensSchema1(t *testing.T) {
	before := unzipped(t, "schema1.db.gz")
	var want wanted
	if err := json.Unmarshal(unzipped(t, "schema1.json.gz"), &want); err != nil {
		t.Fatal(err)
	}
	if len(want.Machines) != 8 || len(want.Boots) != 28 || len(want.Audit) < len(want.Ledger)/2 ||
		len(want.Consoles) != 28 {
		t.Fatal("the fixture does not hold what it should")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, before, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // converted, and read again
		s := open(t, dir)
		want.compare(t, s)
		if err := errors.Join(s.Verify(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := CheckFile(keptOld(path)); err != nil {
		t.Errorf("the file from before, kept beside: %v", err)
	}
	schema := 0
	err := readFile(keptOld(path), func(tx *bbolt.Tx) (err error) { schema, err = schemaOf(tx); return err })
	if err != nil || schema != 1 {
		t.Errorf("the file that is kept has schema %d, %v; want 1", schema, err)
	}

	// What happens next is numbered after both the ledger and the audit log.
	s := open(t, dir)
	defer s.Close()
	action := fleet.Change{At: time.Unix(9, 0), Code: fleet.ActionTokenCreate, Subject: "x"}
	if err := s.Append(action, fleet.Change{At: time.Unix(9, 0), Code: fleet.CodeServerRestored}); err != nil {
		t.Fatal(err)
	}
	last := max(want.Ledger[len(want.Ledger)-1].Seq, want.Audit[len(want.Audit)-1].Seq)
	if list, _, err := s.Changes(state.Query{Audit: true, Newest: true, Limit: 1}); err != nil || len(list) != 1 ||
		list[0].Seq != last+1 {
		t.Errorf("the next action is %+v, %v; want number %d", list, err, last+1)
	}
	want.compareLedger(t, s)
}

// TestRestoresSchema1: a backup that the program before schema 2 made is restored.
func TestRestoresSchema1(t *testing.T) {
	var want wanted
	if err := json.Unmarshal(unzipped(t, "schema1.json.gz"), &want); err != nil {
		t.Fatal(err)
	}
	s := open(t, t.TempDir())
	defer s.Close()
	if err := s.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: "m-gone"}); return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Restore(bytes.NewReader(unzipped(t, "schema1.db.gz")), time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	want.compare(t, s)
}

// TestRefusesNewerSchema: a program does not touch what a newer one wrote, neither as its
// state nor as a backup.
func TestRefusesNewerSchema(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	err := s.write(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keySchema, []byte("7")) })
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, file)
	newer, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), dir)
	if !errors.Is(err, state.ErrSchema) || !strings.Contains(err.Error(), "use a version of ingot that knows schema 7") {
		t.Errorf("Open = %v; want ErrSchema with the version that is needed", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(newer, after) {
		t.Errorf("the file was changed, %v", err)
	}
	here := open(t, t.TempDir())
	defer here.Close()
	if err := here.Update(func(tx state.Tx) error {
		tx.PutCredential(access.Credential{ID: "1"})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Restore(bytes.NewReader(newer), time.Unix(5, 0)); !errors.Is(err, state.ErrSchema) {
		t.Errorf("Restore = %v; want ErrSchema", err)
	}
	if len(here.Credentials()) != 1 {
		t.Error("a backup that was refused changed the state")
	}
}

// TestOlderProgramRefuses reads the machines of a new file as the program before schema 2 did, which
// looked at no schema: any value that is not JSON ended it, with the key in the error.
func TestOlderProgramRefuses(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, file), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var refused string
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMachines).ForEach(func(k, v []byte) error {
			var m map[string]any
			if json.Unmarshal(v, &m) != nil {
				refused = string(k)
			}
			return nil
		})
	})
	if err := errors.Join(err, db.Close()); err != nil || !strings.Contains(refused, "needs a newer version of ingot") {
		t.Errorf("the program before schema 2 would quote %q, %v; want that it is too old", refused, err)
	}
	if s, err = Open(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if list := s.Machines(); len(list) != 0 {
		t.Errorf("a new state has the machines %v", list)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
