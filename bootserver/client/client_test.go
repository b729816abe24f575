package client

import (
	"strings"
	"testing"

	"ingot"
)

// TestMatches: all criteria that are set must match, one entry of each list.
func TestMatches(t *testing.T) {
	c := Client{MAC: "b8:59:9f:12:00:01", UUID: "d1b2c3a4-0000-4000-8000-525400120001", Firmware: ingot.FirmwareUEFIx64,
		Class: "PXEClient:Arch:00007"}
	for what, x := range map[string]struct {
		match Match
		want  bool
	}{
		"nothing":                 {Match{}, true},
		"its card's maker":        {Match{MACs: []string{"52:54:00", "B8-59-9F"}}, true},
		"another maker":           {Match{MACs: []string{"b8:59:9e"}}, false},
		"its name":                {Match{Names: []string{"Node-7"}}, true},
		"another name":            {Match{Names: []string{"node-8"}}, false},
		"its UUID, spelt freely":  {Match{UUIDs: []string{"D1B2C3A4000040008000525400120001"}}, true},
		"its firmware and class":  {Match{Firmware: []ingot.Firmware{c.Firmware}, Classes: []string{"PXEClient"}}, true},
		"its firmware, not class": {Match{Firmware: []ingot.Firmware{c.Firmware}, Classes: []string{"HTTPClient"}}, false},
		"its network":             {Match{Networks: []string{"rack1"}}, true},
		"another network":         {Match{Networks: []string{"rack2"}}, false},
	} {
		if got := x.match.Matches(c, "node-7", "rack1"); got != x.want {
			t.Errorf("%s: Matches = %v; want %v", what, got, x.want)
		}
	}
	if (Match{Names: []string{""}}).Matches(c, "", "") {
		t.Error("an empty name matches a machine without a name")
	}
}

// TestMatchCheck: each fault is reported.
func TestMatchCheck(t *testing.T) {
	for want, m := range map[string]Match{
		"it matches nothing":          {},
		`"b8:5" is not a MAC address`: {MACs: []string{"b8:59", "b8:5"}},
		`"x" is not a UUID`:           {UUIDs: []string{"x"}},
		`unknown firmware "efi"`:      {Firmware: []ingot.Firmware{"efi"}},
		`there is no network "rack9"`: {Networks: []string{"rack1", "rack9"}},
	} {
		if got := m.Check([]string{"rack1"}); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("Check of %+v = %q; want %q", m, got, want)
		}
	}
}

// TestFirmwareOf: 7 and 9 are both x64 (RFC 4578 and its erratum), what has an HTTP
// variant has loaders, and so does the variant.
func TestFirmwareOf(t *testing.T) {
	for arch, want := range map[uint16]ingot.Firmware{0: ingot.FirmwareBIOS, 6: ingot.FirmwareUnknown,
		7: ingot.FirmwareUEFIx64, 9: ingot.FirmwareUEFIx64, 11: ingot.FirmwareUEFIarm64,
		16: ingot.FirmwareUEFIx64HTTP, 19: ingot.FirmwareUEFIarm64HTTP} {
		f := FirmwareOf(arch)
		if f != want {
			t.Errorf("FirmwareOf(%d) = %q; want %q", arch, f, want)
		}
		if f != ingot.FirmwareUnknown && (len(DefaultLoaders[f]) == 0 || len(DefaultLoaders[HTTPFirmware(f)]) == 0) {
			t.Errorf("firmware %q, or its HTTP variant, has no loaders", f)
		}
	}
}

// TestTexts: identifiers from packets as people see them.
func TestTexts(t *testing.T) {
	uuid := [16]byte{0xa4, 0xc3, 0xb2, 0xd1, 0, 0x11, 0, 0x40, 0x80, 0, 0x52, 0x54, 0, 0x12, 0, 1}
	for want, got := range map[string]string{
		"d1b2c3a4-1100-4000-8000-525400120001":  UUIDText(uuid, true),
		"a4c3b2d1-0011-0040-8000-525400120001":  UUIDText(uuid, false),
		"52:54:00:0f:a0:01":                     MACText([]byte{0x52, 0x54, 0, 0x0f, 0xa0, 1}),
		"Eth1/7":                                Readable([]byte("Eth1/7")),
		"0x0001":                                Readable([]byte{0, 1}),
		strings.Repeat("a", 128):                Readable([]byte(strings.Repeat("a", 200))),
		strings.Repeat("b", 64):                 Clip(strings.Repeat("b", 65)),
		"snponly.efi by TFTP":                   Boot{Loader: "snponly.efi"}.String(),
		"http://10.99.0.1/b/0123456789/uki.efi": Boot{URL: "http://10.99.0.1/b/0123456789/uki.efi"}.String(),
	} {
		if got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// TestNothingFor: firmware without a loader is explained.
func TestNothingFor(t *testing.T) {
	for want, archs := range map[string][]uint16{
		"is 6 (32-bit x86 UEFI), for which ingot has no loader": {6},
		"is 10 (32-bit ARM UEFI)":                               {10},
		"is 14 (POWER OPAL v3)":                                 {14},
		"is 27 (64-bit RISC-V UEFI)":                            {27},
		"is 999 (not in the registry":                           {999},
		"names no processor architecture (option 93)":           nil,
	} {
		if got := NothingFor(archs); !strings.Contains(got, want) {
			t.Errorf("NothingFor(%v) = %q; want %q", archs, got, want)
		}
	}
	for _, archs := range [][]uint16{{0}, {6, 7}, {9}, {11}, {16}, {19}} {
		if got := NothingFor(archs); got != "" {
			t.Errorf("NothingFor(%v) = %q; want nothing", archs, got)
		}
	}
}
