package setup

import (
	"maps"
	"slices"
	"testing"

	"ingot/builder/tree"
)

// TestReadModprobe: settings are read as modprobe.d(5) says.
func TestReadModprobe(t *testing.T) {
	root := tree.New()
	for name, text := range map[string]string{
		"usr/lib/modprobe.d/a.conf":   "options bonding max_bonds=0\nblacklist evbug\n",
		"usr/lib/modprobe.d/b.conf":   "blacklist replaced\n",
		"usr/lib/modprobe.d/off.conf": "blacklist masked\n",
		"etc/modprobe.d/b.conf":       "# options x y=1\noptions nvme-core \\\n  io_timeout=30\nblacklist pcspkr-a\n",
		"etc/modprobe.d/c.conf":       "options\tdrm  note=\"a  b\"\noptions bonding mode=1\ninstall x /bin/true\n",
		"etc/modprobe.d/old":          "blacklist ignored\n",
	} {
		if err := root.PutFile(name, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := root.PutLink("etc/modprobe.d/off.conf", "/dev/null"); err != nil {
		t.Fatal(err)
	}
	m, err := ReadModprobe(root)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"bonding": "max_bonds=0 mode=1", "nvme_core": "io_timeout=30", "drm": `note="a  b"`}
	if !maps.Equal(m.Parameters, want) || !slices.Equal(m.Blacklist, []string{"evbug", "pcspkr_a"}) {
		t.Errorf("ReadModprobe = %q, %q; want %q", m.Parameters, m.Blacklist, want)
	}
}
