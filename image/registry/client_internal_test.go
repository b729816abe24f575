package registry

import "testing"

func TestIsLocal(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "registry.localhost": true, "registry.local:5000": true,
		"127.0.0.1:5000": true, "127.8.0.1": true, "[::1]:5000": true, "[::1]": true,
		"10.0.0.5": true, "172.16.0.1:443": true, "192.168.1.1": true, "[fd00::1]:5000": true,
		"172.32.0.1": false, "8.8.8.8:5000": false, "[2001:db8::1]:5000": false,
		"docker.io": false, "local": false, "mylocalhost:5000": false, "registry.local.example": false,
	} {
		if got := isLocal(host); got != want {
			t.Errorf("isLocal(%q) = %t; want %t", host, got, want)
		}
	}
}
