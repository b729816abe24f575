// Package hosttest runs OpenSSH's server on loopback, for tests that capture a running host. What
// they capture is a folder that the test prepares.
package hosttest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"testing"
	"time"
)

// Host is a server that accepts our key, and whose key we know.
type Host struct {
	Target  string // user@127.0.0.1
	Port    string
	Options []string // of ssh; the last one names the file of known hosts, the fourth our key
}

// SSHD starts a server with temporary keys that ends with the test. It runs commands without the
// user's .bashrc, which bash reads at shell level 1. Without OpenSSH the test fails.
func SSHD(t testing.TB) Host {
	t.Helper()
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		t.Fatalf("%v; run scripts/setup test", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	dir := t.TempDir()
	configure(t, dir, port)
	cmd := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	await(t, "127.0.0.1:"+port)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return Host{Target: me.Username + "@127.0.0.1", Port: port,
		Options: []string{"-F", "none", "-i", filepath.Join(dir, "user"),
			"-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + filepath.Join(dir, "known")}}
}

func configure(t testing.TB, dir, port string) {
	t.Helper()
	public := map[string]string{}
	for _, k := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f",
			filepath.Join(dir, k)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
		b, err := os.ReadFile(filepath.Join(dir, k+".pub"))
		if err != nil {
			t.Fatal(err)
		}
		public[k] = string(b)
	}
	config := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s/host\nPidFile none\n"+
		"AuthorizedKeysFile %s/authorized\nStrictModes no\nUsePAM no\n"+
		"PasswordAuthentication no\nPermitRootLogin yes\nSetEnv SHLVL=2\n", port, dir, dir)
	for name, text := range map[string]string{"authorized": public["user"], "known": fmt.Sprintf("[127.0.0.1]:%s %s", port,
		public["host"]), "config": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // its unit makes it
			t.Fatal(err)
		}
	}
}

func await(t testing.TB, address string) {
	t.Helper()
	for range 500 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond) // it does not report when it is ready
	}
	t.Fatal("sshd does not answer")
}
