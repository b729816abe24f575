package network

import (
	"fmt"
	"net/netip"
	"slices"
)

// Code is the code of an option: one byte in DHCP, two in DHCPv6.
type Code interface{ uint8 | uint16 }

// Option is an option by its code, with one of the values.
type Option[C Code] struct {
	Code      C            `yaml:"code" json:"code"`
	Text      string       `yaml:"text,omitempty" json:"text,omitempty"`
	Hex       string       `yaml:"hex,omitempty" json:"hex,omitempty"` // "01:02:ff" or "0102ff"
	Addresses []netip.Addr `yaml:"addresses,omitempty" json:"addresses,omitempty"`
}

// Bytes returns the option's value as it is sent.
func (o Option[C]) Bytes(family Family) ([]byte, error) {
	given := 0
	for _, is := range []bool{o.Text != "", o.Hex != "", len(o.Addresses) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("option %d needs one of text, hex and addresses", o.Code)
	}
	switch {
	case o.Text != "":
		return []byte(o.Text), nil
	case o.Hex != "":
		return unhex(o.Hex)
	}
	var b []byte
	for _, a := range o.Addresses {
		if !family.Has(a) {
			return nil, fmt.Errorf("option %d: %q is not an %s address", o.Code, a, family)
		}
		b = append(b, a.AsSlice()...)
	}
	return b, nil
}

// Nearest returns near, or far if near is nil: an empty list overrides, too.
func Nearest[T any](far, near []T) []T {
	if near != nil {
		return near
	}
	return far
}

// OverrideOptions returns far with the options replaced whose codes near has.
func OverrideOptions[C Code](far, near []Option[C]) []Option[C] {
	if len(near) == 0 {
		return far
	}
	kept := slices.DeleteFunc(slices.Clone(far), func(e Option[C]) bool {
		return slices.ContainsFunc(near, func(o Option[C]) bool { return o.Code == e.Code })
	})
	return append(kept, near...)
}

// MaxOption is the largest size of one option in bytes. Many ROMs do not join what
// DHCP splits (RFC 3396); in DHCPv6 it keeps an answer below the MTU that every link
// has.
const MaxOption = 255

// CheckOptions refuses options that cannot be sent, and reserved ones, whose values
// say by what they are decided. tooLong explains why long options are refused.
func CheckOptions[C Code](f *Faults, where string, family Family, list []Option[C], reserved map[C]string,
	tooLong string) {
	for _, o := range list {
		if is, ok := reserved[o.Code]; ok {
			f.Add(where, "option %d cannot be set: it is %s", o.Code, is)
		}
		if b, err := o.Bytes(family); err != nil {
			f.Add(where, "%w", err)
		} else if len(b) > MaxOption {
			f.Add(where, "option %d has %d bytes; %d is the most%s", o.Code, len(b), MaxOption, tooLong)
		}
	}
}
