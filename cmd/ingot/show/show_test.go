package show

import (
	"bytes"
	"strings"
	"testing"
)

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 65 << 20: "65.0 MiB",
		3 << 40: "3.0 TiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q; want %q", n, got, want)
		}
	}
}

func TestProgressInPlainLines(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out)
	p.Step("fetch", 0, 10, "")
	p.Step("fetch", 10, 10, "10 MiB")
	p.Step("fetch", 10, 10, "again")
	p.Step("pack", 0, 0, "")
	p.Finish()
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 2 || !strings.HasSuffix(lines[0],
		"10 MiB") || !strings.HasPrefix(lines[1], "pack") {
		t.Errorf("progress =\n%s\nwant one line per step", out.String())
	}
}
