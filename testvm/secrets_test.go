//go:build e2e

package testvm

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/api"
)

// keyed is a profile with packages whose scripts make secrets. MUNGE's key is the operator's: here a
// file of the profile.
const keyed = `name: lab
extends: lab
packages: [bind9, bind9-utils, dropbear-bin, dropbear, munge, open-iscsi, openssh-client, openssl, ssl-cert]
files:
  - path: /etc/default/dropbear
    content: |
      DROPBEAR_PORT=2222
  - {path: /etc/munge/munge.key, owner: munge, group: munge, mode: 0600, content: MUNGE}
units: {enable: [iscsid.service]}
ram: {budget: 2GiB}
`

// secretsOf are commands that print what identifies a secret, and that it is what its service uses.
var secretsOf = []struct {
	name, command string
	kept          bool // on the identity volume
}{
	{"iSCSI initiator name", "grep ^InitiatorName=iqn /etc/iscsi/initiatorname.iscsi", true},
	{"dropbear host key", "dropbearkey -y -f /etc/dropbear/dropbear_ed25519_host_key | grep -o 'ssh-ed25519 [^ ]*'", true},
	{"rndc key", "grep secret /etc/bind/rndc.key", false},
	{"snakeoil certificate", "openssl x509 -noout -fingerprint -sha256 -in /etc/ssl/certs/ssl-cert-snakeoil.pem", false},
}

// services are commands that succeed only with the secrets of a machine.
var services = []string{
	"systemctl show --property=After iscsid | grep -q ingot-secret-iscsi-initiator",
	"systemctl is-active named dropbear munge iscsid",
	"rndc status | grep 'server is up'",
	"ssh-keyscan -p 2222 -t ed25519 127.0.0.1 2>/dev/null | grep -o 'ssh-ed25519 [^ ]*' | grep -qxF " +
		"\"$(dropbearkey -y -f /etc/dropbear/dropbear_ed25519_host_key | grep -o 'ssh-ed25519 [^ ]*')\"",
	"test \"$(openssl x509 -noout -pubkey -in /etc/ssl/certs/ssl-cert-snakeoil.pem)\" = " +
		"\"$(openssl pkey -pubout -in /etc/ssl/private/ssl-cert-snakeoil.key)\"",
	"test -z \"$(find /etc/ssl/private/ssl-cert-snakeoil.key /etc/bind/rndc.key /etc/dropbear/*_host_key -perm /007)\"",
	"munge --string=hello | unmunge | grep -qx hello",
	"systemctl is-system-running --wait || { systemctl --failed --no-legend; false; }",
}

// TestSceneSecrets boots two machines twice with packages whose secrets are not in the image: one has
// an identity volume, the other none. Each makes its own, and its services start with them. Over a
// reboot, the volume keeps what belongs to the machine.
func TestSceneSecrets(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStageFor(t, 25*time.Minute) // four boots of an image that is larger than lab
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails, see crypto/rand
	profile := filepath.Join(s.dir, "keyed.yaml")
	text := strings.Replace(keyed, "MUNGE", hex.EncodeToString(key), 1)
	if err := os.WriteFile(profile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	said := s.run("build", profile, "--version", "keyed")
	if strings.Contains(said, "lacks a secret") {
		t.Errorf("the build says\n%s\nalthough the profile brings MUNGE's key", said)
	}
	s.router()
	s.serve()
	disk := s.disk("data")
	vms := []*VM{s.start(1, Config{Firmware: BIOS, RAM: 2048, Disks: []Disk{disk}}),
		s.start(2, Config{Firmware: BIOS, RAM: 2048})}
	for _, vm := range vms {
		s.machine(vm, "a machine to be seen", func(api.Machine) bool { return true })
		if len(vm.Disks) > 0 {
			s.run("grant", vm.id(), "data", "--disk", "SER-data")
		}
		s.run("machine", "approve", vm.id(), "--image", "lab:keyed")
	}
	var first [2]map[string]string
	for i, vm := range vms {
		first[i] = s.secrets(vm, 1)
	}
	for name, secret := range first[0] {
		if first[1][name] == secret {
			t.Errorf("both machines have the %s %s", name, secret)
		}
	}
	credential := strings.TrimSpace(s.at(vms[0], "munge --string=shared"))
	s.at(vms[1], "echo '"+credential+"' | unmunge | grep -qx shared")
	for _, vm := range vms {
		s.reboot(vm)
	}
	for i, vm := range vms {
		second := s.secrets(vm, 2)
		for _, c := range secretsOf {
			if kept := second[c.name] == first[i][c.name]; kept != (c.kept && i == 0) {
				t.Errorf("%s: over a reboot the %s was kept: %t; before %s, after %s", vm.Name, c.name, kept, first[i][c.name],
					second[c.name])
			}
		}
	}
}

// secrets waits for a healthy boot, checks the services, and returns what identifies each secret.
func (s *stage) secrets(vm *VM, n int) map[string]string {
	s.t.Helper()
	s.healthy(vm, n, "lab:keyed")
	s.login(vm)
	for _, command := range services {
		s.at(vm, command)
	}
	found := map[string]string{}
	for _, c := range secretsOf {
		found[c.name] = words(s.at(vm, c.command))
		if found[c.name] == "" {
			s.t.Errorf("%s has no %s", vm.Name, c.name)
		}
	}
	s.t.Logf("%s, boot %d: %v", vm.Name, n, found)
	return found
}
