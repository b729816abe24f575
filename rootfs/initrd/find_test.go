package initrd

import (
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestBootOf(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdeffedcba9876543210fedcba9876543210"
	for url, want := range map[string]string{
		"http://10.99.0.1/b/" + id + "/":           "http://10.99.0.1",
		"http://10.99.0.1:8080/b/" + id:            "http://10.99.0.1:8080",
		"http://10.99.0.1/b/" + id + "/\x00":       "http://10.99.0.1",
		"http://10.99.0.1/b/" + id + "/uki.efi":    "",
		"http://[fd00:99::1]/b/" + id + "/":        "http://[fd00:99::1]",
		"https://10.99.0.1/b/" + id + "/":          "",
		"snponly.efi":                              "",
		"":                                         "",
		"http://10.99.0.1/b/../../" + id + "/":     "",
		"http://10.99.0.1/b/" + id[:32] + "/":      "",
		"http://10.99.0.1/b/" + id + "/b/" + id:    "",
		"http://10.99.0.1/b/" + id + " other=arg/": "",
	} {
		a, err := dhcpv4.New(dhcpv4.WithOption(dhcpv4.OptBootFileName(url)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := bootIn(a)
		if got.Server != want || (err == nil) != (want != "") || (want != "" && string(got.Boot) != id) {
			t.Errorf("bootOf(%q) = %+v, %v; want server %q", url, got, err, want)
		}
	}
}

// TestArgumentsOfUKI: a UKI that firmware started has its root hash and nothing
// of this boot; half of it is a mistake.
func TestArgumentsOfUKI(t *testing.T) {
	hash := "ingot.roothash=00"
	for cmdline, lost := range map[string]bool{hash: true, hash +
		" ingot.server=http://x ingot.boot=0123456789abcdef0123456789abcdeffedcba9876543210fedcba9876543210 " +
		"ingot.mac=52:54:00:00:00:01": false} {
		if a, err := ParseArguments(cmdline); err != nil || a.lost() != lost {
			t.Errorf("ParseArguments(%q) = %+v, %v; want lost %v", cmdline, a, err, lost)
		}
	}
	for _, cmdline := range []string{"quiet", hash + " ingot.server=http://x", hash + " ingot.mac=52:54:00:00:00:01"} {
		if a, err := ParseArguments(cmdline); err == nil {
			t.Errorf("ParseArguments(%q) = %+v; want an error", cmdline, a)
		}
	}
}
