package initrd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"ingot"
	"ingot/rootfs/volumes"
)

// slowController is a machine whose disk appears after some looks at its bus.
type slowController struct {
	t     *testing.T
	at    volumes.Paths
	looks int
	after int // 0: never
}

func newSlowController(t *testing.T, after int) *slowController {
	dir := t.TempDir()
	c := &slowController{t: t, at: volumes.Paths{SysBlock: filepath.Join(dir, "sys"), Dev: filepath.Join(dir, "dev")},
		after: after}
	for _, d := range []string{c.at.SysBlock, c.at.Dev} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *slowController) look() {
	if c.looks++; c.looks != c.after {
		return
	}
	write := func(name, content string) {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			c.t.Fatal(err)
		}
	}
	write(c.at.Dev+"/sda", string(make([]byte, 4<<20)))
	write(c.at.SysBlock+"/sda/device/vpd_pg80", "\x00\x80\x00\x04LATE")
	write(c.at.SysBlock+"/sda/size", "8192\n")
}

// TestLateDisks: a disk that appears later than the network card is waited for, as long as it may
// be needed; a bound ends it.
func TestLateDisks(t *testing.T) {
	granted := volumes.Machine{Now: time.Unix(1, 0),
		Grants: []ingot.Grant{{Volume: "data", Disk: "LATE", Expires: time.Unix(100, 0)}}}
	for _, c := range []struct {
		name     string
		volumes  []ingot.Volume
		on       volumes.Machine
		after    int
		optional time.Duration
		needed   time.Duration
		looks    int // at least
		found    bool
	}{
		{"granted, and late", []ingot.Volume{{Name: "data", Optional: true}}, granted, 20, 0, time.Minute, 20, true},
		{"optional, within its time", []ingot.Volume{{Name: "data", Serial: "LATE", Optional: true}}, granted, 5, time.Minute,
			time.Minute, 5, true},
		{"optional, and nothing comes", []ingot.Volume{{Name: "data", Optional: true}}, volumes.Machine{}, 0,
			300 * time.Millisecond, time.Minute, 1, false},
		{"needed, and nothing comes", []ingot.Volume{{Name: "data"}}, volumes.Machine{}, 0, 0, 300 * time.Millisecond, 1,
			false},
		{"nothing declared", nil, granted, 1, time.Minute, time.Minute, 0, false},
	} {
		bus := newSlowController(t, c.after)
		w := diskWait{at: bus.at, look: bus.look, say: func(string, ...any) {}, pause: time.Millisecond,
			optional: time.Now().Add(c.optional), needed: time.Now().Add(c.needed)}
		start := time.Now()
		w.run(t.Context(), c.volumes, c.on)
		if found := len(volumes.List(bus.at)) == 1; bus.looks < c.looks || found != c.found ||
			time.Since(start) > 30*time.Second {
			t.Errorf("%s: %d looks in %s, found %t; want at least %d and %t", c.name, bus.looks, time.Since(start), found,
				c.looks, c.found)
		}
	}
}
