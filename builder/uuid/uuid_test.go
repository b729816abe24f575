package uuid

import (
	"testing"

	"ingot"
)

func TestFrom(t *testing.T) {
	// The digest of nothing: e3b0c442 98fc 1c14 9afb f4c8996fb924…
	if got := From(ingot.DigestOf(nil)).String(); got != "e3b0c442-98fc-8c14-9afb-f4c8996fb924" {
		t.Errorf("From(digest of nothing) = %s; want e3b0c442-98fc-8c14-9afb-f4c8996fb924", got)
	}
	if a, b := From(ingot.DigestOf([]byte("a"))), From(ingot.DigestOf([]byte("b"))); a == b || a[6]>>4 != 8 ||
		a[8]>>6 != 2 {
		t.Errorf("From(a) = %s, From(b) = %s; want two UUIDs of version 8", a, b)
	}
}
