package initrd

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSoftDependencies: what a module needs only softly is loaded before it, also if the index names an alias with
// several providers, of which one does not fit this processor, and also of a module that another one needs.
func TestSoftDependencies(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": "kernel/fs/ext4.ko: kernel/fs/jbd2.ko kernel/lib/crc16.ko\nkernel/fs/jbd2.ko:\n" +
			"kernel/lib/crc16.ko:\nkernel/lib/crc32c_intel.ko:\nkernel/lib/crc32c_generic.ko: kernel/lib/base.ko\n" +
			"kernel/lib/base.ko:\nkernel/lib/journal-hash.ko:\n",
		"modules.alias": "alias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\nalias pci:v8086* igb\n",
		"modules.softdep": "softdep ext4 pre: crypto-crc32c\nsoftdep jbd2 pre: journal_hash post: never\n" +
			"softdep crc32c_generic pre: ext4\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := readModules(dir, "6.1")
	if err != nil {
		t.Fatal(err)
	}
	var loaded []string
	m.load = func(file, _ string) error {
		if strings.Contains(file, "crc32c_intel") {
			return errors.New("no such device")
		}
		loaded = append(loaded, moduleName(file))
		return nil
	}
	if err := m.byName("ext4"); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(loaded, " "); got != "crc16 journal_hash jbd2 base crc32c_generic ext4" {
		t.Errorf("loaded in this order: %s", got)
	}
}

// TestParameters: modules get the parameters of the image and, after them, those of the command line; what is on the
// blacklist is loaded for no device, but by name.
func TestParameters(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "image.conf")
	for name, text := range map[string]string{
		"modules.dep":   "kernel/e1000e.ko:\nkernel/nvme-core.ko:\nkernel/old.ko:\nkernel/refused.ko:\n",
		"modules.alias": "alias pci:v8086* e1000e\nalias pci:v8086* old\nalias pci:v8086* refused\n",
		"image.conf":    "# of the profile\noptions e1000e IntMode=1,1 Debug=2\noptions nvme_core io_timeout=30\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := readModules(dir, "6.1")
	if err != nil {
		t.Fatal(err)
	}
	m.configure(file, `console=ttyS0,115200 nvme-core.io_timeout=60 e1000e.name="a b"`+
		` modprobe.blacklist=old,x module_blacklist=refused quiet .x= y.=`)
	got := map[string]string{}
	m.load = func(file, parameters string) error { got[moduleName(file)] = parameters; return nil }
	for _, name := range append(m.matching("pci:v8086d1"), "nvme-core") {
		if err := m.byName(name); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"e1000e": `IntMode=1,1 Debug=2 name="a b"`, "nvme_core": "io_timeout=30 io_timeout=60"}
	if !maps.Equal(got, want) {
		t.Errorf("loaded are %q; want %q", got, want)
	}
	if err := m.byName("old"); err != nil || len(got) != 3 {
		t.Errorf("by its name, a module on the blacklist is loaded: %v, %q", err, got)
	}
}
