package yamlfile

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size; written as a number of bytes or with KiB, MiB, GiB, TiB.
type Bytes int64

var byteUnits = []struct {
	suffix string
	factor int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}}

// ParseBytes reads "512MiB", "1.5GiB" or a plain number of bytes.
func ParseBytes(s string) (Bytes, error) {
	t, factor := strings.TrimSpace(s), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(t, u.suffix); ok {
			t, factor = strings.TrimSpace(rest), u.factor
		}
	}
	f, err := strconv.ParseFloat(t, 64)
	if err != nil || f < 0 || f*float64(factor) > 1<<62 {
		return 0, fmt.Errorf("%q is not a size; write a number of bytes, or 512MiB, 2GiB", s)
	}
	return Bytes(f * float64(factor)), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBytes(string(text))
	return err
}

// MarshalText writes a whole number of the largest unit that there is one of.
func (b Bytes) MarshalText() ([]byte, error) {
	for _, u := range slices.Backward(byteUnits) {
		if b > 0 && int64(b)%u.factor == 0 {
			return fmt.Appendf(nil, "%d%s", int64(b)/u.factor, u.suffix), nil
		}
	}
	return strconv.AppendInt(nil, int64(b), 10), nil
}

// MarshalJSON writes a number of bytes.
func (b Bytes) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, int64(b), 10), nil }

// UnmarshalJSON reads what encoding/json writes: a number of bytes.
func (b *Bytes) UnmarshalJSON(text []byte) error { return b.UnmarshalText(bytes.Trim(text, `"`)) }

// Duration is a time.Duration; written as 90s, 5m, 1h30m.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration; write 90s, 5m or 1h", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the form that people write.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }
