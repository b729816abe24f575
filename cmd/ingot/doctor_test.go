package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ingot/cmd/ingot/doctor"
)

// TestDoctor: on a host whose server runs, all is well, and the trial's machine
// gets its script; beside another DHCP server, and with an interface that is
// not there, it is not.
func TestDoctor(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	examine := func(args ...string) (list []doctor.Finding, failed bool) {
		argv := append([]string{"--store", f.store, "-o", "json", "doctor"}, args...)
		cmd := asIngot(f.lan.Command(f.ctx, os.Args[0], argv...))
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			t.Fatalf("ingot doctor %v: %v\n%s", args, err, out)
		}
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return list, err != nil
	}
	of := func(list []doctor.Finding, check string) doctor.Finding {
		i := slices.IndexFunc(list, func(x doctor.Finding) bool { return x.Check == check })
		if i < 0 {
			t.Fatalf("nothing was found of %s: %+v", check, list)
		}
		return list[i]
	}
	secret := filepath.Join(f.store, "keys", "release.key")
	if err := os.Rename(secret, secret+".away"); err != nil {
		t.Fatal(err)
	}
	f.serve()
	list, failed := examine("--config", f.config)
	if _, err := os.Stat(secret); !errors.Is(err, fs.ErrNotExist) ||
		slices.ContainsFunc(list, func(x doctor.Finding) bool { return x.Check == "release key" }) {
		t.Errorf("a server without a release key: %v, %+v", err, list)
	}
	if err := os.Rename(secret+".away", secret); err != nil {
		t.Fatal(err)
	}
	if list, _ := examine("--config", f.config, "--no-trial"); of(list, "release key").State != doctor.Warning {
		t.Errorf("beside a server that can read the release key: %+v", of(list, "release key"))
	}
	for _, check := range []string{"configuration", "server", "interface br0", "port 67/udp", "port 80/tcp",
		"DHCP servers br0", "trial"} {
		if x := of(list, check); x.State != doctor.OK {
			t.Errorf("beside a running server: %+v", x)
		}
	}
	if failed && !slices.ContainsFunc(list, func(x doctor.Finding) bool { return x.State == doctor.Error }) {
		t.Error("it fails without an error")
	}
	apart := asIngot(exec.CommandContext(f.ctx, os.Args[0], "--store", f.store, "-o", "json", "doctor", "--config=",
		"--no-trial")) // from the host, as somebody does who started a lab
	out, err := apart.Output()
	if failed := json.Unmarshal(out, &list); failed != nil {
		t.Fatalf("from another network namespace: %v: %s (%v)", failed, out, err)
	}
	wrong := slices.ContainsFunc(list, func(x doctor.Finding) bool {
		return strings.HasPrefix(x.Check, "interface") || strings.HasPrefix(x.Check, "port ") || x.Check == "firewall"
	})
	if x := of(list, "network"); x.State != doctor.Skipped || wrong || !strings.Contains(x.Fix, "nsenter --target ") ||
		!strings.HasSuffix(x.Fix, " doctor --config= --interface br0") {
		t.Errorf("from another network namespace: %+v", list)
	}
	if out, err := exec.CommandContext(f.ctx, "sh", "-c", strings.Replace(of(list, "network").Fix, " ingot --store ",
		" ip link show br0 # ", 1)).CombinedOutput(); err != nil {
		t.Errorf("what it advises does not enter the server's network: %v: %s", err, out)
	}
	if list, failed := examine("--config=", "--interface", "br7", "--no-trial"); !failed ||
		of(list, "interface br7").State != doctor.Error {
		t.Errorf("with an interface that is not there: %+v", list)
	}
	_ = f.server.Process.Kill()
	dnsmasq := f.crowd.Command(f.ctx, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0",
		"--interface="+f.crowd.Card, "--dhcp-range=10.99.200.1,10.99.200.9", "--dhcp-leasefile="+filepath.Join(f.dir,
			"leases"))
	if err := dnsmasq.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dnsmasq.Process.Kill(); _ = dnsmasq.Wait() }()
	f.until("the other server to be found", func() bool {
		list, failed := examine("--config", f.config, "--no-trial")
		return failed && of(list, "DHCP servers br0").State == doctor.Error && of(list, "server").State == doctor.Warning
	})
}
