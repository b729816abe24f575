package memory

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
)

// Boot implements state.Observations.
func (s *Store) Boot(id ingot.BootID) (fleet.Boot, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if b, ok := s.view.Boot(id); ok {
		return b, true
	}
	return s.data.boot(id)
}

// Boots implements state.Observations.
func (s *Store) Boots(machine ingot.MachineID, limit int) ([]fleet.Boot, error) {
	return s.BootsBefore(machine, state.Place{}, limit)
}

// BootsBefore implements state.Observations.
func (s *Store) BootsBefore(machine ingot.MachineID, before state.Place, limit int) ([]fleet.Boot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if machine != "" && limit == 0 {
		limit = state.BootsPerMachine
	}
	list := s.boots(machine)
	if before != (state.Place{}) {
		list = slices.DeleteFunc(list, func(b fleet.Boot) bool {
			return state.PlaceOf(b, machine == "").Key() >= before.Key()
		})
	}
	if limit > 0 && len(list) > limit {
		list = list[len(list)-limit:]
	}
	return list, nil
}

// Changes implements state.Observations.
func (s *Store) Changes(q state.Query) (list []fleet.Change, last uint64, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	limit := q.Limit
	if limit <= 0 {
		limit = 1000
	}
	wanted := map[ingot.MachineID]bool{}
	for _, id := range append(slices.Clone(q.Machines), q.Machine) {
		if id != "" {
			wanted[id] = true
		}
	}
	table, decode := view.Ledger, record.DecodeChange
	if q.Audit {
		table, decode = view.Audit, record.DecodeAction
	}
	keys := s.data.sorted(table)
	if q.Newest {
		slices.Reverse(keys)
	}
	for _, k := range keys {
		if len(list) == limit {
			break
		}
		if binary.BigEndian.Uint64([]byte(k)) <= q.After {
			continue
		}
		c, err := decode(s.data.Records[table][k])
		if err != nil {
			return nil, 0, fmt.Errorf("reading the ledger: %w", err)
		}
		if len(wanted) == 0 || wanted[c.Machine] {
			list = append(list, c)
		}
	}
	if q.Newest {
		slices.Reverse(list)
	}
	return list, s.data.lastSeq(), nil
}

// LedgerName implements state.Observations.
func (s *Store) LedgerName() (name string, restored uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.data.Name, s.data.Restored
}

// Await implements state.Observations.
func (s *Store) Await(ctx context.Context, after uint64) {
	was, _ := s.LedgerName()
	for {
		s.mu.RLock()
		news, last, name := s.news, s.view.Seq, s.data.Name
		s.mu.RUnlock()
		if last > after || name != was {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		}
	}
}

// Trim implements state.Observations.
func (s *Store) Trim(now time.Time, most int, age time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := s.data.sorted(view.Ledger)
	for i, k := range keys {
		c, err := record.DecodeChange(s.data.Records[view.Ledger][k])
		if err != nil || len(keys)-i <= most && !c.At.Before(now.Add(-age)) {
			return err
		}
		delete(s.data.Records[view.Ledger], k)
	}
	return nil
}

// Console implements state.Observations.
func (s *Store) Console(id ingot.BootID) (string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.data.console(id), nil
}

// Facts implements state.Observations.
func (s *Store) Facts(b fleet.Boot) (f ingot.Facts, reported bool, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	text := s.data.Records[view.Facts][string(b.Facts)]
	if text == nil {
		return f, false, nil
	}
	return f, true, json.Unmarshal(text, &f)
}

// Verify implements state.Keeper.
func (s *Store) Verify() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.data.verify()
}

// Backup implements state.Keeper. Keys of records are bytes, and so the backup is of
// lists: JSON has only text for keys.
func (s *Store) Backup(w io.Writer) error {
	s.mu.RLock()
	b := backup{data: s.data, Sealed: true, Records: map[view.Table][]pair{}}
	for t, records := range s.data.Records {
		for _, k := range s.data.sorted(t) {
			b.Records[t] = append(b.Records[t], pair{[]byte(k), records[k]})
		}
	}
	text, err := json.Marshal(b)
	s.mu.RUnlock()
	if err == nil {
		sealed := state.NewSealWriter(w)
		_, err = sealed.Write(text)
		err = errors.Join(err, sealed.Seal())
	}
	if err != nil {
		return fmt.Errorf("sending the backup: %w", err)
	}
	return nil
}

