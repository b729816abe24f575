package uki

import (
	"bytes"
	"testing"
)

// TestIsSigned: a signature may be added, and nothing else may be done.
// TestSigning asks the same of what sbsign makes.
func TestIsSigned(t *testing.T) {
	plain := readFile(t, write(t, makeStub(5, ""), some()...))
	h, err := parseStub(makeStub(5, ""))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(b []byte) []byte {
		s := append(bytes.Clone(b), "signature"...)
		le.PutUint32(s[h.optional+optCheckSum:], 7)
		le.PutUint32(s[h.optional+optSecurity:], uint32(len(b)))
		le.PutUint32(s[h.optional+optSecurity+4:], 9)
		return s
	}
	other := func(at int) []byte {
		b := bytes.Clone(plain)
		b[at] ^= 1
		return sign(b)
	}
	inside := sign(plain)
	le.PutUint32(inside[h.optional+optSecurity:], 1024)
	for _, c := range []struct {
		name   string
		signed []byte
		want   bool
	}{
		{"signed", sign(plain), true},
		{"not signed", plain, false},
		{"another entry point", other(int(h.optional) + 16), false},
		{"another last byte", other(len(plain) - 1), false},
		{"another byte in the middle", other(len(plain) / 2), false},
		{"a signature over the image", inside, false},
	} {
		got, err := IsSigned(bytes.NewReader(c.signed), bytes.NewReader(plain), int64(len(plain)))
		if err != nil || got != c.want {
			t.Errorf("%s: IsSigned = %v, %v; want %v", c.name, got, err, c.want)
		}
	}
	if got, err := IsSigned(bytes.NewReader(sign(plain[:len(plain)-512])), bytes.NewReader(plain),
		int64(len(plain))); err == nil && got {
		t.Error("a truncated image is taken for a signed one")
	}
}
