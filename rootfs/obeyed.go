package rootfs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"ingot"
)

// Obeyed is what a machine notes of an order before it acts, in ingot.RunDir: an agent that is started
// again, or gets the order again, does not carry it out once more.
type Obeyed struct {
	Boot ingot.BootID    `json:"boot"`
	Step ingot.OrderStep `json:"step"` // with the counter of the order
	Said bool            `json:"said"` // the server has the step
	Over bool            `json:"over"` // nothing more is done about the order
}

const obeyedFile = "order.json"

// Write stores o below dir. A reader sees the old file or the new one.
func (o Obeyed) Write(dir string) error { return writeNote(dir, obeyedFile, "the order", o) }

// ReadObeyed returns what was noted of the latest order of a boot; the zero Obeyed if there was none. A file
// that cannot be read is an error: no order may be carried out then.
func ReadObeyed(dir string, boot ingot.BootID) (o Obeyed, err error) {
	b, err := os.ReadFile(filepath.Join(dir, obeyedFile))
	if os.IsNotExist(err) {
		return Obeyed{Boot: boot}, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	switch {
	case err != nil:
		return o, fmt.Errorf("reading what was ordered: %w", err)
	case o.Boot != boot:
		return Obeyed{Boot: boot}, nil
	}
	return o, nil
}

// writeNote stores a value below dir, readable by root only. A reader sees the old file or the new one.
func writeNote(dir, file, what string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", what, err)
	}
	name := filepath.Join(dir, file)
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		_ = os.Remove(name + ".new") // half of it may be there
		return fmt.Errorf("writing %s: %w", what, err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("writing %s: %w", what, err)
	}
	return nil
}