type pair struct {
	K []byte
	V json.RawMessage
}

type backup struct {
	*data
	Sealed  bool // a checksum follows
	Records map[view.Table][]pair
}

// receive reads a backup from end to end.
func receive(r io.Reader) (*data, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("receiving the backup: %w", err)
	}
	size, err := state.CheckSeal(bytes.NewReader(text), int64(len(text)))
	if err != nil {
		return nil, err
	}
	b := backup{data: newData()}
	if err := json.Unmarshal(text[:size], &b); err != nil {
		return nil, fmt.Errorf("%w: %w", state.ErrDamaged, err)
	}
	if b.Sealed && int(size) == len(text) {
		return nil, state.ErrUnsealed
	}
	for t, list := range b.Records {
		if t == view.Sessions {
			continue // browsers log in anew
		}
		for _, p := range list {
			b.put(view.Key{Table: t, Key: string(p.K)}, p.V)
		}
	}
	return b.data, b.verify()
}

// OpenCopy opens a state that is what a backup holds, in a folder that has none.
func OpenCopy(dir string, r io.Reader) (*Store, error) {
	d, err := receive(r)
	if err != nil {
		return nil, err
	}
	folders.Lock()
	folders.data[dir] = d
	folders.Unlock()
	return Open(context.Background(), dir)
}

// Restore implements state.Keeper.
func (s *Store) Restore(r io.Reader, now time.Time) (kept string, err error) {
	if !s.restoring.TryLock() {
		return "", state.ErrRestoring
	}
	defer s.restoring.Unlock()
	d, err := receive(r)
	if err != nil {
		return "", err
	}
	kept = filepath.Join(s.dir, "state.before-"+now.UTC().Format("20060102T150405Z"))
	if err := s.keep(kept); err != nil {
		return "", fmt.Errorf("restoring the state: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", state.ErrClosed
	}
	for _, t := range []view.Table{view.Credentials, view.Audit} { // these do not go back in time
		if d.Records[t] == nil {
			d.Records[t] = map[string][]byte{}
		}
		maps.Copy(d.Records[t], s.data.Records[t])
	}
	if bytes.Equal(d.Identity, s.data.Identity) { // else it is another installation, with its own webhooks
		for _, t := range []view.Table{view.Webhooks, view.Progress, view.Letters} {
			d.Records[t] = maps.Clone(s.data.Records[t])
		}
	}
	s.restores++
	d.Name, d.Restored = fmt.Sprintf("%x-%d", now.UnixNano(), s.restores), d.lastSeq()
	err = s.load(d)
	folders.Lock()
	folders.data[s.dir] = d
	folders.Unlock()
	close(s.news)
	s.news = make(chan struct{})
	return kept, err
}

// keep writes the state from before a restore to a file.
func (s *Store) keep(path string) error {
	var b bytes.Buffer
	if err := s.Backup(&b); err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, b.Bytes(), 0o600))
}

// verify reads every record.
func (d *data) verify() error {
	if d.Schema > record.Schema {
		return fmt.Errorf("%w: it has schema %d, and this version knows schemas up to %d", state.ErrSchema, d.Schema,
			record.Schema)
	}
	if len(d.Identity) == 0 {
		return fmt.Errorf("%w: it has no identity", state.ErrDamaged)
	}
	errs := []error{
		check(d.Records[view.Machines], record.DecodeMachine), check(d.Records[view.Boots], record.DecodeBoot),
		check(d.Records[view.Leases], record.DecodeLease), check(d.Records[view.Credentials], record.DecodeCredential),
		check(d.Records[view.Ledger], record.DecodeChange), check(d.Records[view.Audit], record.DecodeAction),
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", state.ErrDamaged, err)
	}
	return nil
}

func check[T any](records map[string][]byte, decode func([]byte) (T, error)) (err error) {
	for k, b := range records {
		if _, e := decode(b); e != nil {
			err = fmt.Errorf("record %q: %w", k, e)
		}
	}
	return err
}
