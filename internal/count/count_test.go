package count

import "testing"

func TestOf(t *testing.T) {
	for want, got := range map[string]string{"1 machine": Of(1, "machine"), "0 machines": Of(0, "machine"),
		"2 entries": Of(2, "entry"), "1 entry": Of(1, "entry"), "1 is": Of(1, "is")[:2] + Verb(1, "is", "are"),
		"are": Verb(0, "is", "are")} {
		if got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}
