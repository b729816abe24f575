package bootserver

import (
	"testing"

	"ingot/bootserver/state"
)

// inParts calls f for 0 to n-1, in transactions that are within their bound.
func inParts(t *testing.T, st state.Store, n int, f func(tx state.Tx, i int)) {
	t.Helper()
	const part = state.MaxRecords / 4
	for from := 0; from < n; from += part {
		err := st.Update(func(tx state.Tx) error {
			for i := from; i < min(from+part, n); i++ {
				f(tx, i)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
